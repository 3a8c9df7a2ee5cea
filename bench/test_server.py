"""A server under load: `Server` beside C, and beside what people serve with now.

The load is the same C program for all; only one server is loaded at a time.
"""

from collections.abc import Callable

from interleave import Work
from loaded import ServerWork

ALL = (
    "c",
    "pysock",
    "pysock_inline",
    "redis",
    "uvloop",
    "uvloop_plain",
    "asyncio",
    "streams",
    "twisted",
    "threads",
    "c_again",
)
HOLDERS = ("c", "pysock", "redis", "uvloop", "asyncio", "twisted", "c_again")

# Again rounds of about 0.1 s, and a quarter of one must still be whole batches.
FEWER_DEEP = {
    "pysock": 192_000,
    "pysock_alone": 192_000,
    "pysock_inline": 192_000,
    "redis": 96_000,
    "uvloop": 64_000,
    "uvloop_plain": 16_000,
    "asyncio": 64_000,
    "streams": 8000,
    "twisted": 16_000,
    "threads": 8000,
}
FEWER_EACH = {"streams": 4000, "twisted": 4000, "threads": 4000}
WORKS = [
    ServerWork("server_50x16", "batches", ALL, 192_000, 64, FEWER_DEEP, depth=16),
    ServerWork("server_500x1", "batches", ALL, 16_000, 64, FEWER_EACH, connections=500),
    ServerWork(
        "server_idle",
        "batches",
        (*HOLDERS, "pysock_alone", "c_alone"),
        192_000,
        64,
        FEWER_DEEP,
        depth=16,
        idle=10_000,
    ),
    ServerWork(
        "server_connects",
        "connects",
        tuple(name for name in ALL if name != "uvloop_plain"),
        2000,
        64,
        {"streams": 1000, "threads": 1000},
        connections=16,
    ),
    ServerWork(
        "server_sleep", "batches", ("pysock", "threads"), 8, 64, connections=8, handler="sleep"
    ),
    ServerWork(
        "server_processes",
        "batches",
        ("pysock", "pysock_two"),
        8000,
        64,
        depth=4,
        handler="compute",
        several_cores=True,
    ),
]


def test_server(work: Work, rival: str, measure: Callable[[Work, str], None]) -> None:
    measure(work, rival)
