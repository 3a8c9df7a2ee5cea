"""SIGTERM and SIGINT: what is under way is finished, nothing is left."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

import pysock
from peers import Task
from programs import AT_ONCE, LIMIT, TIME_FACTOR, after, asked, serving, until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes by fork()")


# ------------------------------------------------------------ SIGTERM, SIGINT


@pytest.mark.case("S01")
@pytest.mark.parametrize(
    ("number", "status", "to_all"),
    [
        (signal.SIGTERM, 0, False),
        (signal.SIGINT, 130, False),
        (signal.SIGTERM, 0, True),  # as systemd does it
        (signal.SIGINT, 130, True),  # as a terminal does it
    ],
)
def test_signal_lets_what_is_under_way_finish(tmp_path, number, status, to_all):
    """S01"""
    path = tmp_path / "s"
    with serving(tmp_path, "app:do", "--processes", "2", "--bind", f"unix:{path}") as served:
        idle = served.client()
        idle.request(b"")
        tasks = [asked(served, after(0.5, tmp_path / "in it"), tmp_path / "in it")]
        tasks += [asked(served, after(0.3, tmp_path / "in it"), tmp_path / "in it")]
        if to_all:
            os.killpg(served.pid, number)
        else:
            served.send_signal(number)
        assert [task.finish() for task in tasks] == [b"done", b"done"]
        assert served.end() == status
        assert not path.exists()
        assert list(idle) == []
        idle.close()


def test_stopped_server_refuses_clients_while_it_finishes(tmp_path):
    with serving(tmp_path, "app:do") as served:
        task = asked(served, after(0.7, tmp_path / "in it"), tmp_path / "in it")
        address = served.address
        served.send_signal(signal.SIGTERM)
        served.has_said("ending")
        with pytest.raises(ConnectionRefusedError):
            until(lambda: pysock.Client(address).close())
        assert not task.finish().strip(b"done")
        assert served.end() == 0


@pytest.mark.case("S01")
@pytest.mark.parametrize(
    ("second", "workers"), [(signal.SIGTERM, []), (signal.SIGINT, ["--workers", "0"])]
)
def test_second_signal_ends_at_once(tmp_path, second, workers):
    """S01"""
    path = tmp_path / "s"
    with serving(tmp_path, "app:do", *workers, "--bind", f"unix:{path}") as served:
        client = served.client()
        client.send(after(1000, tmp_path / "in it"))
        until((tmp_path / "in it").exists)
        served.send_signal(signal.SIGTERM)
        served.has_said("ending")
        began = time.monotonic()
        assert served.stop(second) == 0
        assert time.monotonic() - began < AT_ONCE
        assert not path.exists()
        client.close()


def test_no_computed_reply_is_lost_by_a_signal_under_load(tmp_path):
    app = """
import os
log = os.open("handled", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def handle(message):
    os.write(log, message + b"\\n")
    return message
"""
    (tmp_path / "handled").touch()
    with serving(tmp_path, "app:handle", "--processes", "2", app=app) as served:
        answered: list[bytes] = []
        address = served.address

        def load(name: int) -> None:
            with contextlib.suppress(pysock.ConnectionClosed, OSError):
                for number in range(1_000_000):
                    with pysock.Client(address, timeout=LIMIT) as client:
                        for part in range(10):
                            message = b"%d %d %d" % (name, number, part)
                            assert client.request(message) == message
                            answered.append(message)

        tasks = [Task(load, name) for name in range(6)]
        until(lambda: len(answered) > 200)
        assert served.stop() == 0
        for task in tasks:
            task.finish()
        handled = (tmp_path / "handled").read_bytes().splitlines()
        assert set(handled) - set(answered) == set()


def _leaves_its_path(folder: Path, moment: float, number: int) -> bool:
    """Whether a program that is stopped at *moment* leaves the path where it served."""
    path = folder / "s"
    with serving(folder, "app:upper", "--processes", "2", "--bind", f"unix:{path}") as served:
        time.sleep(moment)  # whatever it does then
        status = served.stop(number)
        # Before there is a handler for it, or when there is none any more, it kills.
        assert status in (0, 130, -number) or "KeyboardInterrupt" in served.said, served.said
        return path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_at_any_moment_leaves_nothing(tmp_path, number):
    for moment in range(8):
        seconds = (0.04 + moment * 0.02) * TIME_FACTOR
        assert not _leaves_its_path(tmp_path, seconds, number)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_at_any_of_many_moments_leaves_nothing(tmp_path, number):
    for _ in range(100):
        seconds = random.uniform(0, 0.4 * TIME_FACTOR)
        assert not _leaves_its_path(tmp_path, seconds, number)


def test_signal_while_the_module_is_imported_ends_at_once(tmp_path):
    app = "import time; open('in it', 'w').close(); time.sleep(1000)"
    with serving(tmp_path, "app:upper", app=app) as served:
        until((tmp_path / "in it").exists)
        began = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - began < AT_ONCE
