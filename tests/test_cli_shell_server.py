"""`pysock shell-server`, through real processes: where it listens, whom it serves, its end."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import certificates
import pysock
import secured
from programs import LIMIT, PYTHON, Program, until
from pysock.cli import Failure, main

options = pytest.importorskip("pysock.cli.remote_options")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")

certs = certificates.certs
secrets = secured.secrets

VERB = ["-P", "-m", "pysock", "shell-server"]
ROOT = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Program]:
    """Run the server, by default at the socket in *folder*."""
    env = {"XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)}
    program = Program(folder, [*VERB, *ROOT, *arguments], env)
    try:
        yield program
    finally:
        program.kill()


def client(program: Program) -> Any:
    from pysock.remote import RemoteClient

    return RemoteClient(program.address, timeout=LIMIT)


def run(folder: Path, *arguments: str, verb: str = "shell-server") -> tuple[int, str, str]:
    """Run a verb to its end."""
    done = subprocess.run(
        [*PYTHON, "-P", "-m", "pysock", verb, *arguments],
        cwd=folder,
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
        capture_output=True,
        timeout=LIMIT,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


# ------------------------------------------------------------ what it does


def test_line_says_where_it_listens_and_how_it_is_used(tmp_path):
    with serving(tmp_path) as served:
        usage = served.has_said(
            rf"^pysock {re.escape(pysock.__version__)} serves commands on "
            rf"unix://{tmp_path}/pysock\.sock \(pid {served.pid}\): pysock (run -- uname -a)\n"
        )[1]
        assert run(tmp_path, *shlex.split(usage)[1:], verb="run")[0] == 0
        assert (tmp_path / "pysock.sock").stat().st_mode & 0o777 == 0o600
        assert served.stop() == 0
        assert "Traceback" not in served.said
    assert not (tmp_path / "pysock.sock").exists()


@pytest.mark.case("S01")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGHUP, 0)])
def test_end_by_sigint_has_status_130_and_by_sighup_0(tmp_path, number, status):
    with serving(tmp_path) as served:
        served.has_said("serves")
        assert served.stop(number) == status


def test_line_has_what_a_client_needs_of_tls_and_keys(tmp_path, certs, secrets):
    arguments = ["--bind", "tls://127.0.0.1:0", *secured.given(certs.server)]
    with serving(tmp_path, *arguments, "--users", secrets.users) as served:
        usage = served.has_said(r"\): pysock run (.*)\n")[1]
        assert f"--pin {certs.server.pin} --user NAME --authkey FILE -- " in usage
        usage = usage.replace("NAME", "alice").replace("FILE", secrets.authkey)
        status, out, said = run(tmp_path, *shlex.split(usage), verb="run")
        assert (status, said) == (0, "")
        assert out.startswith(os.uname().sysname)
        served.has_said(r"INFO user=alice peer=\S.* uname -a: exit 0")


@pytest.mark.parametrize(
    ("given", "shown", "which"),
    [
        ("tls://:0", r"tls://:\d+", "address"),
        ("tls://0.0.0.0:0", r"tls://0\.0\.0\.0:\d+", "IPv4 address"),
    ],
)
def test_line_says_that_every_interface_is_listened_on(
    tmp_path, certs, secrets, given, shown, which
):
    arguments = [*secured.given(certs.server), "--authkey", secrets.authkey]
    with serving(tmp_path, "--bind", given, *arguments) as served:
        served.has_said(rf"commands on {shown} \(every {which} of this machine\) \(pid ")
        served.has_said(r"\): pysock run tls://HOST:\d+ --pin ")


def test_refusal_of_every_interface_does_not_say_localhost(tmp_path):
    status, _, said = run(tmp_path, *ROOT, "--bind", "tcp://:0")
    assert (status, said.count("\n")) == (2, 1)
    assert "localhost" not in said
    assert "pass --certificate and --authkey" in said


def test_several_addresses_are_served(tmp_path):
    paths = [f"unix://{tmp_path}/{name}" for name in "ab"]
    with serving(tmp_path, "--bind", paths[0], "--bind", paths[1]) as served:
        served.has_said(rf"{paths[0]}, {paths[1]} ")
        for path in paths:
            assert run(tmp_path, path, "--", "echo", "a", verb="run") == (0, "a\n", "")


def test_plain_tcp_without_a_key_is_served_on_loopback_if_that_is_wanted(tmp_path):
    with serving(tmp_path, "--bind", "tcp://127.0.0.1:0", "--insecure") as served:
        usage = served.has_said(r"\): pysock run (.*)\n")[1]
        assert run(tmp_path, *shlex.split(usage), verb="run")[0] == 0


def test_insecure_is_refused_beyond_loopback_with_a_key_too(tmp_path, secrets):
    arguments = ["--bind", "tcp://0.0.0.0:0", "--insecure", "--authkey", secrets.authkey]
    status, _, said = run(tmp_path, *ROOT, *arguments)
    assert status == 2
    assert said.endswith("no loopback address: --insecure is for those\n")


def test_plain_tcp_with_a_key_is_served_on_loopback_if_that_is_wanted(tmp_path, secrets):
    bind = ["--bind", "tcp://127.0.0.1:0", "--authkey", secrets.authkey]
    with serving(tmp_path, *bind, "--insecure") as served:
        options = [served.address, "--authkey", secrets.authkey]
        assert run(tmp_path, *options, "--", "echo", "a", verb="run") == (0, "a\n", "")
        status, out, said = run(tmp_path, served.address, "--", "echo", "a", verb="run")
        assert (status, out) == (255, "")
        assert said.count("\n") == 1


def test_only_allowed_programs_run(tmp_path):
    with (
        serving(tmp_path, "--allow", "echo", "--allow", "true") as served,
        client(served) as us,
    ):
        served.has_said(r"pysock run -- echo\n")
        assert us.run(["echo", "a"]).stdout == b"a\n"
        assert us.run("true", shell=True).returncode == 0
        for words, shell in (["cat"], False), ("echo a; cat", True), (["/bin/echo"], False):
            with pytest.raises(pysock.RemoteError, match="may not: "):
                us.run(words, shell=shell)
        with pytest.raises(pysock.RemoteError, match="no files"):
            us.listdir()


def test_files_are_served_below_their_folder_whatever_programs_are_allowed(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a").write_text("b")
    arguments = ["--allow", "true", "--files-root", "files"]
    with serving(tmp_path, *arguments) as served, client(served) as us:
        assert [entry.name for entry in us.listdir()] == [b"a"]
        us.get("a", tmp_path / "copy")
        assert (tmp_path / "copy").read_text() == "b"


def test_limits_folder_and_variables_are_as_given(tmp_path):
    (tmp_path / "here").mkdir()
    arguments = ["--cwd", "here", "--allow-env", "MY_*", "--time-limit", "0.5"]
    arguments += ["--limit", "open_files=55", "--limit", "memory=1G", "--max-output", "1k"]
    with serving(tmp_path, *arguments, "--max-running", "1") as served, client(served) as us:
        script = "pwd; echo $MY_ONE $LC_TIME; ulimit -n; ulimit -v"
        variables = {"MY_ONE": "1", "LC_TIME": "C"}
        found = us.run(script, shell=True, env=variables, text=True)
        assert found.stdout == f"{tmp_path}/here\n1 C\n55\n1048576\n"
        with us.start(["sleep", "1000"]) as process, client(served) as another:
            with pytest.raises(pysock.RemoteError, match="1 commands run already"):
                another.run(["true"])
            assert process.wait() < 0
            assert "longer than 0.5 s" in process.exit.reason
        assert "more than 1024 bytes" in us.run(["yes"]).reason


# ------------------------------------------------------------ the log


def test_commands_are_logged_on_stderr(tmp_path):
    with serving(tmp_path) as served, client(served) as us:
        us.run(["sh", "-c", "exit 3"])
        served.has_said(r"INFO user=\S+ peer=\S+ sh -c 'exit 3': exit 3, 0 bytes in, 0 out")


def test_audit_file_has_every_command_and_is_for_the_user_alone(tmp_path):
    audit = tmp_path / "audit"
    arguments = ["--audit", str(audit), "--log-level", "error"]
    with serving(tmp_path, *arguments) as served, client(served) as us:
        us.run(["echo", "one\n\x1b[2J"])
        until(lambda: "exit 0" in audit.read_text())
        audit.rename(tmp_path / "old")
        us.run(["echo", "two"])
        until(lambda: audit.exists() and "echo two" in audit.read_text())
        assert served.said.count("\n") == 1
        assert audit.stat().st_mode & 0o777 == 0o600
    old = (tmp_path / "old").read_text()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \S+ user=\S+ peer=\S+ echo .*: exit 0, .*\n", old)
    assert "\x1b" not in old
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o600
    with serving(tmp_path, "--audit", "old") as served, client(served) as us:
        us.run(["echo", "three"])
        until(lambda: (tmp_path / "old").read_text().count("\n") == 2)
        assert "echo three" not in served.said


def test_audit_file_that_cannot_be_written_is_told_and_holds_nothing_up(tmp_path):
    (tmp_path / "logs").mkdir()
    with serving(tmp_path, "--audit", "logs/audit") as served, client(served) as us:
        (tmp_path / "logs" / "audit").unlink()
        (tmp_path / "logs").rmdir()
        for _ in range(2):
            assert us.run(["echo", "a"]).stdout == b"a\n"
        served.has_said("(?s)(the audit file cannot be written: .*No such file.*){2}")
        assert "Traceback" not in served.said


# ------------------------------------------------------------ the end


@pytest.mark.case("R30")
def test_end_waits_for_commands_that_run(tmp_path):
    """R30"""
    go = tmp_path / "go"
    with serving(tmp_path) as served, client(served) as us:
        script = f"echo ready; while [ ! -e {go} ]; do sleep 0.02; done; echo done"
        with us.start(script, shell=True) as process:
            assert process.read() == ("stdout", b"ready\n")
            served.send_signal(signal.SIGTERM)
            served.has_said("INFO stopping: what runs has 30 s")
            go.touch()
            assert process.read() == ("stdout", b"done\n")
            assert process.wait() == 0
        assert served.end() == 0


@pytest.mark.case("R30")
@pytest.mark.parametrize("arguments", [(), ("--drain", "0")])
def test_end_is_cut_by_a_second_signal_or_without_drain(tmp_path, arguments):
    """R30"""
    with serving(tmp_path, *arguments) as served, client(served) as us:
        with us.start(["sleep", "1000"]) as process:
            served.send_signal(signal.SIGTERM)
            if not arguments:
                served.has_said("INFO stopping")
                served.send_signal(signal.SIGTERM)
            assert process.wait() == -signal.SIGHUP
            assert process.exit.reason == "the server is stopping"
        assert served.end() == 0


@pytest.mark.case("R32")
def test_ignored_signals_are_not_handed_down(tmp_path):
    """R32"""
    code = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    program = Program(tmp_path, ["-c", code, *VERB, *ROOT], env)
    try:
        with client(program) as us:
            assert us.run("kill -HUP $$; echo survived", shell=True).returncode == -1
    finally:
        program.kill()


# ------------------------------------------------------------ the default address


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folders that stand for /run/user and /tmp, without a session's own."""
    for name in ("SESSIONS", "TEMPORARY"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(options, name, str(tmp_path / name))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path


def test_default_address_is_in_the_session_s_folder(places, monkeypatch):
    user = os.geteuid()
    session = places / "SESSIONS" / str(user)
    session.mkdir(mode=0o700)
    assert options.default_address() == f"unix://{session}/pysock.sock"
    other = places / "other"
    other.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(other))
    assert options.default_address() == f"unix://{other}/pysock.sock"
    other.chmod(0o750)
    assert options.default_address() == f"unix://{session}/pysock.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "other")
    assert options.default_address() == f"unix://{session}/pysock.sock"


