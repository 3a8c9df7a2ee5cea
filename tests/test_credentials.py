"""Who the peer of a Unix socket is: who connected, whoever uses the descriptor now."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import pysock
from conftest import linux, unix
from peers import LONG, linked, run_python
from pysock.credentials import Credentials, peer_credentials
from pysock.errors import ConnectionClosed

pytestmark = unix

NOBODY = 65534
# What programs do; the name to connect to is hexadecimal, for it may have a NUL.
CONNECT = "sock = socket.socket(socket.AF_UNIX); sock.connect(bytes.fromhex(sys.argv[1]))\n"
TELL = "print(os.getpid(), os.getuid(), os.getgid())\n"
PAIRED = ["socketpair", "tls", "sslsocket"]
ALL_UNIX = ["unix", *(pytest.param(name, marks=linux) for name in PAIRED)]
NO_UNIX = ["tcp4", "pipes", "foreign"]

needs_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root may become another user"
)


def own() -> Credentials:
    return Credentials(os.getpid(), os.geteuid(), os.getegid())


def told(text: str) -> Credentials:
    """What a program says that ran TELL."""
    return Credentials(*map(int, text.split()))


@contextlib.contextmanager
def listening(name: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        listener.settimeout(LONG)
        yield listener


def accepted(listener: socket.socket) -> pysock.Connection:
    return pysock.Connection(listener.accept()[0], timeout=LONG)


def elsewhere(code: str, listener: socket.socket, *args: str) -> str:
    """Have a program CONNECT to *listener* and end; return what it printed."""
    name = os.fsencode(listener.getsockname()).hex()
    return run_python(f"import os, socket, sys\n{code}", name, *args)


@pytest.fixture
def abstract() -> Iterator[socket.socket]:
    """A listener that any user may reach."""
    with listening("") as listener:
        yield listener


# ---------------------------------------------------------------- who it is


@pytest.mark.case("T27")
@pytest.mark.parametrize("transport", ALL_UNIX)
def test_both_sides_know_their_peer_t27(tmp_path, transport):
    with linked(transport, tmp_path) as ends:
        for end in ends:
            assert end.connection().peer_credentials == own()


@pytest.mark.case("T27")
@linux
def test_abstract_name_tells_the_peer_t27(abstract):
    name = abstract.getsockname().decode()
    with pysock.Client(f"unix:@{name[1:]}", timeout=LONG) as client:
        with accepted(abstract) as served:
            assert served.peer_credentials == own()
        assert client.peer_credentials == own()


@pytest.mark.case("T27")
@linux
def test_peer_that_is_gone_is_still_known_t27(tmp_path):
    with listening(str(tmp_path / "s")) as listener:
        peer = told(elsewhere(CONNECT + TELL, listener))
        with accepted(listener) as conn:
            assert list(conn) == []
            assert conn.peer_credentials == peer
    assert peer.pid != os.getpid()


@pytest.mark.case("T27")
@linux
def test_client_learns_who_listens_not_who_accepts_t27(tmp_path):
    """The listening socket was handed to this process."""
    code = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2])
listener.listen()
with socket.socket(fileno=int(sys.argv[1])) as channel:
    socket.send_fds(channel, [b"%d" % os.getpid()], [listener.fileno()])
"""
    here, there = socket.socketpair()
    path = str(tmp_path / "s")
    with here:
        here.settimeout(LONG)
        with there:
            command = [sys.executable, "-P", "-c", code, str(there.fileno()), path]
            process = subprocess.Popen(command, pass_fds=[there.fileno()])
        pid, (number,), _, _ = socket.recv_fds(here, 99, 1)
        assert process.wait(LONG) == 0
    with (
        socket.socket(fileno=number) as listener,
        pysock.Client(path, timeout=LONG) as client,
        accepted(listener) as served,
    ):
        assert client.peer_credentials == own()._replace(pid=int(pid))
        assert served.peer_credentials == own()


@pytest.mark.case("T27")
@linux
@needs_root
def test_peer_of_another_user_t27(abstract):
    become = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    peer = told(elsewhere(become + CONNECT + TELL, abstract))
    with accepted(abstract) as conn:
        assert conn.peer_credentials == peer
    assert peer[1:] == (NOBODY, NOBODY)


@pytest.mark.case("T27")
@linux
@needs_root
def test_user_is_that_of_connecting_also_after_it_has_changed_t27(abstract):
    elsewhere(f"{CONNECT}os.setuid({NOBODY})\nsock.sendall(bytes(4))", abstract)
    with accepted(abstract) as conn:
        assert conn.recv() == b""
        assert conn.peer_credentials is not None
        assert conn.peer_credentials.uid == 0


@pytest.mark.case("T27")
@linux
def test_passed_descriptor_keeps_who_connected_t27(tmp_path):
    """A program connects and gives its end away: this process speaks, the other is named."""
    code = f"""{CONNECT}
with socket.socket(socket.AF_UNIX) as channel:
    channel.connect(sys.argv[2])
    socket.send_fds(channel, [b"x"], [sock.fileno()])
{TELL}"""
    handover = str(tmp_path / "handover")
    with listening(str(tmp_path / "s")) as listener, listening(handover) as channel:
        connector = told(elsewhere(code, listener, handover))
        giver, _ = channel.accept()
        with giver:
            _, (number,), _, _ = socket.recv_fds(giver, 99, 1)
        with (
            pysock.Connection(socket.socket(fileno=number)) as mine,
            accepted(listener) as served,
        ):
            mine.send(b"from here")
            assert served.recv() == b"from here"
            assert served.peer_credentials == connector
    assert connector.pid != os.getpid()


