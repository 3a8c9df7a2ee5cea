"""Networks of a test's own, with faults on the wire: Linux's namespaces, veth, nftables, tc.

A test module takes fixtures from here by assigning them: `wire = networks.wire`.
"""

from __future__ import annotations

import ctypes
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from conftest import require_peer
from peers import LONG, until

_CLONE_NEWNET = 0x40000000
NEAR, FAR = "192.0.2.1", "192.0.2.2"
WIRE = "wire"


class Network(threading.Thread):
    """A thread with a network of its own, which goes when the thread and its sockets have.

    A socket stays in the network where it was made, whichever thread uses it.
    """

    def __init__(self) -> None:
        super().__init__(name="network", daemon=True)
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.start()
        try:
            reason = self.call(self._leave_others)
            if reason:
                pytest.skip(reason)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _leave_others() -> str | None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) == 0:
            return None
        error = os.strerror(ctypes.get_errno())
        return f"no network of one's own, for which one must be root: {error}"

    def run(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function, args, options = call
            try:
                future.set_result(function(*args, **options))
            except BaseException as exc:
                future.set_exception(exc)
            del call, future, function, args, options

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function there."""
        future: Future[Any] = Future()
        self._calls.put((future, function, args, options))
        return future.result(2 * LONG)

    def close(self) -> None:
        self._calls.put(None)
        self.join()

    def do(self, command: str) -> str:
        """Run a program there, as in "ip link set lo up"; skip where the system cannot."""
        name, *arguments = command.split()
        done = self.call(
            subprocess.run, [require_peer(name), *arguments], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"{command}: {done.stderr.strip()}")
        return str(done.stdout)

    def filter(self, *rules: str) -> None:
        """Have nftables do to what comes in here what the rules say, and no more."""
        self.do("nft flush ruleset")
        self.do("nft add table inet test")
        self.do("nft add chain inet test in { type filter hook input priority 0 ; }")
        for rule in rules:
            self.do(f"nft add rule inet test in {rule}")

    def set(self, name: str, value: object) -> None:
        """Set a sysctl of this network."""

        def write() -> None:
            with open(f"/proc/sys/{name.replace('.', '/')}", "w") as file:
                file.write(str(value))

        self.call(write)


@pytest.fixture
def network() -> Iterator[Network]:
    """One network, in which not even the loopback interface is up."""
    if sys.platform != "linux":
        pytest.skip("network namespaces are Linux's")
    alone = Network()
    yield alone
    alone.close()


class Wire:
    """Two networks and what connects them, at the addresses NEAR and FAR."""

    def __init__(self) -> None:
        self.near = Network()
        try:
            self.far = Network()
        except BaseException:
            self.near.close()
            raise
        try:
            self._lay()
        except BaseException:
            self.close()
            raise

    def _lay(self) -> None:
        there = self.far.native_id
        self.near.do(f"ip link add {WIRE} type veth peer name {WIRE} netns {there}")
        for network, address in ((self.near, NEAR), (self.far, FAR)):
            network.do("ip link set lo up")
            network.do(f"ip address add {address}/24 dev {WIRE}")
            network.do(f"ip link set {WIRE} up")
        for network in (self.near, self.far):
            until(lambda: "state UP" in network.do(f"ip -o link show {WIRE}"))  # noqa: B023

    def filter(self, *rules: str) -> None:
        """Do the same to both directions."""
        self.near.filter(*rules)
        self.far.filter(*rules)

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    if sys.platform != "linux":
        pytest.skip("network namespaces are Linux's")
    laid = Wire()
    yield laid
    laid.close()
