"""Server by turns: no descriptors, no memory, no threads; system calls that fail."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pysock
from conftest import linux, require_peer
from gate import HERE, Gate, clients, serving
from peers import LONG, PROMPT, run_python, until

# ------------------------------------------------------------ threads


def refuse_threads(monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    """Let no thread start whose name is *refused*: as RLIMIT_NPROC does."""
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if refused(thread.name):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)


@pytest.mark.case("L07")
def test_without_any_thread_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """L07"""
    with pysock.Server(HERE, bytes.upper) as server:
        with monkeypatch.context() as patched:
            refuse_threads(patched, lambda name: "worker" in name)
            with pytest.raises(RuntimeError, match="workers=0 needs none"):
                server.serve_forever()
        with server.start(), clients(server, 1) as (peer,):
            assert peer.request(b"x") == b"X"


def test_start_that_found_no_thread_leaves_the_server_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pysock.Server(HERE, bytes.upper) as server:
        with monkeypatch.context() as patched:
            refuse_threads(patched, lambda name: True)
            with pytest.raises(RuntimeError, match="new thread"):
                server.start()
        server.stop()
        with server.start(), clients(server, 1) as (peer,):
            assert peer.request(b"x") == b"X"


@pytest.mark.case("L07")
def test_one_thread_serves_until_there_may_be_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """L07: quick handlers are served meanwhile, and the shortage is not for ever."""
    gate = Gate()
    failures: list[str] = []

    def refused(name: str) -> bool:
        if "worker" in name and len(failures) < 2 and threading.active_count() > alone + 1:
            failures.append(name)
            return True
        return False

    alone = threading.active_count()
    refuse_threads(monkeypatch, refused)
    with serving(gate, workers=3) as server, clients(server, 2) as (blocked, quick):
        for _ in range(10):
            assert quick.request(b"x") == b"x"
        until(lambda: server.stats["threads"] == 2)
        blocked.send(b"block")
        gate.holds(1)
        for _ in range(10):
            assert quick.request(b"x") == b"x"
        gate.let()
        assert blocked.recv() == b"block"
    assert len(failures) == 2
    assert "cannot start another thread" in caplog.text


@pytest.mark.case("L07")
def test_session_without_a_thread_is_closed_and_others_are_served(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """L07"""

    class Echo(pysock.Session):
        def handle(self) -> None:
            for message in self.connection:
                self.connection.send(message)

    with serving(Echo, max_connections=2) as server, clients(server, 1) as (good,):
        assert good.request(b"x") == b"x"
        with monkeypatch.context() as patched:
            refuse_threads(patched, lambda name: "session" in name)
            for _ in range(3):
                with clients(server, 1) as (peer,):
                    assert list(peer) == []
        assert good.request(b"x") == b"x"
        with clients(server, 1) as (peer,):
            assert peer.request(b"y") == b"y"
    assert "cannot start a thread for a session" in caplog.text


# ------------------------------------------------------------ descriptors


@pytest.mark.case("X05")
@linux
def test_process_with_more_than_a_thousand_descriptors_can_serve() -> None:
    """select() would take none above 1023."""
    said = run_python(
        """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
hogs = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
import pysock
for workers in 0, 2:
    with pysock.Server("127.0.0.1:0", bytes.upper, workers=workers).start() as server:
        with pysock.Client(server.address, timeout=20) as peer:
            assert peer.request(b"x") == b"X"
"""
    )
    assert said == ""


@linux
def test_start_without_descriptors_tells_and_leaks_none() -> None:
    """Whichever is the first that cannot be had; nothing waits for the collector."""
    out = run_python(
        """
import errno, gc, logging, os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
logging.disable()
import pysock

class Mine(pysock.Server):
    def service_actions(self):  # it serves
        self.stop(0)

def take_all():
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        return taken

def give_back(taken):
    for fd in taken:
        os.close(fd)
    return len(taken)

gc.disable()
for workers in 0, 2:
    with Mine("127.0.0.1:0", bytes.upper, workers=workers, max_connections=1) as server:
        hogs = take_all()
        failed = 0
        while True:
            try:
                server.serve_forever()
                break
            except OSError as error:
                assert error.errno == errno.EMFILE, error
            assert give_back(take_all()) == failed
            os.close(hogs.pop())
            failed += 1
        give_back(hogs)
        print(failed)
