"""Server by turns: forks and programs started in handlers; signals while it serves."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import both_ways
import pysock
from both_ways import also_over_tls, over_both
from conftest import TIME_FACTOR, linux, unix
from gate import HERE, Gate, clients, serving
from peers import PROMPT, SHORT, background, run_python, until

transport = both_ways.transport

# ------------------------------------------------------------ forks


def fork_in_handler(deed: Callable[[Any], None], connection: Any) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            deed(connection)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def nothing(connection: Any) -> None:
    pass


def close(connection: Any) -> None:
    connection.close()


def collect(connection: Any) -> None:
    del connection
    gc.collect()


LEFT = """
import os, sys, warnings
import pysock
warnings.simplefilter("ignore", DeprecationWarning)  # of threads and fork, from 3.12 on
name, way = sys.argv[1:]

with (
    pysock.Server(f"unix:{name}-s", bytes.upper, health=f"unix:{name}-h").start() as server,
    pysock.DatagramServer(f"unixgram:{name}-d", bytes.upper).start() as datagrams,
):
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        assert pysock.Client(server.address).request(b"a") == b"A"
        with pysock.DatagramClient(datagrams.address) as client:
            assert client.request(b"b") == b"B"
        assert os.path.exists(f"{name}-h")
    elif way == "stop":
        server.stop(), datagrams.stop(), server.shutdown()
        os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("way", ["leave", "stop"])
def test_child_leaves_its_parents_servers_alone(tmp_path: Path, way: str) -> None:
    """And does not wait for threads that it has not."""
    assert run_python(LEFT, str(tmp_path / "at"), way) == ""


@pytest.mark.case("S04")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@also_over_tls(
    "deed,workers,other",
    [
        (deed, workers, other)
        for deed in (nothing, close, collect)
        for workers in (0, 4)
        for other in (False, True)
    ],
    [(nothing, 4, False), (close, 0, True), (close, 4, False), (collect, 4, True)],
)
def test_child_forked_in_a_handler_takes_nothing_along(
    deed: Callable[[Any], None], workers: int, other: bool
) -> None:
    """S04: the child closes what it inherited, or only exits."""
    kept: list[Any] = []

    def handler(message: bytes, connection: pysock.Connection) -> bytes:
        if message == b"keep":
            kept.append(connection)
        if message == b"fork":
            fork_in_handler(deed, kept[0] if other else connection)
        return message

    with serving(handler, workers=workers) as server, clients(server, 2) as (first, peer):
        first.timeout = peer.timeout = PROMPT
        assert first.request(b"keep") == b"keep"
        for _ in range(3):
            assert peer.request(b"fork") == b"fork"
            assert first.request(b"x") == b"x"
        assert peer.request(b"x") == b"x"


@pytest.mark.case("S04")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("workers", ["0", "4"])
def test_child_that_returns_from_a_handler_serves_nobody(workers: str) -> None:
    """It should have called os._exit(); it must not serve the parent's clients instead."""
    said = run_python(
        """
import logging, os, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
logging.disable()
import pysock
parent = os.getpid()
children = []

def handler(message):
    if message == b"fork" and (pid := os.fork()):
        children.append(pid)
    return b"%d" % os.getpid()

with pysock.Server("127.0.0.1:0", handler, workers=int(sys.argv[1])).start() as server:
    def ask(peer, message=b"x"):
        assert int(peer.request(message)) == parent
    with pysock.Client(server.address, timeout=5) as other:
        ask(other)
        with pysock.Client(server.address, timeout=5) as peer:
            for _ in range(2):
                ask(peer, b"fork")
                ask(peer)
                ask(other)
        for _ in range(50):
            with pysock.Client(server.address, timeout=5) as peer:
                ask(peer)
        ask(other)
        for child in children:
            end = time.monotonic() + 5
            while os.waitpid(child, os.WNOHANG) == (0, 0):
                assert time.monotonic() < end, "the child lives"
                time.sleep(0.01)
""",
        workers,
    )
    assert said == ""


@pytest.mark.case("S10")
@linux
def test_program_started_in_a_handler_inherits_nothing() -> None:
    """S10: also where nothing is closed for it."""
    said = run_python(
        """
import os, subprocess, sys
import pysock

LOOK = "; ".join([
    "import os",
    "names = ['/proc/self/fd/' + name for name in os.listdir('/proc/self/fd')]",
    "print([os.readlink(name) for name in names if os.path.exists(name)])",
])

def handler(message):
    return subprocess.run(
        [sys.executable, "-c", LOOK],
        close_fds=False, stdin=subprocess.DEVNULL, capture_output=True,
    ).stdout

path = f"unix:@pysock-{os.getpid()}"
with (
    pysock.Server(["127.0.0.1:0", path], handler, health="127.0.0.1:0").start() as server,
    pysock.Client(server.address, timeout=30) as one,
    pysock.Client(path, timeout=30) as two,
):
    for peer in one, two, one:
        seen = peer.request(b"x")
        assert b"/dev/null" in seen, seen
        assert b"socket" not in seen and b"anon_inode" not in seen, seen
"""
    )
    assert said == ""