def test_default_address_is_in_a_folder_of_our_own_else(places):
    folder = places / "TEMPORARY" / f"pysock-{os.geteuid()}"
    address = f"unix://{folder}/pysock.sock"
    assert options.default_address() == address
    assert not folder.exists()
    before = os.umask(0o777)
    try:
        assert options.default_address(make=True) == address
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert options.default_address(make=True) == address


@pytest.mark.parametrize("make", [False, True])
@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        (lambda folder: folder.symlink_to(folder.parent), "is no folder"),
        (lambda folder: folder.write_text(""), "is no folder"),
        (lambda folder: folder.mkdir(mode=0o755), "has mode 0755, which lets others in"),
        (
            lambda folder: (folder.mkdir(mode=0o700), os.chown(folder, 1, 1)),
            "belongs to user 1",
        ),
    ],
)
def test_folder_that_others_have_a_hand_in_is_refused(places, flaw, said, make):
    folder = places / "TEMPORARY" / f"pysock-{os.geteuid()}"
    try:
        flaw(folder)
    except PermissionError:
        pytest.skip("only root can make this")
    with pytest.raises(Failure) as caught:
        options.default_address(make=make)
    assert caught.value.text == f"folder {folder} {said}: remove it, or name another address"


# ------------------------------------------------------------ what goes wrong


