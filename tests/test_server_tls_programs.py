"""A server over TLS in a process of its own: what its forks share, what memory it takes."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import certificates
import pysock
from certificates import Certificates
from conftest import linux, unix
from peers import LONG, run_python
from proofs import hello

certs = certificates.certs

KIB, MIB = 1 << 10, 1 << 20

# ------------------------------------------------------------ forks

NONCES = """
import os, ssl, sys
from pysock import auth, tls

certificate, key, ca, hello = sys.argv[1:]
hello = bytes.fromhex(hello)
secret = bytes(range(32))
server, client = tls.server_context(certificate, key), tls.client_context(ca)

incoming, first = ssl.MemoryBIO(), ssl.MemoryBIO()
try:
    client.wrap_bio(incoming, first, server_hostname="localhost").do_handshake()
except ssl.SSLWantReadError:
    first = first.read()

def of_handshake():
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(first)
    try:
        server.wrap_bio(incoming, outgoing, True).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()[11:43]

def of_proof():
    side = auth.Verifier(secret)
    side.feed(hello[:side.wanted])
    return side.feed(hello[11:])[11:]

made = [of_handshake(), of_proof()]  # whatever is kept is kept from before the forks
readers = []
for _ in range(4):
    reader, writer = os.pipe()
    readers.append(reader)
    if os.fork() == 0:
        os.close(reader)
        with open(writer, "wb") as file:
            for _ in range(2500):
                file.write(of_proof())
            for _ in range(250):
                file.write(of_handshake())
        os._exit(0)
    os.close(writer)
for reader in readers:
    with open(reader, "rb") as file:
        while nonce := file.read(32):
            assert len(nonce) == 32
            made.append(nonce)
print(len(made), len(set(made)))
"""


@pytest.mark.case("S07")
@unix
def test_nonces_of_four_workers_are_all_different(certs: Certificates) -> None:
    """S07: those of a proof, and those of TLS; contexts and keys are older than the forks."""
    files = [*map(str, certs.server), str(certs.ca)]
    assert run_python(NONCES, *files, hello(b"").hex()) == "11002 11002\n"


# ------------------------------------------------------------ memory

SERVER = """
import gc, os, pysock, resource, sys
from pysock import tls

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def handler(message):
    if message != b"resident":
        return message
    gc.collect()
    return b"%d %d" % (resident(), len(os.listdir("/proc/self/fd")))

context = tls.server_context(*sys.argv[1:])
with pysock.Server("127.0.0.1:0", handler, tls=context, workers=2).start() as server:
    print(server.address, flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def measured(certs: Certificates) -> Iterator[tuple[Callable[[], pysock.Client], Any]]:
    """A server; how to make a client of it, and to ask for its bytes and descriptors."""
    context = certs.client_context()
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER, *map(str, certs.server)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "MALLOC_ARENA_MAX": "2"},
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        address = process.stdout.readline().strip()

        def client() -> pysock.Client:
            return pysock.Client(address, tls=context, timeout=LONG)

        with client() as asking:

            def resident() -> tuple[int, int]:
                size, descriptors = asking.request(b"resident").split()
                return int(size), int(descriptors)

            yield client, resident
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(LONG) == 0


# It takes 19 KiB itself, since 3.5 34: its keys now hold against quantum computers, too.
OPENSSL = (24 if ssl.OPENSSL_VERSION_INFO < (3, 5) else 40) * KIB


@pytest.mark.case("L08")
@linux
def test_idle_connections_take_little_memory(certs: Certificates) -> None:
    """L08: what OpenSSL needs for one, and no buffer of ours."""
    with measured(certs) as (client, resident), contextlib.ExitStack() as stack:
        peers = [stack.enter_context(client()) for _ in range(50)]
        before, _ = resident()
        peers += [stack.enter_context(client()) for _ in range(200)]
        for peer in peers:
            assert peer.request(b"x" * 1000) == b"x" * 1000
        assert resident()[0] - before < 200 * OPENSSL, (resident()[0] - before) / 200
        # Its memory for records grows to the longest, and no further.
        for _ in range(2):
            for peer in peers:
                assert len(peer.request(bytes(200_000))) == 200_000
        assert resident()[0] - before < 250 * 80 * KIB, (resident()[0] - before) / 250


def check_flat(certs: Certificates, warm: int, count: int) -> None:
    """Connect again and again, ending in every way, and look at what the server keeps."""
    with measured(certs) as (client, resident):

        def visit(number: int) -> None:
            with client() as peer:
                peer.linger = float(number % 3)
                assert peer.request(b"x" * (number % 7 * 5000)) == b"x" * (number % 7 * 5000)
                if number % 5 == 0:
                    peer.send(b"not read")

        for number in range(warm):
            visit(number)
        before, descriptors = resident()
        for number in range(count):
            visit(number)
        after, still = resident()
        assert after - before < MIB, (after - before) / KIB
        assert still <= descriptors + 1


@pytest.mark.case("L17")
@linux
def test_memory_is_flat_over_many_connections(certs: Certificates) -> None:
    """L17."""
    check_flat(certs, 200, 300)


@pytest.mark.case("L17")
@pytest.mark.slow
@pytest.mark.timeout(300)
@linux
def test_memory_is_flat_over_ten_thousand_connections(certs: Certificates) -> None:
    """L17."""
    check_flat(certs, 1000, 10_000)
