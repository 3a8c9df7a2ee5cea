"""What a supervisor passes: descriptors taken, refused and named; and what it is told."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import linux, require_peer, unix
from peers import LONG, reaches, run_python
from pysock import systemd
from pysock.address import listen
from pysock.systemd import listen_fds, notify

pytestmark = unix

FIRST = 200  # takes the place of descriptor 3, which the tests' own program uses


@pytest.fixture
def pass_on(monkeypatch):
    """Pass descriptors to this process as systemd does, with the environment given."""
    taken = []

    def pass_them(*things, **environment):
        monkeypatch.setattr(systemd, "_FIRST", FIRST)
        monkeypatch.setattr(systemd, "_passed", None)
        for thing in things:
            fd = FIRST + len(taken)
            taken.append(fd)
            os.dup2(thing.fileno(), fd, inheritable=True)
            thing.close()
        told = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(taken)), **environment}
        for name, value in told.items():
            monkeypatch.setenv(name, value)

    yield pass_them
    for fd in taken:
        os.close(fd)


def tcp():
    return socket.create_server(("127.0.0.1", 0))


VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def left_in_environment():
    return [name for name in VARIABLES if name in os.environ]


# listen_fds


@pytest.mark.case("I06")
def test_descriptors_are_taken_once_with_their_names_i06(pass_on):
    pass_on(tcp(), tcp(), tcp(), LISTEN_FDNAMES="web:admin")
    expected = [(FIRST, "web"), (FIRST + 1, "admin"), (FIRST + 2, "unknown")]
    assert listen_fds() == expected
    assert left_in_environment() == []
    assert not any(os.get_inheritable(fd) for fd, _ in expected)
    listen_fds().clear()
    assert listen_fds() == expected


@pytest.mark.case("I06")
def test_descriptors_without_names_are_unknown_i06(pass_on):
    pass_on(tcp())
    assert listen_fds() == [(FIRST, "unknown")]


@pytest.mark.case("I06")
@pytest.mark.parametrize(
    "environment",
    [
        {"LISTEN_PID": "1"},
        {"LISTEN_PID": ""},
        {"LISTEN_PID": f"0{os.getpid()}"},
        {"LISTEN_FDS": "0"},
        pytest.param({"LISTEN_PIDFDID": "1"}, marks=linux),
    ],
)
def test_descriptors_that_are_not_for_this_process_are_left_i06(pass_on, environment):
    pass_on(tcp(), **environment)
    assert listen_fds() == []
    assert left_in_environment() == []
    assert os.get_inheritable(FIRST)


@pytest.mark.case("I06")
@linux
def test_descriptors_may_name_the_process_by_its_pidfd_i06(pass_on):
    pidfd = os.pidfd_open(os.getpid())
    pass_on(tcp(), LISTEN_PIDFDID=str(os.fstat(pidfd).st_ino))
    os.close(pidfd)
    assert listen_fds() == [(FIRST, "unknown")]


@pytest.mark.case("I06")
@pytest.mark.parametrize("count", ["abc", "-1", "", "+1", " 1", "1.0", "9" * 30, "\u0661"])
def test_malformed_number_of_descriptors_is_refused_i06(pass_on, count):
    pass_on(tcp(), LISTEN_FDS=count)
    with pytest.raises(ValueError, match="LISTEN_FDS is .*, expected a number of descriptors"):
        listen_fds()
    assert left_in_environment() == []


@pytest.mark.case("I06")
@pytest.mark.parametrize("count", ["2", "999999999"])
def test_more_descriptors_than_there_are_is_an_error_i06(pass_on, count):
    pass_on(tcp(), LISTEN_FDS=count)
    with pytest.raises(
        OSError, match=f"LISTEN_FDS is {count}, but descriptor {FIRST + 1} is not open"
    ) as caught:
        listen_fds()
    assert caught.value.errno == errno.EBADF


def test_no_descriptors_without_a_supervisor(monkeypatch):
    monkeypatch.setattr(systemd, "_passed", None)
    assert listen_fds() == []


# listening on them


@pytest.mark.case("I06")
def test_listen_by_name_finds_the_descriptor_i06(pass_on):
    admin = tcp()
    sockaddr = admin.getsockname()
    pass_on(tcp(), admin, LISTEN_FDNAMES="web:admin")
    with listen("fd://admin") as listener:
        assert listener.fileno() == FIRST + 1
        assert reaches(sockaddr, listener)
        os.dup2(listener.fileno(), listener.detach())


@pytest.mark.case("I06")
def test_listen_by_number_takes_what_was_passed_along_i06(pass_on):
    """Programs that are started from here must not get the sockets."""
    pass_on(tcp(), tcp())
    listener = listen(f"fd://{FIRST}")
    assert left_in_environment() == []
    assert not os.get_inheritable(FIRST + 1)
    listener.detach()


@pytest.mark.case("I06")
@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        (
            "db",
            errno.ENOENT,
            f"no socket of this name was passed; there is 'web' (fd://{FIRST}),",
        ),
        (
            "web",
            errno.EINVAL,
            f"2 sockets have this name; write fd://{FIRST} or fd://{FIRST + 1}",
        ),
    ],
)
def test_listen_by_a_name_that_is_not_one_of_them_tells_them_i06(pass_on, name, code, told):
    pass_on(tcp(), tcp(), LISTEN_FDNAMES="web:web")
    with pytest.raises(OSError, match=f"cannot listen on fd://{name}: ") as caught:
        listen(f"fd://{name}")
    assert caught.value.errno == code
    assert told in caught.value.strerror


@pytest.mark.case("I06")
def test_listen_takes_a_listening_socket_by_its_descriptor_i06():
    passed = socket.create_server(("127.0.0.1", 0))
    with listen(f"fd://{passed.detach()}") as listener:
        assert listener.gettimeout() == 0
        assert not listener.get_inheritable()
        assert reaches(listener.getsockname(), listener)
    assert listener.fileno() == -1


@pytest.mark.case("I06")
@pytest.mark.leaves_path
def test_listen_leaves_the_path_of_an_inherited_socket_alone_i06(tmp_path):
    path = tmp_path / "s"
    passed = listen(path)
    with listen(f"fd://{passed.detach()}") as listener:
        assert reaches(str(path), listener)
    assert path.exists()


def half_a_pipe():
    reader, writer = os.pipe()
    os.close(writer)
    return open(reader)


@pytest.mark.case("I06")
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
            "a socket of type SOCK_DGRAM, expected SOCK_STREAM (ListenStream=)",
        ),
        (socket.socket, "a socket that does not listen; call its listen() before passing it"),
        (Path(os.devnull).open, "a terminal or other device, no socket"),
        (Path(__file__).open, "a file, no socket"),
        (half_a_pipe, "a pipe, no socket"),
    ],
    ids=["datagram", "unbound", "device", "file", "pipe"],
)
def test_listen_says_what_a_descriptor_is_instead_i06(make, told):
    with make() as thing:
        with pytest.raises(OSError, match="cannot listen on fd://") as caught:
            listen(f"fd://{thing.fileno()}")
        assert caught.value.strerror == (
            f"cannot listen on fd://{thing.fileno()}: descriptor {thing.fileno()} is {told}"
        )
        os.fstat(thing.fileno())  # it was left open


@pytest.mark.case("I06")
def test_listen_refuses_a_connection_i06():
    """What systemd passes with Accept=yes."""
    one, other = socket.socketpair()
    with one, other, pytest.raises(OSError, match=r"is a connection, .*\(Accept=no\)"):
        listen(f"fd://{one.fileno()}")
    assert one.fileno() == -1


@pytest.mark.case("I06")
def test_listen_on_a_closed_descriptor_says_so_i06():
    one, other = socket.socketpair()
    fd = one.fileno()
    one.close()
    other.close()
    with pytest.raises(
        OSError, match=f"fd://{fd}: descriptor {fd} is not open; was the program started by"
    ) as caught:
        listen(f"fd://{fd}")
    assert caught.value.errno == errno.EBADF


@pytest.mark.case("I06")
def test_listen_on_a_name_that_was_not_passed_says_so_i06():
    with pytest.raises(FileNotFoundError, match="fd://web: no sockets were passed; was the"):
        listen("fd://web")


ONE_ANSWER = """
import os, sys
from pysock.address import listen
with listen(sys.argv[1]) as listener:
    listener.setblocking(True)
    served, _ = listener.accept()
    with served:
        assert "LISTEN_FDS" not in os.environ
        served.sendall(served.recv(100).upper())
