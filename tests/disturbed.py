"""Exchanges between ends in one process, for tests that disturb its system calls.

Run as a program: `python disturbed.py KIND EXCHANGES ERROR...`, where KIND is tcp, tls,
tcp-small, tls-small, remote or datagrams, and the errors are those that an exchange may end
with; then the next one begins.  All that arrives is compared.  It prints how many exchanges
were done, and how many were not.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from typing import Any

import pysock

LIMIT = 10.0
SIZES = (0, 10, 5000, 300_000)


def handler(message: bytes) -> Any:
    return iter([message, b""]) if message[:1] == b"2" else message


def exchange(client: pysock.Client) -> None:
    for size in SIZES:
        message = b"1" + bytes(range(250)) * (size // 250 + 1)
        need(client.request(message) == message)
        need(client.request_many([message, b"1", message]) == [message, b"1", message])
    client.send(b"2x")
    need(client.recv_many(1) + client.recv_many(1) == [b"2x", b""])


def need(fact: object, *told: object) -> None:
    """As assert, which some of the tests turn off."""
    if not fact:
        raise RuntimeError(f"not as it must be: {told}")


class Tally:
    """How many exchanges were done; the errors of the others are looked at."""

    def __init__(self, wanted: int, allowed: list[str]) -> None:
        self.wanted, self.allowed = wanted, set(allowed)
        self.done = self.met = 0

    def __bool__(self) -> bool:
        return self.done + self.met < self.wanted or not self.done

    def __enter__(self) -> None:
        need(self.met < 20 * self.wanted + 20, self.met)

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> bool:
        if kind is None:
            self.done += 1
            return False
        self.met += 1
        return bool({each.__name__ for each in kind.__mro__} & self.allowed)


def small(client: pysock.Client, tally: Tally) -> None:
    """Many small exchanges, by a client that connects again by itself."""
    while tally:
        with tally:
            message = b"1 and %d" % tally.done
            need(client.request(message) == message, message)


def streams(tally: Tally, folder: str, with_tls: bool, many_small: bool) -> None:
    options: dict[str, Any] = {}
    known: dict[str, Any] = {}
    if with_tls:
        from pysock import tls

        certificate = os.environ["DISTURBED_CERTIFICATE"]
        options["tls"] = tls.server_context(certificate)
        known["tls"] = tls.client_context(pin=tls.pin_of(certificate))
    with pysock.Server(
        "127.0.0.1:0", handler, workers=2, linger=1.0, **options
    ).start() as server:
        while tally and many_small:
            with (
                tally,
                pysock.Client(
                    server.address, timeout=LIMIT, reconnect=True, linger=0, **known
                ) as client,
            ):
                small(client, tally)
        while tally:
            with (
                tally,
                pysock.Client(
                    server.address, timeout=LIMIT, connect_timeout=LIMIT, linger=1.0, **known
                ) as client,
            ):
                exchange(client)
        server.stop(5)
        need(server.stats["connections"] == 0, server.stats)


def remote(tally: Tally, folder: str) -> None:
    from pysock.remote import RemoteClient, RemoteServer

    script = "cat; echo $1 >&2; exit 3"
    data = bytes(range(250)) * 1000
    with RemoteServer(f"unix://{folder}/s", allow_root=True) as server:
        server.start()
        while tally:
            with tally, RemoteClient(server.address, timeout=LIMIT) as client:
                done = client.run(["sh", "-c", script, "-", "x"], input=data)
                need((done.returncode, done.stdout, done.stderr) == (3, data, b"x\n"))
                with client.start(["sleep", "60"]) as command:
                    command.terminate()
                    need(command.wait() == -15)
        server.stop(0)


def datagrams(tally: Tally, folder: str) -> None:
    with pysock.DatagramServer("udp://127.0.0.1:0", bytes.upper).start() as server:
        while tally:
            with tally, pysock.DatagramClient(server.address, timeout=LIMIT) as client:
                for number in range(20):
                    request = b"number %d" % number
                    need(client.request(request, LIMIT, retries=100) == request.upper())
        server.stop(1)


def main() -> None:
    logging.disable()
    kind, wanted, *allowed = sys.argv[1:]
    tally = Tally(int(wanted), allowed)
    with tempfile.TemporaryDirectory() as folder:
        if kind == "remote":
            remote(tally, folder)
        elif kind == "datagrams":
            datagrams(tally, folder)
        else:
            streams(tally, folder, kind[:3] == "tls", kind[3:] == "-small")
    print(tally.done, tally.met)


if __name__ == "__main__":
    main()
