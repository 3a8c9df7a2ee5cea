"""The page about the socket module: its lines run, it is whole, and so is its translation."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import pysock
from conftest import ipv6, linux
from gate import Echo
from pages import Page
from peers import LONG

PAGES = {name: Page(f"docs/{name}") for name in ("sockets.md", "sockets.zh-CN.md")}
PAGE, TRANSLATION = PAGES.values()

# The page is for Linux: what other systems lack it does not mark.
pytestmark = linux


def cells(page: Page) -> list[list[str]]:
    """The rows of all tables: the call, what it is in pysock, a line of code."""
    rows = re.findall(r"^\| (.*) \|$", page.text, re.MULTILINE)
    split = [row.split(" | ") for row in rows]
    return [row for row in split if row[-1].startswith("`")]


def code(cell: str) -> str:
    found = re.fullmatch(r"`([^`]*)`", cell)
    assert found, cell
    return found[1]


def with_marks(line: str) -> Any:
    marks: list[Any] = []
    if "[::1]" in line:
        marks.append(ipv6)
    return pytest.param(line, marks=marks, id=line[:60])


LINES = list(dict.fromkeys(code(row[-1]) for row in cells(PAGE)))
PROGRAMS = [line for line in LINES if line.startswith("pysock serve")]


# ------------------------------------------------------------ what is in the lines


def sockets_of(family: str, kind: int, protocol: int = 0) -> tuple[socket.socket, Any]:
    """A socket of that family, or one of Unix where there is none; and its peer, if any."""
    try:
        return socket.socket(getattr(socket, family), kind, protocol), None
    except (AttributeError, OSError):
        other = socket.SOCK_STREAM if kind == socket.SOCK_STREAM else socket.SOCK_DGRAM
        return socket.socketpair(socket.AF_UNIX, other)


class Names(dict[str, Any]):
    """The names in one line, made when they are needed; `close` undoes all."""

    def __init__(self) -> None:
        super().__init__(
            io=io, os=os, socket=socket, socketserver=socketserver, sys=sys, pysock=pysock
        )
        self["Echo"] = Echo
        self._stack = contextlib.ExitStack()

    def __missing__(self, name: str) -> Any:
        make = getattr(self, f"make_{name}", None)
        if make is None:
            raise KeyError(name)
        self[name] = make()
        return self[name]

    def close(self) -> None:
        for value in reversed(list(self.values())):
            close(value)
        self._stack.close()

    # a server and its client

    def make_server(self) -> Any:
        return pysock.Server("tcp://127.0.0.1:0", bytes.upper).start()

    def make_address(self) -> Any:
        return self["server"].address

    def make_port(self) -> Any:
        return self["server"].server_address[1]

    def make_conn(self) -> Any:
        return pysock.Client(self["address"], timeout=10)

    def make_nobody(self) -> Any:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return listener.getsockname()

    def make_file(self) -> Any:
        file = tempfile.TemporaryFile()  # noqa: SIM115
        file.write(b"hello")
        file.flush()
        return file

    def make_served(self) -> Any:
        def last(message: bytes) -> bytes:
            served.shutdown()
            return message

        served = pysock.Server("tcp://127.0.0.1:0", last)
        caller = pysock.Client(served.address, timeout=10)
        caller.send(b"bye")
        caller.shutdown(socket.SHUT_WR)
        self._stack.callback(caller.close)
        return served

    def make_session(self) -> Any:
        made: list[Any] = []

        class Kept(pysock.Session):
            def handle(self) -> None:
                made.append(self)
                met.release()
                assert over.acquire(timeout=LONG)

        met, over = locked(), locked()
        server = pysock.Server("tcp://127.0.0.1:0", Kept).start()
        self._stack.callback(close, server)
        self._stack.callback(over.release)
        client = self._stack.enter_context(pysock.Client(server.address, linger=0))
        client.send(b"hi")
        assert met.acquire(timeout=LONG)
        return made[0]

    # datagrams

    def make_udp_server(self) -> Any:
        return pysock.DatagramServer("udp://127.0.0.1:0", bytes.upper).start()

    def make_udp_port(self) -> Any:
        return self["udp_server"].server_address[1]

    def make_udp(self) -> Any:
        return pysock.DatagramClient(("127.0.0.1", self["udp_port"]), timeout=10)

    def make_free(self) -> Any:
        return pysock.DatagramClient(bind=("127.0.0.1", 0), timeout=10)

    # sockets of the user

    def make_a(self) -> Any:
        a, self["b"] = socket.socketpair()
        return a

    def make_b(self) -> Any:
        self["a"], b = socket.socketpair()
        return b

    def make_listener(self) -> Any:
        return socket.create_server(("127.0.0.1", 0))

    def make_dgram(self) -> Any:
        dgram, self["dgram2"] = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        return dgram

    def make_seqpacket(self) -> Any:
        return self.of("AF_UNIX", socket.SOCK_SEQPACKET)

    def make_vsock(self) -> Any:
        return self.of("AF_VSOCK", socket.SOCK_STREAM)

    def make_netlink(self) -> Any:
        return self.of("AF_NETLINK", socket.SOCK_RAW)

    def make_packet(self) -> Any:
        return self.of("AF_PACKET", socket.SOCK_RAW)

    def make_raw(self) -> Any:
        return self.of("AF_INET", socket.SOCK_RAW, socket.IPPROTO_ICMP)

    def make_can(self) -> Any:
        return self.of("AF_CAN", socket.SOCK_RAW, getattr(socket, "CAN_RAW", 1))

    def make_rfcomm(self) -> Any:
        return self.of("AF_BLUETOOTH", socket.SOCK_STREAM, 3)

    def make_tipc(self) -> Any:
        return self.of("AF_TIPC", socket.SOCK_RDM)

    def make_alg(self) -> Any:
        try:
            algorithm = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
        except OSError:
            near, far = socket.socketpair()
            far.sendall(bytes(32))
            self["alg_peer"] = far
            return near
        with algorithm:
            algorithm.bind(("hash", "sha256"))
            digest = algorithm.accept()[0]
            digest.sendall(b"abc")
            return digest

    def of(self, family: str, kind: int, protocol: int = 0) -> socket.socket:
        sock, peer = sockets_of(family, kind, protocol)
        self["peer"] = peer
        return sock


def locked() -> Any:
    lock = threading.Lock()
    lock.acquire()
    return lock


def close(value: Any) -> None:
    """Close what a line has left, be it a list of descriptors."""
    if isinstance(value, list | tuple):
        for each in value:
            os.close(each) if type(each) is int and isinstance(value, list) else close(each)
    elif isinstance(value, pysock.Connection):
        value.linger = 0.0
        value.close()
    elif hasattr(value, "server_close"):
        with contextlib.suppress(AttributeError):  # as the standard library's have none
            value.stop(drain=0)
        value.server_close()
    elif hasattr(value, "close") and not isinstance(value, type | ModuleType):
        value.close()


def run(line: str, names: Names) -> Any:
    """Run a line as it stands; return what its last part gives."""
    *parts, last = ast.parse(line).body
    exec(compile(ast.Module(parts, []), "line", "exec"), {}, names)
    if not isinstance(last, ast.Expr):
        exec(compile(ast.Module([last], []), "line", "exec"), {}, names)
        return None
    return eval(compile(ast.Expression(last.value), "line", "eval"), {}, names)


@pytest.fixture
def names(elsewhere: None) -> Iterator[Names]:
    with contextlib.closing(Names()) as made:
        yield made


@pytest.mark.parametrize("line", [with_marks(line) for line in LINES if line not in PROGRAMS])
def test_line_does_what_it_says(line, names):
    statement, _, says = line.partition("  # ")
    statement = statement.replace("unix:@app", f"unix:@app-{os.getpid()}")
    if says.startswith("raises "):
        with pytest.raises(run(says.removeprefix("raises "), names)):
            run(statement, names)
        return
    assert says == "" or says.startswith("-> ")
    names["result"] = run(statement, names)
    if says:
        assert names["result"] == ast.literal_eval(says.removeprefix("-> "))


def test_programs_have_their_options(elsewhere):
    assert PROGRAMS
    helps = subprocess.run(
        [sys.executable, "-m", "pysock", "serve", "--help"], capture_output=True, text=True
    ).stdout
    for line in PROGRAMS:
        for option in shlex.split(line):
            assert not option.startswith("--") or f"{option} " in helps


def test_class_of_the_page_is_the_one_in_its_lines():
    (block,) = PAGE.blocks("python")
    scope: dict[str, Any] = {"pysock": pysock}
    exec(block, scope)
    with (
        pysock.Server("127.0.0.1:0", scope["Echo"]).start() as server,
        pysock.Client(server.address, timeout=LONG) as client,
    ):
        assert client.request(b"hi") == b"hi"


# ------------------------------------------------------------ the page is whole


def public(*things: Any) -> set[str]:
    return {name for thing in things for name in dir(thing) if not name.startswith("_")}


def listed() -> set[str]:
    """The names in the first column."""
    return {name for row in cells(PAGE) for name in re.findall(r"\w+", row[0])}


def test_every_family_and_type_is_named():
    families = {name for name in dir(socket) if re.match(r"(AF|SOCK)_", name)}
    assert families <= {*re.findall(r"`(\w+)`", PAGE.text)}


def test_every_call_of_a_socket_is_in_a_table():
    assert public(socket.socket) <= listed()
    functions = {name for name in socket.__all__ if name[0].islower()}
    assert {*functions, "send_fds", "recv_fds", "socketpair", "CMSG_LEN"} <= listed()


def test_every_class_and_method_of_socketserver_is_in_a_table():
    servers = [getattr(socketserver, name) for name in socketserver.__all__]
    handlers = {
        "request",
        "client_address",
        "server",
        "rfile",
        "wfile",
        "connection",
        "packet",
    }
    inside = {"process_request_thread", "server_address", "socket", "RequestHandlerClass"}
    assert {*socketserver.__all__, *public(*servers), *handlers, *inside} <= listed()


def shape(page: Page) -> list[Any]:
    rows = re.findall(r"^\|.*\|$|^```.*$|^#+ ", page.text, re.MULTILINE)
    return [re.findall(r"`[^`]*`|^#+", row) or row.count("|") for row in rows]


def test_translation_has_the_same_rows_and_code():
    for ours, theirs in zip(shape(PAGE), shape(TRANSLATION), strict=True):
        assert ours == theirs
    assert PAGE.blocks("python") == TRANSLATION.blocks("python")


def test_translation_is_one():
    for ours, theirs in zip(cells(PAGE), cells(TRANSLATION), strict=True):
        for mine, its in zip(ours, theirs, strict=True):
            words = re.sub(r"`[^`]*`", "", mine)
            assert mine != its or not re.search(r"[a-z]{4}", words), mine


# ------------------------------------------------------------ sockets of the user


def test_records_of_a_sequence_of_packets_stay_apart():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        pysock.Connection(a, pysock.Raw(), timeout=LONG) as x,
        pysock.Connection(b, pysock.Raw(), timeout=LONG) as y,
    ):
        for message in (b"one", b"two", bytes(100_000)):
            x.send(message)
        assert [y.recv() for _ in range(3)] == [b"one", b"two", bytes(100_000)]


def opened(family: str, kind: int, protocol: int) -> socket.socket:
    """A socket of the user's; the test is skipped where it cannot be had."""
    try:
        return socket.socket(getattr(socket, family), kind, protocol)
    except (AttributeError, OSError) as exc:
        pytest.skip(f"no {family} socket here: {exc}")


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def test_raw_socket_asks_for_an_echo():
    raw = opened("AF_INET", socket.SOCK_RAW, socket.IPPROTO_ICMP)
    raw.connect(("127.0.0.1", 0))
    rest = struct.pack("!HH", os.getpid() & 0xFFFF, 1) + b"are you there?!!"
    echo = b"\x08\0" + struct.pack("!H", checksum(b"\x08\0\0\0" + rest)) + rest
    with pysock.DatagramClient(sock=raw) as client:
        # The header of IP is in front; what was sent is seen as well.
        reply = client.request(echo, LONG, match=lambda _, it: it[20] == 0 and it[24:] == rest)
    assert reply[12:20] == bytes((127, 0, 0, 1)) * 2