"""
    )
    assert all(2 <= int(failed) <= 10 for failed in out.split())


HUNGRY = """
import logging, os, resource, sys, threading, time
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
import pysock
logging.basicConfig(format="%(message)s", stream=sys.stdout)
hogs = []
def handler(message):
    if message == b"take":
        try:
            while True:
                hogs.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
    if message == b"give":
        while hogs:
            os.close(hogs.pop())
    if message == b"time":
        return b"%f" % time.process_time()
    return message
with pysock.Server("127.0.0.1:0", handler, max_connections=36) as server:
    print(server.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.stop(1)), daemon=True).start()
    server.serve_forever()
print("stopped", flush=True)
"""


@pytest.mark.case("L05")
@linux
def test_server_without_descriptors_rests_and_recovers() -> None:
    """L05: others wait; no busy loop, about one line a second; then they are served."""
    with (
        running([sys.executable, "-P", "-c", HUNGRY]) as (process, port),
        pysock.Client(("127.0.0.1", port), timeout=LONG) as first,
    ):
        assert first.request(b"take") == b"take"
        late = [pysock.Client(("127.0.0.1", port), timeout=LONG) for _ in range(5)]
        for peer in late:
            peer.send(b"late")
        began, used = time.monotonic(), float(first.request(b"time"))
        time.sleep(2)
        spent = float(first.request(b"time")) - used
        passed = time.monotonic() - began
        assert spent < 0.1 * passed
        assert first.request(b"give") == b"give"
        for peer in late:
            assert peer.recv() == b"late"
            peer.close()
        out = finish(process)
    lines = [line for line in out if "cannot accept" in line]
    assert 1 <= len(lines) <= 5 + passed  # 0.1, 0.2, 0.4, 0.8 s, and one a second
    assert "Too many open files" in lines[0]
    assert out[-1] == "stopped"


# ------------------------------------------------------------ calls that fail: strace

PROGRAM = """
import logging, sys, threading
import pysock
logging.basicConfig(format="%(message)s", stream=sys.stdout)
go = threading.Event()
def handler(message):
    if message == b"block":
        go.wait(10)
    if message == b"go":
        go.set()
    return bytes(4 << 20) if message == b"large" else message
server = pysock.Server(
    "127.0.0.1:0", handler, workers=int(sys.argv[1]), max_connections=2, linger=0.2
)
print(server.server_address[1], flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), server.stop(2)), daemon=True).start()
try:
    server.serve_forever()
except OSError as error:
    print("ended:", error)
server.server_close()
print("stopped", flush=True)
"""


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A program that prints its port, and ends when its input does."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                assert process.stderr is not None
                error = process.stderr.read()
                if "ptrace" in error:
                    pytest.skip("strace may not trace here")
                pytest.fail(error)
            yield process, int(line)
        finally:
            process.kill()


def finish(process: subprocess.Popen[str]) -> list[str]:
    """Let it end; return the lines that it has written, also those read with the port."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.close()
    out, error = process.stdout.read(), process.stderr.read()
    assert (process.wait(LONG), error) == (0, "")
    return out.splitlines()


def traced(tmp_path: Path, inject: str, workers: int) -> list[str]:
    log = tmp_path / "log"
    command = [require_peer("strace"), "-f", "-qq", "-o", str(log), "-e", "signal=none"]
    command += ["-e", f"trace={inject.partition(':')[0]}", "-e", f"inject={inject}"]
    return [*command, sys.executable, "-P", "-c", PROGRAM, str(workers)]


def asks(port: int, *messages: bytes, limit: float = PROMPT) -> bool:
    """Whether a new client is served."""
    with (
        contextlib.suppress(OSError, pysock.ConnectionClosed),
        pysock.Client(("127.0.0.1", port), timeout=limit, connect_timeout=limit) as peer,
    ):
        for message in messages:
            assert peer.request(message)
        return True
    return False


