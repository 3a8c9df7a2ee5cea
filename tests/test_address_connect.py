"""Connecting to an address: refused, unreachable, silent, and one deadline for all of it."""

from __future__ import annotations

import errno
import re
import select
import socket
import time
from types import SimpleNamespace

import pytest

from conftest import TIME_FACTOR, linux, unix
from pysock import address
from pysock.address import connect, listen


@pytest.fixture
def silent():
    """A TCP address whose backlog is full, so that it drops every SYN."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = [socket.socket() for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        assert select.select([], waiting, [], 10 * TIME_FACTOR)[1]  # one is in: it is full
        yield listener.getsockname()
        for sock in waiting:
            sock.close()


def deaf_port():
    """Return a socket that does not listen, and the port it keeps from all others."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock, sock.getsockname()[1]


def test_connect_gives_a_socket_that_never_blocks_and_is_not_inherited():
    with listen("127.0.0.1:0") as listener, connect(listener.getsockname(), 10) as sock:
        assert sock.gettimeout() == 0
        assert not sock.get_inheritable()
        assert sock.getpeername() == listener.getsockname()
        assert listener.gettimeout() == 0
        assert not listener.get_inheritable()


@pytest.mark.case("P22")
def test_connect_refused_names_the_address_p22():
    taken, port = deaf_port()
    with taken, pytest.raises(ConnectionRefusedError) as caught:
        connect(("127.0.0.1", port))
    assert caught.value.errno == errno.ECONNREFUSED
    assert caught.value.strerror.startswith(f"cannot connect to tcp://127.0.0.1:{port}: ")
    assert "127.0.0.1" not in caught.value.strerror.partition(f":{port}: ")[2]


@pytest.mark.case("P22")
@linux
def test_connect_unreachable_is_told_apart_p22():
    with pytest.raises(OSError, match="tcp://224.0.0.1:9: Network is unreachable") as caught:
        connect("224.0.0.1:9", 10)
    assert caught.value.errno == errno.ENETUNREACH


@pytest.mark.case("P22")
@unix
def test_connect_to_a_missing_path_says_so_p22(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        connect(tmp_path / "none")
    expected = f"cannot connect to unix://{tmp_path}/none: No such file or directory, "
    assert caught.value.strerror == expected + "no server has made this path"


@pytest.mark.case("P22")
@unix
def test_connect_to_a_stale_path_says_so_p22(tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "stale"))
    with pytest.raises(ConnectionRefusedError) as caught:
        connect(tmp_path / "stale")
    expected = f"cannot connect to unix://{tmp_path}/stale: Connection refused, "
    assert caught.value.strerror == expected + "no server listens on this path any more"


@pytest.mark.case("P22")
@linux
def test_connect_to_a_full_backlog_waits_until_the_deadline_p22(full_backlog):
    began = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        connect(full_backlog.getsockname(), 0.1)
    assert 0.1 <= time.monotonic() - began < 5 * TIME_FACTOR
    expected = f"cannot connect to unix://{full_backlog.getsockname()} in 0.1 s: "
    assert str(caught.value) == expected + "its backlog was full all the time"


@pytest.mark.case("P22")
@linux
@pytest.mark.parametrize("timeout", [None, 30])
def test_connect_to_a_full_backlog_goes_on_when_there_is_room_p22(
    full_backlog, monkeypatch, timeout
):
    accepted = []
    clock = SimpleNamespace(
        monotonic=time.monotonic, sleep=lambda pause: accepted.append(full_backlog.accept()[0])
    )
    monkeypatch.setattr(address, "time", clock)
    connect(full_backlog.getsockname(), timeout).close()
    assert len(accepted) == 1
    accepted[0].close()


def test_connect_to_an_unknown_name_keeps_the_resolvers_error(monkeypatch):
    def unknown(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(socket.gaierror) as caught:
        connect("nosuch.example:80", 10)
    assert caught.value.errno == socket.EAI_NONAME
    assert caught.value.strerror == (
        "cannot connect to tcp://nosuch.example:80: Name or service not known"
    )


@pytest.mark.case("P23")
def test_connect_goes_on_to_the_next_address_p23(resolved):
    """P23: the name means ::1 and 127.0.0.1, only IPv4 is listened on."""
    with listen("127.0.0.1:0") as listener:
        port = listener.getsockname()[1]
        resolved(("::1", port, 0, 0), ("127.0.0.1", port))
        with connect(f"name.example:{port}") as sock:
            assert sock.getpeername() == ("127.0.0.1", port)


@pytest.mark.case("P23")
def test_connect_tells_every_failure_p23(resolved):
    (one, port), (other, last) = deaf_port(), deaf_port()
    resolved(("127.0.0.1", port), ("127.0.0.1", last))
    with one, other, pytest.raises(ConnectionRefusedError) as caught:
        connect("name.example:9", 30)
    told = caught.value.strerror
    assert told.startswith(f"cannot connect to tcp://name.example:9: 127.0.0.1:{port}: ")
    assert f"; 127.0.0.1:{last}: " in told
    group = caught.value.__cause__
    assert isinstance(group, ExceptionGroup)
    assert [type(exc) for exc in group.exceptions] == [ConnectionRefusedError] * 2


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((errno.EACCES, errno.ENETUNREACH), errno.ENETUNREACH),
        ((errno.ECONNREFUSED, errno.ENETUNREACH), errno.ECONNREFUSED),
        ((errno.ETIMEDOUT, errno.ENETUNREACH), errno.ETIMEDOUT),
        ((errno.ECONNREFUSED, errno.ETIMEDOUT), errno.ECONNREFUSED),
    ],
)
def test_connect_raises_the_most_telling_failure(resolved, monkeypatch, codes, expected):
    errors = [OSError(code, f"error {code}") for code in codes]

    def fail(self, sockaddr):
        raise errors.pop(0)

    resolved(("10.0.0.1", 9), ("10.0.0.2", 9))
    monkeypatch.setattr(socket.socket, "connect", fail)
    told = f"10.0.0.1:9: error {codes[0]}; 10.0.0.2:9: error {codes[1]}"
    with pytest.raises(type(OSError(expected, "")), match=re.escape(told)) as caught:
        connect("name.example:9")
    assert caught.value.errno == expected


