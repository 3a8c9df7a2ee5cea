"""A server by the number of its connections: requests, how long they wait, and memory."""

from collections.abc import Callable

from goals import IDLE
from interleave import Work
from loaded import ServerWork

BUSY = (
    "c",
    "pysock",
    "redis",
    "uvloop",
    "asyncio",
    "streams",
    "twisted",
    "threads",
    "c_again",
)
HOLDERS = ("c", "pysock", "redis", "uvloop", "asyncio", "streams", "twisted", "threads")
ROUNDS = 7
FEWER = dict.fromkeys(("asyncio", "streams", "twisted", "threads"), 4000)
FEWER_ALONE = dict.fromkeys(FEWER, 1000)

WORKS = [
    *(
        ServerWork(
            f"connections_{count}",
            "batches",
            BUSY,
            2000 if count == 1 else 8000,
            64,
            FEWER_ALONE if count == 1 else FEWER,
            connections=count,
            rounds=ROUNDS,
        )
        for count in (1, 10, 50, 500, 2000)
    ),
    # The memory does not change from round to round: one is enough.
    *(
        ServerWork(
            name,
            "batches",
            HOLDERS if count < 10_000 else tuple(who for who in HOLDERS if who != "threads"),
            100,
            64,
            connections=1,
            idle=count,
            rounds=1,
        )
        for count, name in IDLE.items()
    ),
]


def test_connections(work: Work, rival: str, measure: Callable[[Work, str], None]) -> None:
    measure(work, rival)
