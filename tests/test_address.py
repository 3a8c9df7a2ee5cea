"""Addresses: what is read, what is refused, how they are shown."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path

import pytest

from conftest import unix
from pysock.address import Address, format_peer, parse

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
    (Path("a.sock"), Address("unix", path="a.sock"), "unix:a.sock"),
    ("/" + "x" * (LONGEST - 1), Address("unix", path="/" + "x" * (LONGEST - 1)), None),
    ("fd://3", Address("fd", fd=3), "fd://3"),
    ("FD://web", Address("fd", "web"), "fd://web"),
    ("fd://my app.socket", Address("fd", "my app.socket"), "fd://my app.socket"),
    ("fd://3d", Address("fd", "3d"), "fd://3d"),
]
if sys.platform != "win32":  # where all paths are UTF-8
    PARSED.append((b"/run/\xff", Address("unix", path="/run/\udcff"), "unix:///run/\udcff"))


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
    address = parse(Path("@name"))
    assert str(address) == "unix:./@name"
    assert parse(str(address)) == address and not address.abstract
    longest = parse(b"@" + b"n" * (LONGEST - 3))
    assert parse(str(longest)) == longest
    with pytest.raises(ValueError, match=f"the path is {LONGEST + 1} bytes long"):
        parse(b"@" + b"n" * (LONGEST - 2))


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
    (
        ("::1%a]", 80),
        "address ('::1%a]', 80): zone 'a]' holds what no name can; as in 'fe80::1%eth0'",
    ),
    (("::zz", 80), "address ('::zz', 80): '::zz' is no IPv6 number; "),
    (("[::1]", 80), "address ('[::1]', 80): '[::1]' is no IPv6 number; "),
    (("::\0", 80), "address ('::\\x00', 80): '::\\x00' is no IPv6 number; "),
    (("::\udcff", 80), "address ('::\\udcff', 80): '::\\udcff' is no IPv6 number; "),
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
    pytest.param(
        "/run/\ud800",
        "address '/run/\\ud800': the path holds '\\ud800', as no file name can; leave it out",
        marks=unix,
    ),
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


@pytest.mark.case("X04")
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


def test_address_is_a_value():
    """It can be a key, and nobody changes it behind another's back."""
    address = Address("tcp", "::1", 80)
    assert {address: 1}[parse("[::1]:80")] == 1
    assert repr(address).startswith("Address('tcp', '::1', 80")
    assert address != Address("tls", "::1", 80)
    assert address != ("tcp", "::1", 80, "", -1)
    with pytest.raises(AttributeError, match="an Address cannot be changed: port"):
        address.port = 81  # type: ignore[misc]
    with pytest.raises(AttributeError, match="an Address cannot be changed: port"):
        del address.port
    assert address.port == 80
