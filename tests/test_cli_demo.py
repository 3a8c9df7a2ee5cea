"""`pysock demo`: what it prints, how long it takes, how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pysock
from conftest import TIME_FACTOR, linux

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")

COMMAND = [sys.executable, "-W", "error", "-m", "pysock", "demo"]
LIMIT = 50 * TIME_FACTOR


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """What the demonstration prints into a pipe, and the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(
        COMMAND,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=tmp_path_factory.mktemp("demo"),
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=LIMIT,
    )
    assert done.stderr == b""
    assert done.returncode == 0
    return done.stdout.decode(), time.monotonic() - began


def on_terminal(folder: Path, **environment: str) -> str:
    """Return what the demonstration shows on a terminal of 80 columns."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    variables = {"COLUMNS": "80", "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        COMMAND,
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, **variables, **environment},
    ) as process:
        os.close(slave)
        output = b""
        try:
            while block := os.read(master, 65536):
                output += block
        except OSError:
            pass  # how Linux tells that the other end is closed
        os.close(master)
        assert process.wait(LIMIT) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    return output.decode()


def test_demo_takes_less_than_20_seconds(shown):
    assert shown[1] < 20 * TIME_FACTOR


def test_demo_is_plain_text_where_there_is_no_terminal(shown):
    text, _ = shown
    assert "\x1b" not in text
    assert "\r" not in text
    assert set(text) - set("粘包") <= {chr(code) for code in range(32, 127)} | {"\n"}
    assert max(map(len, text.splitlines())) <= 95


def test_demo_shows_the_fault_and_the_cure(shown):
    text, _ = shown
    assert f"pysock {pysock.__version__}" in text
    assert text.count("粘包") == 1
    for line in (
        "plain socket  1 recv:  'hellohow are you?bye'",
        "pysock        3 recv:  'hello'  'how are you?'  'bye'",
        "plain socket  5 recv:  'what le'  'aves wh'  'ole arr'  'ives wh'  'ole'",
        "pysock        1 recv:  'what leaves whole arrives whole'",
        "prints        b'HELLO, WORLD'",
        "received      67,108,864 bytes, the same",
        "exit status   0",
        "received      67,108,864 bytes",
    ):
        assert f"     {line}\n" in text


def test_demo_checks_the_output_of_a_remote_command(shown):
    assert re.search(
        r"^     SHA-256       the same, [0-9a-f]{16}\.\.\.$", shown[0], re.MULTILINE
    )
    parts = re.findall(r"^(\d)\. ", shown[0], re.MULTILINE)
    assert parts == ["1", "2", "3", "4", "5", "6"]


def test_demo_compares_in_both_ways(shown):
    lines = re.findall(
        r"^     (pysock|multiprocessing\.connection) +([\d,]+)(?:   ([\d.]+) times as many)?$",
        shown[0],
        re.MULTILINE,
    )
    assert [name for name, _, _ in lines] == ["pysock", "multiprocessing.connection"] * 2
    rates = [int(rate.replace(",", "")) for _, rate, _ in lines]
    for index in (0, 2):
        assert float(lines[index][2]) == pytest.approx(
            rates[index] / rates[index + 1], rel=0.05
        )


@pytest.mark.slow
def test_demo_on_a_terminal_has_colours_and_bars(tmp_path):
    text = on_terminal(tmp_path, NO_COLOR="")
    assert "\x1b[31m1 recv:  'hellohow are you?bye'\x1b[0m" in text
    assert text.count("█") > 4
    visible = re.sub(r"\x1b\[\d+m|.*\r(?!\n)", "", text)
    assert max(len(line.rstrip()) for line in visible.splitlines()) <= 80


@pytest.mark.slow
def test_demo_no_color_is_respected(tmp_path):
    text = on_terminal(tmp_path, NO_COLOR="1", PYTHONIOENCODING="ascii")
    assert "\x1b" not in text
    assert "粘" not in text
    assert "####" in text


@linux
def test_demo_ctrl_c_within_the_command_leaves_no_file(tmp_path):
    """Ctrl-C in the midst of it: no file stays."""
    with subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if line.startswith(b"5."):
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 130
        assert process.stderr.read() == b""
    assert list(tmp_path.iterdir()) == []


@linux
def test_demo_ctrl_c_ends_quietly_and_leaves_no_process(tmp_path):
    with subprocess.Popen(
        COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if line.startswith(b"6."):
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        end = time.monotonic() + LIMIT
        while not (peers := children.read_text().split()):
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 130
        assert process.stderr.read() == b""
    while any(Path(f"/proc/{peer}").exists() for peer in peers):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_demo_into_a_pipe_that_closes_ends_quietly(tmp_path):
    with subprocess.Popen(
        COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(LIMIT) == 141
        assert process.stderr.read() == b""
