"""What befalls the processes of the soak: kills, stops, and masters that replace workers."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random

from processes import Client, Service, await_that, send_signal

# Seconds from one to the next, on average.
PACE = {
    "worker killed": 14.0,
    "client killed": 20.0,
    "worker stopped": 9.0,
    "client stopped": 12.0,
    "workers replaced": 50.0,
}
LONGEST_STOP = 3.0  # seconds; less than any limit of a server or a client
RETIRING = 40.0  # seconds that a worker takes to end after SIGHUP, at most
SETTLED = 60.0


class Trouble:
    """Decides what happens when, does it, and knows which process ended by that."""

    def __init__(
        self, dice: Random, services: Mapping[str, Service], clients: Sequence[Client]
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.events: list[tuple[float, str]] = []
        self.faults: list[str] = []
        self.killed: set[int] = set()
        self.retired: set[int] = set()
        self._dice = dice
        self._masters = {name: each for name, each in services.items() if name != "remote"}
        self._clients = clients
        self._known = {name: set(each.workers()) for name, each in self._masters.items()}
        self._reloaded = dict.fromkeys(self._masters, -RETIRING)
        self._stopped: list[tuple[float, int]] = []
        self._next: dict[str, float] = {}
        self._deeds: dict[str, Callable[[], bool]] = {
            "worker killed": self._kill_worker,
            "client killed": self._kill_client,
            "worker stopped": lambda: self._stop(self._worker()),
            "client stopped": lambda: self._stop(self._client_pid()),
            "workers replaced": self._reload,
        }

    def act(self, now: float) -> None:
        """Do what is due."""
        self._follow(now)
        for at, pid in self._stopped:
            if at <= now:
                send_signal(pid, signal.SIGCONT)
        self._stopped = [each for each in self._stopped if each[0] > now]
        for name, deed in self._deeds.items():
            due = self._next.setdefault(name, now + self._pause(name))
            if now >= due:
                self._next[name] = now + self._pause(name)
                if deed():
                    self.counts[name] += 1
                    self.events.append((now, name))

    def pause(self) -> None:
        """Let all go on that was stopped, and do nothing for now."""
        for _, pid in self._stopped:
            send_signal(pid, signal.SIGCONT)
        self._stopped.clear()

    def go_on(self) -> None:
        now = time.monotonic()
        self._next = {name: max(due, now) for name, due in self._next.items()}

    def await_workers(self) -> None:
        """Wait until each master has its workers, and no other."""
        for name, master in self._masters.items():

            def is_whole(name: str = name, master: Service = master) -> bool:
                self._follow(time.monotonic())
                return len(master.workers()) == 2

            if not await_that(is_whole, SETTLED):
                self.faults.append(f"{name} has the workers {master.workers()}")

    def was_near(self, at: float, within: float = 15.0) -> bool:
        """Whether something happened shortly before *at* that ends connections."""
        return any(
            at - within < when < at + 1.0 and "stopped" not in name
            for when, name in self.events
        )

    def _pause(self, name: str) -> float:
        return self._dice.expovariate(1 / PACE[name])

    def _follow(self, now: float) -> None:
        """Notice which workers have ended, and why."""
        for name, master in self._masters.items():
            present = set(master.workers())
            for pid in self._known[name] - present - self.killed:
                self.retired.add(pid)
                if now - self._reloaded[name] > RETIRING:
                    self.faults.append(f"worker {pid} of {name} ended by itself")
            self._known[name] = present

    def _worker(self) -> int | None:
        """Any worker of any master."""
        found = self._masters[self._dice.choice(list(self._masters))].workers()
        return self._dice.choice(found) if found else None

    def _client_pid(self) -> int | None:
        return self._dice.choice(self._clients).pid if self._clients else None

    def _kill_worker(self) -> bool:
        """Kill the youngest: what grows is seen in one that lives."""
        workers = self._masters[self._dice.choice(list(self._masters))].workers()
        if len(workers) < 2:
            return False
        self.killed.add(workers[-1])
        return send_signal(workers[-1], signal.SIGKILL)

    def _kill_client(self) -> bool:
        if len(self._clients) < 2:
            return False
        client = self._clients[-1]
        client.killed = True
        self.killed.add(client.pid)
        return send_signal(client.pid, signal.SIGKILL)

    def _stop(self, pid: int | None) -> bool:
        if pid is None or pid in self.killed:
            return False
        seconds = self._dice.uniform(0.1, LONGEST_STOP)
        self._stopped.append((time.monotonic() + seconds, pid))
        return send_signal(pid, signal.SIGSTOP)

    def _reload(self) -> bool:
        name = self._dice.choice(list(self._masters))
        now = time.monotonic()
        if now - self._reloaded[name] < RETIRING:
            return False
        self._reloaded[name] = now
        return send_signal(self._masters[name].pid, signal.SIGHUP)
