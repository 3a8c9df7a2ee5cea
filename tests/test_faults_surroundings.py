"""A clock that jumps, thousands of descriptors, and little of what programs rely on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import certificates
from certificates import Certificates
from conftest import linux, require_peer
from peers import LONG, run_python

pytestmark = [linux, pytest.mark.slow]

certs = certificates.certs
EXCHANGES = str(Path(__file__).parent / "disturbed.py")

# ------------------------------------------------------------ the clock

STEPS = """
import os, socket, sys, threading, time
import pysock

steps = sys.argv[1]

def step(offset):
    with open(steps + ".new", "w") as file:
        file.write(offset)
    os.replace(steps + ".new", steps)

def takes(seconds, call):
    began, wall = time.monotonic(), time.time()
    stepping = threading.Timer(seconds / 3, step, [sys.argv[2]])
    stepping.start()
    call()
    stepping.join()
    assert abs(time.time() - wall) > 3000, "the clock was not stepped"
    step("+0s")
    passed = time.monotonic() - began
    assert seconds * 0.9 < passed < seconds + 3, (call, passed)

def fails(kind, call):
    def run():
        try:
            call()
        except kind:
            return
        raise AssertionError(kind)
    return run

def handler(message):
    if message == b"slow":
        threading.Event().wait(1)  # to sleep() a clock that is stepped is an error
    return message

with pysock.Server(
    "127.0.0.1:0", handler, workers=2, idle_timeout=30, send_timeout=30, minimum_rate=(30, 1)
).start() as server:
    with pysock.Client(server.address, timeout=1) as client:
        assert client.request(b"x") == b"x"
        takes(1, fails(TimeoutError, client.recv))
        client.timeout = 10
        takes(1, lambda: client.request(b"slow"))
        takes(1, lambda: pysock.wait([client], 1) == [] or 1 / 0)
        with socket.create_server(("127.0.0.1", 0)) as listener, pysock.Client(
            listener.getsockname(), timeout=1, linger=1
        ) as stuck:
            takes(1, fails(TimeoutError, lambda: stuck.send(bytes(64 << 20))))
            stuck.linger = 0
        ignore = lambda message: None
        with pysock.DatagramServer("udp://127.0.0.1:0", ignore).start() as silent:
            with pysock.DatagramClient(silent.address) as asking:
                takes(1, fails(TimeoutError, lambda: asking.request(b"x", 1, 2)))
            silent.stop(1)
        assert client.request(b"y") == b"y"  # and was not closed for being idle
    server.stop(5)
print("done")
"""


@pytest.mark.case("S13")
@pytest.mark.parametrize("offset", ["+1h", "-1h"])
def test_clock_that_is_set_changes_no_wait_s13(tmp_path: Path, offset: str) -> None:
    faketime = [require_peer("faketime"), "-m", "-f", "+0s", "sh", "-c", "echo $LD_PRELOAD"]
    library = subprocess.run(faketime, capture_output=True, text=True).stdout.strip()
    steps = tmp_path / "offset"
    steps.write_text("+0s")
    env = {name: value for name, value in os.environ.items() if name != "FAKETIME"}
    env |= {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(steps),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", STEPS, str(steps), offset],
        capture_output=True,
        text=True,
        env=env,
        timeout=3 * LONG,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


# ------------------------------------------------------------ descriptors

HIGH = """
import os, resource, socket, sys
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if hard < 6000:
    print("limit")
    sys.exit()
resource.setrlimit(resource.RLIMIT_NOFILE, (6000, hard))
hogs = [os.open(os.devnull, os.O_RDONLY) for _ in range(5000)]
import pysock
from pysock.remote import RemoteClient, RemoteServer

with pysock.Server("127.0.0.1:0", bytes.upper, max_connections=20).start() as server:
    with pysock.Client(server.address, timeout=20) as client:
        assert client.fileno() > 5000
        assert client.request(bytes(300_000)) == bytes(300_000)
        client.send(b"x")
        assert pysock.wait([client], 20) == [client]
        assert client.recv() == b"X"
with pysock.DatagramServer("udp://127.0.0.1:0", bytes.upper).start() as server:
    with pysock.DatagramClient(server.address, timeout=20) as client:
        assert client.request(b"x") == b"X"
ends = os.pipe(), os.pipe()
with pysock.Connection.from_fds(ends[0][0], ends[1][1], timeout=20) as one:
    with pysock.Connection.from_fds(ends[1][0], ends[0][1], timeout=20) as other:
        one.send(bytes(100))
        assert other.recv() == bytes(100)
with RemoteServer(f"unix://{sys.argv[1]}/s", allow_root=True) as server:
    server.start()
    with RemoteClient(server.address, timeout=20) as client:
        assert client.run(["cat"], input=bytes(300_000)).stdout == bytes(300_000)
    server.stop(0)
print("done")
"""


@pytest.mark.case("X05")
def test_descriptors_with_high_numbers_x05(tmp_path: Path) -> None:
    """select() would take none above 1023."""
    said = run_python(HIGH, str(tmp_path))
    if said == "limit\n":
        pytest.skip("no more than 6,000 descriptors may be open here")
    assert said == "done\n"


# ------------------------------------------------------------ little of a home


@pytest.mark.case("X07")
@pytest.mark.parametrize("kind", ["tcp", "tls", "remote", "datagrams"])
@pytest.mark.parametrize("options", ["-P", "-PO", "-POO"])
def test_exchanges_without_asserts_home_locale_or_a_place_to_write_x07(
    tmp_path: Path, certs: Certificates, kind: str, options: str
) -> None:
    """In /proc nobody may write, not even root."""
    both = tmp_path / "both.pem"
    both.touch(0o600)
    both.write_bytes(certs.server.certificate.read_bytes() + certs.server.key.read_bytes())
    env = {
        "PATH": os.defpath,
        "LANG": "C",
        "LC_ALL": "C",
        "TMPDIR": str(tmp_path),
        "DISTURBED_CERTIFICATE": str(both),
    }
    env |= {name: value for name, value in os.environ.items() if name == "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, options, EXCHANGES, kind, "2"],
        capture_output=True,
        text=True,
        env=env,
        cwd="/proc",
        timeout=3 * LONG,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 0\n", "")


FORGED = """
import logging, os, ssl, sys
import pysock
from pysock import tls

logging.disable()
assert False, "asserts are on"
key, other = os.urandom(32), os.urandom(32)
with pysock.Server("127.0.0.1:0", bytes.upper, authkey=key).start() as server:
    try:
        pysock.Client(server.address, authkey=other, timeout=20)
        print("a wrong key was taken")
    except pysock.AuthenticationError:
        pass
    with pysock.Client(server.address, authkey=key, timeout=20) as client:
        print(client.request(b"x").decode())
context = tls.server_context(sys.argv[1], sys.argv[2])
with pysock.Server("127.0.0.1:0", bytes.upper, tls=context).start() as server:
    try:
        pysock.Client(server.address, tls=tls.client_context(pin="00" * 32), timeout=20)
        print("a wrong certificate was taken")
    except ssl.SSLError:
        pass
"""


@pytest.mark.case("X07")
@pytest.mark.parametrize("option", ["-O", "-OO"])
def test_what_guards_is_no_assert_x07(certs: Certificates, option: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", option, "-c", FORGED, *map(str, certs.server)],
        capture_output=True,
        text=True,
        timeout=3 * LONG,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "X\n", "")
