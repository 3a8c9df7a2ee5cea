"""A full-screen program on the other side: keys, size, and the local terminal afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import linux

if sys.platform == "win32":
    pytest.skip("terminals of POSIX", allow_module_level=True)

pexpect = pytest.importorskip("pexpect")

from pysock.cli.feeder import Escapes  # noqa: E402
from pysock.cli.terminal import Modes  # noqa: E402
from terminals import (  # noqa: E402
    LIMIT,
    PROMPT,
    at_terminal,
    commands_served,
    environment,
    program,
    serving,
    settings,
    submit,
)

pytestmark = linux

# Says that it is there, and each size of its window; never ends by itself.
WATCH = "trap 'stty size' WINCH; echo up; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with commands_served(tmp_path_factory.mktemp("served")) as address:
        yield address


def gated(*arguments: str) -> list[str]:
    """The command, which starts when a line has come: its terminal can be looked at."""
    return ["/bin/sh", "-c", 'read go; exec "$@"', "sh", *program(*arguments)]


@pytest.fixture
def full_screen(address: str, tmp_path: Path) -> Iterator[Any]:
    """`pysock shell -t` that runs WATCH, and what its terminal was like before."""
    command = gated("shell", address, "-t", "sh", "-c", WATCH)
    with at_terminal(command, environment(tmp_path)) as child:
        before = settings(child)
        # The terminal lives on, to be looked at, when its program has ended.
        held = os.open(os.readlink(f"/proc/{child.pid}/fd/0"), os.O_RDWR | os.O_NOCTTY)
        try:
            child.send("\n")
            child.expect_exact("up\r\n")
            assert settings(child) != before
            child.before_it = before
            yield child
        finally:
            os.close(held)


def ended(child: Any) -> tuple[int | None, int | None]:
    """Wait for the end; return exit status and signal."""
    child.ptyproc.wait()
    return child.ptyproc.exitstatus, child.ptyproc.signalstatus


@pytest.mark.case("R22", "R24")
def test_command_ends_and_settings_are_back(full_screen: Any) -> None:
    """R24, and R22: Ctrl-C is the other side's business."""
    full_screen.send("\x03")
    assert ended(full_screen) == (130, None)
    assert settings(full_screen) == full_screen.before_it


@pytest.mark.case("R24")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signal_ends_program_and_settings_are_back(full_screen: Any, number: int) -> None:
    """R24."""
    full_screen.kill(number)
    assert ended(full_screen) == (None, number)
    assert settings(full_screen) == full_screen.before_it


@pytest.mark.case("R24")
def test_interrupt_from_outside_and_settings_are_back(full_screen: Any) -> None:
    """R24."""
    full_screen.kill(signal.SIGINT)
    assert ended(full_screen) == (130, None)
    assert settings(full_screen) == full_screen.before_it


@pytest.mark.case("R24")
def test_tilde_dot_gives_up_and_settings_are_back(full_screen: Any) -> None:
    """R24."""
    full_screen.send("\r~.")
    full_screen.expect_exact("given up by ~.")
    assert ended(full_screen) == (255, None)
    assert settings(full_screen) == full_screen.before_it


@pytest.mark.case("R15", "R24")
def test_lost_connection_and_settings_and_modes_are_back(tmp_path: Path) -> None:
    """R24, R15: also what the program had set and cannot put back any more."""
    with serving(f"unix://{tmp_path}/s", tmp_path) as server:
        draw = r"printf '\033[?1049h\033[?25l\033[?1000hup'; sleep 1000"
        command = gated("shell", f"unix://{tmp_path}/s", "-t", "sh", "-c", draw)
        with at_terminal(command, environment(tmp_path)) as child:
            before = settings(child)
            child.send("\n")
            child.expect_exact("\x1b[?1000hup")
            server.kill()
            child.expect_exact("\x1b[?1000l\x1b[?25h\x1b[?1049l\r\npysock shell: ")
            assert b"Traceback" not in child.read()
            assert ended(child) == (255, None)
            assert settings(child) == before


@pytest.mark.case("R24")
def test_stopped_and_continued_and_settings_follow(address: str, tmp_path: Path) -> None:
    """R24: SIGTSTP and SIGCONT, by `~` Ctrl-Z under a shell with job control."""
    with at_terminal(["/bin/sh", "-i"], environment(tmp_path, PS1="here> ")) as child:
        child.expect_exact("here> ")
        before = settings(child)
        words = program("shell", address, "-t", "sh", "-c", WATCH)
        child.send(" ".join(f"'{word}'" if "'" not in word else f'"{word}"' for word in words))
        child.send("\n")
        child.expect_exact("up\r\n")
        raw = settings(child)
        child.send("\r~\x1a")
        child.expect_exact("here> ")
        assert settings(child) == before
        child.setwinsize(50, 70)
        child.send("fg\n")
        child.expect_exact("50 70\r\n")
        assert settings(child) == raw
        child.send("\x03")
        child.expect_exact("here> ")
        assert settings(child) == before


@pytest.mark.case("R24")
def test_prompt_is_ended_by_a_signal_and_settings_are_back(
    address: str, tmp_path: Path
) -> None:
    """R24: at the prompt the terminal is raw too."""
    with at_terminal(gated("shell", address), environment(tmp_path)) as child:
        before = settings(child)
        held = os.open(os.readlink(f"/proc/{child.pid}/fd/0"), os.O_RDWR | os.O_NOCTTY)
        try:
            child.send("\n")
            child.expect(PROMPT)
            assert settings(child) != before
            child.kill(signal.SIGTERM)
            child.expect_exact("\x1b[?2004l")
            assert ended(child) == (None, signal.SIGTERM)
            assert settings(child) == before
        finally:
            os.close(held)


