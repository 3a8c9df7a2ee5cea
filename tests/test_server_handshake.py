"""PROXY headers as a server takes them: who is let in, under one deadline, holding nobody."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

import pysock
from conftest import TIME_FACTOR, ipv6, unix
from gate import SOON, connected, ended, frame, warnings_in
from peers import PROMPT, until

PATIENCE = 0.2 * TIME_FACTOR

SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")
V1 = b"PROXY TCP4 192.0.2.7 192.0.2.9 4711 443\r\n"
V1_6 = b"PROXY TCP6 2001:db8::7 2001:db8::9 4711 443\r\n"
UNKNOWN = b"PROXY UNKNOWN\r\n"


def v2(command: int, family: int, block: bytes = b"") -> bytes:
    return SIGNATURE + bytes([command, family]) + len(block).to_bytes(2, "big") + block


INET = bytes([192, 0, 2, 7, 192, 0, 2, 9]) + struct.pack(">HH", 4711, 443)
INET6 = bytes.fromhex("20010db8" + 11 * "00" + "07" + "20010db8" + 11 * "00" + "09") + INET[8:]
PATHS = b"/their/path".ljust(108, b"\0") + b"/our/path".ljust(108, b"\0")
V2 = v2(0x21, 0x11, INET)
LOCAL = v2(0x20, 0x00, b"\4\0\1x")

VALID = [
    pytest.param(V1, ("192.0.2.7", 4711), id="v1"),
    pytest.param(V1_6, ("2001:db8::7", 4711), id="v1-6"),
    pytest.param(UNKNOWN, None, id="v1-unknown"),
    pytest.param(V2, ("192.0.2.7", 4711), id="v2"),
    pytest.param(v2(0x21, 0x21, INET6), ("2001:db8::7", 4711), id="v2-6"),
    pytest.param(v2(0x21, 0x31, PATHS), "/their/path", id="v2-unix"),
    pytest.param(v2(0x21, 0x11, INET + b"\5\0\4name"), ("192.0.2.7", 4711), id="v2-tlv"),
    pytest.param(LOCAL, None, id="v2-local"),
    pytest.param(v2(0x21, 0x00), None, id="v2-unspec"),
]


class Tells(pysock.Session):
    def handle(self) -> None:
        for message in self.connection:
            assert self.client_address == self.connection.client_address
            self.connection.send(tell(message, self.connection))


def tell(message: bytes, connection: Any) -> bytes:
    """Reply with the message and what is known of its sender."""
    return b"%s %r" % (message, (connection.client_address, connection.proxy is not None))


HANDLERS = [pytest.param(tell, id="handler"), pytest.param(Tells, id="session")]


@contextlib.contextmanager
def serving(handler: Any = tell, accept: str = "any", **options: Any) -> Iterator[Any]:
    options = {"address": "127.0.0.1:0", "proxy_protocol": accept, **options}
    with pysock.Server(handler=handler, **options).start() as server:
        yield server


def told(sock: socket.socket, message: bytes, source: Any, header: bool = True) -> bool:
    """Whether the next reply is `tell`'s."""
    address = sock.getsockname() if source is None else source
    expected = frame(b"%s %r" % (message, (address, header)))
    return pysock.recv_exactly(sock, len(expected)) == expected


# ------------------------------------------------------------ who is let in


@pytest.mark.case("H15", "H17", "H18", "H20")
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize(("header", "source"), VALID)
def test_header_and_messages_in_one_segment(header: bytes, source: Any, handler: Any) -> None:
    """H15, H17, H18, H20: the header tells who it is, no byte behind it is lost."""
    with serving(handler) as server, connected(server) as sock:
        sock.sendall(header + frame(b"one") + frame(b"") + frame(b"x" * 70_000))
        for message in (b"one", b"", b"x" * 70_000):
            assert told(sock, message, source)


@pytest.mark.case("H17")
@pytest.mark.parametrize("accept", ["exact", "any"])
@pytest.mark.parametrize("header", [V1, UNKNOWN, V2, LOCAL])
def test_header_cut_at_every_byte(header: bytes, accept: str) -> None:
    """H17."""
    source = ("192.0.2.7", 4711) if header in (V1, V2) else None
    version = accept if accept == "any" else "v1" if header in (V1, UNKNOWN) else "v2"
    stream = header + frame(b"m")
    with serving(accept=version) as server:
        for cut in range(1, len(stream)):
            with connected(server) as sock:
                sock.sendall(stream[:cut])
                if cut % 8 == 0:
                    until(lambda: server.stats["connections"])
                sock.sendall(stream[cut:])
                assert told(sock, b"m", source)


