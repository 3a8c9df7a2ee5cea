"""`pysock bench`: what it counts, what it prints, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import time

import pytest

import benching
import pysock
from benching import LIMIT, Misbehaving, answering, checked, command, run
from conftest import TIME_FACTOR, unix
from peers import until
from pysock import formats
from pysock.cli import main
from pysock.cli.bench_report import Progress

measure = benching.measure

pytestmark = pytest.mark.usefixtures("elsewhere")


# ---------------------------------------------------------------- what it counts


def test_so_many_requests_add_up(measure):
    seen = []

    def keep(message: bytes) -> bytes:
        seen.append(message)
        return b"thanks"

    with answering(keep) as address:
        result = measure(address, "-n 1000 -c 7 -s 100")
    assert seen == [b"x" * 100] * 1000
    assert result["address"] == address
    asked = [result[name] for name in ("connections", "depth", "message_bytes", "rate")]
    assert asked == [7, 1, 100, None]
    assert (result["requests"], result["replies"], result["unanswered"]) == (1000, 1000, 0)
    assert result["connections_opened"] == 7
    assert not any(result["errors"].values())
    assert result["error_examples"] == {}
    assert result["interrupted"] is False
    for way, size in (("out", 104), ("in", 10)):
        total = result[f"bytes_{way}_per_second"] * result["seconds"]
        assert round(total) == 1000 * size


def test_a_duration_and_a_warm_up_that_is_not_counted(measure):
    with answering() as address:
        result = measure(address, "-t 0.2 --warmup 0.1 -c 5")
    assert 0.2 <= result["seconds"] < 0.2 + TIME_FACTOR
    assert result["answered"] > 10
    assert result["unanswered"] == 0
    assert result["requests"] - 5 <= result["replies"]


def test_processes_share_connections_and_requests():
    with answering() as address:
        status, out, err = run(address, "-c 3 -n 100 -p 8 --warmup 0 --json")
    assert (status, err) == (0, "")
    result = checked(json.loads(out))
    assert result["processes"] == 3
    assert result["answered"] == 100
    assert result["connections_opened"] == 3


def test_depth_is_how_many_requests_are_under_way(measure):
    most = 0

    def answer_when_eight_have_come(sock: socket.socket) -> None:
        nonlocal most
        waiting = []
        sock.settimeout(0.05)
        while True:
            with contextlib.suppress(TimeoutError):
                waiting.append(sock.recv(68, socket.MSG_WAITALL))
                if not waiting[-1]:
                    return
                continue
            most = max(most, len(waiting))
            sock.sendall(b"".join(waiting))
            waiting.clear()

    with Misbehaving(answer_when_eight_have_come) as server:
        result = measure(server.address, "-c 1 -d 8 -n 32")
    assert most == 8
    assert result["answered"] == 32
    assert result["latency"]["min"] >= 0.05


def test_messages_larger_than_every_buffer_go_both_ways(measure):
    with answering(lambda message: message) as address:
        result = measure(address, "-c 2 -d 4 -s 2M -n 40")
    assert (result["answered"], result["message_bytes"]) == (40, 2 << 20)
    total = result["bytes_in_per_second"] * result["seconds"]
    assert round(total) == 40 * (4 + (2 << 20))


def test_messages_of_a_protocol(tmp_path, measure):
    request = bytes.fromhex("000100000006010300000001")
    (tmp_path / "request").write_bytes(request)
    seen = set()

    def answer(message: bytes) -> bytes:
        seen.add(message)
        return message

    with answering(answer, framing=formats.MODBUS) as address:
        measure(address, "--framing modbus --file request -n 10 -c 1")
    with answering(answer, framing=formats.NAMED["crlf"]) as address:
        measure(address, "--framing crlf --message PING -n 10 -c 1")
    assert seen == {request, b"PING"}


@unix
def test_over_a_unix_path(tmp_path, measure):
    with pysock.Server(str(tmp_path / "s"), bytes.upper).start():
        assert measure("./s", "-n 10 -c 2")["answered"] == 10


def test_late_requests_count_from_when_they_were_due(measure, monkeypatch):
    """A stall of 0.3 s or more makes one request slow, and all that come due meanwhile."""
    looks = 0
    stalled = threading.Event()

    def look(*_: object) -> None:
        nonlocal looks
        looks += 1

    def stall_once(message: bytes) -> bytes:
        if not stalled.is_set():
            stalled.set()
            enough = looks + 6
            until(lambda: looks >= enough)
        return message

    # The command looks how far it is every 0.1 s, and at reports, which are rarer.
    monkeypatch.setattr(Progress, "update", look)

    with answering(stall_once) as address:
        closed = measure(address, "-c 1 -n 200")
        stalled.clear()
        opened = measure(address, "-c 1 -n 200 --rate 400")
    slow = [
        sum(count for seconds, count in result["histogram"] if seconds > 0.1)
        for result in (closed, opened)
    ]
    assert slow[0] < 10 < 50 <= slow[1]
    assert opened["rate"] == 400
    assert opened["seconds"] >= 0.49
    assert opened["answered"] == 200


def test_requests_that_were_due_and_not_sent_are_told(measure):
    def slow(message: bytes) -> bytes:
        time.sleep(0.05)
        return message

    with answering(slow) as address:
        result = measure(address, "-c 1 -t 0.25 --rate 400")
        status, out, err = run(address, "-c 1 -t 0.25 --rate 400 --warmup 0")
    assert result["requests"] <= 6
    assert result["requests"] + result["unsent"] == 100
    assert (status, err) == (0, "")
    assert " requests were due and could not be sent" in out


def test_a_rate_is_kept_by_several_processes():
    with answering() as address:
        status, out, _ = run(address, "-c 4 -p 2 -t 0.25 --rate 400 --warmup 0 --json")
    assert status == 0
    result = checked(json.loads(out))
    assert result["requests"] + result["unsent"] == 100


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: ADDRESS;"),
        (["x:1", "-c", "0"], "argument -c/--connections: '0' is not a whole number from 1 to"),
        (["x:1", "-s", "1.5k"], "argument -s/--size: '1.5k' is not a number of bytes up to "),
        (["x:1", "-t", "0"], "argument -t/--duration: '0' is not a number of seconds above 0"),
        (["x:1", "--warmup", "-1"], "argument --warmup: '-1' is not a number of seconds from"),
        (["x:1", "--rate", "nan"], "argument --rate: 'nan' is not a number of requests per"),
        (["x:1", "-t", "1", "-n", "1"], "argument -n/--requests: not allowed with argument"),
        (["x:1", "-s", "1", "--file", "f"], "argument --file: not allowed with argument"),
        (["x:1", "--framing", "morse"], "no format is called 'morse'; there are amqp, bgp,"),
        (["x:1", "--max-frame", "10"], "message: length 64 exceeds 10"),
        (["x:1", "-s", "65M"], "message: length 68157440 exceeds 67108864"),
        (["x:1", "--framing", "bgp"], "message: "),
        (["x:1", "--file", "missing"], "cannot read missing: No such file"),
        (["nowhere"], "address 'nowhere': no port"),
        (["gopher://x:1"], "address 'gopher://x:1': scheme 'gopher' is unknown"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, said, capfd):
    assert main(["bench", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"pysock bench: {said}")
    assert err.count("\n") == 1


def test_a_message_of_ours_that_does_not_fit_the_format_names_the_way_out(capfd):
    assert main(["bench", "x:1", "--framing", "bgp"]) == 2
    assert capfd.readouterr().err.endswith("with --message or --file\n")


def test_help_tells_every_key_of_the_json(measure):
    words = run("--help")[1].split()
    with answering() as address:
        result = measure(address, "-n 10 -c 1")
    assert set(result) <= set(words)


def test_report_into_a_pipe():
    with answering() as address:
        status, out, err = run(address, "-n 3000 -c 5 -p 1 --warmup 0", COLUMNS="80")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{address}: 5 connections, 64 bytes each"
    facts = dict(line.split(maxsplit=1) for line in lines[2:6])
    assert facts["replies"].startswith("3,000 in ")
    assert int(facts["requests/s"].replace(",", "")) > 0
    assert facts["connections"] == "5 opened"
    titles = lines.index("latency") + 2
    assert lines[titles].split() == ["p50", "p90", "p99", "p99.9", "max"]
    assert len(lines[titles + 1].split()) == 10  # each with its unit
    rows = lines[lines.index("replies by latency") + 2 :]
    assert sum(int(row.split()[-1].replace(",", "")) for row in rows if "%" in row) == 3000
    assert "█" in out
    assert "\x1b" not in out
    assert max(map(len, lines)) <= 80


def test_report_in_ascii():
    with answering() as address:
        status, out, _ = run(address, "-n 50 -c 1 --warmup 0", PYTHONIOENCODING="ascii")
    assert status == 0
    assert "####" in out


def test_json_into_a_file_beside_the_report(tmp_path):
    with answering() as address:
        status, out, err = run(address, "-n 10 -c 1 --json=result.json --warmup 0")
        assert (status, err) == (0, "")
        assert checked(json.loads((tmp_path / "result.json").read_text()))["answered"] == 10
        assert "10 in " in out
        status, out, err = run(address, "-n 10 -c 1 --json=no/such/folder --warmup 0")
        assert (status, err.count("\n")) == (1, 1)
        assert err.startswith("pysock bench: cannot write no/such/folder: No such file")
        assert "10 in " in out


@pytest.mark.parametrize("rich", [True, False])
def test_progress_is_shown_on_a_terminal_and_gone_in_the_end(rich, tmp_path):
    pty = pytest.importorskip("pty")
    variables = {"COLUMNS": "80", "TERM": "xterm"}
    if rich:
        pytest.importorskip("rich")
    else:
        (tmp_path / "stub").mkdir()
        (tmp_path / "stub" / "rich.py").write_text("raise ImportError('not here')")
        path = [str(tmp_path / "stub"), os.environ.get("PYTHONPATH", "")]
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    master, slave = pty.openpty()
    with answering() as address:
        process = subprocess.Popen(
            command(address, "-t 0.4 --warmup 0.1 -c 1"),
            stdout=subprocess.PIPE,
            stderr=slave,
            env={**os.environ, **variables},
        )
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # how Linux tells that the other end is closed
            while block := os.read(master, 65536):
                shown += block
        os.close(master)
        out, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert b"requests/s" in out
    assert b"\x1b" not in out and b"\r" not in out
    for text in (b"connecting", b"warming up", b"% "):
        assert text in shown
    if not rich:
        assert shown.endswith(b"\r")
        assert shown.rsplit(b"\r", 2)[1].strip() == b""
        assert b"\n" not in shown
