"""Handlers that do ill, and workers that die."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

import pysock
from peers import Task
from programs import APP, AT_ONCE, TELL, Program, held_up, processes, program, serving, until
from pysock import prefork

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes by fork()")


# ------------------------------------------------------------ handlers that do ill


INLINE = pytest.mark.parametrize(
    "workers", [[], ["--workers", "0"]], ids=["threads", "inline"]
)


@pytest.mark.case("L19")
@INLINE
def test_handler_that_fails_ends_its_connection_only(tmp_path, workers):
    with serving(tmp_path, "app:do", *workers) as served, served.client() as other:
        assert other.request(b"reply = b'a'") == b"a"
        for code, said in [
            (b"1 / 0", "ZeroDivisionError"),
            (b"reply = 5", "TypeError"),
            (b"reply = 'text'", "TypeError"),
            (b"reply = {}", "TypeError"),
        ]:
            with served.client() as client, pytest.raises((pysock.ConnectionClosed, OSError)):
                client.request(code)
            served.has_said(said)
        assert other.request(b"reply = b'b'") == b"b"
        assert served.stop() == 0


@INLINE
@pytest.mark.parametrize("code", [b"sys.exit('left')", b"raise KeyboardInterrupt"])
def test_handler_that_wants_to_end_the_program_does_not(tmp_path, code, workers):
    with serving(tmp_path, "app:do", *workers) as served:
        with served.client() as client, pytest.raises((pysock.ConnectionClosed, OSError)):
            client.request(code)
        served.has_said("SystemExit|KeyboardInterrupt")
        assert until(lambda: _answers(served)) == b"ok"
        assert served.stop() == 0


def _answers(served: Program) -> bytes:
    """One answer; a worker that has just ended may take a client with it."""
    with contextlib.suppress(pysock.ConnectionClosed, OSError):
        return served.ask(b"reply = b'ok'")
    return b""


@pytest.mark.parametrize(
    ("code", "workers"),
    [(b"time.sleep(1000)", []), (b"while True: pass", ["--workers", "0"])],
    ids=["sleeps", "spins"],
)
def test_handler_that_never_returns_does_not_keep_the_program(tmp_path, code, workers):
    with serving(tmp_path, "app:do", "--drain", "0.2", *workers) as served:
        client = served.client()
        client.send(b"open('in it', 'w').close()\n" + code)
        until((tmp_path / "in it").exists)
        began = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - began < AT_ONCE
        client.close()


@pytest.mark.slow
def test_handler_that_keeps_the_interpreter_is_killed(tmp_path):
    code = b"import ctypes; open('in it', 'w').close(); ctypes.PyDLL(None).sleep(1000)"
    with serving(tmp_path, "app:do", "--drain", "0.2") as served:
        client = served.client()
        client.send(code)
        until((tmp_path / "in it").exists)
        assert served.stop() == 0
        assert "does not end: it is killed" in served.said
        client.close()


# ------------------------------------------------------------ workers that die


@pytest.mark.case("L16")
@pytest.mark.parametrize("way", ["os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_crashed_worker_is_replaced_and_the_other_unaffected(tmp_path, way):
    """L16"""
    with serving(tmp_path, "app:do", "--processes", "2") as served:
        victim, survivor = served.workers(2)
        clients = {}
        for pid, other in ((victim, survivor), (survivor, victim)):
            with held_up(other):
                clients[pid] = served.client()
                assert int(clients[pid].request(TELL)) == pid
        began = time.monotonic()
        with pytest.raises((pysock.ConnectionClosed, OSError)):
            clients[victim].request(way.encode())
        assert int(clients[survivor].request(TELL)) == survivor
        with held_up(survivor):
            assert int(served.ask(TELL)) not in (victim, survivor)
        assert time.monotonic() - began < AT_ONCE
        assert re.search(
            r"worker \d+: (ended with status 3|was killed by SIGKILL)", served.said
        )
        for client in clients.values():
            client.close()
        assert served.stop() == 0


@pytest.mark.case("L16")
def test_worker_that_crashes_again_and_again_is_started_ever_more_slowly(tmp_path):
    """L16"""
    app = APP + (
        "\nopen('starts', 'a').write(f'{time.monotonic()}\\n')\n"
        "if os.path.exists('broken'): os._exit(3)\n"
    )
    with serving(tmp_path, "app:do", app=app) as served:
        assert served.ask(b"reply = b'%d' % len(open('starts').readlines())") == b"1"
        (tmp_path / "broken").touch()
        with served.client() as client, pytest.raises((pysock.ConnectionClosed, OSError)):
            client.request(b"os._exit(4)")
        starts = until(lambda: len(_starts(tmp_path)) >= 5 and _starts(tmp_path))
        pauses = [b - a for a, b in zip(starts[1:], starts[2:], strict=False)]
        for pause, least in zip(pauses, [0.1, 0.2, 0.4], strict=False):
            assert least <= pause
        (tmp_path / "broken").unlink()
        assert served.ask(b"reply = b'back'") == b"back"
        assert served.stop() == 0


def _starts(folder: Path) -> list[float]:
    return [float(line) for line in (folder / "starts").read_text().splitlines()]


@pytest.mark.case("L15")
def test_worker_that_is_told_to_end_loses_nothing_of_the_queue(tmp_path):
    """L15"""
    arguments = ["--processes", "2", "--workers", "0", "--max-connections", "1"]
    with serving(tmp_path, "app:do", *arguments) as served:
        tell = b"time.sleep(0.02); reply = b'%d' % os.getpid()"
        first = served.client()
        victim = int(first.request(tell))
        clients = [served.client() for _ in range(40)]
        for client in clients:
            client.send(tell)

        def answered(client: pysock.Client) -> int:
            with client:
                return int(client.recv())

        tasks = [Task(answered, client) for client in clients]
        os.kill(victim, signal.SIGTERM)
        pids = {task.finish() for task in tasks}
        assert len(pids - {victim}) >= 1
        assert list(first) == []
        first.close()
        assert served.stop() == 0


def test_pauses_grow_to_a_limit_and_start_again_after_a_long_life():
    slot = prefork._Slot()
    pauses = [slot.pause(0.0) for _ in range(5000)]
    assert pauses[:9] == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10])
    assert set(pauses[9:]) == {10}
    assert [slot.pause(60.0), slot.pause(0.0)] == pytest.approx([0, 0.1])


def zombies(there: list[tuple[int, int, str]]) -> list[int]:
    return [pid for pid, _, state in there if state == "Z"]


def _crash_often(folder: Path, count: int) -> int:
    """Have *count* workers end; return the status of the program in the end."""
    code = """