@pytest.mark.case("H17")
@pytest.mark.parametrize("header", [V1, V2])
def test_header_in_single_bytes(header: bytes) -> None:
    """H17."""
    with serving() as server, connected(server) as sock:
        for byte in header + frame(b"m"):
            sock.sendall(bytes([byte]))
            time.sleep(0.001)
        assert told(sock, b"m", ("192.0.2.7", 4711))


@unix
@pytest.mark.parametrize("handler", HANDLERS)
def test_proxy_at_a_unix_socket_is_trusted(handler: Any, tmp_path: Path) -> None:
    options = {"address": str(tmp_path / "s"), "trusted_proxies": []}
    with serving(handler, **options) as server:
        for header, source in [(V1, ("192.0.2.7", 4711)), (V2, ("192.0.2.7", 4711))]:
            with connected(server) as sock:
                sock.sendall(header + frame(b"m"))
                assert told(sock, b"m", source)
        with connected(server) as sock:
            sock.sendall(LOCAL + frame(b"m"))
            assert told(sock, b"m", None)


@ipv6
def test_proxy_over_ipv6() -> None:
    with serving(address="[::1]:0") as server, connected(server) as sock:
        sock.sendall(V2 + frame(b"m"))
        assert told(sock, b"m", ("192.0.2.7", 4711))


def test_header_is_there_for_who_wants_more_of_it() -> None:
    def handler(message: bytes, connection: Any) -> bytes:
        proxy = connection.proxy
        return repr((proxy.version, proxy.destination, proxy.unique_id)).encode()

    with serving(handler) as server, connected(server) as sock:
        sock.sendall(v2(0x21, 0x11, INET + b"\5\0\4name") + frame(b""))
        expected = frame(b"(2, ('192.0.2.9', 443), b'name')")
        assert pysock.recv_exactly(sock, len(expected)) == expected


