"""Memory and descriptors stay flat, however often something is done, or fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import certificates
from certificates import Certificates
from conftest import TIME_FACTOR, linux
from mistakes import MISTAKES, prepared
from peers import run_python

certs = certificates.certs
slow = [pytest.mark.slow, pytest.mark.timeout(300)]
PROGRAM = (
    f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import flat; flat.main"
)
MANY, SOME = 100_000, 10_000


def stays_flat(*arguments: Any) -> None:
    """Do one of the things in flat.py, in a process of its own."""
    words = ", ".join(repr(str(argument)) for argument in arguments)
    assert run_python(f"{PROGRAM}({words})", within=300 * TIME_FACTOR) == ""


@pytest.mark.case("K05")
@linux
@pytest.mark.parametrize("count", [1000, pytest.param(MANY, marks=slow)])
def test_connections_come_and_go(count: int) -> None:
    """Each has a message echoed."""
    stays_flat("connects", "tcp://127.0.0.1:0", count)


@pytest.mark.case("K10")
@linux
@pytest.mark.parametrize("workers", [0, 4])
@pytest.mark.parametrize("count", [500, pytest.param(SOME, marks=slow)])
def test_connection_is_parked_and_served(count: int, workers: int) -> None:
    """No poller or eventfd stays of it."""
    stays_flat("parks", workers, count)


@pytest.mark.case("K05")
@linux
@pytest.mark.parametrize("count", [200, pytest.param(SOME, marks=slow)])
def test_handshakes_fail(count: int, certs: Certificates, tmp_path: Path) -> None:
    """For four reasons."""
    mine = certs.self_signed()
    for name, file in (
        ("certificate", mine.certificate),
        ("key", mine.key),
        ("other", certs.other_ca),
    ):
        (tmp_path / f"{name}.pem").symlink_to(file)
    stays_flat("handshakes", tmp_path, count)


@pytest.mark.case("K05")
@linux
@pytest.mark.parametrize("count", [200, pytest.param(SOME, marks=slow)])
def test_proofs_fail(count: int) -> None:
    """With a wrong key, and with none."""
    stays_flat("proofs", count)


@pytest.mark.case("K05")
@linux
@pytest.mark.parametrize("count", [500, pytest.param(SOME, marks=slow)])
def test_calls_time_out_in_mid_message(count: int) -> None:
    """Each on a connection of its own."""
    stays_flat("timeouts", count)


@pytest.mark.case("K05")
@linux
@pytest.mark.parametrize("count", [100, pytest.param(SOME, marks=slow)])
def test_clients_stop_in_mid_message(count: int) -> None:
    """And are cut by the server."""
    stays_flat("overdue", count)


# ------------------------------------------------------------ calls that fail


@pytest.mark.case("K07")
@linux
@pytest.mark.parametrize("name", MISTAKES)
def test_call_that_fails_keeps_no_buffer(name: str) -> None:
    """It can be resized again at once."""
    mistake = MISTAKES[name]
    with prepared(mistake) as (call, buffer):
        for _ in range(3):
            with pytest.raises(mistake.raises):
                call()
            buffer.append(1)
            del buffer[-1]


@pytest.mark.case("Z10")
@linux
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("kind", "part", "parts", "count"),
    [
        ("bytes", 0, 2, MANY),
        ("bytes", 1, 2, MANY),
        ("receiving", 0, 2, MANY),
        ("receiving", 1, 2, MANY),
        ("sending", 0, 2, MANY),
        ("sending", 1, 2, MANY),
        ("options", 0, 1, MANY),
        ("datagrams", 0, 1, MANY),
        ("single", 0, 1, MANY),
        ("python", 0, 1, SOME),
    ],
)
def test_calls_that_fail_leave_nothing(kind: str, part: int, parts: int, count: int) -> None:
    """Every public call, with each error that it can meet."""
    stays_flat("fails", kind, part, parts, count)


@pytest.mark.case("Z10")
@linux
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_calls_that_time_out_leave_nothing() -> None:
    stays_flat("waits", SOME)
