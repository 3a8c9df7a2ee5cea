"""examples/legacy_protocol.py, with itself and with the tutorial's programs."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gate
import pysock
from gate import connected, ended
from peers import LONG, SHORT, pattern
from programs import LIMIT, Program, is_alive, until

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "legacy_protocol.py"
TUTORIAL = HERE / "tutorial_programs.py"

if not EXAMPLE.is_file():
    pytest.skip("the examples are not here", allow_module_level=True)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")

WIRES = ["ack", "length", "bare"]
BIG = 16 << 20

_spec = importlib.util.spec_from_file_location("legacy_protocol", EXAMPLE)
legacy: Any = importlib.util.module_from_spec(_spec)  # type: ignore[arg-type]
_spec.loader.exec_module(legacy)  # type: ignore[union-attr]


# ------------------------------------------------------------ programs


@contextlib.contextmanager
def running(folder: Path, *command: str) -> Iterator[tuple[Program, str]]:
    """Run a server; yield it and its port."""
    program = Program(folder, list(command))
    try:
        yield program, program.has_said(r"(?:waiting at |serving tcp://\S+:)(\d+)\b")[1]
    finally:
        program.kill()


def ours(folder: Path, role: str, *options: str) -> Any:
    return running(folder, str(EXAMPLE), role, "--port", "0", *options)


def tutorials(folder: Path, name: str) -> Any:
    return running(folder, str(TUTORIAL), name)


def finished(*command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        input=stdin,
        capture_output=True,
        timeout=LIMIT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )


def our_client(role: str, port: str, *options: str, stdin: bytes) -> bytes:
    command = [
        str(EXAMPLE),
        role,
        "--port",
        port,
        "--timeout",
        str(LIMIT),
        "--quiet",
        "0.05",
        *options,
    ]
    done = finished(*command, stdin=stdin)
    assert (done.stderr, done.returncode) == (b"", 0)
    return done.stdout


def tutorial_client(name: str, port: str, stdin: bytes) -> bytes:
    done = finished(str(TUTORIAL), name, port, stdin=stdin)
    assert (done.stderr, done.returncode) == (b"", 0)
    return done.stdout


def read(sock: socket.socket, count: int) -> bytes:
    return pysock.recv_exactly(sock, count, LONG)


def ask(sock: socket.socket, command: bytes) -> bytes:
    """As the tutorial's client does."""
    sock.sendall(command)
    size = int(sock.recv(1024))
    sock.sendall(b"ok,ready")
    return read(sock, size)


TYPED = "echo hello\n\n  printf '3 files'  \ntrue\necho 粘包\necho end >&2\nexit\necho not\n"


@pytest.mark.parametrize("wire", WIRES)
def test_our_client_and_our_server(wire, tmp_path):
    with ours(tmp_path, "command-server", "--wire", wire) as (_, port):
        for _ in range(2):  # clients, one after another
            said = our_client("command-client", port, "--wire", wire, stdin=TYPED.encode())
            assert said.decode() == "hello\n3 filesno output, exit status 0\n粘包\nend\n"


@pytest.mark.parametrize("wire", ["ack", "bare"])  # how `length` fails is tested below
def test_tutorial_client_and_our_server(wire, tmp_path):
    with ours(tmp_path, "command-server", "--wire", wire) as (_, port):
        for _ in range(2):
            said = tutorial_client(f"{wire}_client", port, TYPED.encode())
            lines = [line for line in said.decode().replace(">>:", "").splitlines() if line]
            expected = ["hello", "3 files", "no output, exit status 0", "粘包", "end"]
            assert lines == expected


@pytest.mark.parametrize("wire", WIRES)
def test_our_client_and_the_tutorials_server(wire, tmp_path):
    with tutorials(tmp_path, f"{wire}_server") as (_, port):
        for _ in range(2):
            typed = TYPED.replace(" >&2", "").encode()
            said = our_client("command-client", port, "--wire", wire, stdin=typed)
            assert said.decode() == "hello\n3 filesthe command has no output粘包\nend\n"


