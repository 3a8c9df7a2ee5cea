"""`pysock shell`: lines that somebody types, or a file has, run on the other side."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import linux

if sys.platform == "win32":
    pytest.skip("terminals of POSIX", allow_module_level=True)

pexpect = pytest.importorskip("pexpect")
pytest.importorskip("prompt_toolkit")

from pysock import RemoteError  # noqa: E402
from pysock.cli.shell import Shell  # noqa: E402
from pysock.cli.shell_state import Place, Report  # noqa: E402
from pysock.remote import RemoteServer  # noqa: E402
from terminals import (  # noqa: E402
    LIMIT,
    PROMPT,
    at_prompt,
    at_terminal,
    commands_served,
    enter,
    environment,
    program,
    serving,
    submit,
)

pytestmark = linux


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server's commands start."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "two words").mkdir()
    (folder / "größe").mkdir()
    (folder / "two words" / "file").write_text("x")
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with commands_served(folder) as address:
        yield address


@pytest.fixture
def prompt(address: str, tmp_path: Path) -> Iterator[Any]:
    with at_prompt(address, tmp_path) as child:
        yield child


def script(address: str, lines: str) -> tuple[int, bytes, str]:
    """Run lines of a file; return status, output and error output."""
    done = subprocess.run(
        program("shell", address), input=lines.encode(), capture_output=True, timeout=LIMIT
    )
    return done.returncode, done.stdout, done.stderr.decode()


# ---------------------------------------------------------------- what is kept


def test_folder_is_kept_from_line_to_line(address: str, folder: Path) -> None:
    lines = (
        "cd 'two words'\npwd\ncd ../größe && pwd\ncd -\npwd\ncd /; cd /usr\ncd -\ncd\npwd\n"
    )
    status, out, err = script(address, lines)
    first = f"{folder}/two words"
    where = [first, f"{folder}/größe", first, first, "/", os.path.expanduser("~")]
    assert (status, err) == (0, "")
    assert out.decode().splitlines() == where


def test_folder_behind_a_link_keeps_its_name(address: str, folder: Path) -> None:
    link = folder / "link"
    link.symlink_to(folder / "two words")
    _, out, _ = script(address, "cd link\npwd\ncd ..\npwd\n")
    link.unlink()
    assert out.decode().splitlines() == [str(link), str(folder)]


def test_missing_folder_is_an_error_and_nothing_changes(address: str, folder: Path) -> None:
    status, out, err = script(address, "cd nowhere\npwd\ncd nowhere")
    assert status > 0
    assert out.decode() == f"{folder}\n"
    assert err.count("nowhere") == 2


TELLING = [
    "cd /usr; exit 3",
    "cd /usr; (exit 4)",
    "cd /usr; sleep 1000 >/dev/null 2>&1 &\n",
    "cd /usr; exec 2>/dev/null",
    "cd /usr; exec 9>/dev/null 2>&9",
    "cd /usr; set -eu; false",
    "cd /usr; nothing_like_that",
    "cd /usr; kill -INT $$",
    "cd /usr; PATH=/nowhere",
    "cd /usr; unset -v PATH HOME IFS",
    "cd /usr # comment",
    "cd /usr; cat",
]
SILENT = [
    "cd /usr; exec true",
    "cd /usr; kill -KILL $$",
    "cd /usr; trap true EXIT",
    "if",
    "echo ) (",
    "echo 'open",
    "}",
    "done; fi; esac",
    "<<",
    "cat <<X",
    "(cd /usr)",
    "cd /usr | cat",
    "cd /usr &",
]


def test_folder_is_kept_however_a_line_ends(address: str, folder: Path) -> None:
    lines = "".join(f"cd '{folder}'\n{line}\npwd\n" for line in TELLING)
    status, out, err = script(address, lines)
    assert out.decode().splitlines() == ["/usr"] * len(TELLING)
    assert status == 0
    assert "Traceback" not in err


def test_folder_stays_where_a_line_cannot_tell(address: str, folder: Path) -> None:
    lines = "".join(f"{line}\npwd\n" for line in SILENT)
    status, out, err = script(address, lines)
    assert out.decode().splitlines() == [str(folder)] * len(SILENT)
    assert status == 0
    assert "Traceback" not in err


def test_folder_that_has_gone_is_said(address: str, folder: Path, tmp_path: Path) -> None:
    with at_prompt(address, tmp_path) as child:
        enter(child, "mkdir gone; cd gone; rmdir ../gone")
        enter(child, "echo not-run", "gone: No such file or directory", "first folder again")
        enter(child, "pwd", f"{folder}\r\n")


def test_exported_variables_are_kept_and_others_are_not(address: str) -> None:
    lines = """\
