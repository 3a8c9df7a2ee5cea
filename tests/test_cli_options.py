"""What the command's options take, and the one sentence for what they do not."""

from __future__ import annotations

import argparse
import re
import sys

import pytest

from pysock.cli import MISUSED, Failure, main
from pysock.cli.options import as_count, as_number, as_seconds, as_size, format_of, in_options
from pysock.framing import Netstring


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("100", 100),
        ("1k", 1 << 10),
        ("64K", 64 << 10),
        ("1M", 1 << 20),
        ("2m", 2 << 20),
        ("3g", 3 << 30),
        ("4KiB", 4 << 10),
        ("4kb", 4 << 10),
        ("9" * 15, 10**15 - 1),
        ("8388608G", 1 << 53),
        ("9007199254740992", 1 << 53),
    ],
)
def test_size_has_units(text: str, size: int) -> None:
    assert as_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "k", "-1", "1.5k", "1t", "1 k", "1ki", "٣", "9" * 16, "9" * 17, "8388609g"]
)
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        as_size(text)
    assert (
        str(caught.value)
        == f"{text!r} is not a number of bytes up to 8388608G, as in 64k or 1M"
    )


@pytest.mark.parametrize("text", ["1", "50", "9007199254740991"])
def test_count_is_a_whole_number(text: str) -> None:
    assert as_count(text) == int(text)


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.0", " 1", "x", "٣", "9007199254740992", "9" * 5000]
)
def test_other_counts_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        as_count(text)
    assert str(caught.value) == f"{text!r} is not a whole number from 1 to 9007199254740991"


def test_count_has_the_limits_that_are_given() -> None:
    assert [as_count(text, least=0, most=9) for text in ("0", "9")] == [0, 9]
    said = "'10' is not a whole number from 0 to 9"
    with pytest.raises(argparse.ArgumentTypeError, match=said):
        as_count("10", least=0, most=9)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5.0), ("0.25", 0.25), ("1e3", 1000.0), ("1e-9", 1e-9), ("2e6", 2e6)],
)
def test_seconds_are_a_number(text: str, seconds: float) -> None:
    assert as_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "-0", "-1", "nan", "inf", "-inf", "5 s", "1e999", "2000000.1", "1e15"]
)
def test_other_seconds_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        as_seconds(text)
    assert str(caught.value) == f"{text!r} is not a number of seconds above 0, at most 2000000"


def test_number_has_the_limits_that_are_given() -> None:
    assert as_number("0", "apples", 10, zero=True) == 0
    assert as_number("10", "apples", 10) == 10
    with pytest.raises(argparse.ArgumentTypeError, match="of apples above 0, at most 10$"):
        as_number("10.1", "apples", 10)
    with pytest.raises(
        argparse.ArgumentTypeError, match="not a number of apples from 0 to 9$"
    ):
        as_number("-1", "apples", 9, zero=True)


def test_format_goes_by_its_name() -> None:
    assert format_of("netstring", None) == Netstring()
    assert format_of("netstring", 99) == Netstring(max_frame=99)


@pytest.mark.parametrize(
    ("name", "max_frame", "said"),
    [
        ("morse", None, "no format is called 'morse'"),
        ("netstring", -1, "--max-frame is -1"),
        ("dns", 65536, "--max-frame is 65536, more than"),
    ],
)
def test_format_that_cannot_be_is_misuse(name: str, max_frame: int | None, said: str) -> None:
    with pytest.raises(Failure, match=said) as caught:
        format_of(name, max_frame)
    assert caught.value.status == MISUSED


SECONDS = "a number of seconds above 0, at most 2000000"
DRAIN = "a number of seconds from 0 to"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("bench x:1 -c 1000001", "a whole number from 1 to 1000000"),
        ("bench x:1 -p 1025", "a whole number from 1 to 1024"),
        ("bench x:1 -t 1e30", SECONDS),
        ("bench x:1 --timeout 1e9", SECONDS),
        (
            "bench x:1 --rate 1e30",
            "a number of requests per second above 0, at most 1000000000",
        ),
        ("keygen --days 40000", "a whole number from 1 to 36500"),
        ("run --connect-timeout 1e15 -- ls", SECONDS),
        ("send x:1 --max-frame 8388609g", "a number of bytes up to 8388608G, as in 64k or 1M"),
        ("send x:1 --timeout 1e30", SECONDS),
        ("send udp://x:1 --ttl 256", "a whole number from 1 to 255"),
        ("serve x:y --max-connections 1000000000", "a whole number from 1 to 999999999"),
        ("serve x:y --processes 99999999", "a whole number from 1 to 4096"),
        ("serve x:y --workers 100001", "a whole number from 0 to 100000"),
        ("serve x:y --timeout 1e30", SECONDS),
        ("serve x:y --drain 1e30", f"{DRAIN} 1000000"),
        ("shell-server --time-limit 1e30", SECONDS),
        ("shell-server --drain 1e30", f"{DRAIN} 2000000"),
    ],
)
def test_number_that_is_too_large_is_told_with_what_is_allowed(line, wanted, capsys):
    number = re.search(r"[0-9][0-9e]+g?\b", line)
    assert number is not None
    assert main(line.split()) == MISUSED
    said = capsys.readouterr().err
    verb = line.split()[0]
    assert f"'{number[0]}' is not {wanted}; see pysock {verb} --help\n" in said
    assert said.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="clocks that wait less there")
def test_command_may_run_as_long_as_a_clock_can_wait(capsys):
    assert main(["run", "--timeout", "1e15", "--", "ls"]) == MISUSED
    wanted = "'1e15' is not a number of seconds above 0, at most 9223372036;"
    assert wanted in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "send x:1 --max-frame 4g",
            "--max-frame is 4294967296, more than the 4294967295 bytes",
        ),
        ("dump --framing dns --max-frame 1M", "--max-frame is 1048576, more than the 65535"),
        (
            "bench x:1 -s 8388608g",
            "message: length 9007199254740992 exceeds 67108864; see --m",
        ),
    ],
)
def test_size_that_no_format_allows_is_told_with_what_it_does(line, said, capsys):
    assert main(line.split()) == MISUSED
    assert capsys.readouterr().err.startswith(f"pysock {line.split()[0]}: {said}")


def test_size_within_an_expression_is_none_of_the_option_s(capsys):
    framing = "LengthField(1, max_frame=256)"
    assert main(["dump", "--framing", framing, "--max-frame", "9"]) == MISUSED
    assert capsys.readouterr().err.startswith("pysock dump: max_frame is 256, more than the")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no files (files_root=)", "no files (--files-root)"),
        ("TERM, LANG (allow_env=)", "TERM, LANG (--allow-env)"),
        ("pass allow_root=True", "pass --allow-root"),
        ("pass tls= and authkey=, or", "pass --certificate and --authkey, or"),
        ("pass tls=, or insecure=True", "pass --certificate, or --insecure"),
        ("it took longer than 3 s (time_limit)", "it took longer than 3 s (--time-limit)"),
        ("max_running is 0, expected", "--max-running is 0, expected"),
        ("it is too long (limits)", "it is too long (--limit)"),
        ("file max_output of limits", "file max_output of limits"),
    ],
)
def test_arguments_of_the_library_are_told_as_options(text: str, said: str) -> None:
    assert in_options(text) == said
