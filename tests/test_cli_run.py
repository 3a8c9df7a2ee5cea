"""`pysock run`, through real processes: streams, input, signals, exit status."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import certificates
import runs
import secured
from conftest import linux
from peers import Task
from programs import LIMIT, until
from pysock import tls
from pysock.cli import main
from pysock.remote.protocol import Exit, eof
from runs import COMMAND, Served, ending, is_gone, line

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")

served = runs.served
certs = certificates.certs
secrets = secured.secrets

# ------------------------------------------------------------ streams and status


def test_output_and_error_output_come_out_each_where_it_belongs(served):
    assert served.sh("echo a; echo b >&2; printf '\\0\\377'; exit 7") == (
        7,
        b"a\n\0\xff",
        "b\n",
    )


@pytest.mark.case("R01")
@pytest.mark.parametrize("status", [0, 1, 126, 127, 255])
def test_exit_status_is_the_command_s(served, status):
    """R01"""
    assert served.sh(f"exec 1>&- 2>&-; exit {status}") == (status, b"", "")


@pytest.mark.case("R02")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
def test_command_that_a_signal_ends_has_status_128_and_its_number(served, number):
    """R02"""
    assert served.sh(f"kill -{int(number)} $$") == (128 + number, b"", "")


@pytest.mark.case("R19")
def test_command_that_is_not_there_has_status_127(served):
    """R19"""
    assert served.run("--", "no-such-program") == (
        127,
        b"",
        "pysock run: no-such-program: command not found\n",
    )


@pytest.mark.case("R19")
def test_command_that_cannot_be_executed_has_status_126(served):
    """R19"""
    (served.folder / "text").write_text("no program")
    assert served.run("--", "./text")[::2] == (
        126,
        "pysock run: ./text: Permission denied\n",
    )


@pytest.mark.case("R19")
def test_folder_that_is_missing_is_a_failure_of_ours(served):
    """R19"""
    status, out, said = served.run("--cwd", "/no/where", "--", "pwd")
    assert (status, out) == (255, b"")
    assert said == "pysock run: cannot run there: /no/where: No such file or directory\n"


def test_words_reach_the_command_as_they_are(served):
    words = ["$HOME *", "", "--", "-n", "\udcff"]
    status, out, said = served.run("--", "printf", "%s|", *words)
    assert (status, said) == (0, "")
    assert out == b"$HOME *||--|-n|\xff|"


def test_shell_runs_the_words_as_one_line(served):
    assert served.run("--shell", "--", "echo", "a b", "|", "tr a-z A-Z") == (0, b"A B\n", "")


@pytest.mark.case("R03")
def test_output_of_megabytes_is_whole_and_in_order(served):
    """R03"""
    script = "seq 1 400000; seq 1 400000 >&2"
    status, out, said = served.sh(script)
    wanted = "".join(f"{number}\n" for number in range(1, 400001))
    assert status == 0
    assert out.decode() == wanted
    assert said == wanted


@pytest.mark.case("R05")
def test_error_output_comes_after_the_output_is_closed(served):
    """R05"""
    assert served.sh("exec 1>&-; sleep 0.1; echo late >&2") == (0, b"", "late\n")


def test_folder_and_variables_are_as_given(served):
    (served.folder / "sub").mkdir()
    options = ["--cwd", "sub", "--env", "LC_ONE=1=2", "--env", "TERM=mine"]
    status, out, said = served.run(
        *options, "--", "sh", "-c", "pwd; echo $LC_ONE $TERM $LANG", LANG="C.UTF-8"
    )
    assert (status, said) == (0, "")
    assert out.decode() == f"{served.folder}/sub\n1=2 mine C.UTF-8\n"


@pytest.mark.case("R21")
def test_variable_that_the_server_does_not_allow_is_refused(served):
    """R21"""
    status, out, said = served.run("--env", "LD_PRELOAD=x", "--", "true")
    assert (status, out) == (255, b"")
    assert said.startswith("pysock run: variable LD_PRELOAD may not be set")
    assert said.count("\n") == 1


def test_command_that_takes_too_long_is_killed(served):
    marker = served.folder / "pid"
    status, out, said = served.sh(
        f"echo $$ > {marker}; echo a; sleep 1000", "--timeout", "0.3"
    )
    assert (status, out) == (124, b"a\n")
    assert said == "pysock run: the command took longer than 0.3 s: it was killed\n"
    until(lambda: is_gone(int(marker.read_text())))


@pytest.mark.case("R27")
def test_reason_of_the_server_is_told(tmp_path):
    """R27"""
    remote = pytest.importorskip("pysock.remote")
    address = f"unix://{tmp_path}/pysock.sock"
    with remote.RemoteServer(address, allow_root=True, max_output=100) as server:
        server.start()
        status, _, said = Served(tmp_path, server).run("--", "yes")
        server.stop(0)
    assert status == 128 + signal.SIGKILL
    text = "the server has ended the command: it wrote more than 100 bytes (--max-output)"
    assert said == f"pysock run: {text}\n"


# ------------------------------------------------------------ input


@pytest.mark.case("R13", "R14")
def test_input_is_passed_on_whole_and_to_its_end(served):
    """R13, R14"""
    data = os.urandom(8 << 20)
    assert served.run("--", "cat", stdin=data) == (0, data, "")


@pytest.mark.case("R13")
def test_input_that_nobody_reads_holds_nothing_up(served):
    """R13"""
    assert served.run("--", "true", stdin=bytes(4 << 20)) == (0, b"", "")
    assert served.sh("head -c 3; exec 0<&-; sleep 0.1", stdin=bytes(4 << 20))[:2] == (
        0,
        bytes(3),
    )


@pytest.mark.case("R14")
def test_input_is_not_read_with_no_input(served):
    """R14"""
    with served.running("-n", "--", "sh", "-c", "cat; echo end") as process:
        assert ending(process) == (0, b"end\n", "")


def test_command_s_end_does_not_wait_for_input(served):
    with served.running("--", "sh", "-c", "read word; echo $word") as process:
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        assert ending(process) == (0, b"hello\n", "")


def test_closed_input_is_no_input(served):
    code = 'exec "$@" 0<&-'
    done = subprocess.run(
        ["sh", "-c", code, "sh", *COMMAND, "--", "sh", "-c", "cat; echo end"],
        capture_output=True,
        timeout=LIMIT,
        env=served.env,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"end\n", b"")


CLOSED = "cannot write the output: standard output is closed"


@pytest.mark.parametrize(
    ("closing", "script", "status", "said"),
    [
        ("1>&-", "echo a", 255, f"pysock run: {CLOSED}\n"),
        ("1>&-", "echo b >&2; exit 3", 3, "b\n"),
        ("2>&-", "echo b >&2; exit 3", 3, ""),
        ("1>&- 2>&-", "echo a", 255, ""),
        ("0<&- 1>&- 2>&-", "echo b >&2", 0, ""),
    ],
)
def test_closed_output_is_a_failure_where_there_is_any(served, closing, script, status, said):
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closing}', "sh", *COMMAND, "--", "sh", "-c", script],
        capture_output=True,
        timeout=LIMIT,
        env=served.env,
    )
    assert (done.returncode, done.stdout, done.stderr.decode()) == (status, b"", said)


def test_input_that_cannot_be_read_kills_the_command(served):
    marker = served.folder / "pid"
    script = f"echo $$ > {marker}; exec sleep 1000"
    with (
        open(os.devnull, "wb") as unreadable,
        served.running("--", "sh", "-c", script, stdin=unreadable) as process,
    ):
        status, out, said = ending(process)
    assert (status, out) == (255, b"")
    assert said == "pysock run: cannot read standard input: Bad file descriptor\n"


# ------------------------------------------------------------ readers


@pytest.mark.case("R08")
def test_output_without_a_reader_kills_the_command(served):
    """R08"""
    with served.running("--", "sh", "-c", "echo $$; exec yes") as process:
        pid = int(line(process))
        process.stdout.close()
        process.stdout = None
        assert process.wait(LIMIT) == 141
        assert process.stderr.read() == b""
    until(lambda: is_gone(pid))


@pytest.mark.case("R06")
@linux
def test_reader_that_stands_still_holds_up_the_command(served):
    """R06"""
    size, marker = 100_000_000, served.folder / "written"
    script = f"cat <&3 >/dev/null & head -c {size} /dev/zero; echo > {marker}; wait"
    with served.running("--", "sh", "-c", f"exec 3<&0; {script}") as process:
        feeding = Task(process.stdin.write, bytes(2 << 20))  # goes on meanwhile, or later
        until(lambda: pending(process) >= 65536)
        seen: list[int] = []

        def is_still() -> bool:
            seen.append(memory(process.pid))
            return len(seen) > 20 and len(set(seen[-20:])) == 1

        until(is_still)
        assert not marker.exists()
        assert seen[-1] < 64 << 20
        assert len(process.stdout.read(size)) == size
        feeding.finish()
        process.stdin.close()
        assert process.wait(LIMIT) == 0
        assert marker.exists()


def pending(process: subprocess.Popen[bytes]) -> int:
    """How many bytes wait to be read."""
    import array
    import fcntl
    import termios

    count = array.array("i", [0])
    fcntl.ioctl(process.stdout, termios.FIONREAD, count)
    return count[0]


def memory(pid: int) -> int:
    words = Path(f"/proc/{pid}/status").read_text().split()
    return 1024 * int(words[words.index("VmRSS:") + 1])


@pytest.mark.case("R18")
def test_output_that_cannot_be_written_kills_the_command(served):
    """R18"""
    if not os.path.exists("/dev/full"):
        pytest.skip("no device that is always full")
    with (
        open("/dev/full", "wb") as full,
        served.running("--", "yes", stdout=full) as process,
    ):
        assert process.wait(LIMIT) == 255
        said = process.stderr.read().decode()
    assert said == "pysock run: cannot write the output: No space left on device\n"


# ------------------------------------------------------------ signals

TRAPS = (
    'for s in INT TERM HUP USR1; do trap "echo $s" $s; done; exec 2>/dev/null; echo ready; '
)
LOOP = "while :; do sleep 0.05; done"


def test_ctrl_c_interrupts_the_command(served):
    with served.running("--", "sh", "-c", "echo ready; exec sleep 1000") as process:
        line(process)
        process.send_signal(signal.SIGINT)
        assert ending(process) == (130, b"", "")


def test_ctrl_c_again_terminates_and_a_third_one_kills(served):
    with served.running("--", "sh", "-c", f"{TRAPS} echo $$; {LOOP}") as process:
        assert line(process) == b"ready\n"
        pid = int(line(process))
        process.send_signal(signal.SIGINT)
        assert line(process) == b"INT\n"
        process.send_signal(signal.SIGINT)
        assert line(process) == b"TERM\n"
        process.send_signal(signal.SIGINT)
        assert ending(process)[::2] == (130, "")
    until(lambda: is_gone(pid))


def test_other_signals_go_to_the_command(served):
    with served.running("--", "sh", "-c", TRAPS + LOOP) as process:
        assert line(process) == b"ready\n"
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
            process.send_signal(number)
            assert line(process) == f"{number.name[3:]}\n".encode()


def test_signal_that_was_ignored_stays_so(served):
    code = "trap '' HUP; exec \"$@\""
    arguments = ["sh", "-c", code, "sh", *COMMAND, "--", "sh", "-c", TRAPS + LOOP]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=served.env
    ) as process:
        assert line(process) == b"ready\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert line(process) == b"TERM\n"
        process.kill()


@pytest.mark.case("R09")
def test_command_dies_with_this_one(served):
    """R09"""
    with served.running("--", "sh", "-c", "echo $$; exec sleep 1000") as process:
        pid = int(line(process))
        process.kill()
        process.wait()
    until(lambda: is_gone(pid))


# ------------------------------------------------------------ what goes wrong


def test_server_that_is_missing_is_one_line_and_status_255(tmp_path):
    status, out, said = Served(tmp_path, None).run("--", "true")
    assert (status, out) == (255, b"")
    assert said == (
        f"pysock run: cannot connect to unix://{tmp_path}/pysock.sock: No such file or "
        "directory, no server has made this path; `pysock shell-server` starts one\n"
    )


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A server that the test plays itself."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "pysock.sock"))
        sock.listen()
        sock.settimeout(LIMIT)
        yield sock


@pytest.mark.case("R15")
def test_connection_that_is_lost_is_never_a_success(tmp_path, listener):
    """R15"""
    with (
        Served(tmp_path, None).running("--", "true") as process,
        listener.accept()[0] as sock,
    ):
        sock.settimeout(LIMIT)
        sock.sendall(sock.recv(100))  # its version is ours
        sock.recv(100)
        sock.sendall(b"\0\0\0\5\3\0\0\0\0")  # it has started
        sock.sendall(b"\0\0\0\2\4a")
        sock.shutdown(socket.SHUT_WR)
        status, out, said = ending(process)
    assert (status, out) == (255, b"a")
    assert "exit status is unknown" in said
    assert said.count("\n") == 1


def test_escape_sequences_of_the_server_do_not_reach_the_terminal(tmp_path, listener):
    with (
        Served(tmp_path, None).running("--", "true") as process,
        listener.accept()[0] as sock,
    ):
        sock.settimeout(LIMIT)
        sock.sendall(sock.recv(100))
        sock.recv(100)
        sock.sendall(b"\0\0\0\5\3\0\0\0\0")
        for message in (eof(1), eof(2), Exit(3, reason="\x1b[2Jgone").encode()):
            sock.sendall(len(message).to_bytes(4, "big") + message)
        status, out, said = ending(process)
    assert (status, out) == (3, b"")
    assert said == "pysock run: the server has ended the command: '\\x1b[2Jgone'\n"


def test_peer_that_speaks_something_else_is_one_line(tmp_path, listener):
    with (
        Served(tmp_path, None).running("--", "true") as process,
        listener.accept()[0] as sock,
    ):
        sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        status, out, said = ending(process)
    assert (status, out) == (255, b"")
    assert said.count("\n") == 1


def test_key_and_certificate_are_checked(tmp_path, certs, secrets):
    files = certs.server
    context = tls.server_context(*files)
    key = bytes.fromhex(secrets.keys[0])
    remote = pytest.importorskip("pysock.remote")
    with remote.RemoteServer(
        "tls://127.0.0.1:0", allow_root=True, tls=context, authkey=key
    ) as server:
        server.start()
        client = Served(tmp_path, server)
        address = str(server.address)
        right = [address, "--ca", str(certs.ca), "--authkey", secrets.authkey]
        assert client.run(*right, "--", "echo", "a") == (0, b"a\n", "")
        pinned = [address, "--pin", files.pin, "--authkey", secrets.authkey]
        assert client.run(*pinned, "--", "true") == (0, b"", "")
        for wrong in (
            [address, "--ca", str(certs.other_ca), "--authkey", secrets.authkey],
            [address, "--ca", str(certs.ca), "--authkey", secrets.other],
            [address, "--ca", str(certs.ca)],
        ):
            status, out, said = client.run(*wrong, "--", "echo", "a")
            assert (status, out) == (255, b"")
            assert said.count("\n") == 1
        server.stop(0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the command is missing; it comes after --, as in: pysock run -- ls -l"),
        (["ls"], "the command is missing"),
        (["a", "--"], "the command is missing"),
        (["--", ""], "the command's name is empty"),
        (["a", "b", "--", "ls"], "unrecognized arguments: b"),
        (["--wrong", "--", "ls"], "unrecognized arguments: --wrong"),
        (["--env", "x", "--", "ls"], "argument --env: 'x' is not NAME=VALUE"),
        (["--timeout", "0", "--", "ls"], "argument --timeout: '0' is not a number of seconds"),
        (["nowhere", "--", "ls"], "address 'nowhere': no port"),
        (["--insecure", "--", "ls"], "--insecure is for an authkey without TLS"),
        (["--authkey", "/no/where", "--", "ls"], "cannot read '/no/where'"),
    ],
)
def test_wrong_command_line_is_one_line_and_status_2(
    tmp_path, monkeypatch, capsys, arguments, said
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert main(["run", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"pysock run: {said}")
    assert err.count("\n") == 1


def test_help_tells_statuses_signals_and_examples(capsys):
    assert main(["run", "--help"]) == 0
    out = capsys.readouterr().out
    for word in ("[ADDRESS] -- COMMAND", "128 + n", "124", "127", "255", "  pysock run -- "):
        assert word in out
