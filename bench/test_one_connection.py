"""One connection: a call of pysock beside C, and beside what people use now."""

from collections.abc import Callable

from interleave import Work

MiB = 1024 * 1024
SPIN = 50e-6
ALL = ("c", "pysock", "multiprocessing", "pyzmq", "python", "c_again")
INTO = ("c", "pysock", "multiprocessing", "python", "c_again")
ONLY_C = ("c", "pysock", "c_again")

# The counts make a round of about 0.1 s: long beside the clock, short beside the
# moods of a noisy machine.  A quarter of one must still be whole batches (1000 in
# the streams of small messages, 16 in the pipelined work).
WORKS = [
    Work("pingpong", "pingpong", ALL, 2000, 64),
    Work("pingpong_unix", "pingpong", ALL, 2000, 64, unix=True),
    Work(
        "pingpong_spin",
        "pingpong",
        ("c", "c_spin", "pysock", "c_again"),
        6000,
        64,
        fewer={"c": 2000, "c_again": 2000},
        spin={"c_spin": SPIN, "pysock": SPIN},
    ),
    Work(
        "pipelined",
        "pipelined",
        (
            "c",
            "pysock",
            "multiprocessing",
            "multiprocessing_nodelay",
            "pyzmq",
            "python",
            "c_again",
        ),
        48_000,
        64,
        # Nagle and the delayed ACK make multiprocessing wait 40 ms for each 16.
        fewer={
            "multiprocessing": 64,
            "multiprocessing_nodelay": 6400,
            "pyzmq": 8000,
            "python": 16_000,
        },
    ),
    Work(
        "stream_many",
        "stream_many",
        ("c", "c_own", "pysock", "multiprocessing", "pyzmq", "python", "c_again"),
        2_000_000,
        64,
        fewer={
            "multiprocessing": 20_000,
            "pyzmq": 40_000,
            "python": 100_000,
        },
    ),
    Work(
        "stream_each",
        "stream_each",
        (
            "c",
            "c_own",
            "pysock",
            "multiprocessing",
            "pyzmq",
            "python",
            "python_plain",
            "c_again",
        ),
        2_000_000,
        64,
        fewer={
            "pysock": 800_000,
            "multiprocessing": 20_000,
            "pyzmq": 40_000,
            "python": 100_000,
            "python_plain": 20_000,
        },
    ),
    Work("stream_16k", "stream", ALL, 8000, 16 * 1024),
    Work("stream_1m", "stream", ALL, 200, MiB, fewer={"multiprocessing": 60}),
    Work("stream_1m_into", "stream_into", INTO, 200, MiB, fewer={"multiprocessing": 60}),
    Work("stream_1m_view", "stream_view", ONLY_C, 200, MiB),
    Work("stream_64m_into", "stream_into", INTO, 4, 64 * MiB),
    Work("stream_64m_view", "stream_view", ONLY_C, 4, 64 * MiB),
    Work("echo_64m", "echo", ALL, 1, 64 * MiB),
    Work("echo_64m_into", "echo_into", INTO, 1, 64 * MiB),
    Work("import", "import", ("socket", "pysock", "socket_again"), 5),
]


def test_one_connection(work: Work, rival: str, measure: Callable[[Work, str], None]) -> None:
    measure(work, rival)
