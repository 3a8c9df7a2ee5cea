"""SIGHUP: new code, and no client notices."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

import pysock
from peers import Task
from programs import APP, LIMIT, after, asked, processes, serving, until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes by fork()")


# ------------------------------------------------------------ new code


VERSION = "import os, time\ndef handle(message): return b'version {}'\n"


@pytest.mark.case("L15", "S01")
@pytest.mark.parametrize("count", ["1", "3"])
def test_hangup_brings_new_code_and_no_request_fails(tmp_path, count):
    with serving(
        tmp_path, "app:handle", "--processes", count, app=VERSION.format(1)
    ) as served:
        address, stop = served.address, threading.Event()
        seen: set[bytes] = set()

        def hammer() -> int:
            requests = 0
            while not stop.is_set():
                with pysock.Client(address, timeout=LIMIT) as client:
                    seen.add(client.request(b""))
                    requests += 1
            return requests

        tasks = [Task(hammer) for _ in range(4)]
        for version in (20, 300, 4000):  # of other lengths: a second may see all
            (tmp_path / "app.py").write_text(VERSION.format(version))
            served.send_signal(signal.SIGHUP)
            replaced = r"(?s)" + "all workers are replaced.*" * len(str(version // 10))
            served.has_said(replaced)
            until(lambda: served.ask(b"") == b"version %d" % version)  # noqa: B023
        stop.set()
        assert min(task.finish() for task in tasks) > 0
        assert b"version 1" in seen
        assert served.stop() == 0
        assert "Traceback" not in served.said


def test_hangup_with_broken_code_leaves_the_workers(tmp_path):
    with serving(tmp_path, "app:pid", "--processes", "2") as served:
        workers = served.workers(2)
        (tmp_path / "app.py").write_text("def pid(: oh\n")
        served.send_signal(signal.SIGHUP)
        said = served.has_said(r"the workers go on as they are: (.*)")[1]
        assert (
            said
            == f"cannot import 'app': {tmp_path}/app.py, line 1: SyntaxError: invalid syntax"
        )
        assert sorted(served.workers(2)) == sorted(workers)
        assert served.stop() == 0


def test_hangup_lets_what_is_under_way_finish(tmp_path):
    with serving(tmp_path, "app:do") as served:
        task = asked(served, after(0.5, tmp_path / "in it"), tmp_path / "in it")
        served.send_signal(signal.SIGHUP)
        served.has_said("all workers are replaced")
        assert served.ask(b"reply = b'new'") == b"new"
        assert task.finish() == b"done"
        assert served.stop() == 0


def test_hangups_in_a_row_end_with_one_set_of_workers(tmp_path):
    with serving(tmp_path, "app:pid", "--processes", "2") as served:
        before = served.workers(2)
        for _ in range(5):
            served.send_signal(signal.SIGHUP)
            time.sleep(0.02)
        served.has_said("all workers are replaced")
        if sys.platform == "linux":
            until(lambda: len([p for p in processes(served.pid) if p[1] == served.pid]) == 2)
        assert not set(served.workers(2)) & set(before)
        assert served.stop() == 0


def test_terminate_in_the_middle_of_a_replacement(tmp_path):
    app = APP + "\ntime.sleep(0.2)\n"
    with serving(tmp_path, "app:pid", "--processes", "2", app=app) as served:
        served.workers(2)
        served.send_signal(signal.SIGHUP)
        served.has_said("replacing")
        assert served.stop() == 0