@pytest.mark.case("R24")
def test_prompt_is_stopped_and_continued(address: str, tmp_path: Path) -> None:
    """R24: Ctrl-Z at the prompt, and while a line runs."""
    with at_terminal(["/bin/sh", "-i"], environment(tmp_path, PS1="here> ")) as child:
        child.expect_exact("here> ")
        before = settings(child)
        child.send(" ".join(program("shell", address)) + "\n")
        child.expect(PROMPT)
        child.send("\x1a")
        child.expect_exact("here> ")
        assert settings(child) == before
        child.send("fg\n")
        child.expect(">>:")
        submit(child, "echo up; sleep 0.2; echo $((40 + 2))")
        child.expect_exact("up\r\n")
        child.send("\x1a")
        child.expect_exact("here> ")
        child.send("fg\n")
        child.expect_exact("42\r\n")
        child.expect(PROMPT)
        child.send("\x04")
        child.expect_exact("here> ")
        assert settings(child) == before


@pytest.mark.case("R08", "R24")
def test_reader_of_the_output_has_gone_and_settings_are_back(
    address: str, tmp_path: Path
) -> None:
    """R24, R08."""
    with at_terminal(["/bin/sh", "-i"], environment(tmp_path, PS1="here> ")) as child:
        child.expect_exact("here> ")
        before = settings(child)
        child.send(" ".join(program("shell", address, "-t", "yes")) + " | head -n1\n")
        child.expect_exact("y\r\n")
        child.expect_exact("here> ")
        assert settings(child) == before


@pytest.mark.case("R22")
def test_window_changes_and_program_is_told(full_screen: Any) -> None:
    """R22."""
    full_screen.setwinsize(40, 90)
    full_screen.expect_exact("40 90\r\n")
    full_screen.setwinsize(10, 20)
    full_screen.expect_exact("10 20\r\n")


@pytest.mark.case("R22")
def test_every_byte_goes_both_ways_unchanged(address: str, tmp_path: Path) -> None:
    """R22: raw is raw."""
    echo = "stty raw -echo; printf up; head -c 256; printf end"
    command = program("shell", address, "-t", "sh", "-c", echo)
    with at_terminal(command, environment(tmp_path)) as child:
        child.expect_exact("up")
        child.send(bytes(range(256)))
        child.expect_exact("end")
        assert child.before == bytes(range(256))
        assert ended(child) == (0, None)


def test_curses_program_draws_reads_and_leaves(address: str, tmp_path: Path) -> None:
    source = tmp_path / "full.py"
    source.write_text(
        "import curses\n"
        "def main(window):\n"
        "    window.addstr(2, 3, f'{curses.LINES}x{curses.COLS}')\n"
        "    key = window.getkey()\n"
        "    return key\n"
        "print('key', curses.wrapper(main))\n"
    )
    command = program("shell", address, "-t", sys.executable, str(source))
    with at_terminal(command, environment(tmp_path)) as child:
        child.expect_exact("24x80")
        child.send("\x1bOA")
        child.expect_exact("key KEY_UP\r\n")
        assert ended(child) == (0, None)


def test_login_shell_without_a_command(address: str, tmp_path: Path) -> None:
    command = program("shell", address, "-t")
    with at_terminal(command, environment(tmp_path)) as child:
        child.send("echo login-$((40 + 2)); exit 7\r")
        child.expect_exact("login-42\r\n")
        child.read()
        assert ended(child) == (7, None)


def test_input_that_is_no_terminal_is_passed_on(address: str) -> None:
    done = subprocess.run(
        program("shell", address, "-t", "sh", "-c", "read x; echo got $x"),
        input=b"it\n",
        capture_output=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0
    assert b"got it\r\n" in done.stdout
    assert done.stderr == b""


def test_program_that_is_not_there(address: str) -> None:
    done = subprocess.run(
        program("shell", address, "-t", "nowhere"), capture_output=True, timeout=LIMIT
    )
    assert done.returncode == 127
    assert done.stderr == b"pysock shell: nowhere: command not found\n"


@pytest.mark.parametrize(
    ("typed", "passed", "wish"),
    [
        (b"~.", b"", "leave"),
        (b"ls\r~.x", b"ls\r", "leave"),
        (b"\n~\x1a", b"\n", "stop"),
        (b"~~", b"~", ""),
        (b"~a", b"~a", ""),
        (b"~\r~.", b"~\r", "leave"),
        (b"a~.", b"a~.", ""),
        (b"~~.", b"~.", ""),
    ],
)
@pytest.mark.parametrize("together", [True, False], ids=["at once", "key by key"])
def test_tilde_at_the_start_of_a_line(
    typed: bytes, passed: bytes, wish: str, together: bool
) -> None:
    escapes = Escapes()
    out = b""
    wished = ""
    for piece in [typed] if together else [typed[at : at + 1] for at in range(len(typed))]:
        if not wished:
            more, wished = escapes.filter(piece)
            out += more
    assert (out, wished) == (passed, wish)


@pytest.mark.parametrize(
    ("written", "undone"),
    [
        (b"plain", b""),
        (b"\x1b[?1049h\x1b[?25l", b"\x1b[?25h\x1b[?1049l"),
        (b"\x1b[?1049hx\x1b[?1049l", b""),
        (b"\x1b[?1000;1006h", b"\x1b[?1000l\x1b[?1006l"),
        (b"\x1b[?25h\x1b[?7h", b""),
        (b"\x1b[?9999h", b""),
    ],
)
def test_modes_left_set_are_undone_however_they_came(written: bytes, undone: bytes) -> None:
    for cut in range(len(written) + 1):
        modes = Modes()
        modes.note(written[:cut])
        modes.note(written[cut:])
        assert modes.undone() == undone
        assert modes.undone() == b""
