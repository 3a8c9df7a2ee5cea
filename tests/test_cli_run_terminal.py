"""`pysock run` in front of a terminal: keys, size, and how the terminal is afterwards."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import runs
from programs import LIMIT, _state, until
from runs import COMMAND, Served

termios = pytest.importorskip("termios")
fcntl = pytest.importorskip("fcntl")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")

served = runs.served

# It becomes the leader of a session whose terminal this is, as a login's shell is, and
# runs the command in the foreground.
LEADER = """
import fcntl, os, signal, subprocess, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
child = subprocess.Popen(
    sys.argv[2:],
    process_group=0,
    preexec_fn=lambda: signal.signal(signal.SIGTTOU, signal.SIG_DFL),
)
os.tcsetpgrp(0, child.pid)
os.write(int(sys.argv[1]), b"%d\\n" % child.pid)
status = child.wait()
os.tcsetpgrp(0, os.getpgrp())
os.write(int(sys.argv[1]), b"%d\\n" % status)
os.read(3, 1)
"""


class Screen:
    """A terminal with `pysock run` in front of it.

    Args:
        served: where the command runs.
        arguments: those of `pysock run`.
        options: stdout or stderr, where they are not the terminal.
    """

    def __init__(self, served: Served, *arguments: str, **options: Any) -> None:
        self.master, self.slave = os.openpty()
        self.shown = b""
        self.resize(30, 100)
        self.before = termios.tcgetattr(self.slave)
        told, tell = os.pipe()
        self._told = os.fdopen(told)
        try:
            self.leader = subprocess.Popen(
                [sys.executable, "-c", LEADER, str(tell), *COMMAND, *arguments],
                **{
                    **dict.fromkeys(("stdin", "stdout", "stderr"), self.slave),
                    **options,
                    "env": served.env,
                    "pass_fds": (tell,),
                },
            )
        finally:
            os.close(tell)
        self.pid = int(self._told.readline())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        assert os.write(self.master, keys) == len(keys)

    def shows(self, pattern: bytes) -> re.Match[bytes]:
        """Wait until what matches is shown; forget all up to there."""
        end = time.monotonic() + LIMIT
        while not (found := re.search(pattern, self.shown)):
            ready, _, _ = select.select([self.master], [], [], end - time.monotonic())
            if not ready:
                pytest.fail(f"{pattern!r} was not shown, but {self.shown!r}")
            self.shown += os.read(self.master, 65536)
        self.shown = self.shown[found.end() :]
        return found

    @property
    def modes(self) -> Any:
        return termios.tcgetattr(self.slave)

    @property
    def is_raw(self) -> bool:
        return not self.modes[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def ended(self) -> int:
        """Wait for the end; return the status, a signal's negative."""
        status = int(self._told.readline())
        return status

    def close(self) -> None:
        self.leader.kill()
        self.leader.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._told.close()
        os.close(self.master)
        os.close(self.slave)


@contextlib.contextmanager
def screen(served: Served, *arguments: str, **options: Any) -> Iterator[Screen]:
    made = Screen(served, *arguments, **options)
    try:
        yield made
    finally:
        made.close()


READY = "stty -echo; echo ready; "  # the remote terminal's echo would confuse


@pytest.mark.case("R22")
def test_command_has_a_terminal_of_this_one_s_size(served):
    """R22"""
    with screen(served, "-t", "--", "sh", "-c", "tty; stty size") as shown:
        shown.shows(rb"/dev/\S+\r\n30 100\r\n")
        assert shown.ended() == 0
        assert shown.modes == shown.before


@pytest.mark.case("R22")
def test_new_size_is_passed_on(served):
    """R22"""
    script = f"trap 'stty size' WINCH; {READY} while :; do sleep 0.05; done"
    with screen(served, "-t", "--", "sh", "-c", script) as shown:
        shown.shows(b"ready")
        shown.resize(41, 77)
        shown.shows(b"41 77")


@pytest.mark.case("R22")
def test_keys_reach_the_command_as_they_are(served):
    """R22"""
    with screen(
        served, "-t", "--", "sh", "-c", f"stty raw; {READY} exec od -An -tx1 -N5"
    ) as shown:
        shown.shows(b"ready")
        assert shown.is_raw
        shown.type(b"\x03\x1a\x1c\x04\r")
        shown.shows(rb"03 1a 1c 04 0d")
        assert shown.ended() == 0
        assert shown.modes == shown.before


@pytest.mark.case("R22")
def test_ctrl_c_interrupts_what_runs_in_the_foreground_there(served):
    """R22"""
    with screen(served, "-t", "--", "sh", "-c", f"{READY} exec sleep 1000") as shown:
        shown.shows(b"ready")
        shown.type(b"\x03")
        assert shown.ended() == 130
        assert shown.modes == shown.before


@pytest.mark.case("R22")
def test_ctrl_d_ends_the_input_there(served):
    """R22"""
    with screen(served, "-t", "--", "sh", "-c", f"{READY} cat; echo end") as shown:
        shown.shows(b"ready")
        shown.type(b"word\r\x04")
        shown.shows(rb"word\r\nend")
        assert shown.ended() == 0


@pytest.mark.case("R24")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_terminal_is_restored_after_a_signal(served, number):
    """R24"""
    with screen(served, "-t", "--", "sh", "-c", f"{READY} exec sleep 1000") as shown:
        shown.shows(b"ready")
        assert shown.is_raw
        os.kill(shown.pid, number)
        assert shown.ended() == 128 + number
        assert shown.modes == shown.before