export A="it's  two" B='$x \\ "y"'; C=3
printf '%s|' "$A" "$B" "$C"
unset A LOGNAME; export B=größe
printf '%s|' "$A" "$B" "${LOGNAME-none}"
"""
    status, out, err = script(address, lines)
    assert (status, err) == (0, "")
    assert out.decode() == """it's  two|$x \\ "y"||""" + "|größe|none|"


def test_variable_of_several_lines_is_kept(address: str) -> None:
    lines = "export A=\"$(printf 'a\\nb')\"\nprintf '%s.' \"$A\"\n-t printf '%s.' \"$A\"\n"
    assert script(address, lines)[1] == b"a\nb.a\r\nb."


def test_marks_are_in_no_listing_of_processes(address: str) -> None:
    """The one mark that a line could print is nowhere to be found."""
    status, out, err = script(address, "cd /usr; ps axww; trap; set >&2\npwd\n")
    assert status == 0
    assert out.endswith(b"/usr\n")
    assert "pysock_report" not in err or "\0" not in err


def test_report_is_found_however_it_is_cut() -> None:
    report = Report()
    first, second = report.halves
    begin, end = first + second, second + first
    told = b"/usr\0/\0A=1\0"
    # Half a mark, and one within another's beginning, belong to the output.
    stream = b"err" + first[:5] + first + begin + told + end + b"more" + first
    for size in (1, 2, 31, 33, 64, len(stream)):
        report = Report()
        report.halves = [first, second]
        report._begin, report._end = begin, end
        shown = b"".join(
            report.filter(stream[at : at + size]) for at in range(0, len(stream), size)
        )
        assert shown + report.rest() == b"err" + first[:5] + first + b"more" + first
        assert report.told == told


@pytest.mark.parametrize("told", [None, b"", b"x\0", b"relative\0\0", b"no nul"])
def test_report_that_is_none_changes_nothing(told: bytes | None) -> None:
    place = Place(cwd=b"/usr")
    place.update(told)
    assert place == Place(cwd=b"/usr")


# ---------------------------------------------------------------- lines of a file


def test_last_line_gives_the_status(address: str) -> None:
    assert script(address, "false\nexit_not\nsh -c 'exit 44'")[0] == 44
    assert script(address, "kill -KILL $$")[0] == 137


def test_exit_leaves_and_what_follows_is_not_run(address: str) -> None:
    assert script(address, "echo a\nexit 5\necho b\n")[:2] == (5, b"a\n")
    assert script(address, "sh -c 'exit 6'\n\nexit\necho b\n")[:2] == (6, b"")


