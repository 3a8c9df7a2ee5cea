"""The targets by name, and the files that each is tried with; needs no fuzzer."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
PREFIX = "fuzz_"
NAMES = sorted(path.stem.removeprefix(PREFIX) for path in HERE.glob(f"{PREFIX}*.py"))
COMMON = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\r\n", b"\n", b"0", b"99999999999")
# There are no remote commands elsewhere, and what is sent over a pair of sockets comes later.
POSIX = ("remote_client", "remote_conversation", "remote_messages", "remote_server", "tls")


def target_of(name: str) -> Callable[[bytes], None]:
    """Return the function to call with any bytes; it raises where something is wrong."""
    found: Callable[[bytes], None] = importlib.import_module(f"fuzz.{PREFIX}{name}").target
    return found


def words_of(name: str) -> tuple[bytes, ...]:
    """Return what the inputs of a target are often made of."""
    words: tuple[bytes, ...] = getattr(sys.modules[f"fuzz.{PREFIX}{name}"], "WORDS", ())
    return (*COMMON, *words)


def inputs(name: str) -> list[Path]:
    """Return the files of a target's corpus, those that have crashed it among them."""
    return sorted((CORPUS / name).iterdir())
