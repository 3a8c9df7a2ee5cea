"""A client process of the soak: `python client.py NUMBER`.

It is told "go", "rest" and "end", a line each, and tells, in lines of JSON: what it has done
since the last line, errors, and when it rests: without a connection or a thread more than
it had at first.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pysock
from acts import ACTS, GONE, PATIENCE, Dice, Talk, command, have_it_closed, misbehave
from content import Content, Request, Wrong
from pysock.remote import RemoteClient

FOLDER = Path(os.environ["SOAK_FOLDER"])
THREADS = 4
TELL = 1.0  # seconds between two lines about what was done


class Process:
    """The threads that converse, and what they count."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._content = Content(int(os.environ["SOAK_SEED"]))
        self._addresses = [line for name in ("plain", "tls") for line in _addresses(name)]
        self._remote = _addresses("remote")[0]
        self._tls = pysock.tls.client_context(ca=FOLDER / "ca.pem")
        self._key = bytes.fromhex(os.environ["SOAK_KEY"])
        self._guard = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._go = threading.Event()
        self._round = 0

    def run(self) -> None:
        """Do as told until the end."""
        threads: list[threading.Thread] = []
        threading.Thread(target=self._tell_counts, daemon=True).start()
        self._tell(ready=True)
        for line in sys.stdin:
            self._go.clear()
            for thread in threads:
                thread.join()
            threads.clear()
            self._tell_now()
            if line.startswith("end"):
                break
            if line.startswith("rest"):
                self._tell(resting=True)
                continue
            self._go.set()
            self._round += 1
            for i in range(THREADS):
                dice = Dice(f"{self._seed}/{self._round}/{i}")
                threads.append(threading.Thread(target=self._converse, args=(dice, i)))
                threads[-1].start()
        self._tell(ended=True)

    # ---------------------------------------------------------------- one thread

    def _converse(self, dice: Dice, number: int) -> None:
        while self._go.is_set():
            luck = dice.random()
            if number == 0 and luck < 0.5:
                self._run_commands(dice)
            elif luck < 0.2:
                self._count(misbehaved=1)
                with self._told(0, "connecting"):
                    misbehave(dice.choice(self._addresses), dice, self._content)
            else:
                self._connect(dice)

    def _connect(self, dice: Dice) -> None:
        address = dice.choice(self._addresses)
        options: dict[str, Any] = {"timeout": PATIENCE, "connect_timeout": PATIENCE}
        if address.startswith("tls"):
            options |= {"tls": self._tls, "authkey": self._key}
        options["linger"] = dice.choice((0.0, 1.0))
        options["reconnect"] = again = dice.random() < 0.5
        options["spin"] = dice.choice((0.0, 0.0, 0.0, 0.0001))
        with self._told(0, "connecting"):
            conn = pysock.Client(address, **options)
            self._count(connections=1)
            for _ in range(2 if again else 1):
                if not self._hold_talks(Talk(conn, dice, self._content)):
                    break
            conn.close()

    def _hold_talks(self, talk: Talk) -> bool:
        """Return whether the connection has failed, and was to connect itself again."""
        conn, dice = talk.conn, talk.dice
        before = conn.stats
        conn.timeout = PATIENCE  # the act that failed may have had another
        pid, act = 0, "connecting"
        try:
            pid = int(conn.request(self._content.request(Request(b"w", 0), 0)))
            for _ in range(dice.randrange(1, 12)):
                if not self._go.is_set():
                    return False
                chosen = dice.choices(list(ACTS), list(ACTS.values()))[0]
                act = chosen.__name__
                chosen(talk)
            if dice.random() < 0.1:
                act = "have_it_closed"
                have_it_closed(talk)
        except Exception as exc:
            self._fail(exc, pid, act)
            return not conn.closed
        finally:
            after = conn.stats
            self._count(
                messages=after[0] - before[0] + after[4] - before[4],
                bytes=after[1] - before[1] + after[5] - before[5],
            )
        return False

    def _run_commands(self, dice: Dice) -> None:
        with self._told(-1, "command"), RemoteClient(self._remote, timeout=PATIENCE) as client:
            for _ in range(dice.randrange(1, 6)):
                if not self._go.is_set():
                    return
                command(client, dice, self._content, FOLDER)
                self._count(commands=1)

    @contextlib.contextmanager
    def _told(self, pid: int, act: str) -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            self._fail(exc, pid, act)

    # ---------------------------------------------------------------- what is told

    def _fail(self, exc: Exception, pid: int, act: str) -> None:
        """Tell of an error.

        Args:
            exc: what was raised.
            pid: of the server's process; 0: not known yet; -1: none that is ever killed.
            act: what was being done.
        """
        if isinstance(exc, Wrong):
            kind = "wrong"
        elif isinstance(exc, TimeoutError):
            kind = "lost"
        elif isinstance(exc, (*GONE, ConnectionRefusedError, ssl.SSLError)):
            kind = "end"
        elif isinstance(exc, pysock.AuthenticationError) and pid == 0:
            kind = "end"  # in the midst of the proof
        else:
            kind = "unexpected"
        self._tell(
            error=type(exc).__name__,
            text=str(exc)[:300],
            kind=kind,
            pid=pid,
            act=act,
            at=time.monotonic(),
        )

    def _count(self, **more: int) -> None:
        with self._guard:
            self._counts.update(more)

    def _tell_counts(self) -> None:
        while True:
            time.sleep(TELL)
            self._tell_now()

    def _tell_now(self) -> None:
        with self._guard:
            counts, self._counts = self._counts, Counter()
        if counts:
            self._tell(counts=counts)

    def _tell(self, **what: Any) -> None:
        os.write(1, (json.dumps(what) + "\n").encode())


def _addresses(name: str) -> list[str]:
    return (FOLDER / f"{name}.address").read_text().split("\n")


if __name__ == "__main__":
    Process(sys.argv[1]).run()