@pytest.mark.case("S11")
@unix
def test_disposition_of_sigpipe_is_left_alone() -> None:
    """S11: and a client that is gone is no signal, even where that would be the end."""
    said = run_python(
        """
import signal, socket, sys, threading
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
import pysock
gone = threading.Event()
def handler(message, connection):
    if message != b"large":
        return message
    gone.wait(10)
    for _ in range(100):
        connection.send(bytes(100_000))
with pysock.Server("127.0.0.1:0", handler).start() as server:
    for _ in range(3):
        with socket.create_connection(server.server_address) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
            sock.sendall(b"\\0\\0\\0\\5large")
        gone.set()
        with pysock.Client(server.address, timeout=10) as client:
            assert client.request(b"x") == b"x"
assert signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
"""
    )
    assert said == ""


# ------------------------------------------------------------ signals


@pytest.mark.case("S02")
@over_both
@unix
@pytest.mark.parametrize("workers", [0, 4])
def test_signal_is_dealt_with_while_the_main_thread_serves(workers: int) -> None:
    """S02: idle, and with a handler that blocks elsewhere."""
    gate = Gate()
    sent: list[float] = []
    dealt: list[float] = []

    def send_signals(server: pysock.Server) -> None:
        with clients(server, 1) as (peer,):
            assert peer.request(b"x") == b"x"
            if workers:
                peer.send(b"block")
                gate.holds(1)
            for count in range(1, 6):
                time.sleep(SHORT)
                sent.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGUSR1)
                until(lambda: len(dealt) == count)  # noqa: B023
            if workers:
                gate.let()
                assert peer.recv() == b"block"
            server.stop()

    before = signal.signal(signal.SIGUSR1, lambda *_: dealt.append(time.monotonic()))
    try:
        with (
            pysock.Server(HERE, gate, workers=workers) as server,
            background(send_signals, server),
        ):
            server.serve_forever()
    finally:
        signal.signal(signal.SIGUSR1, before)
    delays = [then - first for first, then in zip(sent, dealt, strict=True)]
    assert min(delays) < 0.1 * TIME_FACTOR
    assert max(delays) < PROMPT
    assert signal.set_wakeup_fd(-1) == -1


@unix
def test_signal_that_comes_in_the_middle_of_a_stop_may_stop_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a second SIGTERM does: its handler runs between two steps of the first stop."""

    class Clock:
        raised = False

        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

        def monotonic(self) -> float:
            if not self.raised and threading.current_thread() is threading.main_thread():
                self.raised = True
                signal.raise_signal(signal.SIGUSR1)
            return time.monotonic()

    calls: list[float] = []

    def stop(*_: Any) -> None:
        calls.append(time.monotonic())
        server.stop(0)

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with serving(bytes.upper) as server:
            with clients(server, 1) as (peer,):
                assert peer.request(b"x") == b"X"
            clock = Clock()
            monkeypatch.setattr("pysock.running.time", clock)
            server.stop()
            assert clock.raised
            assert calls
            assert not server.stopping
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.case("D15", "S01")
@over_both
@unix
@pytest.mark.parametrize("workers", [0, 4])
def test_stop_in_a_signal_handler_drains(workers: int) -> None:
    gate = Gate()
    with pysock.Server(HERE, gate, workers=workers) as server:
        before = signal.signal(signal.SIGUSR1, lambda *_: server.stop())

        def send_signal() -> None:
            with clients(server, 1) as (peer,):
                peer.send(b"block" if workers else b"x")
                if workers:
                    gate.holds(1)
                else:
                    assert peer.recv() == b"x"
                os.kill(os.getpid(), signal.SIGUSR1)
                until(lambda: server.stopping or not workers)
                gate.let()
                assert list(peer) == [b"block"] * bool(workers)

        try:
            with background(send_signal):
                server.serve_forever()
        finally:
            signal.signal(signal.SIGUSR1, before)


@pytest.mark.case("S03")
def test_server_in_another_thread_leaves_signals_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S03: there it could not have them anyway."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a signal was to be dealt with")

    for name in ("signal", "set_wakeup_fd", "setitimer", "siginterrupt"):
        monkeypatch.setattr(signal, name, refuse, raising=False)
    for workers in (0, 2):
        with serving(bytes.upper, workers=workers) as server, clients(server, 1) as (peer,):
            assert peer.request(b"x") == b"X"
