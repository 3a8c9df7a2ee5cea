"""Unix socket paths: private, taken over from the dead, never from the living."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from conftest import TIME_FACTOR, linux, unix
from peers import reaches
from pysock import unixpath
from pysock.address import listen
from pysock.unixpath import identity, unlink_if_same

pytestmark = unix


@pytest.mark.leaves_path
def test_listen_on_a_path_is_private_from_the_start(tmp_path):
    umask = os.umask(0)
    try:
        with listen(tmp_path / "s") as listener:
            mode = os.stat(tmp_path / "s").st_mode
            assert reaches(tmp_path / "s", listener)
    finally:
        os.umask(umask)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.leaves_path
def test_listen_on_a_path_is_private_by_umask_where_sockets_have_no_mode(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "platform", "darwin")
    umask = os.umask(0o002)
    try:
        with listen(tmp_path / "s"):
            assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == 0o600
    finally:
        assert os.umask(umask) == 0o002


@linux
def test_listen_on_an_abstract_name_needs_no_file(tmp_path):
    name = f"unix:@pysock-test-{os.getpid()}"
    with listen(name) as listener:
        assert reaches(name, listener)
        with pytest.raises(OSError, match=f"cannot listen on {name}: Address already in use"):
            listen(name)


@pytest.mark.case("D19")
@pytest.mark.leaves_path
def test_listen_replaces_a_stale_path_d19(tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
        dead.listen()
    with listen(tmp_path / "s") as listener:
        assert reaches(tmp_path / "s", listener)


@pytest.mark.case("D19")
@pytest.mark.leaves_path
def test_listen_does_not_steal_a_live_path_d19(tmp_path):
    with listen(tmp_path / "s") as first:
        made = identity(str(tmp_path / "s"))
        with pytest.raises(
            OSError, match="a server is answering there, stop it first"
        ) as caught:
            listen(tmp_path / "s")
        assert caught.value.errno == errno.EADDRINUSE
        assert caught.value.strerror.startswith(f"cannot listen on unix://{tmp_path}/s: ")
        assert identity(str(tmp_path / "s")) == made
        first.settimeout(10 * TIME_FACTOR)
        first.accept()[0].close()  # the question itself was a connection
        assert reaches(tmp_path / "s", first)


@pytest.mark.case("D19")
@linux
def test_listen_does_not_steal_the_path_of_a_busy_server_d19(full_backlog):
    with pytest.raises(OSError, match="a server is answering there"):
        listen(full_backlog.getsockname())


def test_listen_does_not_steal_a_datagram_servers_path(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "s"))
        with pytest.raises(OSError, match="a server is answering there"):
            listen(tmp_path / "s")


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_listen_never_removes_what_is_no_socket(tmp_path, kind):
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    made = identity(str(path))
    with pytest.raises(OSError, match="a file that is no socket stands there") as caught:
        listen(path)
    assert caught.value.errno == errno.EADDRINUSE
    assert identity(str(path)) == made


def test_listen_in_a_missing_folder_names_the_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"cannot listen on unix://{tmp_path}/no/s: "):
        listen(tmp_path / "no" / "s")


def test_listen_works_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with listen("unix:s") as listener:
        assert reaches("./s", listener)
        assert unlink_if_same(identity("s"))
    assert not (tmp_path / "s").exists()


@pytest.mark.case("D19")
@linux
@pytest.mark.leaves_path
def test_of_many_servers_that_start_at_once_one_gets_the_stale_path_d19(tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    start, got, refused = threading.Barrier(8), [], []

    def run():
        start.wait()
        try:
            got.append(listen(tmp_path / "s"))
        except OSError as exc:
            refused.append(exc.errno)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == [errno.EADDRINUSE] * 7
    got[0].close()


@linux
@pytest.mark.leaves_path
def test_listen_is_not_held_up_by_a_lock_on_the_folder(tmp_path, monkeypatch):
    import fcntl

    clock = SimpleNamespace(monotonic=itertools.count().__next__, sleep=lambda pause: None)
    monkeypatch.setattr(unixpath, "time", clock)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with listen(tmp_path / "s") as listener:
            assert reaches(tmp_path / "s", listener)
    finally:
        os.close(fd)


def test_unlink_removes_only_the_file_that_was_made(tmp_path):
    path = str(tmp_path / "s")
    with listen(path):
        made = identity(path)
        os.unlink(path)
        assert not unlink_if_same(made)
        with listen(path):
            assert not unlink_if_same(made)
            assert unlink_if_same(identity(path))
    assert not os.path.exists(path)


SERVER = """
import sys
from pysock.address import listen
listeners = [listen(text) for text in sys.argv[1:]]
print(listeners[0].getsockname()[1], flush=True)
listeners[0].setblocking(True)
connection, _ = listeners[0].accept()
connection.sendall(b"x")
sys.stdin.read()
"""


@pytest.mark.case("D19")
@pytest.mark.leaves_path
def test_listen_after_a_server_was_killed_d19(tmp_path):
    """D19: SIGKILL with a connection open; then the same port, the same path."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER, "tcp://127.0.0.1:0", str(tmp_path / "s")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as server:
        port = int(server.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), 30 * TIME_FACTOR) as client:
            assert client.recv(1) == b"x"
            server.send_signal(signal.SIGKILL)
            server.wait()
            with listen(("127.0.0.1", port)) as tcp, listen(tmp_path / "s") as path:
                assert reaches(("127.0.0.1", port), tcp)
                assert reaches(tmp_path / "s", path)