@pytest.mark.case("R24")
def test_terminal_is_restored_after_three_interrupts(served):
    """R24"""
    script = f"trap '' INT TERM; {READY} while :; do sleep 0.05; done"
    with screen(served, "-t", "--", "sh", "-c", script) as shown:
        shown.shows(b"ready")
        for _ in range(3):
            os.kill(shown.pid, signal.SIGINT)
            # Two that come at once are one.
            until(lambda: not pending(shown.pid))
        assert shown.ended() == 130
        assert shown.modes == shown.before


def pending(pid: int) -> bool:
    """Whether a signal is on its way to a process."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
        return re.search(r"ShdPnd:\t0*[1-9a-f]", file.read()) is not None
    return False


@pytest.mark.case("R15", "R24")
def test_terminal_is_restored_after_the_connection_is_lost(served):
    """R15, R24"""
    with screen(served, "-t", "--", "sh", "-c", f"{READY} exec sleep 1000") as shown:
        shown.shows(b"ready")
        assert shown.is_raw
        served.server.stop(0)
        assert shown.ended() in (128 + signal.SIGHUP, 255)
        assert shown.modes == shown.before


@pytest.mark.case("R24")
def test_terminal_is_as_before_while_it_is_stopped(served):
    """R24"""
    with screen(served, "-t", "--", "sh", "-c", f"{READY} cat; echo end") as shown:
        shown.shows(b"ready")
        os.kill(shown.pid, signal.SIGTSTP)
        until(lambda: "T" in _state(shown.pid))
        assert shown.modes == shown.before
        shown.resize(20, 60)
        os.kill(shown.pid, signal.SIGCONT)
        until(lambda: shown.is_raw)
        shown.type(b"word\r")
        shown.shows(rb"word\r\n")
        shown.type(b"\x04")
        shown.shows(b"end")
        assert shown.ended() == 0
        assert shown.modes == shown.before


@pytest.mark.case("R24")
def test_tilde_ctrl_z_stops_and_the_terminal_is_as_before(served):
    """R24"""
    with screen(served, "-t", "--", "sh", "-c", f"{READY} cat; echo end") as shown:
        shown.shows(b"ready")
        shown.type(b"\r~\x1a")
        until(lambda: "T" in _state(shown.pid))
        assert shown.modes == shown.before
        os.kill(shown.pid, signal.SIGCONT)
        until(lambda: shown.is_raw)
        shown.type(b"\x04")
        shown.shows(b"end")
        assert shown.ended() == 0


@pytest.mark.case("R24")
def test_tilde_dot_gives_the_command_up(served):
    """R24"""
    draw = r"printf '\033[?1049h\033[?25l';"
    with screen(served, "-t", "--", "sh", "-c", f"{READY} {draw} exec sleep 1000") as shown:
        shown.shows(rb"\x1b\[\?25l")
        shown.type(b"\r~.")
        shown.shows(rb"\x1b\[\?25h\x1b\[\?1049l")
        shown.shows(rb"pysock run: given up by ~\.\r\n")
        assert shown.ended() == 255
        assert shown.modes == shown.before


def test_tilde_within_a_line_and_without_a_terminal_is_the_command_s(served):
    script = f"{READY} read one; echo got $one"
    with screen(served, "-t", "--", "sh", "-c", script) as shown:
        shown.shows(b"ready")
        shown.type(b"a~.\r")
        shown.shows(rb"got a~\.\r\n")
        assert shown.ended() == 0
    assert served.sh("cat", stdin=b"~.\n") == (0, b"~.\n", "")


@pytest.mark.case("R18", "R24")
def test_output_that_cannot_be_written_is_a_failure_of_ours(served):
    """R18, R24"""
    with (
        open("/dev/full", "wb") as full,
        screen(served, "-t", "--", "yes", stdout=full) as shown,
    ):
        shown.shows(rb"pysock run: cannot write the output: No space left on device\r\n")
        assert shown.ended() == 255
        assert shown.modes == shown.before


def test_words_of_ours_come_when_the_terminal_is_restored(served):
    with screen(served, "-t", "--timeout", "0.3", "--", "sleep", "1000") as shown:
        shown.shows(rb"pysock run: the command took longer than 0\.3 s: it was killed\r\n")
        assert shown.ended() == 124
        assert shown.modes == shown.before


def test_terminal_is_given_where_this_side_has_none(served):
    status, out, said = served.sh("tty; stty size", "-t")
    assert (status, said) == (0, "")
    assert re.fullmatch(rb"/dev/\S+\r\n24 80\r\n", out)


@pytest.mark.case("R14")
def test_terminal_without_input_reads_its_end(served):
    """R14"""
    assert served.sh("cat; echo end", "-t", "-n")[::2] == (0, "")


def test_without_t_ctrl_c_is_this_side_s_and_its_end_waits_for_no_key(served):
    with screen(served, "--", "sh", "-c", "echo ready; read word; exec sleep 1000") as shown:
        shown.shows(b"ready")
        assert shown.modes == shown.before
        shown.type(b"word\n\x03")
        assert shown.ended() == 130
    with screen(served, "--", "echo", "a") as shown:
        shown.shows(b"a\r\n")
        assert shown.ended() == 0
