"""The command line, through real processes: what it prints, what it says, how it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pysock
from conftest import TIME_FACTOR, linux, unix
from pysock import formats
from pysock.cli import main

LIMIT = 20 * TIME_FACTOR

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="pipes and signals of POSIX"),
    pytest.mark.usefixtures("elsewhere"),
]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "pysock", *arguments]


def run(*arguments: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """Run the command; return status, output and what it said on stderr."""
    done = subprocess.run(command(*arguments), input=stdin, capture_output=True, timeout=LIMIT)
    return done.returncode, done.stdout, done.stderr.decode()


@contextlib.contextmanager
def running(
    *arguments: str, stdin: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        command(*arguments), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ending(process: subprocess.Popen[bytes]) -> tuple[int, bytes, str]:
    """Wait for the end without closing the command's input."""
    process.wait(LIMIT)
    assert process.stdout is not None and process.stderr is not None
    return process.returncode, process.stdout.read(), process.stderr.read().decode()


@pytest.fixture
def upper() -> Iterator[str]:
    with pysock.Server("tcp://127.0.0.1:0", bytes.upper).start() as server:
        yield str(server.address)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server that the test plays itself."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(LIMIT)
        yield sock


def at(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


# ---------------------------------------------------------------- the command itself


def test_version_is_the_package_s():
    assert run("--version") == (0, f"pysock {pysock.__version__}\n".encode(), "")


def test_help_lists_verbs_and_every_verb_shows_an_example():
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    for verb in ("demo", "send"):
        assert f"\n  {verb} ".encode() in out
        status, shown, err = run(verb, "--help")
        assert (status, err) == (0, "")
        assert f"  pysock {verb}".encode() in shown


def test_help_of_send_lists_every_format():
    words = run("send", "--help")[1].decode().replace(",", " ").split()
    assert set(formats.NAMED) <= set(words)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "pysock: the following arguments are required: VERB"),
        (["juggle"], "pysock: argument VERB: invalid choice: 'juggle'"),
        (["--nosuch"], "pysock: unrecognized arguments: --nosuch; see pysock --help"),
        (["--nosuch", "send"], "pysock: unrecognized arguments: --nosuch;"),
        (["-x"], "pysock: unrecognized arguments: -x;"),
        (["--framing=line", "send"], "pysock: unrecognized arguments: --framing=line;"),
        (["--version=3"], "pysock: argument --version: ignored explicit argument '3';"),
        (["--"], "pysock: the following arguments are required: VERB"),
        (["--", "send"], "pysock: the following arguments are required: VERB"),
        (["-"], "pysock: argument VERB: invalid choice: '-'"),
        (["-5"], "pysock: argument VERB: invalid choice: '-5'"),
        ([""], "pysock: argument VERB: invalid choice: ''"),
        (["send"], "pysock send: the following arguments are required: ADDRESS;"),
        (["send", "x:1", "--wrong"], "pysock send: unrecognized arguments: --wrong"),
        (["send", "x:1", "--no-reply", "--until-close"], "pysock send: argument --until"),
        (["demo", "x"], "pysock demo: unrecognized arguments: x"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, said):
    status, out, err = run(*arguments)
    assert (status, out) == (2, b"")
    assert err.startswith(said)
    assert err.count("\n") == 1
    assert "--help" in err


def test_main_returns_the_status(capsys):
    assert main(["--version"]) == 0
    assert main(["juggle"]) == 2
    assert capsys.readouterr().out == f"pysock {pysock.__version__}\n"


def test_verbs_load_when_they_are_asked_for():
    code = "import sys, pysock.cli; print([m for m in sys.modules if 'pysock.cli.' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=LIMIT)
    assert done.stdout == b"[]\n"


# ---------------------------------------------------------------- send: what it does


def test_send_arguments_prints_a_reply_each(upper):
    assert run("send", upper, "hello", "", "how are you?") == (
        0,
        b"HELLO\n\nHOW ARE YOU?\n",
        "",
    )


def test_send_takes_options_anywhere_and_messages_that_look_like_them(upper):
    status, out, _ = run("send", "--timeout", "9", upper, "a", "--framing", "length4", "b")
    assert (status, out) == (0, b"A\nB\n")
    assert run("send", upper, "--", "-x", "--hex")[:2] == (0, b"-X\n--HEX\n")


def test_send_argument_bytes_arrive_as_they_are(upper):
    done = subprocess.run(
        [os.fsencode(word) for word in command("send", upper)] + [b"\xff\xc3"],
        stdout=subprocess.PIPE,
        timeout=LIMIT,
    )
    assert done.stdout == b"\xff\xc3\n"