def test_connect_to_a_name_without_addresses_fails(resolved):
    resolved()
    with pytest.raises(OSError, match="name.example:9: the name resolved to no address"):
        connect("name.example:9")


@pytest.mark.case("P21")
@linux
def test_connect_gives_up_at_the_deadline_when_nobody_answers_p21(silent):
    """P21: a dropped SYN costs the timeout, not the system's two minutes."""
    began = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        connect(silent, 0.2)
    assert 0.2 <= time.monotonic() - began < 5 * TIME_FACTOR
    expected = (
        rf"cannot connect to tcp://127\.0\.0\.1:{silent[1]} in 0\.2 s: no answer in 0\.\d+ s"
    )
    assert re.fullmatch(expected, str(caught.value))


@pytest.mark.case("P21")
@linux
def test_connect_has_one_deadline_for_all_addresses_p21(silent, resolved):
    resolved(silent, silent, silent)
    began = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        connect("name.example:9", 0.3)
    assert 0.3 <= time.monotonic() - began < 5 * TIME_FACTOR
    assert str(caught.value).count(f"127.0.0.1:{silent[1]}: no answer in 0.") == 3
    assert len(caught.value.__cause__.exceptions) == 3


@linux
def test_connect_leaves_time_for_an_address_that_answers(silent, resolved):
    with listen("127.0.0.1:0") as listener:
        resolved(silent, listener.getsockname())
        began = time.monotonic()
        with connect("name.example:9", 2 * TIME_FACTOR) as sock:
            assert sock.getpeername() == listener.getsockname()
        assert time.monotonic() - began >= TIME_FACTOR


def test_connect_counts_resolving_against_the_deadline(monkeypatch):
    clock = [100.0]

    def slow(*args, **options):
        clock[0] += 12
        return [(socket.AF_INET, 1, 6, "", ("127.0.0.1", 9))]

    monkeypatch.setattr(address, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with pytest.raises(
        TimeoutError,
        match="name.example:9 in 10 s: resolving the name took all of it, no address was",
    ):
        connect("name.example:9", 10)


@linux
def test_connect_is_not_fooled_by_a_connection_to_itself(monkeypatch):
    """A client's own port may be the very one it dials: nobody else is there."""
    plain = socket.socket.connect

    def from_the_same_port(self, sockaddr):
        self.bind(sockaddr)
        plain(self, sockaddr)

    taken, port = deaf_port()
    taken.close()
    monkeypatch.setattr(socket.socket, "connect", from_the_same_port)
    with pytest.raises(ConnectionRefusedError, match="connected to itself"):
        connect(("127.0.0.1", port), 10)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ":8000",
            "address 'tcp://:8000': no host, which means every local address and is for "
            "listening; name one host, as in 'tcp://127.0.0.1:8000'",
        ),
        ("host:0", "address 'tcp://host:0': port 0 is for listening; name the server's port"),
        (
            "udp://host:9",
            "address 'udp://host:9': cannot connect to datagrams; see pysock.Datagram",
        ),
        ("unixgram:@a", "address 'unixgram:@a': cannot connect to datagrams; "),
        ("fd://3", "address 'fd://3': cannot connect to a descriptor; use 'tcp://"),
        ("fd://web", "address 'fd://web': cannot connect to a descriptor; "),
    ],
)
def test_connect_refuses_addresses_that_are_not_for_it(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        connect(given)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_connect_without_time_left_tries_nothing(timeout):
    """What is left of a caller's deadline may be 0 or less."""
    with listen("127.0.0.1:0") as listener:
        port = listener.getsockname()[1]
        with pytest.raises(TimeoutError, match=f"127.0.0.1:{port}: no time was left for it"):
            connect(("127.0.0.1", port), timeout)
        with pytest.raises(BlockingIOError):
            listener.accept()
