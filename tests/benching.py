"""`pysock bench` for tests: run in a process or in this one, against a server of any kind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pysock
from conftest import TIME_FACTOR
from pysock.cli import main

LIMIT = 30 * TIME_FACTOR
MARK = "PYSOCK_TEST_BENCH"


def command(address: str, options: str) -> list[str]:
    words = [address, *options.split()]
    return [sys.executable, "-W", "error", "-m", "pysock", "bench", *words]


def run(address: str, options: str = "", **environment: str) -> tuple[int, str, str]:
    """Run the command; return status, output and what it said on stderr."""
    done = subprocess.run(
        command(address, options),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def measure(capfd: pytest.CaptureFixture[str]) -> Callable[[str, str], dict[str, Any]]:
    """Run the command in this process, without a warm-up; return its JSON.

    It must succeed, print nothing else, and its numbers must add up.
    """

    def measured(address: str, options: str) -> dict[str, Any]:
        words = f"--warmup 0 -p 1 {options} --json".split()
        assert main(["bench", address, *words]) == 0
        out, err = capfd.readouterr()
        assert err == ""
        return checked(json.loads(out))

    return measured


def checked(result: dict[str, Any]) -> dict[str, Any]:
    assert result["requests"] == result["answered"] + result["unanswered"]
    assert result["replies"] <= result["answered"]
    assert sum(count for _, count in result["histogram"]) == result["answered"]
    assert result["requests_per_second"] == result["replies"] / result["seconds"]
    latency = result["latency"]
    names = ["min", "p50", "p90", "p99", "p99.9", "max"]
    ordered = [latency[name] for name in names]
    assert ordered == sorted(ordered)
    assert latency["min"] <= latency["mean"] <= latency["max"]
    assert 0 <= result["busy"] <= 1
    return result


@contextlib.contextmanager
def answering(handler: Callable[..., Any] = bytes.upper, **options: Any) -> Iterator[str]:
    with pysock.Server("tcp://127.0.0.1:0", handler, **options).start() as server:
        yield str(server.address)


class Misbehaving:
    """A server on plain sockets: calls *behave* with each, in a thread of its own."""

    def __init__(self, behave: Callable[[socket.socket], object]) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0
        self._over = False
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Misbehaving:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_listening()
        for thread in self._threads:
            thread.join(LIMIT)

    def stop_listening(self) -> None:
        self._over = True
        self._threads[0].join(LIMIT)

    def _accept(self) -> None:
        self._listener.settimeout(0.02)
        with self._listener:
            while not self._over:
                with contextlib.suppress(TimeoutError):
                    sock, _ = self._listener.accept()
                    sock.setblocking(True)
                    self.accepted += 1
                    thread = threading.Thread(target=self._serve, args=(sock,))
                    self._threads.append(thread)
                    thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            self._behave(sock)


def requests(sock: socket.socket) -> Iterator[bytes]:
    """Yield the requests of 64 bytes that come, as frames."""
    with sock.makefile("rb") as file:
        while len(request := file.read(68)) == 68:
            yield request


def never_answer(sock: socket.socket) -> None:
    while sock.recv(1000):
        pass


def marked(mark: str) -> list[int]:
    """Return the processes that were started with *mark* in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}\0".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


@contextlib.contextmanager
def running(address: str, options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        command(address, options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, MARK: mark},
    ) as process:
        try:
            yield process, mark
        finally:
            process.kill()
