"""A master that is killed, and what it leaves for the next."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from conftest import linux
from programs import after, asked, serving, until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes by fork()")


@pytest.mark.case("D19", "S09")
def test_workers_end_when_their_master_is_killed(tmp_path):
    """S09, D19"""
    path = tmp_path / "s"
    with serving(tmp_path, "app:do", "--processes", "2", "--bind", f"unix:{path}") as served:
        task = asked(served, after(0.3, tmp_path / "in it"), tmp_path / "in it")
        assert served.stop(signal.SIGKILL) == -signal.SIGKILL
        assert task.finish() == b"done"
        assert not path.exists()
    with serving(tmp_path, "app:upper", "--bind", f"unix:{path}") as served:
        assert served.ask(b"a") == b"A"
        assert served.stop() == 0


@pytest.mark.case("S09")
@linux
def test_worker_that_is_importing_ends_when_its_master_is_killed(tmp_path):
    """S09"""
    app = "import time; open('in it', 'w').close(); time.sleep(1000)"
    path = tmp_path / "s"
    with serving(tmp_path, "app:upper", "--bind", f"unix:{path}", app=app) as served:
        until((tmp_path / "in it").exists)
        assert served.stop(signal.SIGKILL) == -signal.SIGKILL
        assert not path.exists()


@pytest.mark.case("D19", "S09")
def test_port_is_free_again_after_a_kill(tmp_path):
    """S09, D19"""
    with serving(tmp_path, "app:upper", "--processes", "2") as served:
        assert served.ask(b"a") == b"A"
        address = served.address
        served.stop(signal.SIGKILL)
    with serving(tmp_path, "app:upper", "--bind", address) as served:
        assert served.ask(b"b") == b"B"


@pytest.mark.case("D19")
def test_stale_path_is_replaced_and_a_live_one_is_not_stolen(tmp_path):
    """D19"""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
    with serving(tmp_path, "app:upper", "--bind", f"unix:{path}") as served:
        assert served.ask(b"a") == b"A"
        with serving(tmp_path, "app:upper", "--bind", f"unix:{path}") as other:
            assert other.end() == 1
            assert "a server is answering there" in other.said
        assert served.ask(b"b") == b"B"
