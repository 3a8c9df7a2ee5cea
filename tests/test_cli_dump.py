"""`pysock dump`: the frames of a capture, and where it stops being frames."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import captures
import pysock
import strategies
from conftest import TIME_FACTOR
from pysock import formats
from pysock.cli import Failure, main
from pysock.cli.guess_notation import expression, framing_from

LIMIT = 20 * TIME_FACTOR

posix = pytest.mark.skipif(sys.platform == "win32", reason="pipes and signals of POSIX")


@pytest.fixture
def dump(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command on bytes; return its status, its output and its complaint."""
    path = tmp_path / "capture"

    def dump(data: bytes, framing: str, *options: str) -> tuple[int, str, str]:
        path.write_bytes(data)
        status = main(["dump", "--framing", framing, *options, str(path)])
        out, err = capsys.readouterr()
        return status, out, err

    return dump


def titles(out: str) -> list[tuple[int, ...]]:
    """Number, offset, length and payload of each frame."""
    pattern = r"^frame (\d+)  offset (\d+)  length (\d+)  payload (\d+)$"
    return [tuple(map(int, found)) for found in re.findall(pattern, out, re.MULTILINE)]


def contents(out: str) -> bytes:
    """The bytes shown in hexadecimal."""
    rows = re.findall(r"^  [0-9a-f]{4,8}  (.{48})  \|", out, re.MULTILINE)
    return bytes.fromhex(" ".join(rows))


# ---------------------------------------------------------------- frames


def test_frame_in_hex_and_text(dump: Any) -> None:
    data = b"\0\0\0\x05he\tlo" + b"\0\0\0\x11" + bytes(range(0x41, 0x52))
    assert dump(data, "length4") == (
        0,
        "frame 1  offset 0  length 9  payload 5\n"
        "  0000  00 00 00 05 68 65 09 6c  6f                       |....he.lo|\n"
        "frame 2  offset 9  length 21  payload 17\n"
        "  0000  00 00 00 11 41 42 43 44  45 46 47 48 49 4a 4b 4c  |....ABCDEFGHIJKL|\n"
        "  0010  4d 4e 4f 50 51                                    |MNOPQ|\n",
        "",
    )


@pytest.mark.parametrize("case", captures.CAPTURES)
def test_named_protocol(case: str, dump: Any) -> None:
    name, make = captures.CAPTURES[case]
    frames = make()
    preface = captures.PREFACES.get(case, b"")
    data = preface + b"".join(frames)
    status, out, err = dump(data, name, "--skip", str(len(preface)), "--full")
    assert (status, err) == (0, "")
    assert [length for _, _, length, _ in titles(out)] == [len(frame) for frame in frames]
    assert contents(out) == b"".join(frames)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(stream=strategies.streams(), chunk=st.integers(1, 40))
