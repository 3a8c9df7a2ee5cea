"""Limits of a server as values: what is refused, what a sweep needs, what is logged."""

from __future__ import annotations

import dataclasses
import logging
import math
import socket
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

import pysock
from conftest import unix
from peers import run_python
from pysock import limits
from pysock.limits import LIMITS, Limits, Seldom, default_workers, raise_descriptor_limit

NONE = {
    "max_connections": None,
    "idle_timeout": None,
    "handshake_timeout": None,
    "send_timeout": None,
    "minimum_rate": None,
    "max_memory": None,
}


def test_defaults_are_those_of_the_documentation() -> None:
    assert dataclasses.asdict(LIMITS) == {
        "max_connections": 1024,
        "excess": "wait",
        "idle_timeout": 600.0,
        "handshake_timeout": 10.0,
        "send_timeout": 60.0,
        "minimum_rate": (20.0, 1024.0),
        "max_memory": 256 << 20,
    }
    with pysock.Server("127.0.0.1:0", bytes.upper) as server:
        assert server.limits == LIMITS


def test_limits_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LIMITS.idle_timeout = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("name", NONE)
def test_none_lifts_a_limit(name: str) -> None:
    assert getattr(Limits(**{name: None}), name) is None
    with pysock.Server("127.0.0.1:0", bytes.upper, **{name: None}) as server:
        assert getattr(server.limits, name) is None


