"""The soak: servers, clients and trouble between them for minutes, every byte compared.

    python tests/soak/run.py --minutes 10 [--keep PAGE] [--seed NUMBER]

A master with two workers serves TCP and a Unix socket, another one TLS with a key, a third
program remote commands; three processes of clients converse with them by every call there
is.  Meanwhile workers and clients are killed and stopped, and masters told to replace
their workers.  From time to time all clients rest: then no process may have a descriptor
more than at first, and its memory must not grow from rest to rest.

The status is 1 where a byte was wrong, a reply did not come and no error told of it, an
error had no cause, a process or a descriptor was left, or memory went on growing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import queue
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

if sys.platform != "linux":
    sys.exit("the soak reads /proc and adopts orphans, which only Linux has")

import trustme

import report
from processes import (
    Client,
    Sample,
    Service,
    adopt_orphans,
    await_that,
    look,
    reap_all,
)
from trouble import Trouble
from verdict import Resting, explain

CLIENTS = 3
EACH = 20.0  # seconds between two rests
SAMPLE = 2.0  # seconds between two looks at all processes
LIMIT = 60.0  # nothing that is waited for takes this long
# glibc gives freed memory back: what it would keep for later looks like growth for minutes.
MALLOC = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


class Soak:
    """One run."""

    def __init__(self, folder: Path, seed: int, minutes: float) -> None:
        self.folder = folder
        self.minutes = minutes
        self.began = time.monotonic()
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.errors: list[dict[str, Any]] = []
        self.samples: dict[tuple[str, int], list[tuple[float, Sample]]] = {}
        self.resting = Resting()
        self._heard: queue.SimpleQueue[tuple[Client, Any]] = queue.SimpleQueue()
        self._make_secrets(seed)
        self.services = {name: Service(folder, name) for name in ("plain", "tls", "remote")}
        for name in self.services:
            if await_that((folder / f"{name}.address").exists, LIMIT) is None:
                raise SystemExit(f"{name} did not start:\n{self._last_words()}")
        self._number = 0
        self.clients: list[Client] = []
        self.trouble = Trouble(random.Random(seed), self.services, self.clients)

    def _make_secrets(self, seed: int) -> None:
        (self.folder / "files").mkdir()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.folder / "ca.pem")
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(self.folder / "server-key.pem")
        (self.folder / "server-key.pem").chmod(0o600)
        chain = b"".join(each.bytes() for each in issued.cert_chain_pems)
        (self.folder / "server.pem").write_bytes(chain)
        os.environ.update(
            MALLOC,
            SOAK_FOLDER=str(self.folder),
            SOAK_SEED=str(seed),
            SOAK_KEY=secrets.token_hex(32),
        )

    # ---------------------------------------------------------------- the course of it

    def run(self) -> None:
        end = self.began + 60 * self.minutes
        rest_at = self.began + 6.0  # soon, to have something to compare with
        sample_at = 0.0
        self._take_rest()
        while (now := time.monotonic()) < end and not self._is_hopeless():
            self._replace_clients()
            self.trouble.act(now)
            if now >= sample_at:
                self._sample()
                sample_at = now + SAMPLE
            if now >= rest_at:
                self._take_rest()
                rest_at = time.monotonic() + EACH
            self._listen(0.1)
        self._take_rest()
        self._end()

    def _is_hopeless(self) -> bool:
        return len(self.faults) > 20 or (self.folder / "wrong").exists()

    def _replace_clients(self) -> None:
        for client in [each for each in self.clients if each.process.poll() is not None]:
            client.close()
            self.clients.remove(client)
            if not client.killed:
                self.faults.append(f"{client.name} ended: {client.process.returncode}")
        while len(self.clients) < CLIENTS:
            self._number += 1
            client = Client(self.folder, self._number, self._heard)
            self.clients.append(client)
            client.tell("go")

    def _listen(self, seconds: float) -> None:
        """Take in what clients tell, for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                client, what = self._heard.get(timeout=left)
            except queue.Empty:
                return
            client.resting = client.resting or "resting" in what
            self.counts.update(what.get("counts", {}))
            if "error" in what:
                self.errors.append(what)
                if what["kind"] in ("wrong", "lost", "unexpected"):
                    self.faults.append(f"{what['kind']} in {what['act']}: {what['text']}")

    def _listen_until(self, condition: Any, what: str) -> None:
        end = time.monotonic() + 2 * LIMIT
        while not condition():
            self._listen(0.05)
            if time.monotonic() > end:
                self.faults.append(f"{what} after {2 * LIMIT:.0f} s")
                return

    def _take_rest(self) -> None:
        """Have all clients leave, and compare what each process holds then."""
        self.trouble.pause()
        self._replace_clients()
        resting = list(self.clients)
        for client in resting:
            client.tell("rest")
        self._listen_until(
            lambda: all(each.resting or each.process.poll() is not None for each in resting),
            "clients do not come to rest",
        )
        self.trouble.await_workers()
        found = self._processes()
        self.faults += self.resting.compare(found, time.monotonic() - self.began)
        self._sample()
        for client in resting:
            client.tell("go")
        self.trouble.go_on()

    def _processes(self) -> dict[tuple[str, int], int]:
        """Return all of them: by role and number."""
        found = {}
        for name, service in self.services.items():
            found[name if name == "remote" else f"{name} master", service.pid] = service.pid
            role = "spawner" if name == "remote" else f"{name} worker"
            found |= {(role, pid): pid for pid in service.workers()}
        return found | {("client", client.pid): client.pid for client in self.clients}

    def _sample(self) -> None:
        now = time.monotonic() - self.began
        for key, pid in self._processes().items():
            if (sample := look(pid)) is not None:
                self.samples.setdefault(key, []).append((now, sample))

    # ---------------------------------------------------------------- the end of it

    def _end(self) -> None:
        self.trouble.pause()
        for client in self.clients:
            client.tell("end")
            if (status := client.close(2 * LIMIT)) != 0:
                self.faults.append(f"{client.name} ended: {status}")
        self._listen(0.5)
        for service in self.services.values():
            status = service.end(signal.SIGTERM, LIMIT)
            if status != 0:
                self.faults.append(f"{service.name} ended: {status}")
        self.faults += [f"left behind: {each}" for each in reap_all()]
        if (self.folder / "wrong").exists():
            self.faults += (self.folder / "wrong").read_text().splitlines()
        self.faults += explain(self.errors, self.trouble)
        self.faults += self.resting.grown()
        if self.faults:
            print(self._last_words(), file=sys.stderr)

    def _last_words(self) -> str:
        words = []
        for path in sorted(self.folder.glob("*.log")):
            tail = path.read_text(errors="replace")[-2000:]
            words.append(f"--- {path.name}\n{tail}")
        return "\n".join(words)

    def summary(self) -> dict[str, Any]:
        """Return what is kept of the run."""
        ends = Counter(f"{each['error']}" for each in self.errors)
        return {
            "minutes": round((time.monotonic() - self.began) / 60, 1),
            "processes": len(self.samples),
            "python": platform.python_version(),
            **{name: self.counts[name] for name in
               ("messages", "bytes", "connections", "misbehaved", "commands")},
            "trouble": dict(self.trouble.counts),
            "errors": dict(ends.most_common()),
            "rests": self.resting.count,
            "growth": self.resting.growth(),
            "faults": self.faults,
        }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--output", type=Path, default=Path("build/soak"))
    parser.add_argument("--keep", type=Path, help="the page that has a place for the report")
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        soak = Soak(Path(folder), seed, options.minutes)
        try:
            soak.run()
        finally:
            with contextlib.suppress(OSError):
                reap_all()
    summary = {"seed": seed, **report.machine(), **soak.summary()}
    events = [(at - soak.began, name) for at, name in soak.trouble.events]
    report.write(summary, soak.samples, events, options.output, options.keep)
    return 1 if soak.faults else 0


if __name__ == "__main__":
    sys.exit(main())
