"""Messages of a remote conversation, right and wrong, out of a fuzzer's bytes."""

from __future__ import annotations

import hashlib

from fuzz.source import Source
from pysock.remote.protocol import (
    Entry,
    Exec,
    Exit,
    Get,
    Kind,
    Put,
    Refusal,
    credit,
    eof,
    offset,
    resize,
    version,
)

CONTENT = b"abc"
DIGEST = hashlib.sha256(CONTENT).digest()
FILE = Entry(len(CONTENT))

# What is often right; a fuzzer changes the rest.
GOOD: tuple[bytes, ...] = (
    version(),
    Exec((b"cat",), stdin=True).encode(),
    Exec(shell=b"ls", merge=True).encode(),
    Exec((b"vi",), pty=(24, 80), stdin=True).encode(),
    Put(b"x", FILE).encode(),
    Put(b"x", Entry(0, type="d")).encode(),
    Get(b"x").encode(),
    Get(b"", listing=True).encode(),
    offset(Kind.PUT, 0),
    offset(Kind.GET, 0),
    Kind.GET(FILE.pack()),
    Kind.DATA(CONTENT),
    Kind.DONE(bytes(32)),
    Refusal("failed", "no").encode(),
    Kind.STDOUT(b"x"),
    Kind.STDERR(b"x"),
    Kind.STDIN(b"typed"),
    credit(0),
    credit(100),
    eof(0),
    eof(1),
    eof(2),
    Exit(0).encode(),
    Exit(9, "KILL", reason="why").encode(),
    resize(24, 80),
    Kind.SIGNAL(b"TERM"),
    Kind.PING(b"1"),
    Kind.PONG(b"1"),
    Kind.DONE(DIGEST),
    Kind.DONE(),
    Kind.DATA(Entry(3, name=b"x").pack()),
    Put(b"folder/x", Entry(3), overwrite=False).encode(),
    Get(b"folder").encode(),
    Kind.GET(Entry(3, 0o600, 1).pack()),
    # What would lead out of a folder, or be too much.
    Get(b"../secret").encode(),
    Get(b"up/secret").encode(),
    Get(b"link").encode(),
    Get(b"up", listing=True).encode(),
    Get(b"large").encode(),
    Put(b"../evil", FILE).encode(),
    Put(b"up/evil", FILE).encode(),
    Put(b"link", FILE).encode(),
    Put(b"../evil", Entry(0, type="d")).encode(),
    Kind.GET(Entry(3, name=b"../evil").pack()),
)
RAW = len(GOOD)  # any message; one more: any of a kind that there is


def message(source: Source) -> bytes:
    """Return the next message."""
    which = source.number(RAW + 3)
    if which < RAW:
        return GOOD[which]
    if which == RAW:
        return source.short()
    return source.pick(tuple(Kind))(source.short())