@pytest.mark.case("L06")
@pytest.mark.parametrize(
    ("error", "workers"),
    [("ECONNABORTED", 0), ("EPROTO", 4), ("ENOBUFS", 0), ("EPERM", 4), ("ENFILE", 0)],
)
@linux
def test_accept_that_fails_is_tried_again(tmp_path: Path, error: str, workers: int) -> None:
    """L06"""
    command = traced(tmp_path, f"accept4:error={error}:when=1..2", workers)
    with running(command) as (process, port):
        assert asks(port, b"x", b"y")
        assert asks(port, b"x")
        out = finish(process)
    quiet = error in ("ECONNABORTED", "EPROTO")  # of one client, not of the listener
    assert len([line for line in out if "cannot accept" in line]) == (0 if quiet else 2)
    assert out[-1] == "stopped"
    assert "(INJECTED)" in (tmp_path / "log").read_text()


EVERY_CALL = [(when, 0) for when in range(1, 10)] + [(when, 4) for when in range(1, 5)]


@pytest.mark.parametrize(("when", "workers"), EVERY_CALL)
@pytest.mark.parametrize("error", ["ENOSPC", "ENOMEM"])
@pytest.mark.slow
@linux
def test_poller_that_fails_at_any_call_costs_no_more_than_that(
    tmp_path: Path, error: str, when: int, workers: int
) -> None:
    """At the start it is an error of the start; later it is one connection's at most."""
    poller = f"epoll_ctl:error={error}:when={when}"
    assert last_words(tmp_path, poller, workers) == "stopped"


@pytest.mark.parametrize(("when", "workers"), [(1, 4), (2, 4), (4, 0), (5, 0)])
@linux
def test_poller_that_fails_costs_no_more_than_that(
    tmp_path: Path, when: int, workers: int
) -> None:
    poller = f"epoll_ctl:error=ENOSPC:when={when}"
    assert last_words(tmp_path, poller, workers) == "stopped"


def last_words(tmp_path: Path, inject: str, workers: int) -> str:
    """Ask a server whose poller fails: it serves or ends; return what it said at last."""
    with running(traced(tmp_path, inject, workers)) as (process, port):
        with (
            contextlib.suppress(OSError, pysock.ConnectionClosed),
            pysock.Client(("127.0.0.1", port), timeout=PROMPT) as peer,
        ):
            if workers:
                peer.send_many([b"block", b"large"])
                asks(port, b"x", b"go")
            else:
                peer.send(b"large")
                asks(port, b"x")
        for limit in (*[PROMPT] * 4, LONG):
            alive = asks(port, b"go", b"large", b"x", limit=limit)
            if alive or process.poll() is not None:
                break
        try:
            lines = finish(process)
        finally:
            log = (tmp_path / "log").read_text().splitlines()
            failed = [line for line in log if "(INJECTED)" in line]
            if any("EPOLL_CTL_DEL" in line for line in failed):
                # It crashes: what stays in there tells of a watch that is long gone.
                pytest.skip("no system refuses to take a descriptor out")
    assert failed
    ended = [line for line in lines if line.startswith("ended:")]
    if ended:
        assert not alive
        assert not [line for line in lines if "cannot" in line]
        assert re.search(r"space|memory", ended[0])
    else:
        assert alive
    return lines[-1]


@pytest.mark.parametrize("call", ["epoll_create1", "eventfd2"])
@linux
def test_poller_that_cannot_be_had_is_an_error_of_the_start(tmp_path: Path, call: str) -> None:
    with running(traced(tmp_path, f"{call}:error=EMFILE:when=1+", 4)) as (process, port):
        assert not asks(port, b"x")
        out = finish(process)
    assert out == ["ended: [Errno 24] Too many open files", "stopped"]


@pytest.mark.case("P14")
@pytest.mark.parametrize("workers", [0, 4])
@linux
def test_waits_that_are_interrupted_are_waited_again(tmp_path: Path, workers: int) -> None:
    """P14"""
    command = traced(tmp_path, "epoll_wait:error=EINTR:when=1+2", workers)
    with running(command) as (process, port):
        for _ in range(3):
            assert asks(port, b"x", b"large", b"y")
        out = finish(process)
    assert out == ["stopped"]
    assert "(INJECTED)" in (tmp_path / "log").read_text()
