"""`pysock bench`: what it counts, against servers that behave and servers that do not."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import pysock
from conftest import TIME_FACTOR, linux, unix
from peers import until
from pysock import formats
from pysock.cli import main
from pysock.cli.bench_histogram import Histogram
from pysock.cli.bench_report import duration, picture

LIMIT = 30 * TIME_FACTOR
MARK = "PYSOCK_TEST_BENCH"

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


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


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from the sources, which would stand before the installed package."""
    monkeypatch.chdir(tmp_path)


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


def test_late_requests_count_from_when_they_were_due(measure):
    """A stall of 0.3 s makes one request slow, and 120 more that come due meanwhile."""
    stalled = threading.Event()

    def stall_once(message: bytes) -> bytes:
        if not stalled.is_set():
            stalled.set()
            time.sleep(0.3)
        return message

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


# ---------------------------------------------------------------- servers that misbehave


def test_refused_connection():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    status, out, err = run(address)
    assert (status, out) == (255, "")
    assert err == f"pysock bench: cannot connect to tcp://{address}: Connection refused\n"


@unix
def test_a_path_that_is_not_there():
    status, out, err = run("unix:./s", "-c 3")
    assert (status, out) == (255, "")
    assert err.startswith("pysock bench: cannot connect to unix:./s: No such file")
    assert err.count("\n") == 1


def close_at_once(sock: socket.socket) -> None:
    pass


def speak_http(sock: socket.socket) -> None:
    sock.recv(68)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    sock.recv(1000)


def never_answer(sock: socket.socket) -> None:
    while sock.recv(1000):
        pass


@pytest.mark.parametrize(
    ("behave", "warmup", "said"),
    [
        (close_at_once, 0.1, ""),
        (speak_http, 0, "length 1213486160 exceeds 67108864: the bytes are 'HTTP"),
        (speak_http, 0.1, "length 1213486160 exceeds 67108864: the bytes are 'HTTP"),
        (never_answer, 0.1, "no reply within 0.4 s\n"),
    ],
    ids=["closes", "HTTP", "HTTP in the warm-up", "is silent"],
)
def test_server_that_answers_nothing(behave, warmup, said):
    with Misbehaving(behave) as server:
        status, out, err = run(
            server.address, f"-c 2 -p 1 -t 0.3 --timeout 0.4 --warmup {warmup}"
        )
    assert (status, out) == (255, "")
    assert err.startswith(f"pysock bench: no request was answered: {said}")
    assert err.count("\n") == 1


def test_lost_connections_are_counted_and_replaced_at_a_bounded_rate(measure):
    def answer_ten(sock: socket.socket) -> None:
        for _, request in zip(range(10), requests(sock), strict=False):
            sock.sendall(request)

    with Misbehaving(answer_ten) as server:
        result = measure(server.address, "-c 4 -t 0.3")
    assert abs(result["connections_opened"] - server.accepted) <= 2
    assert result["errors"]["lost"] >= 10
    assert 0 <= result["errors"]["lost"] - result["unanswered"] <= 4
    assert result["answered"] >= 100
    assert 10 < server.accepted <= 6 + 100 * result["seconds"]
    assert "lost" in result["error_examples"]


def test_server_that_dies_leaves_requests_unsent(measure):
    def answer_ten_and_die(sock: socket.socket) -> None:
        for number, request in zip(range(10), requests(sock), strict=False):
            if number == 9:
                server.stop_listening()
            sock.sendall(request)

    with Misbehaving(answer_ten_and_die) as server:
        result = measure(server.address, "-c 1 -n 99 --timeout 0.3")
    assert (result["answered"], result["unanswered"], result["unsent"]) == (10, 1, 88)
    assert result["errors"]["lost"] == 1
    assert result["errors"]["connect"] >= 1
    assert "refused" in result["error_examples"]["connect"]


def test_server_that_falls_silent(measure):
    def answer_five(sock: socket.socket) -> None:
        for number, request in enumerate(requests(sock)):
            if number < 5:
                sock.sendall(request)

    with Misbehaving(answer_five) as server:
        result = measure(server.address, "-c 1 -d 2 -n 14 --timeout 0.3")
    assert result["errors"]["timeout"] == 2
    assert (result["answered"], result["unanswered"]) == (10, 4)
    assert result["error_examples"] == {"timeout": "no reply within 0.3 s"}


