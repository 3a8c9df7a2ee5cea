"""One connection by size: pysock beside what network libraries give, and all others."""

from collections.abc import Callable

from interleave import Work

KiB, MiB = 1024, 1024 * 1024
RIVALS = (
    "c",
    "pysock",
    "uvloop",
    "asyncio",
    "streams",
    "twisted",
    "pynng",
    "pyzmq",
    "thriftpy2",
    "multiprocessing",
    "python",
    "c_again",
)
# Twisted joins what it has with each piece that comes: 16 MiB take it a second.
ROUNDS = 7
LARGE = tuple(name for name in RIVALS if name != "twisted")
SLOW = ("streams", "twisted", "pynng", "pyzmq", "multiprocessing")

# Again rounds of about 0.1 s.
WORKS = [
    Work(
        "libraries_pingpong",
        "pingpong",
        RIVALS,
        2000,
        64,
        fewer=dict.fromkeys(("streams", "twisted", "asyncio", "pynng", "pyzmq"), 800),
        rounds=ROUNDS,
    ),
    Work(
        "libraries_pipelined",
        "pipelined",
        RIVALS,
        48_000,
        64,
        fewer={
            "uvloop": 16_000,
            "asyncio": 16_000,
            "streams": 3200,
            "twisted": 4800,
            "pynng": 3200,
            "pyzmq": 6400,
            "thriftpy2": 3200,
            "multiprocessing": 64,  # Nagle, as in test_one_connection.py
            "python": 16_000,
        },
        rounds=ROUNDS,
    ),
    Work(
        "libraries_64",
        "stream_many",
        RIVALS,
        2_000_000,
        64,
        fewer={
            "pysock": 800_000,
            "uvloop": 120_000,
            "asyncio": 80_000,
            "streams": 20_000,
            "twisted": 20_000,
            "pynng": 4000,
            "pyzmq": 40_000,
            "thriftpy2": 40_000,
            "multiprocessing": 20_000,
            "python": 100_000,
        },
        rounds=ROUNDS,
    ),
    Work(
        "libraries_1k",
        "stream_many",
        RIVALS,
        200_000,
        KiB,
        fewer={
            "uvloop": 60_000,
            "asyncio": 40_000,
            "streams": 12_000,
            "twisted": 20_000,
            "pynng": 4000,
            "pyzmq": 20_000,
            "thriftpy2": 12_000,
            "multiprocessing": 12_000,
            "python": 60_000,
        },
        rounds=ROUNDS,
    ),
    Work(
        "libraries_16k",
        "stream",
        RIVALS,
        8000,
        16 * KiB,
        fewer=dict.fromkeys((*SLOW, "asyncio", "thriftpy2", "uvloop"), 2400),
        rounds=ROUNDS,
    ),
    Work(
        "libraries_256k",
        "stream",
        RIVALS,
        800,
        256 * KiB,
        fewer={**dict.fromkeys((*SLOW, "asyncio", "uvloop"), 120), "thriftpy2": 48},
        rounds=ROUNDS,
    ),
    Work(
        "libraries_4m",
        "stream",
        RIVALS,
        48,
        4 * MiB,
        fewer={**dict.fromkeys((*SLOW, "asyncio", "uvloop"), 8), "thriftpy2": 4, "twisted": 4},
        rounds=ROUNDS,
    ),
    Work("libraries_echo_16m", "echo", LARGE, 1, 16 * MiB, rounds=ROUNDS),
]


def test_libraries(work: Work, rival: str, measure: Callable[[Work, str], None]) -> None:
    measure(work, rival)
