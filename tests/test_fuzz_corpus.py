"""What a fuzzer has found worth keeping, and what it has crashed something with, once more."""

from __future__ import annotations

import logging
import random
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from conftest import TIME_FACTOR, posix
from fuzz import targets

SECONDS = 5.0  # for one input; a fuzzer has no patience either
MEMORY = 64 * 1024 * 1024  # bytes that it may take; a fuzzer's whole process has 256 MiB
CHANGES = 40  # of inputs of each corpus


def every_target() -> list[object]:
    return [
        pytest.param(name, marks=posix if name in targets.POSIX else ())
        for name in targets.NAMES
    ]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What servers have to say to all this is of no interest."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def hold(name: str, data: bytes, told: str) -> None:
    """Give a target one input, and look at the clock and at the memory."""
    tracemalloc.reset_peak()
    before, began = tracemalloc.get_traced_memory()[0], time.monotonic()
    try:
        targets.target_of(name)(data)
    except Exception as exc:
        exc.add_note(f"target {name}, {told}: {data[:64].hex(' ')}")
        raise
    assert time.monotonic() - began < SECONDS * TIME_FACTOR, told
    assert tracemalloc.get_traced_memory()[1] - before < MEMORY, told


@pytest.fixture
def watched() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.case("Z03", "Z04", "Z06")
@pytest.mark.parametrize("name", every_target())
@pytest.mark.usefixtures("watched")
def test_corpus_gives_what_must_be_z03_z04_z06(name):
    files = targets.inputs(name)
    assert files
    for file in files:
        hold(name, file.read_bytes(), file.name)


@pytest.mark.case("Z03")
@pytest.mark.parametrize("name", every_target())
@pytest.mark.usefixtures("watched")
def test_damaged_inputs_give_what_must_be_z03(name):
    """A little of what the fuzzer does, always the same."""
    files = targets.inputs(name)
    chance = random.Random(name)
    for _ in range(CHANGES):
        data = bytearray(chance.choice(files).read_bytes())
        for _ in range(chance.randint(1, 4)):
            damage(data, chance)
        hold(name, bytes(data), "damaged")


def damage(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    piece = chance.randbytes(chance.randint(1, 4))
    how = chance.randrange(4)
    if how == 0:
        data[at : at + len(piece)] = piece
    elif how == 1:
        data[at:at] = piece
    elif how == 2:
        del data[at : at + len(piece)]
    else:
        data[at:at] = data[chance.randrange(len(data) + 1) :][:64]
