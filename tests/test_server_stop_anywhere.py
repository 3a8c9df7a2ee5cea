"""stop() at any instruction: by signals, and where a trace puts it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

import pysock
from conftest import TIME_FACTOR, unix
from peers import LONG, run_python

SOON = 5 * TIME_FACTOR

PROGRAM = """
import os, pysock, signal, sys, threading, time
entered = threading.Event()
def handler(message):
    if message == b"slow":
        entered.set()
        time.sleep(0.2)
    return message.upper()
server = pysock.Server("127.0.0.1:0", handler, workers=int(sys.argv[1]))
def stop(number, frame):
    server.stop(drain=10 if number == signal.SIGTERM else 0)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, stop)
"""
FOREGROUND = """
print(server.server_address[1], flush=True)
server.serve_forever()
print("ended", server.stopping, flush=True)
server.server_close()
"""
BACKGROUND = """
server.start()
print(server.server_address[1], flush=True)
signal.pause()
print("ended", server.stopping, flush=True)
server.server_close()
"""  # the handler of the signal waits for the end: main has nothing else to do
TOO_EARLY = """
import pysock.loop
memory = pysock.loop._Memory
def interrupted(*args):
    pysock.loop._Memory = memory
    signal.raise_signal(signal.SIGTERM)
    return memory(*args)
pysock.loop._Memory = interrupted
"""


@unix
@pytest.mark.parametrize("workers", ["0", "4"])
@pytest.mark.parametrize("rest", [FOREGROUND, BACKGROUND])
def test_stop_from_a_signals_handler(rest: str, workers: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM + rest, workers],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with pysock.Client(("127.0.0.1", port), timeout=SOON) as peer:
            assert peer.request(b"a") == b"A"
            peer.send(b"slow")
            time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            assert list(peer) == [b"SLOW"]
        assert process.communicate(timeout=SOON)[0] == "ended False\n"
        assert process.returncode == 0


@unix
@pytest.mark.parametrize("workers", ["0", "4"])
def test_signal_that_comes_while_the_server_is_being_started(workers: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM + TOO_EARLY + FOREGROUND, workers],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            said = process.communicate(timeout=SOON)[0]
        finally:
            process.kill()
        assert said.splitlines()[1:] == ["ended False"]


@pytest.mark.case("S01")
@unix
def test_second_signal_shortens_the_drain() -> None:
    """As of a user who presses Ctrl-C twice."""
    command = [sys.executable, "-P", "-c", PROGRAM + FOREGROUND, "4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with pysock.Client(("127.0.0.1", port), timeout=SOON) as peer:
            assert peer.request(b"a") == b"A"
            peer.socket.sendall(b"\0\0\0\x09part")
            time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            assert process.poll() is None
            process.send_signal(signal.SIGUSR1)
            assert process.communicate(timeout=SOON)[0] == "ended False\n"


@pytest.mark.case("D12")
def test_program_ends_although_its_server_was_not_stopped() -> None:
    """D12: at the interpreter's end, with connections, handlers and sessions under way."""
    said = run_python("""
import pysock, threading
entered = threading.Semaphore(0)
def handler(message):
    entered.release()
    threading.Event().wait()
class Session(pysock.Session):
    def handle(self):
        entered.release()
        self.connection.recv()
peers = []
for handles in (handler, Session):
    server = pysock.Server("127.0.0.1:0", handles).start()
    for _ in range(3):
        peers.append(pysock.Client(server.address))
        peers[-1].send(b"x")
        entered.acquire()
for peer in peers:
    peer.close()
""")
    assert said == ""


ANYWHERE = """
import faulthandler, os, pysock, sys, threading

FILES = ("server.py", "running.py", "loop.py", "workers.py", "admission.py", "listener.py")

def serve_and_stop_at(number, patience):
    count = 0
    stopped_in = None

    def trace(frame, event, arg):
        nonlocal count, stopped_in
        if os.path.basename(frame.f_code.co_filename) not in FILES:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and stopped_in is None:
            count += 1
            if count == number:
                stopped_in = frame.f_code.co_name
                sys.settrace(None)
                server.stop(drain=0)
        return trace

    def stop_who_only_waits():
        # It has not heard, being not yet there; or has not come to that instruction,
        # which then is one of those that end it.
        seen = -1
        while not ended.wait(patience):
            if seen == count:
                server.stop(drain=0)
            seen = count

    ended = threading.Event()
    server = pysock.Server("127.0.0.1:0", bytes.upper, workers=int(sys.argv[1]))
    helper = threading.Thread(target=stop_who_only_waits)
    helper.start()
    sys.settrace(trace)
    try:
        server.serve_forever()
    finally:
        sys.settrace(None)
    ended.set()
    helper.join()
    server.server_close()
    return stopped_in

where, number, step = set(), 1, int(sys.argv[2])
serve_and_stop_at(0, 0.003)  # Python 3.12 tells of no instructions the first time
while True:
    faulthandler.dump_traceback_later(10, exit=True)
    for patience in (0.003, 0.05, 0.5):  # on a busy machine it does not wait, but stands still
        place = serve_and_stop_at(number, patience)
        if place is not None:
            break
    else:
        break
    where.add(place)
    number += step
faulthandler.cancel_dump_traceback_later()
assert {"_serve_here", "__init__", "run", "_close_all"} <= where, where
"""


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.slow), "2"])
def test_stop_in_the_serving_thread_at_every_fifth_instruction(workers: str) -> None:
    """As a signal's handler calls it: each time the server comes to its end."""
    assert run_python(ANYWHERE, workers, "5") == ""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.slow), "2"])
def test_stop_in_the_serving_thread_at_every_instruction(workers: str) -> None:
    assert run_python(ANYWHERE, workers, "1", within=10 * LONG) == ""
