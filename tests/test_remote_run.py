"""`RemoteClient.run` does what `subprocess.run` does, with the same results and errors."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import remotes
from conftest import linux
from pysock import RemoteError
from pysock.remote import Completed, RemoteClient
from remotes import Served

server = remotes.server
remote = remotes.remote
mark = remotes.mark


def outcome(run: Any, args: Any, options: dict[str, Any]) -> Any:
    """What a call gives, or what it raises, to be compared."""
    try:
        done = run(args, **options)
    except (OSError, subprocess.SubprocessError) as exc:
        found = {**vars(exc), "type": type(exc), "text": str(exc), "__notes__": None}
        if isinstance(exc, OSError):
            found |= {"errno": exc.errno, "filename": exc.filename}
        found.pop("remote", None)  # which side it is from
        return found
    except (TypeError, ValueError) as exc:
        return type(exc)
    assert done.args == args
    return done.returncode, done.stdout, done.stderr


def local(args: Any, **options: Any) -> Any:
    """Run it here, in the same surroundings."""
    if not {"stdout", "stderr", "capture_output"} & options.keys():
        options["capture_output"] = True
    options.setdefault("cwd", Path.home())
    return subprocess.run(args, **options)


def check_same(remote: RemoteClient, args: Any, **options: Any) -> Any:
    """The same call here and there: the same outcome, which is returned."""
    there = outcome(remote.run, args, options)
    assert there == outcome(local, args, options)
    return there


def sh(text: str) -> list[str]:
    return ["sh", "-c", text]


# ---------------------------------------------------------------- ends


@pytest.mark.case("R01")
@pytest.mark.parametrize("before", ["", "exec >&- 2>&-; sleep 0.02; "])
def test_exit_status_is_the_commands_r01(remote, before):
    for status in (0, 1, 4, 5, 44, 126, 127, 255):
        assert check_same(remote, sh(f"{before}exit {status}")) == (status, b"", b"")


@pytest.mark.case("R02")
def test_signal_that_ends_the_command_is_a_negative_status_r02(remote):
    for name in ("TERM", "KILL", "SEGV", "INT", "HUP", "USR1", "ABRT", "PIPE"):
        number = getattr(signal, f"SIG{name}")
        assert check_same(remote, sh(f"kill -{name} $$"))[0] == -number


@pytest.mark.case("R02")
@linux
def test_signal_without_a_name_is_a_negative_status_too_r02(remote):
    assert check_same(remote, sh("kill -40 $$"))[0] == -40


def test_signal_of_a_shells_child_is_the_shells_status(remote):
    assert check_same(remote, sh("sh -c 'kill -9 $$'; exit $?"))[0] == 137


def test_check_raises_for_a_failure_or_a_signal(remote):
    for end in ("exit 0", "exit 3", "kill -9 $$"):
        check_same(remote, sh(f"echo out; echo err >&2; {end}"), check=True)


def test_result_checks_its_status_itself(remote):
    done = remote.run(sh("exit 3"))
    assert isinstance(done, subprocess.CompletedProcess) and isinstance(done, Completed)
    assert (done.reason, done.incomplete, done.dropped) == ("", False, 0)
    with pytest.raises(subprocess.CalledProcessError):
        done.check_returncode()
    assert remote.run(["true"]).check_returncode() is None


# ---------------------------------------------------------------- arguments


ARGUMENTS: list[Any] = [
    ["echo", "one", "two  three", "", "$HOME *"],
    ("echo", "a tuple"),
    [b"echo", b"\xff\xfe\x80 bytes"],
    ["printf", "%s|", "new\nline", "quote'\"", "\t"],
    [Path("/bin/echo"), Path("/a/path")],
    "true",
    b"true",
    Path("/bin/true"),
    ["printf", "%s\n", *map(str, range(10_000))],
    ["printf", "%s", "x" * 131_071],
]


@pytest.mark.case("R20")
def test_arguments_arrive_as_they_are_r20(remote):
    for args in ARGUMENTS:
        assert check_same(remote, args)[0] == 0


COMMAND_LINES: list[tuple[Any, dict[str, Any]]] = [
    ("echo $((1 + 1)) | cat; echo err >&2; exit 4", {}),
    (b"printf '\xff\xfe'", {}),
    ("echo '$HOME' \"a  b\" *.none", {}),
    ("cat", {"input": b"typed"}),
    ("nosuchprogram", {}),
    ("/etc/passwd", {}),
    ("", {}),
]


def test_command_line_goes_to_the_shell(remote):
    for text, options in COMMAND_LINES:
        check_same(remote, text, shell=True, **options)


NOT_STARTED: list[tuple[Any, dict[str, Any], type[Exception]]] = [
    (["nosuchprogram"], {}, FileNotFoundError),
    (["/nosuch/program", "x"], {}, FileNotFoundError),
    (["./relative"], {}, FileNotFoundError),
    (["/etc/passwd"], {}, PermissionError),
    (["/etc"], {}, PermissionError),
    (["/etc/passwd/x"], {}, NotADirectoryError),
    (["true"], {"cwd": "/nosuchfolder"}, FileNotFoundError),
    (["true"], {"cwd": "/etc/passwd"}, NotADirectoryError),
    (["nosuchprogram"], {"cwd": "/"}, FileNotFoundError),
    (["true", "x" * 131_072], {}, OSError),
    (["x" * 300], {}, OSError),
    (["true", *["x" * 100_000] * 30], {}, OSError),
    (["true", *["x" * 100_000] * 50], {}, OSError),
    (["true", "a\0b"], {}, ValueError),
    (["a\0b"], {}, ValueError),
    (["true"], {"cwd": "a\0b"}, ValueError),
    (["true"], {"env": {"LC_A": "a\0b"}}, ValueError),
    (["true"], {"env": {"LC_A=B": "x"}}, ValueError),
    (["true"], {"env": {"LC_A": 1}}, TypeError),
    ([1], {}, TypeError),
    (5, {}, TypeError),
    (["cat"], {"input": "text without text="}, TypeError),
    (["cat"], {"input": b"x", "stdin": subprocess.DEVNULL}, ValueError),
]


@pytest.mark.case("R19")
def test_what_cannot_be_started_raises_as_it_does_here_r19(remote):
    for args, options, error in NOT_STARTED:
        found = check_same(remote, args, **options)
        assert (found["type"] if isinstance(found, dict) else found) is error, args
        assert remote.run(["echo", "next"]).stdout == b"next\n"  # it is of use still


@pytest.mark.case("R19")
def test_program_that_the_system_cannot_read_is_refused_as_here_r19(remote, tmp_path):
    strange = tmp_path / "strange"
    strange.write_bytes(b"\x7fELF of nothing")
    strange.chmod(0o755)
    check_same(remote, [str(strange)])
    strange.write_bytes(b"#!/nosuch/interpreter\n")
    assert check_same(remote, [str(strange)])["type"] is FileNotFoundError


def test_empty_list_of_arguments_or_empty_name_is_refused(remote):
    with pytest.raises(ValueError, match="empty"):
        remote.run([])
    with pytest.raises(ValueError, match="illegal name"):
        remote.run(["true"], env={"": "x"})


def test_command_runs_in_the_folder_asked_for(remote):
    for cwd in ("/", b"/usr", Path("/etc")):
        check_same(remote, ["pwd"], cwd=cwd)


def test_relative_program_is_sought_in_the_folder(remote, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho $0\n")
    script.chmod(0o755)
    assert check_same(remote, ["./script"], cwd=tmp_path)[1] == b"./script\n"


def test_relative_folder_is_below_the_home(remote):
    assert remote.run(["pwd"], cwd="..").stdout.decode().strip() == str(
        Path.home().resolve().parent
    )


# ---------------------------------------------------------------- input


@pytest.mark.case("R14")
def test_input_is_read_to_its_end_r14(remote):
    for data in (b"", b"x", b"a\0b\n\xff", os.urandom(300_000), bytearray(b"of a buffer")):
        assert check_same(remote, ["cat"], input=data)[1] == data
    assert check_same(remote, ["cat"], stdin=subprocess.DEVNULL)[1] == b""


@pytest.mark.case("R14")
def test_command_without_input_reads_from_the_null_device_r14(remote):
    assert remote.run(["cat"]).stdout == b""
    assert remote.run(["readlink", "/proc/self/fd/0"]).stdout in (b"/dev/null\n", b"")


def test_input_comes_from_a_file(remote, tmp_path):
    (tmp_path / "input").write_bytes(os.urandom(700_000))
    with (tmp_path / "input").open("rb") as file:
        assert remote.run(["cat"], stdin=file).stdout == (tmp_path / "input").read_bytes()
        file.seek(100)
        assert remote.run(["wc", "-c"], stdin=file).stdout.split() == [b"699900"]
    with io.BytesIO(b"in memory") as file:
        assert remote.run(["cat"], stdin=file).stdout == b"in memory"


# ---------------------------------------------------------------- output


TARGETS: list[dict[str, Any]] = [
    {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
    {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE},
    {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL},
    {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL},
    {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT},
    {"capture_output": True},
]


def test_streams_go_where_they_are_told(remote):
    for options in TARGETS:
        check_same(remote, sh("echo out; echo err >&2; echo out again"), **options)


def test_output_that_is_not_captured_is_not_kept(remote):
    done = remote.run(sh("echo out; echo err >&2"), capture_output=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, None, None)


def test_output_goes_to_a_file_or_a_descriptor(remote, tmp_path):
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        done = remote.run(sh("echo out; echo err >&2"), stdout=out, stderr=err.fileno())
        assert (done.returncode, done.stdout, done.stderr) == (0, None, None)
        assert (tmp_path / "out").read_bytes() == b"out\n"
        assert (tmp_path / "err").read_bytes() == b"err\n"


class Broken(io.BytesIO):
    """Takes one piece, and no more."""

    def write(self, data: Any) -> int:
        if self.tell():
            raise OSError(28, "No space left on device")
        return super().write(data)


@pytest.mark.case("R18")
@linux
def test_file_that_takes_no_more_ends_the_command_r18(remote, mark):
    script = "yes | head -c 600000; sleep 0.01; " * 2 + f"exec sleep {mark.seconds}"
    with pytest.raises(OSError, match="No space"):
        remote.run(sh(script), stdout=Broken(), env=mark.env)
    mark.await_end()
    assert remote.run(["echo", "next"]).stdout == b"next\n"


def test_output_that_can_go_nowhere_is_refused_before_the_start(remote):
    for target in ("text", -7, object()):
        with pytest.raises(TypeError):
            remote.run(["true"], stdout=target)
    assert remote.run(["echo", "next"]).stdout == b"next\n"


# ---------------------------------------------------------------- text


TEXT: list[dict[str, Any]] = [
    {"text": True},
    {"universal_newlines": True},
    {"encoding": "utf-8"},
    {"encoding": "latin-1"},
    {"errors": "replace", "encoding": "ascii"},
    {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
]


def test_text_is_given_and_taken(remote):
    for options in TEXT:
        text = "x" if "errors" in options else "grün\n"
        check_same(remote, ["cat"], input=text, **options)
        check_same(remote, ["printf", r"a\r\nb\rc\nd\r"], **options)


def test_text_that_is_none_raises_or_is_replaced(remote):
    strange = ["printf", r"\377"]
    with pytest.raises(UnicodeDecodeError):
        remote.run(strange, text=True)
    check_same(remote, strange, encoding="utf-8", errors="replace")
    check_same(remote, strange, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(TypeError, match="str"):
        remote.run(["cat"], input=b"x", text=True)


# ---------------------------------------------------------------- time


@linux
def test_command_that_takes_too_long_is_killed(remote, mark):
    command = sh("echo out; echo err >&2; exec sleep 1000")
    found = outcome(remote.run, command, {"timeout": 0.5, "env": mark.env})
    assert found == outcome(local, command, {"timeout": 0.5})
    assert found["output"] == b"out\n" and found["stderr"] == b"err\n"
    mark.await_end()
    assert remote.run(["echo", "next"]).stdout == b"next\n"


@linux
def test_timeout_kills_what_the_command_has_started_too(remote, mark):
    with pytest.raises(subprocess.TimeoutExpired):
        remote.run(
            sh(f"setsid sleep {mark.seconds} & sleep {mark.seconds} & wait"), timeout=0.3
        )
    mark.await_end()
    assert remote.run(["echo", "next"]).stdout == b"next\n"


def test_timeout_that_does_not_pass_changes_nothing(remote):
    check_same(remote, sh("echo hi; exit 3"), timeout=10)


def test_output_so_far_is_text_where_text_is_wanted(remote):
    for timeout in (0.3, 3, 30):  # where the shell takes its time there is none at first
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            line = sh("printf 'gr\\303\\274n\\n\\303'; sleep 100")
            remote.run(line, text=True, timeout=timeout)
        if caught.value.output is not None:
            break
    assert caught.value.output == "grün\n\N{REPLACEMENT CHARACTER}"


# ---------------------------------------------------------------- surroundings


@pytest.mark.case("R21")
def test_environment_is_a_clean_one_r21(remote, monkeypatch):
    monkeypatch.setenv("SECRET", "word")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/x")
    lines = remote.run(["env"], text=True).stdout.splitlines()
    found = dict(line.split("=", 1) for line in lines)
    names = {"PATH", "HOME", "SHELL", "USER", "LOGNAME", "PYSOCK_COMMAND"}
    assert names <= found.keys()
    assert not found.keys() - names - {"LANG", "TZ"} - {n for n in found if n[:3] == "LC_"}
    assert found["HOME"] == str(Path.home())
    assert "." not in found["PATH"].split(":")


@pytest.mark.case("R21")
def test_variable_that_the_server_allows_is_set_r21(remote):
    for name in ("LC_ALL", "LC_ANY", "LANG", "TERM"):
        show = sh(f'echo "${name}"')
        assert remote.run(show, env={name: "C"}).stdout == b"C\n"
        assert remote.run(show, env={name.encode(): b"C\xff"}).stdout == b"C\xff\n"


@pytest.mark.case("R21")
def test_variable_that_the_server_does_not_allow_is_refused_r21(remote):
    for name in [
        "LD_PRELOAD",
        "PATH",
        "BASH_ENV",
        "ENV",
        "IFS",
        "HOME",
        "PYSOCK_COMMAND",
        "lc_a",
    ]:
        with pytest.raises(RemoteError, match=f"variable {name} may not be set") as caught:
            remote.run(["true"], env={name: "x"})
        assert caught.value.code == "refused"
    assert remote.run(["echo", "next"]).stdout == b"next\n"


@pytest.mark.case("R21")
def test_too_many_or_too_long_variables_are_refused_r21(remote):
    assert remote.run(["true"], env={f"LC_{i}": "x" for i in range(32)}).returncode == 0
    with pytest.raises(RemoteError, match="33 variables"):
        remote.run(["true"], env={f"LC_{i}": "x" for i in range(33)})
    with pytest.raises(RemoteError, match="variable LC_A has 1025 bytes"):
        remote.run(["true"], env={"LC_A": "x" * 1020})
    assert remote.run(["true"], env={"LC_A": "x" * 1019}).returncode == 0


@pytest.mark.case("R32")
@linux
def test_command_has_three_descriptors_and_a_session_of_its_own_r32(remote):
    assert remote.run(sh("ls /proc/$$/fd")).stdout.split() == [b"0", b"1", b"2"]
    pid, group, session, tty = remote.run(
        sh("cut -d' ' -f1,5,6,7 /proc/$$/stat")
    ).stdout.split()
    assert pid == group == session
    assert tty == b"0"


@pytest.mark.case("S11", "R32")
@linux
def test_command_has_limits_and_signals_as_after_a_login_r32(tmp_path):
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        with remotes.served(tmp_path) as server, server.client() as remote:
            status = remote.run(["cat", "/proc/self/status"], text=True).stdout
            limits = remote.run(sh("ulimit -S -n; ulimit -c; umask")).stdout.split()
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
    masks = dict(line.split(":\t") for line in status.splitlines() if line[:3] == "Sig")
    of_libc = 0b11 << 31  # signals 32 and 33, which no program can set
    assert {int(masks[name], 16) & ~of_libc for name in ("SigBlk", "SigIgn")} == {0}
    assert int(limits[0]) <= 1024
    assert limits[1] == b"0"
    assert int(limits[2], 8) == _umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_folder_of_the_server_is_where_commands_run(tmp_path):
    (tmp_path / "work").mkdir()
    with remotes.served(tmp_path, cwd=tmp_path / "work") as server, server.client() as remote:
        assert remote.run(["pwd"], text=True).stdout.strip() == str(tmp_path / "work")
        assert remote.run(["pwd"], cwd="..", text=True).stdout.strip() == str(tmp_path)


def test_client_without_address_and_socket_is_refused():
    with pytest.raises(TypeError, match="address or sock="):
        RemoteClient()
    with pytest.raises(ValueError, match="timeout"):
        RemoteClient("unix:///x", timeout=0)


def test_python_as_a_command_behaves_as_here(remote):
    code = "import sys; print(sys.argv[1:]); sys.exit('bad')"
    check_same(remote, [sys.executable, "-I", "-c", code, "a b", "ü"], text=True)


def test_names_are_exported_and_say_what_they_are(server: Served, remote):
    assert repr(remote) == f"<RemoteClient {server.address} connected>"
    remote.close()
    assert repr(remote) == f"<RemoteClient {server.address} closed>"
