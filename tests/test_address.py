"""Addresses: what is read, what is refused, how connecting and listening fail."""

from __future__ import annotations

import errno
import pickle
import re
import select
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import TIME_FACTOR, ipv6, linux, unix
from pysock import address
from pysock.address import Address, connect, format_peer, listen, parse

LONGEST = 107 if sys.platform == "linux" else 103

PARSED = [
    ("tcp://example.org:80", Address("tcp", "example.org", 80), "tcp://example.org:80"),
    ("TCP://example.org:80", Address("tcp", "example.org", 80), "tcp://example.org:80"),
    ("tls://example.org:443", Address("tls", "example.org", 443), "tls://example.org:443"),
    ("udp://10.0.0.1:53", Address("udp", "10.0.0.1", 53), "udp://10.0.0.1:53"),
    ("localhost:65535", Address("tcp", "localhost", 65535), "tcp://localhost:65535"),
    (":8000", Address("tcp", "", 8000), "tcp://:8000"),
    ("tcp://:0", Address("tcp", "", 0), "tcp://:0"),
    ("unix:8000", Address("unix", path="8000"), "unix:8000"),
    ("tcp:80", Address("tcp", "tcp", 80), "tcp://tcp:80"),
    ("[::1]:80", Address("tcp", "::1", 80), "tcp://[::1]:80"),
    ("tls://[::]:80", Address("tls", "::", 80), "tls://[::]:80"),
    ("[fe80::1%eth0]:80", Address("tcp", "fe80::1%eth0", 80), "tcp://[fe80::1%eth0]:80"),
    ("bücher.example:80", Address("tcp", "bücher.example", 80), "tcp://bücher.example:80"),
    (("localhost", 80), Address("tcp", "localhost", 80), "tcp://localhost:80"),
    (("", 80), Address("tcp", "", 80), "tcp://:80"),
    (("::1", 80), Address("tcp", "::1", 80), "tcp://[::1]:80"),
    (("::1", 80, 0, 0), Address("tcp", "::1", 80), "tcp://[::1]:80"),
    (("fe80::1", 80, 7, 4), Address("tcp", "fe80::1%4", 80), "tcp://[fe80::1%4]:80"),
    (("fe80::1%a", 80, 0, 4), Address("tcp", "fe80::1%a", 80), "tcp://[fe80::1%a]:80"),
    ("unix:///run/a.sock", Address("unix", path="/run/a.sock"), "unix:///run/a.sock"),
    ("unix:/run/a.sock", Address("unix", path="/run/a.sock"), "unix:///run/a.sock"),
    ("unix:a b%20.sock", Address("unix", path="a b%20.sock"), "unix:a b%20.sock"),
    ("unix:@name", Address("unix", path="\0name"), "unix:@name"),
    ("unix:./@name", Address("unix", path="./@name"), "unix:./@name"),
    ("unixgram:///run/log", Address("unixgram", path="/run/log"), "unixgram:///run/log"),
    ("unixgram:@log", Address("unixgram", path="\0log"), "unixgram:@log"),
    ("/run/a.sock", Address("unix", path="/run/a.sock"), "unix:///run/a.sock"),
    ("//run/a.sock", Address("unix", path="//run/a.sock"), "unix:////run/a.sock"),
    ("./a:1", Address("unix", path="./a:1"), "unix:./a:1"),
    ("./a://b", Address("unix", path="./a://b"), "unix:./a://b"),
    ("\0name", Address("unix", path="\0name"), "unix:@name"),
    (b"\0name", Address("unix", path="\0name"), "unix:@name"),
    (b"/run/\xff", Address("unix", path="/run/\udcff"), "unix:///run/\udcff"),
    (Path("a.sock"), Address("unix", path="a.sock"), "unix:a.sock"),
    ("/" + "x" * (LONGEST - 1), Address("unix", path="/" + "x" * (LONGEST - 1)), None),
    ("fd://3", Address("fd", fd=3), "fd://3"),
    ("FD://web", Address("fd", "web"), "fd://web"),
    ("fd://my app.socket", Address("fd", "my app.socket"), "fd://my app.socket"),
    ("fd://3d", Address("fd", "3d"), "fd://3d"),
]