# ---------------------------------------------------------------- who cannot be known


@pytest.mark.parametrize("transport", NO_UNIX)
def test_other_transports_tell_nothing(tmp_path, transport):
    with linked(transport, tmp_path) as ends:
        for end in ends:
            assert end.connection().peer_credentials is None


@pytest.mark.parametrize("transport", [*ALL_UNIX, *NO_UNIX])
def test_closed_connection_has_no_peer(tmp_path, transport):
    with linked(transport, tmp_path) as ends:
        conn = ends[0].connection()
        conn.close()
        with pytest.raises(ConnectionClosed):
            _ = conn.peer_credentials


def test_closed_socket_is_an_error():
    sock = socket.socket(socket.AF_UNIX)
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        peer_credentials(sock)


def test_socket_without_a_peer_tells_nothing():
    with socket.socket(socket.AF_UNIX) as sock:
        assert peer_credentials(sock) is None


def test_no_unix_sockets_tell_nothing(monkeypatch):
    """As on Windows, where a stream that has no family must not pass for one."""
    monkeypatch.delattr(socket, "AF_UNIX")
    assert peer_credentials(object()) is None


@pytest.mark.case("X02")
@pytest.mark.parametrize(
    ("platform", "option"), [("linux", "SO_PEERCRED"), ("darwin", "LOCAL_PEERCRED")]
)
def test_system_without_the_option_tells_nothing_x02(monkeypatch, platform, option):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delattr(socket, option, raising=False)
    here, there = socket.socketpair()
    with here, there:
        assert peer_credentials(here) is None


# ---------------------------------------------------------------- systems that are not here


class Fake:
    """A Unix socket whose options are *answers*: bytes, a number, or an error's number."""

    family = getattr(socket, "AF_UNIX", None)

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.asked: list[tuple[int, ...]] = []

    def getsockopt(self, level: int, option: int, size: int = 0) -> Any:
        self.asked.append((level, option, size))
        answer = self._answers.get("cred" if size else "pid")
        if isinstance(answer, OSError):
            raise answer
        return answer[:size] if isinstance(answer, bytes) else answer


def xucred(uid: int, *groups: int, version: int = 0) -> bytes:
    """The struct as C lays it out: short cr_ngroups, then 16 groups on a boundary of 4."""
    head = struct.pack("@IIh", version, uid, len(groups))
    return head + bytes(2) + struct.pack("@16I", *groups, *[0] * (16 - len(groups)))


@pytest.fixture
def macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(socket, "LOCAL_PEERCRED", 1, raising=False)


@pytest.mark.case("X03")
def test_macos_tells_user_group_and_process_x03(macos):
    sock = Fake(cred=xucred(501, 20, 12, 61), pid=4242)
    assert peer_credentials(sock) == Credentials(4242, 501, 20)
    (level, option, size), pid = sock.asked
    assert (level, option) == (0, 1)
    assert size >= len(xucred(0, 0))
    assert pid[:2] == (0, 2)


@pytest.mark.case("X03")
def test_macos_that_does_not_tell_the_process_x03(macos):
    sock = Fake(cred=xucred(501, 20), pid=OSError(errno.ENOTCONN, "not connected"))
    assert peer_credentials(sock) == Credentials(0, 501, 20)


@pytest.mark.case("X03")
def test_bsd_has_no_option_for_the_process_x03(macos, monkeypatch):
    """What has this number on macOS is another option there."""
    monkeypatch.setattr(sys, "platform", "freebsd14")
    sock = Fake(cred=xucred(1001, 1001) + bytes(8), pid=1)
    assert peer_credentials(sock) == Credentials(0, 1001, 1001)
    assert len(sock.asked) == 1


@pytest.mark.case("X03")
@pytest.mark.parametrize(
    "data",
    [b"", xucred(0, 0)[:15], xucred(0, 0, version=1), xucred(0), xucred(0xFFFFFFFF, 0)],
    ids=["empty", "short", "another version", "no group", "no user"],
)
def test_answer_that_makes_no_sense_names_nobody_x03(macos, data):
    """Zeroes that were not meant would be root."""
    assert peer_credentials(Fake(cred=data, pid=1)) is None


@pytest.mark.parametrize("data", [b"", bytes(8)])
def test_linux_answer_that_is_short_names_nobody(monkeypatch, data):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(socket, "SO_PEERCRED", 17, raising=False)
    assert peer_credentials(Fake(cred=data)) is None


@pytest.mark.case("X03")
@pytest.mark.parametrize("code", [errno.ENOTCONN, errno.EINVAL, errno.ENOPROTOOPT])
def test_system_that_cannot_tell_names_nobody_x03(macos, code):
    assert peer_credentials(Fake(cred=OSError(code, "cannot tell"))) is None


@pytest.mark.case("X03")
def test_other_errors_of_the_system_come_out_x03(macos):
    with pytest.raises(OSError, match="broken") as caught:
        peer_credentials(Fake(cred=OSError(errno.EBADF, "broken")))
    assert caught.value.errno == errno.EBADF


def test_importing_pysock_does_not_import_it():
    code = "import sys, pysock; print('pysock.credentials' in sys.modules)"
    assert run_python(code) == "False\n"