def test_garbage_right_behind_a_reply_is_noticed_at_once(measure):
    """It has been read ahead with the reply, so that no selector tells of it."""

    def answer_too_much(sock: socket.socket) -> None:
        sock.sendall(sock.recv(68) + b"GET / HT")
        never_answer(sock)

    with Misbehaving(answer_too_much) as server:
        began = time.monotonic()
        result = measure(server.address, "-c 1 -n 6 --timeout 20")
        assert time.monotonic() - began < 10 * TIME_FACTOR
    assert (result["answered"], result["unanswered"]) == (3, 3)
    assert result["errors"]["framing"] == 3
    assert "an HTTP client?" in result["error_examples"]["framing"]


def test_replies_that_nobody_asked_for(measure):
    def answer_twice(sock: socket.socket) -> None:
        for request in requests(sock):
            sock.sendall(request + request)

    with Misbehaving(answer_twice) as server:
        result = measure(server.address, "-c 1 -n 20")
    assert result["answered"] == 20
    assert result["errors"]["unasked"] >= 1


def test_a_reply_in_many_pieces_is_one(measure):
    def drip(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in requests(sock):
            for start in range(0, 68, 17):
                sock.sendall(request[start : start + 17])
                time.sleep(0.002)

    with Misbehaving(drip) as server:
        result = measure(server.address, "-c 2 -d 3 -n 30")
    assert result["answered"] == 30
    assert not any(result["errors"].values())


# ---------------------------------------------------------------- how it ends


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


@linux
def test_ctrl_c_ends_early_and_reports():
    seen = []

    def keep(message: bytes) -> bytes:
        seen.append(message)
        return message

    arguments = "-t 600 -c 4 -p 2 --warmup 0 --json"
    with answering(keep) as address, running(address, arguments) as (process, mark):
        until(lambda: len(seen) > 500)
        assert len(marked(mark)) == 3
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT)
        assert (process.returncode, err) == (130, b"")
        assert marked(mark) == []
    result = checked(json.loads(out))
    assert result["interrupted"] is True
    assert 0 < result["answered"] <= len(seen)
    assert result["unanswered"] <= 4


@needs_posix
def test_ctrl_c_does_not_wait_for_a_server_that_hangs():
    def answer_one(sock: socket.socket) -> None:
        for number, request in enumerate(requests(sock)):
            if number == 0:
                sock.sendall(request)
            else:
                hanging.set()

    hanging = threading.Event()
    arguments = "-t 600 -c 1 --timeout 600 --warmup 0"
    with Misbehaving(answer_one) as server, running(server.address, arguments) as it:
        assert hanging.wait(LIMIT)
        it[0].send_signal(signal.SIGINT)
        out, err = it[0].communicate(timeout=LIMIT)
    assert (it[0].returncode, err) == (130, b"")
    assert "1 in " in out.decode()
    assert "when it was interrupted" in out.decode()
    assert "1 of 2 requests" in out.decode()


@needs_posix
def test_ctrl_c_before_anything_was_measured_ends_quietly():
    connected = threading.Event()

    def never(sock: socket.socket) -> None:
        sock.recv(68)
        connected.set()
        never_answer(sock)

    with Misbehaving(never) as server, running(server.address, "-c 1") as (process, _):
        assert connected.wait(LIMIT)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=LIMIT) == (b"", b"")
        assert process.returncode == 130


@linux
def test_a_killed_command_leaves_no_processes():
    with answering() as address, running(address, "-t 600 -p 2") as (process, mark):
        until(lambda: len(marked(mark)) == 3)
        process.kill()
        process.wait()
        until(lambda: not marked(mark))


