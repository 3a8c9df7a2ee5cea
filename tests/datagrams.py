"""Both ends of datagrams for tests: clients and plain peers, networks of a test's own.

A test module takes a fixture from here by assigning it, as in `ends = datagrams.ends`.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conftest import ipv6, linux, unix
from peers import LONG, Task, until
from pysock import DatagramClient

INTERNET = ["udp4", pytest.param("udp6", marks=ipv6)]
UNIX = [pytest.param("unix", marks=unix), pytest.param("abstract", marks=linux)]
KINDS = [*INTERNET, *UNIX]
FEW = ["udp4", pytest.param("unix", marks=unix)]  # one for each way that the code takes

WIRE = "wire0"  # an interface that can do everything
_CLONE_NEWNET = 0x40000000
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # users lack the last two
_numbers = itertools.count()


def plain(kind: str, folder: Path) -> socket.socket:
    """A socket of the standard library that receives at an address of its own."""
    family: int
    if kind == "udp4":
        family, name = socket.AF_INET, ("127.0.0.1", 0)
    elif kind == "udp6":
        family, name = socket.AF_INET6, ("::1", 0)
    else:
        if not hasattr(socket, "AF_UNIX"):
            pytest.skip("no Unix sockets here")
        at = folder / f"peer{next(_numbers)}"
        family, name = socket.AF_UNIX, str(at) if kind == "unix" else f"\0pysock{at}"
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.settimeout(LONG)
        sock.bind(name)
    except BaseException:
        sock.close()
        raise
    return sock


def receiver(family: int, name: Any, *options: tuple[int, int, Any]) -> socket.socket:
    """A plain socket that others may stand beside at the same port."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(LONG)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for option in options:
        sock.setsockopt(*option)
    sock.bind(name)
    return sock


def address_of(sock: socket.socket) -> str:
    """The URL of where *sock* receives."""
    name = sock.getsockname()
    if isinstance(name, tuple):
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"udp://{host}:{name[1]}"
    if isinstance(name, bytes):
        return f"unixgram:@{os.fsdecode(name[1:])}"
    return f"unixgram:{name}"


class Ends(NamedTuple):
    """A client, and the plain socket that it is connected to."""

    client: DatagramClient
    peer: socket.socket

    def say(self, *messages: bytes) -> None:
        """Send the client datagrams."""
        for message in messages:
            self.peer.sendto(message, self.client.getsockname())

    def hear(self) -> bytes:
        """What the client has sent."""
        return self.peer.recv(1 << 20)


@contextlib.contextmanager
def linked(kind: str, folder: Path, **options: Any) -> Iterator[Ends]:
    with plain(kind, folder) as peer, DatagramClient(address_of(peer), **options) as client:
        yield Ends(client, peer)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every kind of address."""
    return str(request.param)


@pytest.fixture
def ends(kind: str, tmp_path: Path) -> Iterator[Ends]:
    """A client and its peer over every kind of address."""
    with linked(kind, tmp_path, timeout=LONG) as both:
        yield both


@pytest.fixture(params=FEW)
def few_ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    """The same for tests that have many cases besides."""
    with linked(request.param, tmp_path, timeout=LONG) as both:
        yield both


@pytest.fixture
def udp_ends(tmp_path: Path) -> Iterator[Ends]:
    with linked("udp4", tmp_path, timeout=LONG) as both:
        yield both


@pytest.fixture
def unix_ends(tmp_path: Path) -> Iterator[Ends]:
    with linked("unix", tmp_path, timeout=LONG) as both:
        yield both


def stuff(client: DatagramClient, message: bytes = b"stuffed") -> int:
    """Send until the receiver's queue is full, which UDP's never is; return how many."""
    timeout, client.timeout = client.timeout, 0
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            client.send(message)
            count += 1
    client.timeout = timeout
    return count


# ------------------------------------------------------------ ways to receive


def _into(client: DatagramClient) -> bytes:
    buffer = bytearray(1 << 18)
    return bytes(buffer[: client.recv_into(buffer)])


def _many(client: DatagramClient) -> bytes:
    (message,) = client.recv_many(1)
    return message


RECEIVERS: dict[str, Callable[[DatagramClient], bytes]] = {
    "recv": DatagramClient.recv,
    "next": next,
    "recv_many": _many,
    "recv_into": _into,
    "recvfrom": lambda client: client.recvfrom()[0],
}


@pytest.fixture(params=RECEIVERS)
def receive(request: pytest.FixtureRequest) -> Callable[[DatagramClient], bytes]:
    """Every way to receive one datagram, as a function of the client."""
    return RECEIVERS[request.param]


# ------------------------------------------------------------ networks


def _ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = shutil.which("ip", path=_PATH)
    # Without a sanitizer that is loaded for us: it would find what is wrong with `ip`.
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, env=env)


def _shown(*arguments: str) -> str:
    done = _ip(*arguments)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
    return done.stdout


def _are_ready() -> bool:
    """Whether interfaces are up, and have what is sent to their own addresses stay here.

    The system sees to both a moment after it was asked to.
    """
    if "DOWN " in _shown("-oneline", "link", "show", "up"):
        return False
    shown = _shown("-6", "-oneline", "address", "show", "-tentative")
    addresses = set(re.findall(r"inet6 ([^/ ]+)", shown))
    return not addresses or addresses <= set(
        _shown("-6", "route", "show", "table", "local").split()
    )


@pytest.fixture
def isolated() -> Callable[..., Any]:
    """Run a function in a thread that has a network of its own.

    Called as isolated(function, *commands): the commands are those of `ip`, as in
    "link add a type veth peer name b".  Loopback is up.
    """
    if sys.platform != "linux":
        pytest.skip("network namespaces are Linux's")
    if shutil.which("ip", path=_PATH) is None:
        pytest.skip("the program 'ip' is not installed")

    def run(function: Callable[[], Any], *commands: str) -> Any:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            return f"no network of one's own: {os.strerror(ctypes.get_errno())}"
        for command in ("link set lo up", *commands):
            done = _ip(*command.split())
            if done.returncode:
                return f"ip {command}: {done.stderr.strip()}"
        until(_are_ready)
        function()
        return None

    def start(function: Callable[[], Any], *commands: str) -> None:
        # The network is the thread's, and goes with it.
        reason = Task(run, function, *commands).finish()
        if reason is not None:
            pytest.skip(reason)

    return start


@pytest.fixture
def on_wire(isolated: Callable[..., None]) -> Callable[..., None]:
    """Run a function where there is an interface with both versions and groups."""
    return lambda check, *more: isolated(
        check,
        f"link add name {WIRE} type veth peer name wire1",
        "link set wire1 up",
        f"link set {WIRE} up multicast on",
        f"address add 192.0.2.1/24 dev {WIRE}",
        f"address add fe80::1/64 dev {WIRE} nodad",
        *more,
    )