def test_next_client_waits_for_its_turn(tmp_path):
    with ours(tmp_path, "command-server") as (_, port):
        with socket.create_connection(("127.0.0.1", int(port)), LIMIT) as first:
            assert ask(first, b"echo 1") == b"1\n"
            second = socket.create_connection(("127.0.0.1", int(port)), LIMIT)
            second.sendall(b"echo 2")
            assert ask(first, b"echo 3") == b"3\n"
            assert not select.select([second], [], [], 0)[0]
        with second:
            assert second.recv(1024) == b"2"


def test_upper_both_ways(tmp_path):
    with (
        ours(tmp_path, "upper-server") as (_, our_port),
        tutorials(tmp_path, "upper_server") as (_, their_port),
    ):
        for port in (our_port, their_port):
            typed = b"hello\n\n world \nexit\nnot\n"
            assert our_client("upper-client", port, stdin=typed) == b"HELLO\nWORLD\n"
        assert tutorial_client("upper_client", our_port, b"hello\n") == b"HELLO\n"


@pytest.mark.parametrize("wire", WIRES)
def test_large_binary_output_is_whole(wire, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(pattern(BIG))
    with ours(tmp_path, "command-server", "--wire", wire) as (_, port):
        said = our_client("command-client", port, "--wire", wire, stdin=b"cat large\npwd")
        assert said == pattern(BIG) + f"{tmp_path}\n".encode()


def test_large_output_to_and_from_the_tutorial(tmp_path):
    count = 1 << 20  # the tutorial's client copies all it has for each KiB that comes
    command = f"yes 0123456789abcde | head -c {count}\n".encode()
    expected = b"0123456789abcde\n" * (count // 16)
    with ours(tmp_path, "command-server") as (_, port):
        said = tutorial_client("ack_client", port, command)
        assert said == b">>:>>:" + expected + b"\n"
    with tutorials(tmp_path, "ack_server") as (_, port):
        assert our_client("command-client", port, stdin=command) == expected


@pytest.mark.parametrize(
    ("number", "wire"), [(signal.SIGINT, "ack"), (signal.SIGTERM, "bare")]
)
def test_server_ends_quietly_with_the_command_that_it_runs(number, wire, tmp_path):
    with ours(tmp_path, "command-server", "--wire", wire) as (server, port):
        with socket.create_connection(("127.0.0.1", int(port))) as client:
            client.sendall(b"echo $$ > group; mv group started; sleep 1000")
            until((tmp_path / "started").exists)
            assert server.stop(number) == 0
        group = int((tmp_path / "started").read_text())
        until(lambda: not is_alive(group))
        assert server.said.splitlines()[1:] == ["stopped"]


def test_client_tells_what_went_wrong_in_a_line():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    done = finished(str(EXAMPLE), "command-client", "--port", port, stdin=b"ls\n")
    assert done.returncode == 1
    assert done.stdout == b""
    said = rf"legacy_protocol\.py: .*cannot connect to tcp://127\.0\.0\.1:{port}: .*\n"
    assert re.fullmatch(said, done.stderr.decode())


def test_client_stops_where_nobody_reads_on(tmp_path):
    with ours(tmp_path, "command-server") as (_, port):
        client = [sys.executable, str(EXAMPLE), "command-client", "--port", port]
        typed = f"printf 'head -c {BIG} /dev/zero\\necho more\\necho more\\n'"
        line = f"{typed} | {shlex.join(client)} | head -c 3"
        done = subprocess.run(line, shell=True, capture_output=True, timeout=LIMIT)
    assert (done.stdout, done.stderr) == (bytes(3), b"")


def test_commands_for_others_need_a_word(tmp_path):
    done = finished(str(EXAMPLE), "command-server", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert b"whoever reaches 0.0.0.0 would run commands as you" in done.stderr
    word = "--everybody-may-run-commands"
    with ours(tmp_path, "command-server", "--host", "0.0.0.0", word) as (_, port):
        assert our_client("command-client", port, stdin=b"echo yes\n") == b"yes\n"


# ------------------------------------------------------------ the server


@contextlib.contextmanager
def serving(wire: str, time_limit: float = LONG) -> Iterator[Any]:
    """Run the example's server in this process."""
    with pysock.Server(
        gate.HERE,
        legacy.WIRES[wire],
        framing=pysock.Raw(max_frame=None),
        max_connections=1,
    ) as server:
        server.time_limit = time_limit  # type: ignore[attr-defined]
        yield server.start()


def test_size_and_body_of_length_leave_apart(monkeypatch):
    paused, go_on = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        paused.set()
        assert go_on.wait(LONG)

    monkeypatch.setattr(legacy, "time", Namespace(sleep=sleep, monotonic=lambda: 0))
    with serving("length") as server, connected(server) as sock:
        sock.sendall(b"printf '3 files'")
        assert sock.recv(1024) == b"7"
        assert paused.wait(LONG)
        go_on.set()
        assert sock.recv(1024) == b"3 files"


def test_endless_command_is_ended_and_the_client_told():
    with serving("ack", time_limit=SHORT) as server, connected(server) as sock:
        group, _, rest = ask(sock, b"echo $$; sleep 1000").partition(b"\n")
        assert rest == b"\n[the command was ended: more than %g seconds]\n" % SHORT
        until(lambda: not is_alive(int(group)))
        server.time_limit = LONG
        assert ask(sock, b"echo next") == b"next\n"


def test_command_does_not_read_what_the_server_is_typed():
    typed, typing = os.pipe()
    before = os.dup(0)
    try:
        os.dup2(typed, 0)
        with serving("ack", time_limit=LONG / 2) as server, connected(server) as sock:
            sock.settimeout(LONG)
            assert ask(sock, b"cat") == b"no output, exit status 0\n"
    finally:
        os.dup2(before, 0)
        for fd in (typed, typing, before):
            os.close(fd)


def test_output_without_end_is_ended(monkeypatch):
    monkeypatch.setattr(legacy, "LARGEST", 1000)
    with serving("ack") as server, connected(server) as sock:
        said = ask(sock, b"echo $$; head -c 1001 /dev/zero; sleep 1000")
        group, _, said = said.partition(b"\n")
        assert said == bytes(1001) + b"\n[the command was ended: more than 1000 bytes]\n"
        until(lambda: not is_alive(int(group)))


@pytest.mark.parametrize("end", [gate.reset, socket.socket.close])
def test_command_of_a_client_that_has_gone_is_ended(end, tmp_path):
    with serving("ack", time_limit=1000) as server:
        sock = connected(server)
        sock.sendall(b"cd '%s'; echo $$ > group; mv group told; sleep 1000" % bytes(tmp_path))
        until((tmp_path / "told").exists)
        end(sock)
        until(lambda: not is_alive(int((tmp_path / "told").read_text())))
        with connected(server) as following:
            assert ask(following, b"echo next") == b"next\n"


@pytest.mark.parametrize("wire", WIRES)
def test_client_that_dies_within_its_answer_costs_nothing(wire, caplog):
    with serving(wire) as server:
        sock = connected(server, room=4096)
        sock.sendall(b"head -c %d /dev/zero" % BIG)
        if wire == "ack":
            assert sock.recv(1024) == b"%d" % BIG
            sock.sendall(b"hello,world")
        sock.recv(100)
        gate.reset(sock)
        with connected(server) as following:
            following.sendall(b"printf next")
            if wire != "bare":
                assert read(following, 1) == b"4"
                following.sendall(b"ok,ready")
            assert read(following, 4) == b"next"
    assert gate.warnings_in(caplog) == []


def test_bare_wire_answers_who_has_closed_its_sending_half():
    with serving("bare") as server, connected(server) as sock:
        sock.sendall(b"sleep 0.2; printf all")
        gate.finish(sock)
        assert read(sock, 3) == b"all"
        assert ended(sock)


def test_acknowledgement_that_does_not_come_ends_the_connection():
    with serving("ack", time_limit=SHORT) as server:
        with connected(server) as sock:
            sock.sendall(b"printf 12")
            assert sock.recv(1024) == b"2"
            assert ended(sock)
        server.time_limit = LONG
        with connected(server) as following:
            assert ask(following, b"echo next") == b"next\n"


def test_browsers_run_nothing(tmp_path):
    with serving("ack") as server, connected(server) as sock:
        marker = tmp_path / "marker"
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n\r\ntouch '%s'\n" % bytes(marker))
        assert ended(sock)
    assert not marker.exists()


def test_too_long_a_command_is_not_run_nor_its_rest(tmp_path):
    with serving("ack") as server, connected(server) as sock:
        assert ask(sock, b"echo %2043d" % 1) == b"1\n"
        said = ask(sock, b"touch '%s' %2048d" % (bytes(tmp_path / "marker"), 1))
        assert said == b"a command has at most 2048 bytes, and no NUL\n"
        assert ended(sock)
    assert not (tmp_path / "marker").exists()


def test_garbage_is_answered(caplog):
    with serving("ack") as server, connected(server) as sock:
        assert b"no NUL" in ask(sock, b"echo \0")
        assert b"not found" in ask(sock, b"\xff\xfe\x80")
        assert ask(sock, b"printf '\xff\xfe'") == b"\xff\xfe"
        assert ask(sock, b"exit 3") == b"no output, exit status 3\n"
    assert gate.warnings_in(caplog) == []


# ------------------------------------------------------------ the client's guess at sizes


class Script:
    """A connection on which pieces arrive; between two of them it is never quiet."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.sent: list[bytes] = []

    def recv(self) -> bytes:
        if not self.pieces:
            raise pysock.ConnectionClosed
        return self.pieces.pop(0)

    def send(self, message: bytes) -> None:
        self.sent.append(message)


@pytest.fixture
def guess(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The client's way to receive one answer, from a list of pieces."""
    monkeypatch.setattr(pysock, "wait", lambda watched, quiet: watched[0].pieces)

    def receive(wire: str, pieces: list[bytes]) -> bytes:
        script = Script(pieces)
        received = legacy.receive_sized(script, Namespace(wire=wire, quiet=1))
        assert script.pieces == []
        assert script.sent == [b"ok,ready"] * (wire == "ack")
        return bytes(received)

    return receive


def cuts(data: bytes, most: int) -> Iterator[list[bytes]]:
    """Every way to cut *data* into pieces, with at most so many cuts."""
    for count in range(most + 1):
        for places in itertools.combinations(range(1, len(data)), count):
            edges = [0, *places, len(data)]
            yield [data[a:b] for a, b in itertools.pairwise(edges)]


# Bodies that could be taken for more of the size, or have as many bytes as another size says.
BODIES = [
    *(bytes(body) for size in range(4) for body in itertools.product(b"012x", repeat=size)),
    *(b"%d" % 10**n for n in range(9, 13)),
    b"2" * 11,
    b"0 files found",
    b"1 file with 21 bytes.",
    b"x" * 21,
]


@pytest.mark.parametrize("wire", ["ack", "length"])
def test_answer_cut_anywhere_is_read_right(guess, wire):
    for body in BODIES:
        size = b"%d" % len(body)
        # Where there is an acknowledgement, what comes before it is of the size alone.
        rest = 1 if wire == "ack" else 0
        heads = (
            [(size[:n], size[n:]) for n in range(1, len(size) + 1)] if rest else [(b"", size)]
        )
        for first, late in heads:
            for pieces in cuts(late + body, 2):
                assert guess(wire, [first, *pieces]) == body


def test_sizes_that_do_not_add_up_are_refused(guess):
    for pieces in ([b"3", b"four"], [b"x"], [b"-1", b"x"], [b"03", b"abc"]):
        with pytest.raises(ValueError, match="no size fits"):
            guess("ack", pieces)
    with pytest.raises(pysock.ConnectionClosed):
        guess("ack", [b"5", b"four"])


def test_body_that_follows_its_acknowledgement_late_is_waited_for(guess, monkeypatch):
    monkeypatch.setattr(pysock, "wait", lambda watched, quiet: [])
    assert guess("ack", [b"12", b"twelve bytes"]) == b"twelve bytes"