def test_root_is_refused(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("this is not root")
    assert run(tmp_path) == (
        2,
        "",
        "pysock shell-server: this is root, as whom every command would run; if that is "
        "wanted: --allow-root\n",
    )


def test_address_in_use_is_one_line_and_status_1(tmp_path):
    with serving(tmp_path) as served:
        served.has_said("serves")
        status, out, said = run(tmp_path, *ROOT)
    assert (status, out) == (1, "")
    assert said.startswith(
        f"pysock shell-server: cannot listen on unix://{tmp_path}/pysock.sock"
    )
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--bind tcp://127.0.0.1:0", "'tcp://127.0.0.1:"),
        ("--bind 0.0.0.0:0 --insecure", "'tcp://0.0.0.0:"),
        ("--bind tls://127.0.0.1:0", "address 'tls://127.0.0.1:0' needs a certificate"),
        ("--bind nowhere", "address 'nowhere': no port"),
        ("--files-root ./no", "argument --files-root: './no' is no folder"),
        ("--cwd ./no", "argument --cwd: './no' is no folder"),
        ("--max-running 0", "argument --max-running: '0' is not a whole number from 1 to"),
        ("--time-limit 0", "argument --time-limit: '0' is not a number of seconds above 0"),
        ("--max-output x", "argument --max-output: 'x' is not a number of bytes"),
        ("--limit memory", "argument --limit: 'memory' is not NAME=VALUE, as in memory=2G"),
        ("--limit x=1", "argument --limit: 'x' is no limit; there are cpu, memory,"),
        ("--limit cpu=x", "argument --limit: 'x' is not a whole number from 1 to"),
        ("--drain -1", "argument --drain: '-1' is not a number of seconds from 0 to 2000000"),
        ("--audit /no/where", "cannot write '/no/where': No such file or directory"),
        ("--users /no/where", "cannot read '/no/where': No such file or directory"),
        ("word", "unrecognized arguments: word"),
    ],
)
def test_wrong_command_line_is_one_line_and_status_2(
    tmp_path, monkeypatch, capsys, arguments, said
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert main(["shell-server", *ROOT, *arguments.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"pysock shell-server: {said}")
    assert err.count("\n") == 1
    assert "=True" not in err


def test_help_tells_signals_statuses_and_examples(capsys):
    assert main(["shell-server", "--help"]) == 0
    out = capsys.readouterr().out
    for word in ("SIGTERM", "  pysock shell-server\n", "exit status: 0", "130", "--audit"):
        assert word in out
