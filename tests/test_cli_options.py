"""What the command's options take, and the one sentence for what they do not."""

from __future__ import annotations

import argparse

import pytest

from pysock.cli import MISUSED, Failure
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
    ],
)
def test_size_has_units(text: str, size: int) -> None:
    assert as_size(text) == size


@pytest.mark.parametrize("text", ["", "k", "-1", "1.5k", "1t", "1 k", "1ki", "٣", "9" * 16])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        as_size(text)
    assert str(caught.value) == f"{text!r} is not a number of bytes, as in 64k or 1M"


@pytest.mark.parametrize("text", ["1", "50", "9007199254740991"])
def test_count_is_a_whole_number(text: str) -> None:
    assert as_count(text) == int(text)


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.0", " 1", "x", "٣", "9007199254740992", "9" * 5000]
)
def test_other_counts_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        as_count(text)
    assert str(caught.value) == f"{text!r} is not a number from 1 up"


def test_count_has_the_limits_that_are_given() -> None:
    assert [as_count(text, least=0, most=9) for text in ("0", "9")] == [0, 9]
    with pytest.raises(argparse.ArgumentTypeError, match="'10' is not a number from 0 up"):
        as_count("10", least=0, most=9)


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5.0), ("0.25", 0.25), ("1e3", 1000.0), ("1e-9", 1e-9)]
)
def test_seconds_are_a_number(text: str, seconds: float) -> None:
    assert as_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-0", "-1", "nan", "inf", "-inf", "5 s", "1e999"])
def test_other_seconds_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        as_seconds(text)
    assert str(caught.value) == f"{text!r} is not a number of seconds above 0"


def test_number_has_the_limits_that_are_given() -> None:
    assert as_number("0", "apples", zero=True) == 0
    assert as_number("1e12", "apples") == 1e12
    assert as_number("9", "apples", below=10) == 9
    with pytest.raises(argparse.ArgumentTypeError, match="not a number of apples above 0"):
        as_number("10", "apples", below=10)
    with pytest.raises(argparse.ArgumentTypeError, match="of apples of 0 or more"):
        as_number("-1", "apples", zero=True)


def test_format_goes_by_its_name() -> None:
    assert format_of("netstring", None) == Netstring()
    assert format_of("netstring", 99) == Netstring(max_frame=99)


@pytest.mark.parametrize(
    ("name", "max_frame", "said"),
    [
        ("morse", None, "no format is called 'morse'"),
        ("netstring", -1, "max_frame is -1"),
        ("dns", 65536, "max_frame is 65536, more than"),
    ],
)
def test_format_that_cannot_be_is_misuse(name: str, max_frame: int | None, said: str) -> None:
    with pytest.raises(Failure, match=said) as caught:
        format_of(name, max_frame)
    assert caught.value.status == MISUSED


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
