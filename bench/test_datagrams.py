"""Datagrams: pysock beside C, and beside plain sockets in Python."""

from collections.abc import Callable

from interleave import DatagramWork, Work

ALL = ("c", "pysock", "python", "c_again")
CLIENTS = (*ALL, "pysock_client", "python_client")  # these two are served by C

# A round is about 0.1 s, and a quarter of one must still be whole windows.  Two windows
# of 64 fit into a UDP queue of the usual size, one of 8 into a Unix one.
WORKS = [
    DatagramWork(
        "udp_batched", "batched", ALL, 25_600, 64, fewer={"python": 12_800}, window=64
    ),
    DatagramWork(
        "unixgram_batched",
        "batched",
        ALL,
        16_000,
        64,
        fewer={"python": 8000},
        window=8,
        unix=True,
    ),
    DatagramWork("udp_stream", "stream", ALL, 51_200, 64, fewer={"python": 25_600}, window=64),
    DatagramWork("udp_request", "request", CLIENTS, 3000, 64),
    DatagramWork("unixgram_request", "request", CLIENTS, 3000, 64, unix=True),
]


def test_datagrams(work: Work, rival: str, measure: Callable[[Work, str], None]) -> None:
    measure(work, rival)