@pytest.mark.parametrize(("given", "expected", "url"), PARSED)
def test_parse_reads_every_form(given, expected, url):
    found = parse(given)
    assert found == expected
    assert url in (None, str(found))
    assert parse(found) is found


@pytest.mark.parametrize("expected", [row[1] for row in PARSED])
def test_url_of_an_address_reads_back(expected):
    assert parse(str(expected)) == expected
    assert pickle.loads(pickle.dumps(expected)) == expected
    assert len({expected, parse(str(expected))}) == 1


def test_url_of_a_relative_path_that_looks_abstract_reads_back():
    shown = str(parse(Path("@name")))
    assert shown == "unix:./@name"
    assert not parse(shown).abstract


@pytest.mark.parametrize(
    ("given", "datagram"),
    [("udp://h:1", True), ("unixgram:@a", True), ("tls://h:1", False), ("unix:@a", False)],
)
def test_address_tells_datagrams_from_streams(given, datagram):
    assert parse(given).datagram is datagram


REFUSED = [
    (
        "http://host:80",
        "address 'http://host:80': scheme 'http' is unknown; "
        "use 'tcp://127.0.0.1:8000' or 'unix:///run/me/app.sock'",
    ),
    (
        "localhost",
        "address 'localhost': no port; as in 'tcp://127.0.0.1:8000' or "
        "'unix:///run/me/app.sock'; a path needs a '/', as './name'",
    ),
    ("", "address '': no port; "),
    ("tcp://", "address 'tcp://': no port; "),
    ("tcp://host:", "address 'tcp://host:': no port; "),
    ("[::1]", "address '[::1]': no port; "),
    (
        "tcp://host:65536",
        "address 'tcp://host:65536': port '65536' is not a number from 0 to 65535; as in ",
    ),
    ("host:http", "address 'host:http': port 'http' is not a number from 0 to 65535; "),
    ("host:-1", "address 'host:-1': port '-1' is not a number "),
    ("host:٣", "address 'host:٣': port '٣' is not a number "),
    ("host:" + "9" * 5000, "address 'host:9999"),
    ("tcp://host:80/", "address 'tcp://host:80/': port '80/' is not a number "),
    (("host", -1), "address ('host', -1): port '-1' is not a number from 0 to 65535; "),
    (("host", True), "address ('host', True): port 'True' is not a number "),
    (("host",), "address ('host',): not (host, port); as in ('127.0.0.1', 8000)"),
    ((80, "host"), "address (80, 'host'): not (host, port); "),
    (
        "::1:80",
        "address '::1:80': too many colons; write '[::1]:80' if that is meant",
    ),
    (
        "tcp:host:80",
        "address 'tcp:host:80': too many colons; write 'tcp://host:80' if that is meant",
    ),
    ("[host]:80", "address '[host]:80': brackets hold an IPv6 number; as in '[::1]:8000'"),
    ("[::1:80", "address '[::1:80': brackets hold an IPv6 number; "),
    ("[::1]80", "address '[::1]80': '80' follows the bracket; write ':' and the port"),
    ("[::zz]:80", "address '[::zz]:80': '::zz' is no IPv6 number; as in '::1'"),
    ("[fe80::1%]:80", "address '[fe80::1%]:80': no zone after '%'; as in 'fe80::1%eth0'"),
    (("::zz", 80), "address ('::zz', 80): '::zz' is no IPv6 number; "),
    (("[::1]", 80), "address ('[::1]', 80): '[::1]' is no IPv6 number; "),
    (
        "tcp://user@host:80",
        "address 'tcp://user@host:80': host 'user@host' holds what no name can; as in ",
    ),
    (("ho st", 80), "address ('ho st', 80): host 'ho st' holds what no name can; "),
    (("ho\0st", 80), "host 'ho\\x00st' holds what no name can; "),
    (
        "a..b:80",
        "address 'a..b:80': host 'a..b' is no host name; "
        "its parts are 1 to 63 characters long",
    ),
    ("x" * 64 + ":80", "is no host name; "),
    (
        "unix://run/a.sock",
        "address 'unix://run/a.sock': two slashes and then no path from the root; "
        "write 'unix:///run/a.sock', or 'unix:run/a.sock'",
    ),
    ("unix://", "address 'unix://': no path; as in 'unix:///run/me/app.sock'"),
    ("unix:", "address 'unix:': no path; "),
    ("unix:@", "address 'unix:@': no path; "),
    (b"", "address b'': no path; "),
    ("/run/a\0b", "address '/run/a\\x00b': NUL in the path; leave it out"),
    ("fd://", "descriptor '' is not a number "),
    ("fd://-1", "descriptor '-1' is not a number from 0 to 2147483647; "),
    ("fd://4294967296", "descriptor '4294967296' is not a number "),
    ("fd://³", "descriptor '³' is not a number "),
    ("fd://a:b", "address 'fd://a:b': 'a:b' is no descriptor's name; as in 'fd://web'"),
    ("fd://web/", "'web/' is no descriptor's name; "),
    ("fd://büro", "'büro' is no descriptor's name; "),
    ("fd://a\n", "'a\\n' is no descriptor's name; "),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_parse_says_what_is_wrong_and_what_to_write(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(given)


@pytest.mark.parametrize(
    "given",
    ["/x" + "ü" * (LONGEST // 2), "unix:@xx" + "ü" * (LONGEST // 2)],
    ids=["path", "abstract"],
)
def test_parse_refuses_a_unix_path_that_is_too_long_x04(given):
    """X04: counted in bytes as the system does, not in characters."""
    with pytest.raises(
        ValueError,
        match=f"the path is {LONGEST + 1} bytes long, a Unix socket's may be {LONGEST}; "
        "choose a shorter one, or one relative to the current folder",
    ):
        parse(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "address is a int, expected a str, a path or (host, port)"),
        (None, "address is a NoneType, expected "),
        (["host", 80], "address is a list, expected "),
        (("host", "80"), "port is a str, expected an int"),
    ],
)
def test_parse_refuses_other_types(given, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        parse(given)


@pytest.mark.parametrize(
    ("sockaddr", "shown"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("fe80::1", 80, 0, 4), "[fe80::1%4]:80"),
        (("::ffff:10.0.0.1", 80, 0, 0), "10.0.0.1:80"),
        ("", "unix"),
        (b"", "unix"),
        ("/run/a.sock", "unix:///run/a.sock"),
        (b"\0name", "unix:@name"),
        ("/run/a\n\x1b[31m", "unix:///run/a\\n\\x1b[31m"),
        (None, "None"),
        ((1, 2), "(1, 2)"),
    ],
)
def test_format_peer_is_one_harmless_line(sockaddr, shown):
    assert format_peer(sockaddr) == shown


# connect


@pytest.fixture
def resolved(monkeypatch):
    """Make every name resolve to the socket addresses given."""

    def resolve_to(*sockaddrs):
        found = [
            (socket.AF_INET6 if len(sockaddr) == 4 else socket.AF_INET, 1, 6, "", sockaddr)
            for sockaddr in sockaddrs
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)

    return resolve_to


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


def test_connect_refused_names_the_address_p22():
    taken, port = deaf_port()
    with taken, pytest.raises(ConnectionRefusedError) as caught:
        connect(("127.0.0.1", port))
    assert caught.value.errno == errno.ECONNREFUSED
    assert caught.value.strerror.startswith(f"cannot connect to tcp://127.0.0.1:{port}: ")
    assert "127.0.0.1" not in caught.value.strerror.partition(f":{port}: ")[2]


@linux
def test_connect_unreachable_is_told_apart_p22():
    with pytest.raises(OSError, match="tcp://224.0.0.1:9: Network is unreachable") as caught:
        connect("224.0.0.1:9", 10)
    assert caught.value.errno == errno.ENETUNREACH


@unix
def test_connect_to_a_missing_path_says_so_p22(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        connect(tmp_path / "none")
    expected = f"cannot connect to unix://{tmp_path}/none: No such file or directory, "
    assert caught.value.strerror == expected + "no server has made this path"


@unix
def test_connect_to_a_stale_path_says_so_p22(tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "stale"))
    with pytest.raises(ConnectionRefusedError) as caught:
        connect(tmp_path / "stale")
    expected = f"cannot connect to unix://{tmp_path}/stale: Connection refused, "
    assert caught.value.strerror == expected + "no server listens on this path any more"


@linux
def test_connect_to_a_full_backlog_waits_until_the_deadline_p22(full_backlog):
    began = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        connect(full_backlog.getsockname(), 0.1)
    assert 0.1 <= time.monotonic() - began < 5 * TIME_FACTOR
    expected = f"cannot connect to unix://{full_backlog.getsockname()} in 0.1 s: "
    assert str(caught.value) == expected + "its backlog was full all the time"


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


def test_connect_goes_on_to_the_next_address_p23(resolved):
    """P23: the name means ::1 and 127.0.0.1, only IPv4 is listened on."""
    with listen("127.0.0.1:0") as listener:
        port = listener.getsockname()[1]
        resolved(("::1", port, 0, 0), ("127.0.0.1", port))
        with connect(f"name.example:{port}") as sock:
            assert sock.getpeername() == ("127.0.0.1", port)


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
        ("udp://host:9", "address 'udp://host:9': cannot connect to datagrams; use Datagram"),
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


# listen


def exchange(listener, sockaddr):
    """Prove that a client at *sockaddr* reaches *listener*."""
    listener.settimeout(10 * TIME_FACTOR)
    with connect(sockaddr, 10 * TIME_FACTOR) as client:
        served, _ = listener.accept()
        with served:
            client.sendall(b"x")
            assert served.recv(1) == b"x"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", pytest.param("::1", marks=ipv6)])
def test_listen_takes_a_free_port_of_the_host(host):
    with listen((host, 0)) as listener:
        assert listener.getsockname()[1] > 0
        exchange(listener, listener.getsockname())


def test_listen_prefers_ipv4_for_a_name(resolved):
    """As socketserver does: its users read server_address as (host, port)."""
    resolved(("::1", 0, 0, 0), ("127.0.0.1", 0))
    with listen("name.example:0") as listener:
        assert listener.family == socket.AF_INET


@ipv6
def test_listen_without_a_host_takes_both_families():
    with listen(":0") as listener:
        port = listener.getsockname()[1]
        exchange(listener, ("127.0.0.1", port))
        exchange(listener, ("::1", port))


def test_listen_without_a_host_takes_ipv4_where_there_is_no_dual_stack(monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen("tcp://:0") as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


@ipv6
def test_listen_on_the_ipv6_wildcard_leaves_ipv4_alone():
    with listen("[::]:0") as listener:
        assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


@pytest.mark.parametrize("reuse_address", [True, False])
def test_listen_on_a_taken_port_names_it(reuse_address):
    with listen("127.0.0.1:0") as first:
        port = first.getsockname()[1]
        with pytest.raises(
            OSError, match=f"cannot listen on tcp://127.0.0.1:{port}: "
        ) as caught:
            listen(("127.0.0.1", port), reuse_address=reuse_address)
    assert caught.value.errno == errno.EADDRINUSE


@linux
@pytest.mark.parametrize("reuse_address", [True, False])
def test_listen_again_while_old_connections_linger_d19(reuse_address):
    """D19: the server closed first, so its port is in TIME_WAIT."""
    with listen("127.0.0.1:0") as first:
        port = first.getsockname()[1]
        first.settimeout(10 * TIME_FACTOR)
        with connect(("127.0.0.1", port), 10 * TIME_FACTOR) as client:
            first.accept()[0].close()
            client.settimeout(10 * TIME_FACTOR)
            assert client.recv(1) == b""
    if reuse_address:
        listen(("127.0.0.1", port)).close()
    else:
        with pytest.raises(OSError, match="in use"):
            listen(("127.0.0.1", port), reuse_address=False)


def test_listen_on_an_unknown_name_keeps_the_resolvers_error(monkeypatch):
    def unknown(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(
        socket.gaierror, match="cannot listen on tcp://nosuch.example:80: Name"
    ):
        listen("nosuch.example:80")


@pytest.mark.parametrize("given", ["udp://:9", "unixgram:@a"])
def test_listen_refuses_addresses_that_are_not_for_it(given):
    with pytest.raises(ValueError, match=f"address '{given}': cannot listen on "):
        listen(given)
