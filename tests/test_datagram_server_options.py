"""DatagramServer: addresses, paths, sockets that are passed in, options, counters."""

from __future__ import annotations

import errno
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

import datagram_servers
import pysock
from conftest import unix, unlike_wine
from datagram_servers import UDP, Asker, fail, serving
from gate import echo
from peers import until

address = datagram_servers.address


def test_counters_and_what_it_says_of_itself(address: str) -> None:
    server = serving(fail, address)
    with server, Asker(server) as asker:
        assert asker.ask(b"abc") == b"abc"
        asker.send(b"fail")
        assert asker.ask(b"") == b""
        expected = {
            "messages_in": 3, "messages_out": 2, "bytes_in": 7, "bytes_out": 3,
            "handler_errors": 1, "replies_lost": 0, "too_long": 0, "refused": 0,
        }  # fmt: skip
        until(lambda: expected.items() <= server.stats.items())
        assert set(server.stats) == {*expected, "dropped", "threads", "takeovers"}
        assert server.stats["threads"] >= 1
        assert repr(server) == f"<DatagramServer {server.address}>"
        assert server.fileno() == server.socket.fileno() >= 0
    assert (server.stats["dropped"], server.stats["threads"], server.fileno()) == (-1, 0, -1)
    assert {**server.stats, **expected} == server.stats


@unix
def test_unix_path_is_private_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(echo, str(path)) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(OSError, match=str(path)) as caught:
            pysock.DatagramServer(path, echo)
        assert caught.value.errno == errno.EADDRINUSE
        with Asker(server) as asker:
            assert asker.ask(b"x") == b"x"  # the refused one has taken nothing away
    assert not path.exists()
    server.server_close()


@unix
@pytest.mark.leaves_path
def test_unix_path_that_nobody_serves_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    stale, taken, file = tmp_path / "stale", tmp_path / "taken", tmp_path / "file"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(stale))
    with serving(echo, stale) as server, Asker(server) as asker:
        assert asker.ask(b"x") == b"x"
    file.write_text("kept")
    with pytest.raises(OSError, match="file"):
        pysock.DatagramServer(file, echo)
    assert file.read_text() == "kept"
    with serving(echo, taken), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        taken.unlink()
        sock.bind(str(taken))
    assert taken.exists()  # it is another's by now


def test_socket_that_is_passed_in_is_owned(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with serving(echo, sock) as server, Asker(server) as asker:
            assert asker.ask(b"x") == b"x"
            assert server.address.port == sock.getsockname()[1]
        assert sock.fileno() == -1


@unix
def test_unix_socket_that_is_passed_in_keeps_its_path(tmp_path: Path) -> None:
    """Who has made the path removes it."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        with serving(echo, sock) as server, Asker(server) as asker:
            assert asker.ask(b"x") == b"x"
            assert repr(server) == f"<DatagramServer unixgram://{path}>"
    assert path.exists()


def unbound(family: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_DGRAM)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(
            socket.AF_INET,
        ),
        pytest.param(getattr(socket, "AF_UNIX", None), marks=unix),
    ],
)
def test_socket_that_is_not_bound_is_refused(family: int) -> None:
    with unbound(family) as sock:
        with pytest.raises(ValueError, match="is not bound"):
            pysock.DatagramServer(sock, echo)
        assert sock.fileno() >= 0


async def answer_later(message: bytes) -> bytes:
    return message


REFUSED: list[Any] = [
    (UDP, None, {}, TypeError, "handler is a NoneType"),
    (UDP, answer_later, {}, TypeError, "is async"),
    (UDP, echo, {"workers": -1}, ValueError, "workers is -1"),
    (UDP, echo, {"workers": 1.5}, ValueError, "workers is 1.5"),
    (UDP, echo, {"max_datagram": 0}, ValueError, "max_datagram is 0"),
    (UDP, echo, {"max_amplification": -1}, ValueError, "max_amplification is -1"),
    (UDP, echo, {"max_amplification": float("nan")}, ValueError, "max_amplification is nan"),
    (UDP, echo, {"send_timeout": -1}, ValueError, "send_timeout is -1"),
    (UDP, echo, {"send_timeout": float("nan")}, ValueError, "send_timeout is nan"),
    (UDP, echo, {"proxy_protocol": "v1"}, ValueError, "version 1 is for streams only"),
    (UDP, echo, {"trusted": ["10.0.0.0/99"]}, ValueError, "10.0.0.0/99"),
    (UDP, echo, {"groups": "239.1.1.1"}, TypeError, "expected a list"),
    (UDP, echo, {"groups": ["10.0.0.1"]}, ValueError, "no multicast address"),
    (UDP, echo, {"groups": ["ff02::1"]}, ValueError, "needs an IPv6 socket"),
    (UDP, echo, {"groups": ["239.1.1.1"], "interface": "none!"}, ValueError, "no interface"),
    ("tcp://127.0.0.1:0", echo, {}, ValueError, "is for a stream"),
    ("unix:///s", echo, {}, ValueError, "is for a stream"),
    pytest.param(
        "udp://192.0.2.1:0", echo, {}, OSError, "cannot receive at udp://192.0.2.1:0",
        marks=unlike_wine,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("where", "handler", "options", "error", "told"), REFUSED)
def test_what_cannot_be_served_is_refused(
    where: Any, handler: Any, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    """Nothing is left open of it, which the check for leaks sees."""
    with pytest.raises(error) as caught:
        pysock.DatagramServer(where, handler, **options)
    assert told in str(caught.value)


def test_socket_of_a_stream_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        with pytest.raises(ValueError, match="use Connection"):
            pysock.DatagramServer(sock, echo)
        assert sock.fileno() >= 0


def test_port_is_taken_only_once() -> None:
    with serving(echo) as server:
        port = server.server_address[1]
        with pytest.raises(OSError, match=f"cannot receive at udp://127.0.0.1:{port}"):
            pysock.DatagramServer(("127.0.0.1", port), echo)