@pytest.mark.case("R18")
def test_output_that_cannot_be_written_ends_the_lines_of_a_file(address: str) -> None:
    """R18."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            program("shell", address),
            input=b"echo a\necho b\n",
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=LIMIT,
        )
    assert done.returncode == 1
    told = b"pysock shell: cannot write the output: No space left on device\n"
    assert done.stderr == told


@pytest.mark.case("R35")
def test_binary_output_comes_unharmed_on_its_own_channel(address: str, tmp_path: Path) -> None:
    """R35: byte for byte, to no terminal."""
    data = os.urandom(300_000)
    (tmp_path / "data").write_bytes(data)
    done = subprocess.run(
        program("shell", address),
        input=f"cat {tmp_path}/data\ncat {tmp_path}/data >&2".encode(),
        capture_output=True,
        timeout=LIMIT,
    )
    assert done.stdout == data
    assert done.stderr == data


def test_command_in_a_file_reads_none_of_its_lines(address: str) -> None:
    assert script(address, "cat\n-t head -n1 </dev/null\necho b\n")[:2] == (0, b"b\n")


@pytest.mark.case("R08")
def test_reader_of_the_output_has_gone(address: str) -> None:
    """R08."""
    with subprocess.Popen(
        program("shell", address), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"yes\n")
        process.stdin.flush()
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(LIMIT) == 141


def test_lines_of_a_file_end_with_the_connection(tmp_path: Path) -> None:
    with serving(f"unix://{tmp_path}/s", tmp_path):
        lines = "echo a\nkill -KILL $(ps -o ppid= $(ps -o ppid= $$)); sleep 1000\necho b\n"
        status, out, err = script(f"unix://{tmp_path}/s", lines)
    assert (status, out) == (255, b"a\n")
    assert err.startswith("pysock shell: the connection was lost")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["-t"]])
def test_server_that_allows_only_some_programs_is_one_line(
    tmp_path: Path, arguments: list[str]
) -> None:
    address = f"unix://{tmp_path}/sock"
    with RemoteServer(address, allow_root=True, allow=["uname"]) as server:
        server.start()
        done = subprocess.run(
            program("shell", address, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT,
        )
        server.stop(0)
    assert (done.returncode, done.stdout) == (255, b"")
    assert done.stderr.decode() == (
        "pysock shell: this server allows only some programs, and the shell needs them all: "
        "`pysock run -- PROGRAM` runs one of those\n"
    )


@pytest.mark.parametrize(("closing", "status"), [("1>&-", 1), ("2>&-", 0), ("1>&- 2>&-", 1)])
def test_closed_output_harms_no_connection(address: str, closing: str, status: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closing}', "sh", *program("shell", address)],
        input=b"echo a; echo b >&2\n",
        capture_output=True,
        timeout=LIMIT,
    )
    assert done.returncode == status
    assert done.stdout == (b"" if "1>" in closing else b"a\n")
    said = b"pysock shell: cannot write the output: standard output is closed\n"
    assert done.stderr == (said if closing == "1>&-" else b"")


def test_no_server_is_one_line(tmp_path: Path) -> None:
    status, out, err = script(f"unix://{tmp_path}/none", "echo a\n")
    assert (status, out) == (255, b"")
    assert err.startswith("pysock shell: ") and len(err.splitlines()) == 1


# ---------------------------------------------------------------- at the prompt


def test_lines_run_and_failures_are_shown(prompt: Any) -> None:
    enter(prompt, "echo $((40 + 2))", "42\r\n")
    enter(prompt, "sh -c 'exit 3'", "\x1b[31m[exit 3]\x1b[0m\r\n")
    enter(prompt, "kill -TERM $$", "\x1b[31m[signal TERM]\x1b[0m\r\n")
    enter(prompt, "sh -c 'kill -SEGV $$'", "[exit 139, as after signal SEGV]")
    enter(prompt, "echo err >&2", "err\r\n")
    enter(prompt, "if", "Syntax error")
    prompt.send("\x04")
    prompt.expect(pexpect.EOF)
    prompt.wait()
    assert prompt.exitstatus == 2


def test_no_colours_where_none_are_wanted(address: str, tmp_path: Path) -> None:
    with at_prompt(address, tmp_path, NO_COLOR="1") as child:
        enter(child, "false", "[exit 1]\r\n")
        child.send("exit 4\r")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 4


def test_output_without_newline_leaves_the_prompt_its_line(prompt: Any) -> None:
    enter(prompt, "printf 'a%s' bc", "abc\r\n")
    enter(prompt, "printf 'a%s' bc >&2; false", "abc\r\n\x1b[31m[exit 1]")
    enter(prompt, "-t printf 'd%s' ef", "def\r\n")


def test_ctrl_c_ends_what_runs(prompt: Any) -> None:
    # A shell with a trap, as that of the line, may miss a signal while it starts a program.
    submit(prompt, "sh -c 'echo up; exec sleep 1000'")
    prompt.expect_exact("up\r\n")
    prompt.sendintr()
    prompt.expect_exact("[signal INT]")
    prompt.expect(PROMPT)
    enter(prompt, "echo $((40 + 2))", "42\r\n")


STUBBORN = """\
import os, signal, sys, time
for name in sys.argv[1:]:
    signal.signal(signal.Signals[name], lambda *_: os.write(1, b"took\\n"))
os.write(1, b"up\\n")
while True:
    time.sleep(10)