def test_send_lines_of_stdin(upper):
    assert run("send", upper, stdin=b"a\n\nb\r\nc") == (0, b"A\n\nB\r\nC\n", "")


def test_send_without_input_does_nothing(upper):
    assert run("send", upper) == (0, b"", "")


def test_send_sends_a_line_as_soon_as_it_comes(upper):
    with running("send", upper) as process:
        assert process.stdin is not None and process.stdout is not None
        for word in (b"one\n", b"two\n"):
            process.stdin.write(word)
            process.stdin.flush()
            assert process.stdout.readline() == word.upper()
        process.stdin.close()
        assert ending(process) == (0, b"", "")


def test_send_many_lines_through_pipes(upper):
    lines = b"".join(b"line %d\n" % number for number in range(200_000))
    status, out, err = run("send", upper, stdin=lines)
    assert (status, err) == (0, "")
    assert out == lines.upper()


def test_send_line_longer_than_every_buffer(upper):
    line = b"x" * (8 << 20)
    status, out, _ = run("send", upper, stdin=line)
    assert (status, out) == (0, line.upper() + b"\n")


@linux
def test_send_memory_does_not_grow_with_the_input(upper):
    block = b"y" * 99 + b"\n"
    with running("send", upper) as process:
        assert process.stdin is not None and process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        offered = taken = 0
        peaks = []
        for goal in (4 << 20, 40 << 20):
            while taken < goal:
                with contextlib.suppress(BlockingIOError):
                    offered += os.write(process.stdin.fileno(), block * 100)
                if offered > taken + (1 << 20):
                    taken += len(process.stdout.read1(1 << 20))
            status = Path(f"/proc/{process.pid}/status").read_text()
            peaks.append(int(status.partition("VmHWM:")[2].split()[0]))
        process.send_signal(signal.SIGINT)
        process.stdout.read()  # or it would wait for room for the rest
        process.wait(LIMIT)
    assert peaks[1] - peaks[0] < 4096


def test_send_waits_for_replies_that_come_late(listener):
    with (
        running("send", at(listener), "a", "b", stdin=subprocess.DEVNULL) as process,
        pysock.Connection(listener.accept()[0], timeout=LIMIT) as conn,
    ):
        assert [conn.recv(), conn.recv()] == [b"a", b"b"]
        conn.send(b"first")
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        conn.send(b"second")
        assert ending(process) == (0, b"second\n", "")


def test_send_no_reply_delivers_all_and_prints_nothing():
    got = []

    def keep(message: bytes) -> bytes:
        got.append(message)
        return b"thanks"

    with pysock.Server("tcp://127.0.0.1:0", keep).start() as server:
        lines = b"".join(b"%d\n" % number for number in range(50_000))
        assert run("send", str(server.address), "--no-reply", stdin=lines) == (0, b"", "")
    assert got == lines.split()


def test_send_no_reply_ends_although_the_server_does_not(listener):
    arguments = ["--no-reply", "--timeout", "0.3", "a"]
    with (
        running("send", at(listener), *arguments) as process,
        pysock.Connection(listener.accept()[0], timeout=LIMIT) as conn,
    ):
        assert list(conn) == [b"a"]
        assert ending(process) == (0, b"", "")


def test_send_until_close_prints_all_replies_to_a_message():
    def three(message: bytes) -> list[bytes]:
        return [message + b"%d" % number for number in range(3)]

    with pysock.Server("tcp://127.0.0.1:0", three).start() as server:
        address = str(server.address)
        assert run("send", address, "--until-close", "a", "b") == (
            0,
            b"a0\na1\na2\nb0\nb1\nb2\n",
            "",
        )


def test_send_until_close_ends_when_the_server_does(listener):
    with running("send", at(listener), "--until-close") as process:
        with pysock.Connection(listener.accept()[0]) as conn:
            conn.send(b"news")
        assert ending(process) == (0, b"news\n", "")


def test_send_framing_by_name():
    with pysock.Server(
        "tcp://127.0.0.1:0", bytes.upper, framing=formats.NETSTRING
    ).start() as server:
        address = str(server.address)
        assert run("send", address, "--framing", "netstring", "hi") == (0, b"HI\n", "")


def test_send_hex_both_ways(upper):
    assert run("send", upper, "--hex", "6100", "62 63") == (0, b"4100\n4243\n", "")
    assert run("send", upper, "--hex", stdin=b"61\n") == (0, b"41\n", "")


def test_send_raw_replies_have_no_newline(upper):
    assert run("send", upper, "--raw", "a", "b") == (0, b"AB", "")