@linux
def test_a_load_process_that_dies_is_told():
    with answering() as address, running(address, "-t 600 -p 2") as (process, mark):
        until(lambda: len(marked(mark)) == 3)
        victim = next(pid for pid in marked(mark) if pid != process.pid)
        os.kill(victim, signal.SIGKILL)
        out, err = process.communicate(timeout=LIMIT)
        assert (process.returncode, out) == (1, b"")
        assert err == b"pysock bench: a load process has ended unexpectedly\n"
        assert marked(mark) == []


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: ADDRESS;"),
        (["x:1", "-c", "0"], "argument -c/--connections: '0' is not a number of 1 or more"),
        (["x:1", "-s", "1.5k"], "argument -s/--size: '1.5k' is not a size: write 100, 64k "),
        (["x:1", "-t", "0"], "argument -t/--duration: '0' is not a number of seconds above 0"),
        (["x:1", "--warmup", "-1"], "argument --warmup: '-1' is not a number of seconds of 0"),
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


# ---------------------------------------------------------------- the histogram

LATENCIES = st.lists(
    st.tuples(st.integers(1_000, 100 * 10**9), st.integers(1, 50)), min_size=1, max_size=60
)
PERCENTS = st.one_of(st.sampled_from([50.0, 90.0, 99.0, 99.9]), st.floats(0.1, 100))


@given(LATENCIES, PERCENTS)
@example([(1_000, 1)], 50.0)
@example([(1_000, 1), (100 * 10**9, 1)], 50.0)
@example([(128_000 + n, 1) for n in range(1000)], 99.9)
def test_percentiles_are_within_one_percent(latencies, percent):
    histogram = Histogram()
    for latency, count in latencies:
        histogram.record(latency, count)
    ordered = sorted(each for each, count in latencies for _ in range(count))
    exact = ordered[max(1, math.ceil(len(ordered) * percent / 100 - 1e-6)) - 1]
    assert histogram.percentile(percent) == pytest.approx(exact, rel=0.01)
    assert histogram.total == len(ordered)
    assert (histogram.smallest, histogram.largest) == (ordered[0], ordered[-1])
    assert histogram.mean == pytest.approx(sum(ordered) / len(ordered))


@given(LATENCIES, LATENCIES)
def test_histograms_added_are_one_of_everything(some, others):
    parts = Histogram(), Histogram()
    everything, sum_of_parts = Histogram(), Histogram()
    for part, latencies in zip(parts, (some, others), strict=True):
        for latency, count in latencies:
            part.record(latency, count)
            everything.record(latency, count)
        sum_of_parts.add(json.loads(json.dumps(part.packed())))
    assert sum_of_parts.packed() == everything.packed()


def test_histogram_takes_whatever_comes():
    histogram = Histogram()
    assert (histogram.total, histogram.mean, histogram.percentile(50)) == (0, 0, 0)
    assert list(histogram) == []
    for latency in (0, 1, 127, 128, 255, 256, 10**9, 10**11, 10**15):
        histogram.record(latency)
    assert histogram.total == 9
    assert (histogram.smallest, histogram.largest) == (0, 10**15)
    assert [middle for middle, _ in histogram][:6] == [0, 1, 127, 128, 255, 256.5]


@given(LATENCIES, st.integers(60, 250), st.booleans())
def test_picture_fits_and_counts_everything(latencies, width, blocks):
    histogram = Histogram()
    for latency, count in latencies:
        histogram.record(latency, count)
    lines = picture(histogram, width, blocks)
    assert len(lines) <= 16
    assert max(map(len, lines)) <= width - 5
    counted = sum(int(line.split()[-1].replace(",", "")) for line in lines if "%" in line)
    assert counted == histogram.total
    assert max(line.count("█" if blocks else "#") for line in lines) >= width - 45


@pytest.mark.parametrize(
    ("nanoseconds", "shown"),
    [
        (1, "1 ns"),
        (999.4, "999 ns"),
        (999.6, "1 us"),
        (1_234, "1.23 us"),
        (45_678, "45.7 us"),
        (999_600, "1 ms"),
        (123_456_789, "123 ms"),
        (99_960_000, "100 ms"),
        (1_500_000_000, "1.5 s"),
        (100_000_000_000, "100 s"),
    ],
)
def test_duration_has_three_digits(nanoseconds, shown):
    assert duration(nanoseconds) == shown
