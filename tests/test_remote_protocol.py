"""The messages of remote commands: there and back, and whatever else may be sent."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysock import FramingError
from pysock.remote.link import failure_of
from pysock.remote.protocol import (
    FRAMING,
    KINDS,
    MAGIC,
    SIGNALS,
    VERSION,
    Entry,
    Exec,
    Exit,
    Get,
    Kind,
    Put,
    Refusal,
    credit,
    eof,
    number_in,
    offset,
    resize,
    size_in,
    version,
)

properties = settings(deadline=None)

U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFF_FFFF)
U64 = st.integers(0, (1 << 64) - 1)
I64 = st.integers(-(1 << 63), (1 << 63) - 1)

texts = st.binary(max_size=40).map(lambda raw: raw.replace(b"\0", b"\n"))
names = st.from_regex(rb"[A-Z_]{1,8}", fullmatch=True)
variables = st.builds(lambda name, value: name + b"=" + value, names, texts)
commands = st.one_of(
    st.fixed_dictionaries(
        {"argv": st.lists(texts, min_size=1, max_size=5).filter(lambda a: a[0]).map(tuple)}
    ),
    st.fixed_dictionaries({"shell": texts}),
)
execs = st.builds(
    lambda what, given: Exec(**what, **given),
    commands,
    st.fixed_dictionaries(
        {},
        optional={
            "cwd": texts,
            "env": st.lists(variables, max_size=4).map(tuple),
            "pty": st.none() | st.tuples(U16, U16),
            "stdin": st.booleans(),
            "merge": st.booleans(),
            "quiet": st.integers(0, 3),
        },
    ),
)
reasons = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
exits = st.builds(
    Exit,
    st.integers(1, 255),
    st.sampled_from(["", *(name.decode() for name in sorted(SIGNALS))]),
    st.booleans(),
    st.booleans(),
    reasons,
)
refusals = st.builds(
    Refusal,
    st.sampled_from(["os", "refused", "busy", "protocol", "version", "stopping", "failed"]),
    reasons,
    st.sampled_from(["", "ENOENT", "EACCES"]),
    st.binary(max_size=40),
)
file_names = st.binary(max_size=255).map(
    lambda raw: raw.replace(b"\0", b"0").replace(b"/", b"1").replace(b".", b"2")
)
entries = st.builds(
    Entry, U64, st.integers(0, 0o7777), I64, st.sampled_from("fd?"), file_names
)
puts = st.builds(Put, texts, entries, st.booleans())
gets = st.builds(Get, texts, st.booleans())

KIND_NAMES = (
    "VERSION EXEC STDIN STDOUT STDERR EOF RESIZE SIGNAL EXIT ERROR PING PONG PUT GET DATA DONE"
)

# A decoder of each body, and a message of each.
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "Exec": Exec.decode,
    "Exit": Exit.decode,
    "Refusal": Refusal.decode,
    "Entry": Entry.decode,
    "Put": Put.decode,
    "Get": Get.decode,
    "credit": lambda body: number_in(Kind.STDIN, body),
    "offset": lambda body: number_in(Kind.GET, body),
    "size": size_in,
}
GOOD: dict[str, bytes] = {
    "Exec": Exec((b"ls", b"-l"), None, b"/tmp", (b"TERM=dumb",), (24, 80), True).encode()[1:],
    "Exit": Exit(9, "KILL", reason="time is up").encode()[1:],
    "Refusal": Refusal("os", "no such file", "ENOENT", b"/x").encode()[1:],
    "Entry": Entry(1, name=b"x").pack(),
    "Put": Put(b"a/b", Entry(1)).encode()[1:],
    "Get": Get(b"a/b").encode()[1:],
    "credit": credit(1)[1:],
    "offset": offset(Kind.GET, 1)[1:],
    "size": resize(24, 80)[1:],
}


def one_field(tag: int, value: bytes) -> bytes:
    return struct.pack(">BI", tag, len(value)) + value


def fields(*some: tuple[int, bytes]) -> bytes:
    return b"".join(one_field(tag, value) for tag, value in some)


# ---------------------------------------------------------------- there and back


@properties
@given(st.one_of(execs, exits, refusals, puts, gets))
def test_what_was_encoded_comes_back(said):
    kind = {Exec: Kind.EXEC, Exit: Kind.EXIT, Refusal: Kind.ERROR, Put: Kind.PUT}
    message = said.encode()
    assert message[0] == kind.get(type(said), Kind.GET)
    assert type(said).decode(message[1:]) == said


@properties
@given(st.lists(entries, max_size=5))
def test_entries_of_a_listing_come_back_one_after_another(listing):
    body, at, found = b"".join(entry.pack() for entry in listing), 0, []
    while at < len(body):
        entry, at = Entry.unpack(body, at)
        found.append(entry)
    assert found == listing and at == len(body)


def test_listing_that_is_cut_in_its_second_entry_is_refused():
    first = Entry(1).pack()
    for size in range(1, len(first)):
        with pytest.raises(FramingError, match=f"^a file's entry has {size} bytes only$"):
            Entry.unpack(first + first[:size], len(first))


@pytest.mark.parametrize("pty", [(0, 65535), (65535, 0)])
def test_command_with_all_that_it_may_have_comes_back(pty):
    said = Exec((b"ls",), env=(b"a=b=",), pty=pty, stdin=True, merge=True, quiet=3)
    assert Exec.decode(said.encode()[1:]) == said


@properties
@given(U32, U64, U16, U16)
def test_numbers_come_back(count, position, rows, columns):
    assert number_in(Kind.STDIN, credit(count)[1:]) == count
    assert number_in(Kind.PUT, offset(Kind.PUT, position)[1:]) == position
    assert size_in(resize(rows, columns)[1:]) == (rows, columns)


def test_messages_have_these_bytes():
    """What is on the wire stays: another version of pysock may read it."""
    assert version() == b"\x01pysock remote\x01"
    assert Exec((b"ls",)).encode() == b"\x02\x01\0\0\0\x02ls\x06\0\0\0\x01\0"
    assert Exec(shell=b"ls", stdin=True, merge=True, quiet=3).encode() == (
        b"\x02\x02\0\0\0\x02ls\x06\0\0\0\x01\x0f"
    )
    assert credit(65536) == b"\x03\0\x01\0\0"
    assert eof(2) == b"\x06\x02"
    assert resize(24, 80) == b"\x07\0\x18\0\x50"
    assert Exit(3).encode() == b"\x09\0\x03\0\0"
    assert Exit(9, "KILL", True, True, "x").encode() == b"\x09\x01\x09\x03\x04KILLx"
    assert Refusal("busy", "no").encode() == b"\x0a\x01\0\0\0\x04busy\x02\0\0\0\x02no"
    assert offset(Kind.PUT, 1) == b"\x0d\0\0\0\0\0\0\0\x01"
    assert Get(b"x", True).encode() == b"\x0e\x01\0\0\0\x01x\x02\0\0\0\x01\x01"
    assert Entry(1, 0o644, 2, "d").pack() == (
        b"\0\0\0\0\0\0\0\x01\0\0\x01\xa4\0\0\0\0\0\0\0\x02d\0\0"
    )
    assert [kind.name for kind in sorted(Kind)] == KIND_NAMES.split()
    assert [*sorted(Kind)] == [*range(1, 17)]


@pytest.mark.parametrize("kind", Kind)
def test_kind_makes_its_message_whole_or_in_parts(kind):
    assert kind(b"body") == kind.prefix + b"body" == bytes([kind]) + b"body"
    assert KINDS[kind] is kind


@pytest.mark.case("R20")
def test_arguments_that_are_no_text_stay_as_they_are_r20():
    raw = bytes(range(1, 256))
    said = Exec((b"printf", raw, b"", b"\xff\xfe"), cwd=raw, env=(b"X=" + raw, b"Y=="))
    assert Exec.decode(said.encode()[1:]) == said


@pytest.mark.case("R20")
def test_ten_thousand_arguments_fit_r20():
    said = Exec((b"echo", *(b"%d" % i for i in range(10_000))))
    message = said.encode()
    assert Exec.decode(message[1:]) == said
    assert len(FRAMING.encode(message)) < FRAMING.max_frame


@pytest.mark.case("R20")
def test_argument_of_the_longest_size_fits_r20():
    said = Exec((b"echo", b"x" * 131_072))
    assert Exec.decode(said.encode()[1:]) == said


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("x" * 256, 256),
        ("x" * 300, 256),
        ("\u20ac" * 100, 255),  # three bytes each: the 86th would be cut
        ("x" + "\U0001f600" * 100, 253),
    ],
)
def test_long_reason_is_cut_between_two_characters(said, kept):
    told = Exit.decode(Exit(1, reason=said).encode()[1:]).reason
    assert said.startswith(told) and len(told.encode()) == kept


def test_long_text_of_a_refusal_is_cut():
    told = Refusal.decode(Refusal("failed", "\u20ac" * 1000).encode()[1:]).text
    assert told == "\u20ac" * 682


def test_text_with_bytes_that_are_no_characters_can_be_sent():
    """Names of files come into sentences as os.fsdecode makes them."""
    told = Refusal.decode(Refusal("failed", "no \udcff here").encode()[1:]).text
    assert told == "no \\udcff here"


@pytest.mark.parametrize("time", [10**23, -(10**23)])
def test_time_too_far_off_is_the_last_that_can_be_told(time):
    """Where a file system has 64 bits of seconds, a file may be so old."""
    told = Entry.decode(Entry(0, mtime_ns=time).pack()).mtime_ns
    assert told == ((1 << 63) - 1 if time > 0 else -(1 << 63))


def test_only_permissions_of_a_mode_are_told():
    assert Entry.decode(Entry(0, 0o100755).pack()).mode == 0o755


# ---------------------------------------------------------------- the system's errors


def test_error_of_the_system_comes_back_as_itself():
    error = OSError(errno.ENOENT, os.strerror(errno.ENOENT), "\udcff")
    told = Refusal.decode(Refusal.of(error, b"/a\xff").encode()[1:])
    again = told.os_error()
    assert type(again) is FileNotFoundError
    assert (again.errno, again.filename) == (errno.ENOENT, "/a\udcff")
    assert again.strerror == error.strerror


@pytest.mark.parametrize("name", sorted(n for n in dir(errno) if n.startswith("E")))
def test_every_name_of_an_error_is_understood(name):
    """Systems call the same error by different names: EDEADLK, EDEADLOCK."""
    again = Refusal("os", "it failed", name).os_error()
    assert again.errno == getattr(errno, name)
    assert again.filename is None


@pytest.mark.parametrize("name", ["EWHATEVER", "errorcode", "__name__", ""])
def test_error_that_this_system_lacks_is_told_in_words(name):
    again = Refusal("os", "it failed", name).os_error()
    assert type(again) is OSError and again.errno is None
    assert str(again) == f"it failed ({name})"


@pytest.mark.parametrize("error", [OSError("odd"), OSError(99_999, "odd")])
def test_error_without_a_number_is_an_io_error(error):
    told = Refusal.of(error)
    assert (told.code, told.text, told.error, told.path) == ("os", "odd", "EIO", b"")


# ---------------------------------------------------------------- what is malformed


@pytest.mark.case("R20")
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"argv": (b"",)},
        {"argv": (b"ls",), "shell": b"ls"},
        {"argv": (b"ls", b"a\0b")},
        {"shell": b"ls\0"},
        {"argv": (b"ls",), "cwd": b"/\0"},
        {"argv": (b"ls",), "env": (b"X=\0",)},
        {"argv": (b"ls",), "env": (b"X",)},
        {"argv": (b"ls",), "env": (b"=x",)},
        {"argv": (b"ls",), "env": (b"=x=",)},
        {"argv": (b"ls",), "env": (b"",)},
        {"argv": (b"ls",), "pty": (65536, 80)},
        {"argv": (b"ls",), "pty": (24, -1)},
    ],
)
def test_command_that_none_can_run_is_refused_before_it_is_sent_r20(given):
    with pytest.raises(FramingError):
        Exec(**given)


@pytest.mark.parametrize("cls", [Get, lambda path: Put(path, Entry(0))])
def test_path_with_a_nul_is_refused_before_it_is_sent(cls):
    with pytest.raises(FramingError, match="^(GET|PUT)'s path has a NUL in it$"):
        cls(b"a\0b")


ENTRY = Entry(1).pack()
EXIT = struct.Struct(">BBBB")
MALFORMED: list[tuple[str, bytes]] = [
    # no program, both kinds of command, NUL
    ("Exec", b""),
    ("Exec", one_field(6, b"\0")),
    ("Exec", fields((1, b""), (6, b"\0"))),
    ("Exec", fields((1, b"ls"), (2, b"ls"))),
    ("Exec", fields((1, b"ls"), (1, b"a\0b"))),
    ("Exec", fields((2, b"ls\0"))),
    ("Exec", fields((1, b"ls"), (3, b"\0"))),
    ("Exec", fields((1, b"ls"), (4, b"A=\0"))),
    ("Exec", fields((1, b"ls"), (4, b"A"))),
    # what may be there once is there twice
    *(
        ("Exec", fields((1, b"ls"), (tag, value), (tag, value)))
        for tag, value in [(3, b"/"), (5, b"\0\1\0\1"), (6, b"\0")]
    ),
    ("Exec", fields((2, b"ls"), (2, b"ls"))),
    # unknown tags
    *(("Exec", fields((1, b"ls"), (tag, b""))) for tag in (0, 7, 8, 255)),
    ("Exec", fields((1, b"ls"), (5, b"\0\1\0"))),
    ("Exec", fields((1, b"ls"), (5, b""))),
    ("Exec", fields((1, b"ls"), (6, b""))),
    ("Exec", fields((1, b"ls"), (6, b"\0\0"))),
    ("Exec", fields((1, b"ls"), (6, b"\x10"))),
    # lengths beyond the body
    ("Exec", b"\x01\0\0\0\x03ls"),
    ("Exec", b"\x01\xff\xff\xff\xffls"),
    ("Exec", fields((1, b"ls")) + b"\x06"),
    ("Exec", fields((1, b"ls")) + b"\x06\0\0\0"),
    ("Exec", fields((1, b"ls")) + b"\x06\0\0\0\x01"),
    # R17: no number, half of one, one that is no status
    ("Exit", b""),
    ("Exit", b"0"),
    ("Exit", b"0\n"),
    ("Exit", b"256"),
    ("Exit", b"-1\0\0"),
    ("Exit", EXIT.pack(0, 0, 0, 0)[:3]),
    ("Exit", EXIT.pack(2, 0, 0, 0)),
    ("Exit", EXIT.pack(2, 9, 0, 4) + b"KILL"),
    ("Exit", EXIT.pack(0, 0, 4, 0)),
    ("Exit", EXIT.pack(1, 9, 0, 0)),
    ("Exit", EXIT.pack(0, 9, 0, 4) + b"KILL"),
    ("Exit", EXIT.pack(1, 0, 0, 4) + b"KILL"),
    ("Exit", EXIT.pack(1, 9, 0, 5) + b"KILL"),
    ("Exit", EXIT.pack(1, 9, 0, 4) + b"kill"),
    ("Exit", EXIT.pack(1, 9, 0, 4) + b"KI L"),
    ("Exit", EXIT.pack(1, 9, 0, 4) + b"\xc3\x84\xc3\x84"),
    ("Exit", EXIT.pack(1, 9, 0, 1) + b"9"),
    ("Exit", EXIT.pack(0, 0, 0, 0) + b"\xff"),
    ("Exit", EXIT.pack(0, 0, 0, 0) + b"x" * 257),
    # code and text are due, and known in size
    ("Refusal", b""),
    ("Refusal", one_field(1, b"os")),
    ("Refusal", one_field(2, b"text")),
    ("Refusal", fields((1, b"os"), (1, b"os"), (2, b"text"))),
    ("Refusal", fields((1, b"os"), (2, b"text"), (5, b""))),
    ("Refusal", fields((1, b"x" * 33), (2, b"text"))),
    ("Refusal", fields((1, b"os"), (2, b"x" * 2049))),
    ("Refusal", fields((1, b"os"), (2, b"text"), (3, b"E" * 33))),
    ("Refusal", fields((1, b"\xff"), (2, b"text"))),
    ("Refusal", fields((1, b"os"), (2, b"\xff"))),
    ("Entry", b""),
    ("Entry", ENTRY[:-1]),
    ("Entry", ENTRY + b"x"),
    ("Entry", ENTRY[:-2] + b"\0\1"),
    ("Entry", ENTRY[:-3] + b"x\0\0"),
    ("Entry", ENTRY[:-3] + b"\xff\0\0"),
    ("Entry", ENTRY[:8] + b"\0\0\x10\0" + ENTRY[12:]),
    # a name that leads out of its folder
    *(
        ("Entry", ENTRY[:-2] + len(name).to_bytes(2, "big") + name)
        for name in (b".", b"..", b"/", b"a/b", b"../a", b"a\0")
    ),
    ("Put", b""),
    ("Put", fields((1, b"x"), (2, ENTRY))),
    ("Put", fields((1, b"x"), (3, b"\0"))),
    ("Put", fields((2, ENTRY), (3, b"\0"))),
    ("Put", fields((1, b"x"), (1, b"x"), (2, ENTRY), (3, b"\0"))),
    ("Put", fields((1, b"x"), (2, ENTRY), (3, b"\2"))),
    ("Put", fields((1, b"x"), (2, ENTRY), (3, b""))),
    ("Put", fields((1, b"x\0"), (2, ENTRY), (3, b"\0"))),
    ("Put", fields((1, b"x"), (2, ENTRY + b"x"), (3, b"\0"))),
    ("Put", fields((1, b"x"), (2, ENTRY), (3, b"\0"), (4, b""))),
    ("Get", b""),
    ("Get", one_field(1, b"x")),
    ("Get", one_field(2, b"\0")),
    ("Get", fields((1, b"x"), (2, b"\2"))),
    ("Get", fields((1, b"x\0"), (2, b"\0"))),
    ("Get", fields((1, b"x"), (2, b"\0"), (3, b""))),
    # R16: no window, half of one, one of 64 bits
    ("credit", b""),
    ("credit", b"\0\0\0"),
    ("credit", struct.pack(">Q", 1 << 40)),
    ("offset", b""),
    ("offset", b"\0\0\0\1"),
    ("offset", bytes(9)),
    ("size", b""),
    ("size", bytes(3)),
    ("size", bytes(8)),
]

ENTRY_TOLD = r"a file|\d+ bytes follow a file"
TOLD = {  # how the error begins, where not with the name of the message
    "Refusal": "ERROR",
    "Entry": ENTRY_TOLD,
    "Put": f"PUT|{ENTRY_TOLD}",
    "credit": "STDIN",
    "offset": "GET|PUT",
    "size": "RESIZE",
}


@pytest.mark.case("R16", "R17")
@pytest.mark.parametrize(("what", "body"), MALFORMED)
def test_malformed_body_is_refused_r16_r17(what, body):
    with pytest.raises(FramingError, match=f"^({TOLD.get(what, what.upper())})('s)? "):
        DECODERS[what](body)


@pytest.mark.parametrize("what", GOOD)
def test_body_cut_anywhere_is_refused(what):
    body = GOOD[what]
    DECODERS[what](body)
    # These three have optional parts at their end.
    may_end = {
        "Exec": {7, 14, 23, 37, 46},
        "Exit": set(range(8, len(body))),
        "Refusal": {len(body) - 7, len(body) - 18},
    }.get(what, set())
    for size in set(range(len(body))) - may_end:
        with pytest.raises(FramingError):
            DECODERS[what](body[:size])


damage = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(sorted(set(GOOD.values()))),
    st.lists(st.builds(one_field, st.integers(0, 8), st.binary(max_size=30)), max_size=6).map(
        b"".join
    ),
)


@pytest.mark.parametrize("what", DECODERS)
@properties
@given(noise=damage, at=st.integers(0, 80), more=damage)
def test_any_bytes_are_decoded_or_refused(what, noise, at, more):
    good = GOOD[what]
    for body in (noise, good[:at] + noise + good[at + len(noise) :], good[:at] + more):
        try:
            said = DECODERS[what](body)
        except FramingError:
            continue
        if not isinstance(said, (int, tuple, Entry)):
            assert type(said).decode(said.encode()[1:]) == said


def test_version_names_protocol_and_number():
    assert version(7) == Kind.VERSION(MAGIC + b"\x07")
    assert version() == version(VERSION)


def test_signals_are_told_by_name_since_numbers_differ():
    assert b"TERM" in SIGNALS and b"SIGTERM" not in SIGNALS
    assert all(name.isalnum() and name.isupper() for name in SIGNALS)


def test_refusal_without_a_word_still_says_something():
    error = failure_of(Refusal("failed", ""))
    assert str(error) == "refused without a reason"