@unix
def test_send_over_a_unix_path(tmp_path):
    with pysock.Server(str(tmp_path / "s"), bytes.upper).start():
        assert run("send", f"unix://{tmp_path}/s", "a") == (0, b"A\n", "")
        assert run("send", "./s", "a") == (0, b"A\n", "")


# ---------------------------------------------------------------- send: what goes wrong


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x:1", "--framing", "morse"], "no format is called 'morse'; there are amqp, bgp,"),
        (["x:1", "--timeout", "nan"], "argument --timeout: 'nan' is not a number of seconds"),
        (["x:1", "--timeout", "0"], "argument --timeout: '0' is not a number of seconds"),
        (["x:1", "--max-frame", "many"], "argument --max-frame: 'many' is not a number"),
        (["x:1", "--max-frame", "-1"], "argument --max-frame: '-1' is not a number of bytes"),
        (["x:1", "--framing", "dns", "--max-frame", "65536"], "--max-frame is 65536, more"),
        (["gopher://x:1", "m"], "address 'gopher://x:1': scheme 'gopher' is unknown"),
        (["nowhere", "m"], "address 'nowhere': no port"),
        (["x:1", "--max-frame", "3", "abc", "abcd"], "message 2: length 4 exceeds 3"),
        (["x:1", "--framing", "line", "a\nb"], "message 1: "),
        (["x:1", "--framing", "raw", ""], "message 1: "),
        (["x:1", "--hex", "616"], "message 1: not hexadecimal"),
    ],
)
def test_send_refuses_before_it_connects(arguments, said):
    status, out, err = run("send", *arguments)
    assert (status, out) == (2, b"")
    assert err.startswith(f"pysock send: {said}")
    assert err.count("\n") == 1


def test_send_bad_line_is_told_after_the_replies_to_those_before(upper):
    status, out, err = run("send", upper, "--max-frame", "3", stdin=b"ab\nabcd\nab\n")
    assert (status, out) == (2, b"AB\n")
    assert err.startswith("pysock send: message 2: length 4 exceeds 3")
    assert err.count("\n") == 1
    status, out, err = run("send", upper, "--hex", stdin=b"61\n6\n61\n")
    assert (status, out) == (2, b"41\n")
    assert err.startswith("pysock send: message 2: not hexadecimal")


def test_send_line_without_an_end_takes_no_memory_for_it(upper):
    with open("/dev/zero", "rb") as zeros, running("send", upper, stdin=zeros.fileno()) as it:
        status, out, err = ending(it)
    assert (status, out) == (2, b"")
    assert err.startswith("pysock send: message 1: 67")
    assert err.count("\n") == 1


EXAMPLES = "as in 'tcp://127.0.0.1:8000' or 'unix:///run/me/app.sock'"


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("tcp://u:p@h:1", EXAMPLES),
        ("1:2:3", EXAMPLES),
        ("foo:bar:1", EXAMPLES),
        ("h:1:", EXAMPLES),
        (":::", EXAMPLES),
        ("udp:1:2:3", EXAMPLES),
        ("tcp:u@h:1", EXAMPLES),
        ("tcp:" * 9999 + "h:1", EXAMPLES),
        ("::1:80", "write '[::1]:80' if that is meant"),
        ("tls://::1:80", "write 'tls://[::1]:80' if that is meant"),
        ("tls:h:1", "write 'tls://h:1' if that is meant"),
        ("TLS:h:1", "write 'TLS://h:1' if that is meant"),
        ("::1", "as in '[::1]:8000'"),
        ("tcp://fe80::1%eth0", "as in 'tcp://[fe80::1%eth0]:8000'"),
        ("fd://", "as in 'fd://3' or 'fd://web'"),
        ("fd://-1", "as in 'fd://3' or 'fd://web'"),
        (":0", "name one host, as in 'tcp://127.0.0.1:8000'"),
    ],
)
def test_send_advises_an_address_that_can_be_used(address, advice, capsys):
    assert main(["send", address, "m"]) == 2
    said = capsys.readouterr().err
    assert said.endswith(f"; {advice}\n")
    assert said.count("\n") == 1
    for form in re.findall("'([^']+)'", advice):
        pysock.address.parse(form)


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_send_refused_connection(scheme):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"{scheme}://{at(sock)}"
    status, out, err = run("send", address, "hello")
    assert (status, out) == (255, b"")
    assert err == f"pysock send: cannot connect to {address}: Connection refused\n"