import os, sys
import pysock.prefork
pysock.prefork._FIRST_PAUSE = pysock.prefork._LONGEST_PAUSE = 0.001

def announce(server):
    print("serves it on", server.addresses[0], flush=True)

def handle(message):
    os._exit(9)

sys.exit(pysock.serve("tcp://127.0.0.1:0", handle, processes=4, ready=announce))
"""
    with program(folder, code) as served:
        for _ in range(count):
            with served.client() as client, pytest.raises((pysock.ConnectionClosed, OSError)):
                client.request(b"")
        until(lambda: served.said.count("ended with status 9") == count)
        if sys.platform == "linux":
            # The master and its four.
            until(lambda: len(there := processes(served.pid)) == 5 and not zombies(there))
            assert len(os.listdir(f"/proc/{served.pid}/fd")) < 16
        return served.stop()


@pytest.mark.case("S08")
def test_crashed_workers_leave_no_zombies(tmp_path):
    """S08"""
    assert _crash_often(tmp_path, 20) == 0


@pytest.mark.case("S08")
@pytest.mark.slow
def test_two_hundred_crashed_workers_leave_no_zombies(tmp_path):
    """S08"""
    assert _crash_often(tmp_path, 200) == 0


# ------------------------------------------------------------ a system without room

# There is none for another process while that file is there.
NO_ROOM = """
import errno, os, sys
import pysock

fork = os.fork

def fork_if_there_is_room():
    if os.path.exists("no room"):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()

def announce(server):
    print("serves it on", server.addresses[0], flush=True)

os.fork = fork_if_there_is_room
sys.path.insert(0, os.getcwd())
sys.exit(pysock.serve("tcp://127.0.0.1:0", "app:do", processes=1, ready=announce))
"""


def test_first_worker_that_cannot_be_started_is_an_error(tmp_path):
    (tmp_path / "no room").touch()
    with program(tmp_path, NO_ROOM) as served:
        assert served.end() == 1
        served.has_said(r"Error: \[Errno \d+\] cannot start another process: ")


def test_worker_that_cannot_be_replaced_is_when_there_is_room(tmp_path):
    with program(tmp_path, NO_ROOM) as served:
        (pid,) = served.workers(1)
        (tmp_path / "no room").touch()
        os.kill(pid, signal.SIGKILL)
        served.has_said(r"cannot start another process: .+; trying again in [\d.]+ s")
        (tmp_path / "no room").unlink()
        assert int(served.ask(TELL)) != pid
        assert served.stop() == 0


def test_workers_that_cannot_be_reloaded_go_on(tmp_path):
    with program(tmp_path, NO_ROOM) as served:
        (pid,) = served.workers(1)
        (tmp_path / "no room").touch()
        served.send_signal(signal.SIGHUP)
        served.has_said("the workers go on as they are: cannot start another process: ")
        assert int(served.ask(TELL)) == pid
        (tmp_path / "no room").unlink()
        served.send_signal(signal.SIGHUP)
        until(lambda: int(served.ask(TELL)) != pid)
        assert served.stop() == 0