"""


@pytest.mark.case("I06")
@linux
@pytest.mark.parametrize("address", ["fd://web", "fd://3"])
def test_systemd_socket_activate_passes_a_socket_i06(tmp_path, address):
    """The real thing: it listens, and starts the program for the first client."""
    path = tmp_path / "s"
    command = [require_peer("systemd-socket-activate"), f"--listen={path}", "--fdname=web"]
    # The last two: what a sanitizer needs.
    names = {"PYTHONPATH", "LD_PRELOAD", "ASAN_OPTIONS"} & os.environ.keys()
    command += [f"-E{name}={os.environ[name]}" for name in names]
    command += [sys.executable, "-P", "-c", ONE_ANSWER, address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr.readline().startswith(f"Listening on {path}")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(LONG)
            client.connect(str(path))
            client.sendall(b"hello")
            assert client.recv(100) == b"HELLO"
        _, errors = program.communicate(timeout=LONG)
    assert program.returncode == 0, errors
    assert "Error" not in errors


# notify


@pytest.mark.case("I07")
@pytest.mark.parametrize("abstract", [False, pytest.param(True, marks=linux)])
def test_notify_reaches_the_supervisor(tmp_path, monkeypatch, abstract):
    name = f"@pysock-{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.settimeout(LONG)
        supervisor.bind(f"\0{name[1:]}" if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert notify("READY=1\nSTATUS=zwölf")
        assert supervisor.recv(100) == "READY=1\nSTATUS=zwölf".encode()
        assert notify("STOPPING=1")


@pytest.mark.case("I07")
@pytest.mark.parametrize(
    "name", ["", "relative", "vsock:2:1234", "/nowhere/notify", "@nobody"]
)
def test_notify_without_a_supervisor_does_nothing(monkeypatch, name):
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    assert not notify("READY=1")


def test_notify_does_not_wait_for_ever_for_a_deaf_supervisor(tmp_path, monkeypatch):
    name = str(tmp_path / "notify")
    monkeypatch.setattr(systemd, "_PATIENCE", 0.05)
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(name)
        assert any(not notify("STATUS=on and on") for _ in range(10_000))


def test_importing_takes_nothing():
    """Another library of the program may be the one that uses the sockets."""
    said = run_python(
        "import os\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
        "import pysock.address, pysock.systemd\n"
        "assert 'LISTEN_FDS' in os.environ"
    )
    assert said == ""
