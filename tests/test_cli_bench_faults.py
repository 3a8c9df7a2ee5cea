"""`pysock bench`: servers that misbehave, and how it ends before it is done."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time

import pytest

import benching
from benching import (
    LIMIT,
    Misbehaving,
    answering,
    checked,
    marked,
    never_answer,
    requests,
    run,
    running,
)
from conftest import TIME_FACTOR, linux, unix
from peers import until

measure = benching.measure

pytestmark = pytest.mark.usefixtures("elsewhere")

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


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
        assert process.wait(LIMIT) == -signal.SIGKILL
        until(lambda: not marked(mark))
        assert marked(mark) == []


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