def test_netlink_tells_the_interfaces():
    netlink = opened("AF_NETLINK", socket.SOCK_RAW, 0)
    dump = struct.pack("=IHHIIB15x", 32, 18, 0x301, 1, 0, socket.AF_UNSPEC)  # RTM_GETLINK
    with pysock.DatagramClient(sock=netlink, timeout=LONG) as client:
        client.send(dump)
        (kind,) = struct.unpack_from("=H", client.recv(), 4)
    assert kind == 16  # RTM_NEWLINK


def test_packet_socket_sees_frames():
    packet = opened("AF_PACKET", socket.SOCK_RAW, 0)
    packet.bind(("lo", 0x0800))
    with (
        pysock.DatagramClient(sock=packet, timeout=LONG) as frames,
        socket.socket(type=socket.SOCK_DGRAM) as here,
    ):
        here.bind(("127.0.0.1", 0))
        secret = os.urandom(16)
        here.sendto(secret, here.getsockname())
        assert next(frame for frame in frames if frame.endswith(secret))


def test_vsock_is_a_stream():
    listener = opened("AF_VSOCK", socket.SOCK_STREAM, 0)
    try:
        listener.bind((1, 0xFFFFFFFF))  # this machine, any port
    except OSError as exc:
        listener.close()
        pytest.skip(f"no loopback of AF_VSOCK here: {exc}")
    listener.listen()
    with pysock.Server(listener, bytes.upper).start() as server:
        sock = socket.socket(socket.AF_VSOCK)
        sock.connect(server.server_address)
        with pysock.Client(sock=sock, timeout=LONG) as client:
            assert client.request(b"hi") == b"HI"