def test_send_to_a_path_that_is_not_there(tmp_path):
    status, _, err = run("send", f"unix://{tmp_path}/s", "hello")
    assert status == 255
    assert err.startswith(f"pysock send: cannot connect to unix://{tmp_path}/s: No such file")
    assert err.count("\n") == 1


def test_send_reply_that_does_not_come_in_time(listener):
    status, out, err = run("send", at(listener), "a", "b", "--timeout", "0.3")
    assert (status, out) == (255, b"")
    assert err == "pysock send: no reply within 0.3 s: 0 of 2 replies had come\n"


def test_send_timeout_counts_only_while_a_reply_is_owed(upper, listener):
    with running("send", upper, "--timeout", "0.2") as process:
        assert process.stdin is not None and process.stdout is not None
        for word in (b"a\n", b"b\n"):
            process.stdin.write(word)
            process.stdin.flush()
            assert process.stdout.readline() == word.upper()
            # The user thinks, until a command has given up for which the limit counts.
            assert run("send", at(listener), "x", "--timeout", "0.2")[0] == 255
        process.stdin.close()
        assert ending(process) == (0, b"", "")


def test_send_server_that_takes_nothing(listener):
    with subprocess.Popen(["yes", "x" * 999], stdout=subprocess.PIPE) as endless:
        assert endless.stdout is not None
        pipe = endless.stdout.fileno()
        with running(
            "send", at(listener), "--no-reply", "--timeout", "0.3", stdin=pipe
        ) as process:
            endless.stdout.close()
            assert ending(process) == (
                255,
                b"",
                "pysock send: the server took nothing for 0.3 s\n",
            )


def test_send_server_closes_before_the_last_reply(listener):
    with running("send", at(listener), "a", "b", stdin=subprocess.DEVNULL) as process:
        with pysock.Connection(listener.accept()[0], timeout=LIMIT) as conn:
            conn.send(conn.recv())
            conn.recv()
        assert ending(process) == (
            255,
            b"a\n",
            "pysock send: the server closed the connection: 1 of 2 replies had come\n",
        )


def test_send_server_closes_while_the_input_is_open(listener):
    with running("send", at(listener)) as process:
        listener.accept()[0].close()
        assert ending(process) == (255, b"", "pysock send: the server closed the connection\n")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request", "the bytes are 'HTTP/', an HTTP server?"),
        (b"\0\0\0\7abc", "the stream ended after 7 of 11 bytes of a frame"),
    ],
)
def test_send_server_that_speaks_something_else(listener, answer, said):
    with running("send", at(listener), "a", stdin=subprocess.DEVNULL) as process:
        with listener.accept()[0] as sock:
            sock.recv(100)
            sock.sendall(answer)
        status, out, err = ending(process)
    assert (status, out) == (255, b"")
    assert err.startswith("pysock send: the connection failed: ")
    assert err.endswith(f"{said}\n")
    assert err.count("\n") == 1


def test_send_reset_connection(listener):
    with running("send", at(listener), "a", stdin=subprocess.DEVNULL) as process:
        with listener.accept()[0] as sock:
            sock.recv(100)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert ending(process) == (
            255,
            b"",
            "pysock send: the connection failed: Connection reset by peer\n",
        )


def test_send_reader_of_the_output_goes_away(upper):
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as endless:
        assert endless.stdout is not None
        with running("send", upper, stdin=endless.stdout.fileno()) as process:
            endless.stdout.close()
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline() == b"Y\n"
            process.stdout.close()
            process.wait(LIMIT)
            assert process.stderr.read() == b""
            assert process.returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_send_output_that_cannot_be_written(upper):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("send", upper, "a"), stdout=full, stderr=subprocess.PIPE, timeout=LIMIT
        )
    assert done.returncode == 1
    assert done.stderr == (b"pysock send: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("messages", [["x"], []], ids=["waiting for a reply", "for input"])
def test_send_ctrl_c_ends_quietly(listener, messages):
    with running("send", at(listener), *messages) as process, listener.accept()[0] as sock:
        if not messages:
            assert process.stdin is not None
            process.stdin.write(b"a\n")
            process.stdin.flush()
        sock.recv(100)  # now it is up, and waits
        process.send_signal(signal.SIGINT)
        assert ending(process) == (130, b"", "")


def test_send_on_a_terminal(upper):
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    try:
        with running("send", upper, stdin=slave) as process:
            assert process.stdout is not None
            os.write(master, b"hello\n")
            assert process.stdout.readline() == b"HELLO\n"
            os.write(master, b"\x04")  # Ctrl-D: the end of the input
            assert ending(process) == (0, b"", "")
    finally:
        os.close(master)
        os.close(slave)
