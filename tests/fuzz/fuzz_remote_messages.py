"""What the messages of remote commands hold: read, written, and read again."""

from __future__ import annotations

import os
from typing import Any

from fuzz.source import Source
from pysock.errors import FramingError
from pysock.remote import policy
from pysock.remote.link import failure_of
from pysock.remote.protocol import (
    FRAMING,
    Entry,
    Exec,
    Exit,
    Get,
    Kind,
    Put,
    Refusal,
    number_in,
    size_in,
)

CLASSES: tuple[Any, ...] = (Exec, Exit, Refusal, Put, Get)
TOKEN = b"TOKEN=1"


def target(data: bytes) -> None:
    source = Source(data)
    how = source.number(len(CLASSES) + 2)
    body = source.rest()
    try:
        if how < len(CLASSES):
            read(CLASSES[how], body)
        elif how == len(CLASSES):
            listing(body)
        else:
            numbers(body)
    except FramingError as exc:
        assert str(exc).isprintable() and len(str(exc)) < 1000


def read(kind: Any, body: bytes) -> None:
    value = kind.decode(body)
    again = value.encode()
    assert len(again) <= len(body) + 64 <= FRAMING.max_frame
    assert kind.decode(again[1:]) == value
    if kind is Exec:
        judge(value)
    elif kind is Refusal:
        error = failure_of(value)
        assert str(error) and (not isinstance(error, OSError) or value.code == "os")


def judge(command: Exec) -> None:
    """A server writes down what is wanted, and says whether it may be."""
    request = policy.request_of(command, "bob", ("127.0.0.1", 1))
    for longest in (64, policy.LONGEST_AUDITED):
        line = policy.command_line(request, longest)
        assert line.isprintable() and line.isascii() and len(line) <= longest
    for rule in (["ls", ["echo", "hi"]], {"bob": None, "eve": []}, ["put", "get"]):
        assert policy.rule_of(rule)(request) in (True, False)
    refusal = policy.denied(request)
    assert Refusal.decode(refusal.encode()[1:]) == refusal
    try:
        found = policy.environment(command, ["LC_*", "X?"], TOKEN)
    except PermissionError as exc:
        assert str(exc).isprintable()
        return
    for name in found:
        assert name and b"=" not in name and b"\0" not in name + found[name]
    allowed = {b"TOKEN", *policy._login(os.geteuid())}
    assert all(n in allowed or n.startswith((b"LC_", b"X")) for n in found)


def listing(body: bytes) -> None:
    at = 0
    packed = b""
    while at < len(body):
        entry, end = Entry.unpack(body, at)
        assert at < end <= len(body) and b"/" not in entry.name
        packed += entry.pack()
        at = end
    assert packed == body


def numbers(body: bytes) -> None:
    for kind in (Kind.STDIN, Kind.PUT, Kind.GET):
        if len(body) == (4 if kind is Kind.STDIN else 8):
            assert number_in(kind, body) == int.from_bytes(body, "big")
    rows, columns = size_in(body)
    assert 0 <= rows <= 65535 and 0 <= columns <= 65535