def test_any_format_however_its_bytes_are_read(
    stream: tuple[Any, list[bytes]],
    chunk: int,
    dump: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    framing, frames = stream
    monkeypatch.setattr("pysock.cli.dump.CHUNK", chunk)
    status, out, err = dump(b"".join(frames), repr(framing), "--full")
    assert (status, err) == (0, "")
    assert [length for _, _, length, _ in titles(out)] == [len(frame) for frame in frames]
    assert contents(out) == b"".join(frames)
    for (_, _, _, payload), frame in zip(titles(out), frames, strict=True):
        assert payload <= len(frame)


def test_payload_is_without_header_and_trailer(dump: Any) -> None:
    assert titles(dump(b"5:hello,0:,", "netstring")[1]) == [(1, 0, 8, 5), (2, 8, 3, 0)]
    frame = b"\x01\0\0\0\0\0\x03abc\xce"
    assert titles(dump(frame, "amqp")[1]) == [(1, 0, 11, 3)]
    assert titles(dump(b"one\r\n\r\n", "crlf")[1]) == [(1, 0, 5, 3), (2, 5, 2, 0)]


@pytest.mark.parametrize(
    ("options", "shown", "more"),
    [
        ([], 256, 744),
        (["--bytes", "20"], 20, 980),
        (["--full"], 1000, 0),
        (["--bytes", "0"], 0, 0),
    ],
)
def test_long_frames_are_shortened(
    options: list[str], shown: int, more: int, dump: Any
) -> None:
    data = pysock.LengthField(2).encode(bytes(998))
    _, out, _ = dump(data, "length2", *options)
    assert len(contents(out)) == shown
    assert (f"  ... {more} more bytes; --full shows them\n" in out) == (more > 0)


def test_lines_longer_than_any_read(dump: Any) -> None:
    lines = [b"x" * 300_000 + b"\n", b"y\n"]
    _, out, _ = dump(b"".join(lines), "line", "--bytes", "0")
    assert titles(out) == [(1, 0, 300_001, 300_000), (2, 300_001, 2, 1)]


# ---------------------------------------------------------------- where it stops


def test_frames_before_an_error_are_printed(dump: Any) -> None:
    data = b"\0\0\0\x02ok" + b"GET / HTTP/1.1\r\n"
    status, out, err = dump(data, "length4")
    assert status == 1
    assert titles(out) == [(1, 0, 6, 2)]
    assert err == (
        "pysock dump: frame 2 at offset 6, 47 45 54 20 2f 20 48 54 ...: length 1195725856 "
        "exceeds 67108864: the bytes are 'GET ', an HTTP client?\n"
    )


def test_wrong_trailer_is_told_with_the_frame_s_offset(dump: Any) -> None:
    status, out, err = dump(b"1:a,2:bc;", "netstring")
    assert (status, titles(out)) == (1, [(1, 0, 4, 1)])
    assert err.startswith("pysock dump: frame 2 at offset 4, 32 3a 62 63 3b: ")


@pytest.mark.parametrize("cut", range(1, 9))
def test_last_frame_that_is_cut(cut: int, dump: Any) -> None:
    frame = b"\0\0\0\x05hello"
    status, out, err = dump(frame + frame[:cut], "length4")
    assert (status, titles(out)) == (1, [(1, 0, 9, 5)])
    assert err.endswith(f"after {cut} of {9 if cut >= 4 else 4} bytes of a frame\n")
    assert err.startswith("pysock dump: frame 2 at offset 9, 00")


def test_max_frame_is_a_limit(dump: Any) -> None:
    status, _, err = dump(b"\0\0\0\x05hello", "length4", "--max-frame", "4")
    assert status == 1
    assert "length 5 exceeds 4" in err
    status, _, err = dump(b"x" * 200_000, "line", "--max-frame", "1k")
    assert status == 1
    assert "exceeds 1024" in err


def test_empty_file_has_no_frames(dump: Any) -> None:
    assert dump(b"", "length4") == (0, "", "")
    assert dump(b"abc", "length4", "--skip", "9") == (
        1,
        "",
        "pysock dump: only 3 bytes, --skip is 9\n",
    )


@pytest.mark.parametrize(
    ("begun", "kind"),
    [
        ("a1b2c3d4 0002 0004", "pcap"),
        ("4d3cb2a1 0200 0400", "pcap"),
        ("0a0d0d0a 1c000000 4d3c2b1a 01000000", "pcapng"),
    ],
)
def test_packets_are_no_stream(begun: str, kind: str, dump: Any) -> None:
    status, out, err = dump(bytes.fromhex(begun) + bytes(40), "length4")
    assert (status, out) == (2, "")
    assert err.startswith(f"pysock dump: this is a {kind} file: ")
    assert "follow,tcp,raw,0" in err and "tcpflow" in err
    assert err.count("\n") == 1


# ---------------------------------------------------------------- formats as text


@settings(max_examples=100, deadline=None)
@given(strategies.any_format)
def test_expression_reads_back(framing: Any) -> None:
    assert framing_from(expression(framing)) == framing
    assert eval(expression(framing), {"pysock": pysock}) == framing


def test_expression_is_as_people_write_it() -> None:
    framing = pysock.LengthField(2, "little", offset=4, counts="frame", magic=b"\xff\n")
    text = 'pysock.LengthField(2, "little", offset=4, counts="frame", magic=b"\\xff\\n")'
    assert expression(framing) == text
    assert expression(formats.named("nul")) == 'pysock.Delimiter(b"\\x00")'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing", "no format is called 'nothing'; there are "),
        ("print(1)", "'print' is no format; there are ContentLength, "),
        ("os.system('x')", "'os.system' is no format; "),
        ("LengthField(open('x'))", "is no format: give a name, or a call such as"),
        ("LengthField(4", "is no format: give a name"),
        ("LengthField(99)", "width is 99"),
        ("LengthField(wide=1)", "wide"),
        ("LengthField(**{})", "**"),
        ("(" * 900 + ")" * 90, "is no format"),
        ("f(" + "1" * 2000 + ")", "a format of 2003 characters"),
    ],
)
def test_other_text_is_no_format(text: str, said: str) -> None:
    with pytest.raises(Failure) as caught:
        framing_from(text)
    assert said in caught.value.text
    assert caught.value.status == 2


# ---------------------------------------------------------------- as a process


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "pysock", "dump", *arguments]


@posix
@pytest.mark.usefixtures("elsewhere")
def test_standard_input_is_shown_as_it_comes_and_ctrl_c_is_quiet() -> None:
    with subprocess.Popen(
        command("--framing", "length1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        try:
            assert process.stdin and process.stdout and process.stderr
            process.stdin.write(b"\x03ab")
            process.stdin.write(b"c\x05he")
            expected = b"frame 1  offset 0  length 4  payload 3\n"
            assert os.read(process.stdout.fileno(), len(expected)) == expected
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT) == 130
            assert process.stderr.read() == b""
        finally:
            process.kill()


@posix
@pytest.mark.usefixtures("elsewhere")
def test_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(b"\x01x" * 100_000)
    with subprocess.Popen(
        command("--framing", "length1", str(path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline().startswith(b"frame 1 ")
        process.stdout.close()
        assert process.wait(LIMIT) == 141
        assert process.stderr.read() == b""


@pytest.mark.usefixtures("elsewhere")
def test_wrong_usage_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["dump"], ["dump", "--framing", "dns", "--skip", "x"]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["dump", "--framing", "dns", "."]) == 2
    assert capsys.readouterr().err == "pysock dump: cannot read '.': Is a directory\n"
