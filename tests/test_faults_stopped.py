"""Peers and servers that are stopped for a while, and go on."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pysock
from conftest import TIME_FACTOR, linux
from peers import LONG, PROMPT, Task, pattern
from programs import Program, held_up, program, serving
from pysock.remote import RemoteClient

pytestmark = [linux, pytest.mark.slow]

MIB = 1 << 20

PEER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
client, _ = listener.accept()
while data := client.recv(1 << 16):
    client.sendall(data)
"""


class Peer:
    """A plain echo in a process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PEER], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    started = Peer()
    yield started
    started.close()


def connected(peer: Peer, **options: object) -> pysock.Connection:
    sock = socket.create_connection(("127.0.0.1", peer.port))
    return pysock.Connection(sock, linger=0, **options)  # type: ignore[arg-type]


@pytest.mark.case("P16")
def test_stopped_peer_whose_window_is_full_is_given_up_p16(peer: Peer) -> None:
    """By TCP_USER_TIMEOUT, which keepalive sets: its system answers, and it takes nothing."""
    with connected(peer, keepalive=(1, 1, 1)) as conn, held_up(peer.process.pid):
        began = time.monotonic()
        with pytest.raises(TimeoutError) as caught:
            while True:
                conn.send(bytes(MIB))
        assert caught.value.errno == errno.ETIMEDOUT
        assert 1 < time.monotonic() - began < 8 * TIME_FACTOR


@pytest.mark.case("P17")
def test_stopped_peer_with_nothing_to_take_is_there_p17(peer: Peer) -> None:
    """Its system answers keepalive for it; only a reply that does not come tells."""
    with connected(peer, keepalive=(1, 1, 1), timeout=4) as conn:
        with held_up(peer.process.pid):
            conn.send(b"while it stands still")
            began = time.monotonic()
            with pytest.raises(TimeoutError) as caught:
                conn.recv()
            assert caught.value.errno is None  # a deadline of ours, not the system's
            assert time.monotonic() - began >= 4
        conn.timeout = LONG
        assert conn.recv() == b"while it stands still"


STRICT = """
import pysock
def handler(message):
    return bytes(64 << 20) if message == b"large" else message.upper()
with pysock.Server(
    "127.0.0.1:0", handler, workers=2, idle_timeout=1, send_timeout=1, max_memory=None
) as server:
    print("serves here on", server.address, flush=True)
    server.serve_forever()
"""


@pytest.mark.case("S12")
def test_stopped_server_goes_on_where_it_was_s12(tmp_path: Path) -> None:
    """Nobody is closed for the silence that was the server's; what was sent is answered."""
    with program(tmp_path, STRICT) as served:
        with served.client() as idle, served.client() as asking, served.client() as sending:
            assert idle.request(b"a") == asking.request(b"a") == sending.request(b"a") == b"A"
            large = pattern(8 * MIB)
            with held_up(served.pid):
                task = Task(asking.request, b"while it stands still")
                upload = Task(sending.request, large)
                time.sleep(3 * TIME_FACTOR)
                late = Task(served.ask, b"late")
            assert task.finish() == b"WHILE IT STANDS STILL"
            assert upload.finish() == large.upper()
            assert late.finish() == b"LATE"
            assert idle.request(b"b") == b"B"
        assert "closed" not in served.said


@pytest.mark.case("L11")
def test_stopped_client_is_closed_and_others_are_served(tmp_path: Path) -> None:
    """L11: it has asked for much, and takes none of it"""
    asks = f"""
import pysock, sys
client = pysock.Client(sys.argv[1], timeout={LONG})
client.send(b"large")
print("asked", flush=True)
client.recv()
"""
    with program(tmp_path, STRICT) as served:
        code = [sys.executable, "-P", "-c", asks, served.address]
        with subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"asked\n"
            with held_up(client.pid):
                served.has_said("closed, ")
                assert served.ask(b"x") == b"X"
            client.kill()


def remote_server(folder: Path) -> Program:
    code = f"""
from pysock.remote import RemoteServer
with RemoteServer("unix://{folder}/s", allow_root=True) as server:
    server.start()
    print("serves it on it,", flush=True)
    import sys, time
    time.sleep(600)
"""
    return Program(folder, ["-P", "-c", code])


@pytest.mark.case("S12")
def test_stopped_remote_server_loses_no_output_s12(tmp_path: Path) -> None:
    served = remote_server(tmp_path)
    try:
        served.has_said("serves")
        with RemoteClient(f"unix://{tmp_path}/s", timeout=LONG) as client:
            script = "seq 1 200000; sleep 1; echo end >&2; exit 7"
            task = Task(client.run, ["sh", "-c", script])
            time.sleep(0.3)
            with held_up(served.pid):
                time.sleep(2)
            done = task.finish()
        assert done.returncode == 7
        assert done.stdout == b"".join(b"%d\n" % i for i in range(1, 200001))
        assert done.stderr == b"end\n"
    finally:
        served.kill()


@pytest.mark.case("D08")
def test_killed_client_frees_its_place_d08(tmp_path: Path) -> None:
    """In the middle of sending, and of receiving; who waits for the place gets it."""
    takes = f"""
import pysock, sys
client = pysock.Client(sys.argv[1], timeout={LONG})
print("here", flush=True)
if sys.argv[2] == "up":
    while True:
        client.send(bytes(1 << 20))
client.send(b"reply = bytes(64 << 20)")
while True:
    pass
"""
    with serving(tmp_path, "app:do", "--max-connections", "1") as served:
        for way in ("up", "down"):
            code = [sys.executable, "-P", "-c", takes, served.address, way]
            with subprocess.Popen(code, stdout=subprocess.PIPE) as client:
                assert client.stdout is not None
                assert client.stdout.readline() == b"here\n"
                waiting = Task(served.ask, b"reply = b'x'")
                time.sleep(0.2)
                os.kill(client.pid, 9)
                assert waiting.finish(PROMPT + LONG) == b"x"
