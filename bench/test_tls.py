"""TLS: pysock beside an SSLSocket in a loop, and beside itself without TLS."""

from collections.abc import Callable

from interleave import Work

ALL = ("ssl", "pysock_tls", "ssl_again")
WITHOUT = (*ALL, "pysock")
WORKS = [
    Work("tls_pingpong", "pingpong", WITHOUT, 2000, 64),
    Work("tls_pipelined", "pipelined", WITHOUT, 16_000, 64, fewer={"ssl": 8000}),
    Work("tls_stream_many", "stream_many", WITHOUT, 400_000, 64, fewer={"ssl": 20_000}),
    Work("tls_stream_16k", "stream", WITHOUT, 3000, 16 * 1024),
    Work("tls_stream_1m", "stream", WITHOUT, 60, 1024 * 1024),
    Work("tls_echo_64m", "echo_into", WITHOUT, 1, 64 * 1024 * 1024),
    Work("tls_handshakes", "handshakes", ALL, 100, 64),
]


def test_tls(work: Work, rival: str, measure: Callable[[Work, str], None]) -> None:
    measure(work, rival)