WRONG = [
    ("max_connections", [0, -1, 1.5, "many"]),
    ("max_memory", [0, -1, 1e6, "1M"]),
    ("idle_timeout", [0, -1, math.nan, "1"]),
    ("handshake_timeout", [0, -0.5, math.nan, "1"]),
    ("send_timeout", [0, -1, math.nan, (1,)]),
    ("excess", ["drop", None, True]),
    (
        "minimum_rate",
        [(1,), (1, 2, 3), (-1, 1), (1, 0), (1, -1), (math.nan, 1), (1, math.nan)],
    ),
    ("minimum_rate", [5, "ab", ("1", 1), (1, None)]),
]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG for value in values]
)
def test_wrong_value_is_named(name: str, value: object) -> None:
    with pytest.raises((ValueError, TypeError), match=name):
        Limits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"idle_timeout": 0},
        {"minimum_rate": 5},
        {"max_memory": 0},
        {"excess": "drop"},
        {"workers": -1},
        {"linger": -1},
        {"proxy_protocol": "v3"},
        {"proxy_protocol": True},
        {"trusted_proxies": ["nobody"]},
        {"trusted_proxies": "10.0.0.0/8"},
        {"health": "tls://127.0.0.1:0"},
    ],
)
@unix
def test_server_that_is_refused_leaves_nothing_open(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Neither a descriptor, which the leak check sees, nor a path."""
    path = tmp_path / "s"
    with pytest.raises((ValueError, TypeError)):
        pysock.Server(path, bytes.upper, **options)
    assert not path.exists()


# ------------------------------------------------------------ sweeps


def test_nothing_to_look_for_needs_no_sweep() -> None:
    assert Limits(**NONE).sweep_interval() is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "interval"),
    [
        ({"idle_timeout": 2.0}, 0.5),
        ({"send_timeout": 2.0}, 0.5),
        ({"minimum_rate": (2.0, 1.0)}, 0.5),
        ({"idle_timeout": 600.0}, 1.0),
        ({"idle_timeout": 0.001}, 0.01),
        ({"minimum_rate": (0, 1)}, 0.01),
        ({"idle_timeout": 8.0, "send_timeout": 1.0}, 0.25),
        ({"idle_timeout": math.inf}, 1.0),
    ],
)
def test_sweeps_are_as_frequent_as_the_shortest_limit_asks(
    options: dict[str, Any], interval: float
) -> None:
    assert Limits(**{**NONE, **options}).sweep_interval() == interval


def test_workers_by_the_number_of_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, workers in [(None, 16), (1, 16), (12, 16), (16, 20), (64, 32)]:
        monkeypatch.setattr(limits.os, "cpu_count", lambda processors=processors: processors)
        assert default_workers() == workers


# ------------------------------------------------------------ descriptors


def _resource(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int = sys.maxsize
) -> list[tuple[int, int]]:
    """Have the system allow so many descriptors; return what it is asked to allow."""
    asked: list[tuple[int, int]] = []

    def setrlimit(which: int, values: tuple[int, int]) -> None:
        if values[0] == -1 or values[0] > most:
            raise ValueError("current limit exceeds maximum limit")
        asked.append(values)

    fake = types.SimpleNamespace(
        RLIMIT_NOFILE=7,
        RLIM_INFINITY=-1,
        getrlimit=lambda _: (soft, hard),
        setrlimit=setrlimit,
    )
    monkeypatch.setitem(sys.modules, "resource", fake)  # type: ignore[arg-type]
    return asked


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "room", "asked"),
    [
        (256, 4096, 1024, 1024, [(1088, 4096)]),
        (256, 1088, 1024, 1024, [(1088, 1088)]),
        (256, 1087, 1024, 1023, [(1087, 1087)]),
        (256, 256, 1024, 192, [(256, 256)]),
        (4096, 8192, 1024, 1024, []),
        (1088, 8192, 1024, 1024, []),
        (256, -1, 1024, 1024, [(1088, -1)]),
        (-1, -1, 1024, 1024, []),
        (256, 4096, None, None, [(4096, 4096)]),
        (-1, -1, None, None, []),
        (32, 32, 1024, 1, [(32, 32)]),
        (64, 64, 1024, 1, [(64, 64)]),
    ],
)
def test_descriptor_limit_is_raised_as_far_as_it_goes(
    soft: int,
    hard: int,
    wanted: int | None,
    room: int | None,
    asked: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = _resource(monkeypatch, soft, hard)
    assert raise_descriptor_limit(wanted) == room
    assert [pair for pair in seen if pair != (soft, hard)] == [
        pair for pair in asked if pair != (soft, hard)
    ]


def test_descriptor_limit_that_cannot_be_raised_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on macOS, where the hard limit may be infinite and is not meant."""
    asked = _resource(monkeypatch, 256, -1, most=256)
    assert raise_descriptor_limit(1024) == 192
    assert raise_descriptor_limit(100) == 100
    assert asked == []


def test_system_without_such_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert raise_descriptor_limit(5000) == 5000
    assert raise_descriptor_limit(None) is None


@unix
def test_server_raises_its_own_limit() -> None:
    said = run_python("""
import resource, pysock
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
with pysock.Server("127.0.0.1:0", bytes.upper, max_connections=200) as server:
    assert server.max_connections == 200
assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 264
""")
    assert said == ""


# ------------------------------------------------------------ lines in the log


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """The time as Seldom sees it."""
    at = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(limits, "time", types.SimpleNamespace(monotonic=lambda: at.now))
    return at


@pytest.fixture
def logger() -> logging.Logger:
    found = logging.getLogger("pysock.test_limits")
    found.setLevel(logging.INFO)
    return found


def test_lines_of_one_kind_are_few(
    clock: types.SimpleNamespace, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    seldom = Seldom(logger, most=3)
    for i in range(10):
        seldom.log(logging.WARNING, "client %d fails", i)
        seldom.log(logging.INFO, "100% of another kind")
    assert caplog.messages == [
        text for i in range(3) for text in (f"client {i} fails", "100% of another kind")
    ]
    caplog.clear()
    clock.now += 0.9
    seldom.log(logging.WARNING, "client %d fails", 10)
    assert caplog.messages == []
    clock.now += 0.1
    seldom.log(logging.WARNING, "client %d fails", 11)
    seldom.log(logging.WARNING, "client %d fails", 12)
    assert caplog.messages == ["client 11 fails (8 more like this)", "client 12 fails"]


def test_kind_is_the_text_before_its_arguments_are_in_it(
    clock: types.SimpleNamespace, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    seldom = Seldom(logger, most=1)
    for i in range(100):
        seldom.log(logging.WARNING, "%s", i)
    assert caplog.messages == ["0"]
    assert len(seldom._kinds) == 1


def test_lines_that_nobody_wants_are_not_counted(
    clock: types.SimpleNamespace, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    seldom = Seldom(logger, most=1)
    for _ in range(10):
        seldom.log(logging.DEBUG, "text")
    seldom.log(logging.INFO, "text")
    assert caplog.messages == ["text"]


def test_exception_is_logged_with_its_traceback(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError:
        Seldom(logger).log(logging.ERROR, "failed for %s", "x", exc_info=True)
    assert "ZeroDivisionError: by nothing" in caplog.text


def test_threads_count_together(
    clock: types.SimpleNamespace, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    seldom = Seldom(logger, most=2)

    def log() -> None:
        for _ in range(500):
            seldom.log(logging.WARNING, "text")

    threads = [threading.Thread(target=log) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.now += 1
    seldom.log(logging.WARNING, "text")
    assert caplog.messages == ["text", "text", "text (1998 more like this)"]


def test_a_thousand_bad_clients_write_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """And the server says how many it has not told of."""
    with pysock.Server("127.0.0.1:0", bytes.upper).start() as server:
        for _ in range(100):
            with socket.create_connection(server.server_address) as sock:
                sock.sendall(b"\xff\xff\xff\xff")
                sock.settimeout(5)
                assert sock.recv(1) == b""
    assert 5 <= len(caplog.messages) <= 50


@pytest.mark.thread_unsafe(reason="the log is that of all")
def test_errors_of_different_kinds_are_all_told(caplog: pytest.LogCaptureFixture) -> None:
    """One that repeats does not hide another with the same text."""
    seldom = Seldom(logging.getLogger("seldom"), most=1)
    for kind in ("ValueError", "ValueError", "OSError"):
        seldom.log(logging.ERROR, "failed: %s", kind, kind=kind)
    assert [record.args for record in caplog.records] == [("ValueError",), ("OSError",)]
