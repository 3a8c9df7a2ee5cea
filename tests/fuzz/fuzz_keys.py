"""Files with keys, certificates to be pinned, and pins: read, or refused by ValueError."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from fuzz.folders import scratch_file
from fuzz.source import Source
from pysock.auth import check_authkey, check_user, load_key, load_keys
from pysock.tls import _pins, pin_of

WORDS = (b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n", b"# ", b"0" * 64)


def target(data: bytes) -> None:
    source = Source(data)
    how, content = source.number(4), source.rest()
    if how == 0:
        at_path(content, key)
    elif how == 1:
        at_path(content, keys)
    elif how == 2:
        at_path(content, certificate)
    elif how == 3:
        pins(content.decode(errors="replace").split("\n"))
    else:
        attempt(lambda: pin_of(content))


def at_path(content: bytes, read: Callable[[str, bytes], None]) -> None:
    """Have *read* read a file that has *content*."""
    fd, path = scratch_file()
    try:
        os.write(fd, content)
        os.close(fd)
        read(path, content)
    finally:
        os.unlink(path)


def attempt(call: Callable[[], Any]) -> Any:
    """Return what *call* returns, None where it is refused."""
    try:
        return call()
    except ValueError as exc:
        assert str(exc)
        return None


def key(path: str, content: bytes) -> None:
    found = attempt(lambda: load_key(path))
    if found is not None:
        check_authkey(found)
        assert found.hex() == content.strip().decode().lower()


def keys(path: str, content: bytes) -> None:
    found = attempt(lambda: load_keys(path))
    if found is None:
        return
    lines = [line.split(b"#")[0].split() for line in content.splitlines()]
    assert sum(map(len, found.values())) <= len(lines)
    for user, several in found.items():
        check_user(user)
        for one in several:
            check_authkey(one)
            assert one.hex().encode() in content.lower()


def certificate(path: str, content: bytes) -> None:
    found = attempt(lambda: pin_of(path))
    assert found is None or re.fullmatch("[0-9a-f]{64}", found)


def pins(given: list[str]) -> None:
    found = attempt(lambda: _pins(given))
    if found is not None:
        assert len(found) == len(given)
        assert all(re.fullmatch("[0-9a-f]{64}", pin) for pin in found)