def test_log_names_the_client_and_not_the_proxy(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server, connected(server) as sock:
        sock.sendall(V1 + b"\xff\xff\xff\xff")
        assert ended(sock)
    (line,) = warnings_in(caplog)
    assert line.startswith("192.0.2.7:4711: ")


def test_connection_without_a_proxy_has_no_header() -> None:
    with pysock.Server("127.0.0.1:0", tell).start() as server, connected(server) as sock:
        sock.sendall(frame(b"m"))
        assert told(sock, b"m", None, header=False)


# ------------------------------------------------------------ who is not

WRONG = [
    ("any", b"GET / HTTP/1.1\r\n\r\n"),
    ("any", frame(b"message")),
    ("any", b"proxy TCP4 192.0.2.7 192.0.2.9 4711 443\r\n"),
    ("any", b"PROXY  TCP4 192.0.2.7 192.0.2.9 4711 443\r\n"),
    ("any", b"PROXY TCP4 192.0.2.07 192.0.2.9 4711 443\r\n"),
    ("any", b"PROXY TCP4 256.1.1.1 192.0.2.9 4711 443\r\n"),
    ("any", b"PROXY TCP4 192.0.2.7 192.0.2.9 65536 443\r\n"),
    ("any", b"PROXY TCP4 192.0.2.7 192.0.2.9 -1 443\r\n"),
    ("any", b"PROXY TCP4 192.0.2.7 192.0.2.9 4711 443\n"),
    ("any", b"PROXY TCP4 192.0.2.7 192.0.2.9 4711 443\r" + frame(b"m")),
    ("any", b"PROXY UNKNOWN " + bytes(100)[:93].replace(b"\0", b"x") + frame(b"m")),
    ("any", b"PROXY TCP6 192.0.2.7 192.0.2.9 4711 443\r\n"),
    ("any", V1.replace(b"443\r", b"443 \r")),
    ("any", V1.replace(b"443", b"4\x003")),
    ("any", v2(0x11, 0x11, INET)),
    ("any", v2(0x22, 0x11, INET)),
    ("any", v2(0x21, 0x41, INET)),
    ("any", v2(0x21, 0x13, INET)),
    ("any", v2(0x21, 0x11, INET[:-1])),
    ("any", SIGNATURE + b"\x21\x11\xff\xff"),
    ("any", v2(0x21, 0x11, INET + b"\5\0\5name")),
    ("any", v2(0x21, 0x11, INET + b"\3\0\4\0\0\0\0")),
    ("any", SIGNATURE + V2),
    ("v1", V2),
    ("v2", V1),
    ("any", Random(1).randbytes(65536)),
]


@pytest.mark.case("H16", "H19", "H21")
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize(("accept", "data"), WRONG)
def test_wrong_header_is_refused(
    accept: str, data: bytes, handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """H16, H19, H21: one line in the log, no application byte delivered."""
    with serving(handler, accept) as server, connected(server) as sock:
        sock.sendall(data + frame(b"message"))
        assert ended(sock)
        assert server.stats["messages_in"] == server.stats["bytes_out"] == 0
        assert server.stats["handler_errors"] == 0
        with connected(server) as good:
            good.sendall((V2 if accept == "v2" else V1) + frame(b"m"))
            assert told(good, b"m", ("192.0.2.7", 4711))
    (line,) = warnings_in(caplog)
    assert line.startswith("127.0.0.1:")
    assert line.isprintable()
    assert len(line) < 700


def test_second_header_is_a_bad_frame(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server, connected(server) as sock:
        sock.sendall(V1 + V1 + frame(b"m"))
        assert ended(sock)
    (line,) = warnings_in(caplog)
    assert "exceeds" in line


@pytest.mark.case("H21")
@pytest.mark.parametrize("handler", HANDLERS)
def test_source_that_is_not_trusted_is_refused(
    handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """H21: before a byte of it is looked at."""
    with serving(handler, trusted_proxies=["192.0.2.0/24"]) as server:
        with connected(server) as sock, contextlib.suppress(ConnectionError):
            sock.sendall(V1 + frame(b"m"))
            assert ended(sock)
        until(lambda: server.stats["refused"] == 1)
        assert server.stats["accepted"] == server.stats["connections"] == 0
    (line,) = warnings_in(caplog)
    assert "trusted_proxies" in line


@pytest.mark.parametrize("handler", HANDLERS)
def test_client_that_leaves_before_its_first_message_is_no_news(
    handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As the checks of a load balancer do."""
    with serving(handler) as server:
        for sent in (b"", V1[:10], V2[:20], V1):
            with connected(server) as sock:
                sock.sendall(sent)
                sock.shutdown(socket.SHUT_WR)
                assert ended(sock)
            with connected(server) as sock:
                sock.sendall(sent)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: server.stats["connections"] == 0)
    assert warnings_in(caplog) == []


def test_handle_request_asks_for_the_header_too() -> None:
    """Else it would serve who must not be let in, under a wrong address."""
    with pysock.Server("127.0.0.1:0", tell, proxy_protocol="v1") as server:
        for data, good in [(V1 + frame(b"m"), True), (frame(b"m"), False)]:
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            with connected(server) as sock:
                sock.sendall(data)
                if good:
                    assert told(sock, b"m", ("192.0.2.7", 4711))
                else:
                    assert ended(sock)
            thread.join(SOON)
            assert not thread.is_alive()


# ------------------------------------------------------------ silent ones


def say_nothing(sock: socket.socket) -> None:
    pass


def say_half(sock: socket.socket) -> None:
    sock.sendall(V1[:20])


def drip(sock: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        for byte in V1:
            sock.sendall(bytes([byte]))
            time.sleep(PATIENCE / 5)


@pytest.mark.case("H22")
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("act", [say_nothing, say_half, drip])
def test_header_must_come_in_time(
    act: Callable[[socket.socket], None], handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """H22: one deadline for all of it; the place is free afterwards."""
    options = {"handshake_timeout": PATIENCE, "max_connections": 1}
    with serving(handler, **options) as server:
        began = time.monotonic()  # before the server has the connection
        with connected(server) as sock:
            act(sock)
            assert ended(sock)
        assert PATIENCE <= time.monotonic() - began < PATIENCE + PROMPT
        assert server.stats["overdue"] == 1
        with connected(server) as good:
            good.sendall(V1 + frame(b"m"))
            assert told(good, b"m", ("192.0.2.7", 4711))
    assert sum("handshake takes too long" in line for line in warnings_in(caplog)) == 1


def test_deadline_is_for_the_handshake_only() -> None:
    with serving(handshake_timeout=PATIENCE) as server, connected(server) as sock:
        sock.sendall(V1)
        time.sleep(2 * PATIENCE)
        sock.sendall(frame(b"m"))
        assert told(sock, b"m", ("192.0.2.7", 4711))


@pytest.mark.parametrize("workers", [0, 1])
def test_header_that_has_come_while_the_server_was_busy_is_in_time(workers: int) -> None:
    entered = threading.Event()

    def handler(message: bytes) -> bytes:
        if message == b"hold up":
            entered.set()
            time.sleep(3 * PATIENCE)
        return message

    with (
        serving(handler, handshake_timeout=PATIENCE, workers=workers) as server,
        connected(server) as busy,
        connected(server) as sock,
    ):
        busy.sendall(V1)
        sock.sendall(V1[:9])
        until(lambda: server.stats["connections"] == 2)
        busy.sendall(frame(b"hold up"))
        assert entered.wait(SOON)
        sock.sendall(V1[9:] + frame(b"m"))
        assert pysock.recv_exactly(sock, 5) == frame(b"m")


def test_no_limit_for_the_handshake() -> None:
    with serving(handshake_timeout=None) as server, connected(server) as sock:
        time.sleep(PATIENCE)
        sock.sendall(V1 + frame(b"m"))
        assert told(sock, b"m", ("192.0.2.7", 4711))


@pytest.mark.case("L02")
@pytest.mark.parametrize(("handler", "count"), [(tell, 64), (Tells, 64), (tell, 200)])
def test_silent_clients_do_not_keep_others_out(handler: Any, count: int) -> None:
    """L02: the oldest make room, the next is served in a second or so."""
    with (
        contextlib.ExitStack() as stack,
        serving(handler, backlog=300) as server,
        connected(server) as early,
    ):
        early.sendall(V1 + frame(b"early"))
        assert told(early, b"early", ("192.0.2.7", 4711))
        for _ in range(count):
            stack.enter_context(connected(server))
        began = time.monotonic()
        with connected(server) as good:
            good.sendall(V1 + frame(b"m"))
            assert told(good, b"m", ("192.0.2.7", 4711))
        assert time.monotonic() - began < 1 + count / 64 * 0.5 + PROMPT
        early.sendall(frame(b"late"))
        assert told(early, b"late", ("192.0.2.7", 4711))
        server.stop(drain=0)


def test_many_clients_at_once_need_not_wait_for_a_place() -> None:
    """As after the restart of a load balancer: their headers are there already."""
    with contextlib.ExitStack() as stack, serving(backlog=1000) as server:
        server.stop()
        socks = [stack.enter_context(connected(server)) for _ in range(500)]
        for sock in socks:
            sock.sendall(V1 + frame(b"m"))
        began = time.monotonic()
        server.start()
        for sock in socks:
            assert told(sock, b"m", ("192.0.2.7", 4711))
        assert time.monotonic() - began < PROMPT
        assert server.stats["overdue"] == 0


def test_silent_clients_hold_no_threads() -> None:
    with contextlib.ExitStack() as stack, serving(Tells) as server:
        before = threading.active_count()
        for _ in range(30):
            stack.enter_context(connected(server))
        until(lambda: server.stats["connections"] == 30)
        assert threading.active_count() == before
        server.stop(drain=0)


# ------------------------------------------------------------ stop


@pytest.mark.case("D13")
@pytest.mark.parametrize(("handler", "sent"), [(tell, b""), (Tells, V1[:20])])
def test_stop_does_not_wait_for_a_silent_handshake(handler: Any, sent: bytes) -> None:
    """D13: about a second, which a first request may take."""
    with contextlib.ExitStack() as stack, serving(handler) as server:
        socks = [stack.enter_context(connected(server)) for _ in range(20)]
        for sock in socks:
            sock.sendall(sent)
        until(lambda: server.stats["connections"] == 20)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 1 + PROMPT
        assert all(ended(sock) for sock in socks)


@pytest.mark.case("D16")
def test_stop_serves_a_first_request_behind_a_header_that_is_coming() -> None:
    """D16: of who was connected when it began."""
    with serving() as server, connected(server) as sock:
        sock.sendall(V1[:20])
        until(lambda: server.stats["connections"] == 1)
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        until(lambda: server.stopping)
        time.sleep(0.1)
        sock.sendall(V1[20:] + frame(b"m"))
        assert told(sock, b"m", ("192.0.2.7", 4711))
        assert ended(sock)
        stopper.join(SOON)
        assert not stopper.is_alive()


@pytest.mark.case("D16")
@pytest.mark.parametrize("handler", HANDLERS)
def test_stop_at_any_moment_of_many_handshakes(handler: Any) -> None:
    """D16: nothing is left behind, as the leak check sees."""
    random = Random(4)
    with serving(handler) as server:
        server.stop()
        for _ in range(15):
            server.start()
            with contextlib.ExitStack() as stack:
                for _ in range(10):
                    sock = stack.enter_context(connected(server))
                    data = V1 + frame(b"m")
                    sock.sendall(data[: random.choice([0, 9, 40, len(data)])])
                time.sleep(random.random() * 0.01)
                server.stop(drain=random.choice([0, 0.01, 0.1]))
                assert server.stats["connections"] == 0