"""


@pytest.mark.parametrize(
    ("taken", "told"),
    [(["SIGINT"], "[signal TERM]"), (["SIGINT", "SIGTERM"], "[signal KILL]")],
)
def test_ctrl_c_again_is_firmer(
    prompt: Any, tmp_path: Path, taken: list[str], told: str
) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    submit(prompt, f"exec {sys.executable} {tmp_path}/stubborn.py {' '.join(taken)}")
    prompt.expect_exact("up\r\n")
    for _ in taken:
        prompt.sendintr()
        prompt.expect_exact("took\r\n")
    prompt.sendintr()
    prompt.expect_exact(told)
    prompt.expect(PROMPT)


def test_ctrl_c_leaves_a_server_that_does_not_answer(tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/s"
    with serving(address, tmp_path) as server, at_prompt(address, tmp_path) as child:
        submit(child, "echo up; sleep 1000")
        child.expect_exact("up\r\n")
        server.send_signal(signal.SIGSTOP)
        try:
            while child.expect([PROMPT, pexpect.TIMEOUT], timeout=0.2):
                child.sendintr()
            assert b"given up" in child.before
        finally:
            server.send_signal(signal.SIGCONT)
        enter(child, "echo $((40 + 2))", "42\r\n")


def test_ctrl_c_at_the_prompt_drops_the_line(prompt: Any) -> None:
    prompt.send("echo dropped")
    prompt.expect_exact("dropped")
    prompt.sendintr()
    prompt.expect(PROMPT)
    enter(prompt, "echo $((40 + 2))", "42\r\n")


def test_up_brings_the_last_line_also_of_the_last_time(address: str, tmp_path: Path) -> None:
    with at_prompt(address, tmp_path) as child:
        enter(child, "echo $((40 + 2))", "42\r\n")
        enter(child, " echo secret", "secret\r\n")
        enter(child, "\x1b[A", "42\r\n")
    path = tmp_path / "pysock" / "shell-history"
    assert path.read_text() == "echo $((40 + 2))\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with at_prompt(address, tmp_path) as child:
        enter(child, "\x1b[A", "42\r\n")
        enter(child, "\x12$((4\r", "42\r\n")  # Ctrl-R


def test_tab_completes_names_of_the_other_side(prompt: Any, folder: Path) -> None:
    enter(prompt, "echo got-two\\ wor\t", "got-two wor\r\n")
    enter(prompt, "echo X two\t| tr x y", "X two words/\r\n")
    enter(prompt, "cd grö\t; pwd", f"{folder}/größe\r\n")
    enter(prompt, "ls '../two w\t'", "file\r\n")
    enter(prompt, "basena\t /a/bc", "bc\r\n")


def test_program_in_a_terminal_from_the_prompt(prompt: Any) -> None:
    enter(prompt, "cd /usr; export A=42")
    enter(prompt, '-t pwd; echo "$A"; stty size; tty', "/usr\r\n42\r\n24 80\r\n/dev/pts/")
    enter(prompt, "-t sh -c 'exit 3'", "[exit 3]")
    enter(prompt, "-t sleep 1000 & sleep 0.1; kill -TERM $!; wait $!", "[exit 143")


def test_lost_connection_is_one_line_and_the_next_command_connects(tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/s"
    with serving(address, tmp_path) as server, at_prompt(address, tmp_path) as child:
        enter(child, "cd /usr; export A=42")
        submit(child, "echo up; sleep 1000")
        child.expect_exact("up\r\n")
        server.kill()
        child.expect_exact("pysock shell: the connection was lost")
        child.expect(PROMPT)
        assert child.before.count(b"\n") == 1
        enter(child, "pwd", "pysock shell: the connection was lost")
        server.wait()
        with serving(address, tmp_path):
            enter(child, 'pwd; echo "$A"', "/usr\r\n42\r\n")


def test_without_prompt_toolkit_there_is_a_plain_prompt(address: str, tmp_path: Path) -> None:
    without = (
        "import sys; sys.modules['prompt_toolkit'] = None; from pysock.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-W", "error", "-P", "-c", without, "shell", address]
    with at_terminal(command, environment(tmp_path)) as child:
        child.expect_exact("pysock shell: prompt_toolkit is not installed")
        child.expect_exact(">>: ")
        child.send("echo $((40 + 2))\r")
        child.expect_exact("42\r\n")
        child.expect_exact(">>: ")
        child.send("\x1b[A\r")
        child.expect_exact("42\r\n")
        child.expect_exact(">>: ")
        child.send("partial")
        child.expect_exact("partial")
        child.sendintr()
        child.expect_exact(">>: ")
        child.send("\x04")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0


def test_escape_sequences_in_errors_do_not_reach_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def start(*_: object, **__: object) -> None:
        raise RemoteError("no\x1b]0;owned\x07 way", "refused")

    shell = Shell(SimpleNamespace(start=start, closed=False), interactive=True)  # type: ignore[arg-type]
    assert shell.run(b"ls") == 1
    assert capfd.readouterr().err == "pysock shell: 'no\\x1b]0;owned\\x07 way'\n"
