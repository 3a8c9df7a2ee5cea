"""Runs the rounds of several rivals by turns, each rival in its own two processes.

A *rival* is a program that plays both ends of a *work*.  Its client runs one
round for each line on its standard input and prints the seconds it took, so the
clock is the rival's own and nothing of the runner is in the figure.  The runner
knows nothing of pytest; `conftest.py` hands the figures to pytest-benchmark.
"""

import contextlib
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Protocol, Self

NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
PATIENCE = 60.0  # seconds for one answer of a peer before it counts as hung
WARM_UP = 2  # rounds: where one is one large message, the first has no memory yet
AGAIN = 0.5  # of all rounds, that may be run again


class PeerError(Exception):
    """A peer ended, hung, or said something other than it should."""


class Unavailable(PeerError):
    """A peer cannot run here: the library that it measures is not installed."""


Command = tuple[str, ...]


@dataclass(frozen=True)
class Rival:
    """One program to measure, by the command that starts it.

    *datagrams* and *remote* are the commands of its client and its server where the work
    is done with datagrams, or is a command to run; None: it has no part in them.
    """

    name: str
    command: Command
    datagrams: tuple[Command, Command] | None = None
    remote: tuple[Command, Command] | None = None

    def version(self) -> str:
        """Return what the peer says it is.

        Raises:
            Unavailable: what it needs is not installed.
            PeerError: it cannot start for another reason.
        """
        try:
            done = subprocess.run(
                [*self.command, "version"], capture_output=True, text=True, timeout=PATIENCE
            )
        except FileNotFoundError:
            raise Unavailable(f"{self.name}: no {self.command[0]}") from None
        if done.returncode == 0:
            return done.stdout.strip()
        if _is_unavailable(done.stderr):
            raise Unavailable(f"{self.name}: {done.stderr.strip().splitlines()[-1]}")
        raise PeerError(f"{self.name}: {done.stderr.strip() or f'status {done.returncode}'}")


@dataclass(frozen=True)
class Work:
    """What the *rivals* do: in a round, *count* messages of *size* bytes.

    A slow rival may be given *fewer* messages; figures are per message.  What a
    round costs besides (one acknowledgement) must stay below what can be seen.
    *spin* is in seconds, for the rivals that do not sleep at once.  A work without a goal
    may have fewer *rounds* than the others.
    """

    name: str
    kind: str
    rivals: tuple[str, ...]
    count: int
    size: int = 0
    fewer: Mapping[str, int] = field(default_factory=dict)
    unix: bool = False
    spin: Mapping[str, float] = field(default_factory=dict)
    rounds: int | None = field(default=None, kw_only=True)

    def count_for(self, rival: str) -> int:
        """Return the messages of one round of *rival*."""
        return self.fewer.get(_alike(rival), self.count)

    def spin_for(self, rival: str) -> float:
        """Return how long *rival* tries before it sleeps."""
        return self.spin.get(_alike(rival), 0.0)

    def commands(self, rival: Rival) -> tuple[Command, Command]:
        """Return what starts the client and the server of *rival*."""
        return rival.command, rival.command

    def address(self, sockets: Path, rival: str) -> str:
        """Return where the server of *rival* shall be; its path begins with *sockets*."""
        return f"unix://{sockets}-{rival}" if self.unix else "tcp://127.0.0.1:0"

    def options(self, rival: str) -> list[str]:
        """Return what both ends of *rival* are told besides."""
        return [str(self.count_for(rival)), str(self.size), str(self.spin_for(rival))]

    def shorter(self) -> Self:
        """Return the same with a quarter of the messages."""
        return replace(
            self,
            count=max(self.count // 4, 1),
            fewer={rival: max(count // 4, 1) for rival, count in self.fewer.items()},
        )


@dataclass(frozen=True)
class DatagramWork(Work):
    """What is done with datagrams, *window* of them before an answer is waited for."""

    window: int = 1

    def commands(self, rival: Rival) -> tuple[Command, Command]:
        if rival.datagrams is None:
            raise PeerError(f"{rival.name} has no peer for datagrams")
        return rival.datagrams

    def address(self, sockets: Path, rival: str) -> str:
        return f"unixgram://{sockets}-{rival}" if self.unix else "udp://127.0.0.1:0"

    def options(self, rival: str) -> list[str]:
        return [*super().options(rival), str(self.window)]


@dataclass(frozen=True)
class RemoteWork(Work):
    """What is done at the other end of a connection: *count* commands, or MiB."""

    tls: bool = False

    def commands(self, rival: Rival) -> tuple[Command, Command]:
        if rival.remote is None:
            raise PeerError(f"{rival.name} has no peer for remote commands")
        return rival.remote

    def address(self, sockets: Path, rival: str) -> str:
        return f"{'tls' if self.tls else 'unix'}://{sockets}-{rival}"


@dataclass(frozen=True)
class Round:
    """What one round has shown; of a server also what is None elsewhere.

    Attributes:
        seconds: for a message.
        longest: seconds that the slowest batch (or connect) took.
        load: the share of its core that the load generator used.
        server: processor seconds of the server for a message.
        memory: user memory of the server for an idle connection, in bytes.
        p50, p90, p99, p999: seconds that this many percent of the batches took at most.
        disturbed: the machine was not at its usual pace; see `pace.py`.
    """

    seconds: float
    longest: float | None = None
    load: float | None = None
    server: float | None = None
    memory: float | None = None
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    p999: float | None = None
    disturbed: bool = False


class Contender(Protocol):
    """Something whose rounds can be run by turns."""

    def round(self) -> Round:
        """Run one round."""

    def close(self) -> None:
        """End it."""


class Process:
    """One child process, kept on some cores, spoken to in lines."""

    def __init__(self, command: list[str], cores: set[int]) -> None:
        self._command = command
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
        except FileNotFoundError:
            self._errors.close()
            raise Unavailable(f"no {command[0]}") from None
        self.pid = self._process.pid
        if cores:
            # Before the peer has come far enough to start a thread: those
            # that come later inherit it.
            os.sched_setaffinity(self.pid, cores)

    def ask(self, line: str) -> None:
        try:
            _pipe(self._process.stdin).write(line)
            _pipe(self._process.stdin).flush()
        except OSError:
            raise self._failure("is gone") from None

    def answer(self) -> str:
        stdout = _pipe(self._process.stdout)
        # One line answers one line, so nothing can be waiting in the buffer.
        if not select.select([stdout], [], [], PATIENCE)[0]:
            raise self._failure(f"said nothing for {PATIENCE:.0f} s")
        line = stdout.readline()
        if not line:
            raise self._failure("ended")
        return line.strip()

    def close(self, patience: float) -> None:
        """End the process: by the end of its input, or else by force."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # a line that a dead peer never took
                _pipe(pipe).close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def errors(self) -> str:
        """Return what the process has written to its standard error so far."""
        return os.pread(self._errors.fileno(), 100_000, 0).decode(errors="replace")

    def _failure(self, what: str) -> PeerError:
        errors = self.errors()
        kind = Unavailable if _is_unavailable(errors) else PeerError
        return kind(f"{' '.join(self._command)} {what}\n{errors}")


class Processes:
    """Processes that belong together."""

    def __init__(self) -> None:
        self._ends: list[Process] = []

    def _start(self, command: list[str], cores: set[int]) -> Process:
        process = Process(command, cores)
        self._ends.append(process)
        return process

    def close(self) -> None:
        """End them all, the last one first: its end tells those before it."""
        for end in reversed(self._ends):
            end.close(5)
        self._ends.clear()


class Pair(Processes):
    """The two processes of one rival at one work, connected and ready."""

    def __init__(self, rival: Rival, work: Work, sockets: Path) -> None:
        super().__init__()
        client_core, server_core = cores()
        self._count = work.count_for(rival.name)
        client, server = work.commands(rival)
        address = work.address(sockets, rival.name)
        options = work.options(rival.name)
        try:
            address = self._start(
                [*server, "server", work.kind, address, *options], server_core
            ).answer()
            self._client = self._start(
                [*client, "client", work.kind, address, *options], client_core
            )
            if (said := self._client.answer()) != "ready":
                raise PeerError(f"{rival.name}: {said!r} instead of 'ready'")
        except BaseException:
            self.close()
            raise

    def round(self) -> Round:
        """Run one round."""
        self._client.ask("round\n")
        return Round(float(self._client.answer()) / self._count)


class Start:
    """A Python process that runs one statement; a round starts it *count* times."""

    def __init__(self, interpreter: str, statement: str, count: int) -> None:
        # -P: the source tree, where there is no compiled module, stays off the path.
        self._command = [interpreter, "-P", "-c", statement]
        self._count = count
        # Compiled once, in the warm-up, and not again at every start.
        self._environment = {k: v for k, v in os.environ.items() if k != NO_BYTECODE}

    def round(self) -> Round:
        """Take the seconds from start to exit of a process as those of a message."""
        started = time.perf_counter()
        for _ in range(self._count):
            done = subprocess.run(
                self._command, capture_output=True, text=True, env=self._environment
            )
            if done.returncode != 0:
                raise PeerError(done.stderr)
        return Round((time.perf_counter() - started) / self._count)

    def close(self) -> None:
        """Nothing is left running."""


def cores() -> tuple[set[int], set[int]]:
    """Return the cores of the client and the server; none where there is no choice."""
    if not hasattr(os, "sched_setaffinity"):
        return set(), set()
    allowed = sorted(os.sched_getaffinity(0))
    return ({allowed[0]}, {allowed[1]}) if len(allowed) > 1 else (set(), set())


class Machine(Protocol):
    """Tells whether a machine was at its usual pace: see `pace.py`."""

    def begin(self) -> None:
        """Begin a measurement."""

    def is_usual(self) -> bool:
        """Whether it has been since `begin`, and still is."""


def interleave(
    contenders: Mapping[str, Contender], rounds: int, machine: Machine
) -> tuple[dict[str, list[Round]], dict[str, PeerError]]:
    """Run `WARM_UP` rounds that do not count and *rounds* that do of each, by turns.

    The turns go A B C, C B A, A B C ...: a machine that gets slower or faster
    during the run does so to all alike.  A round in which *machine* was not at its usual
    pace is run again, as long as there are fewer of these than `AGAIN` allows; then it
    counts, and is marked.

    Returns:
        The rounds by name; and who failed, and why.
    """
    rounds_of: dict[str, list[Round]] = {name: [] for name in contenders}
    failed: dict[str, PeerError] = {}
    order = list(contenders)
    again = AGAIN * len(order) * rounds
    for turn in range(rounds + WARM_UP):
        for name in order if turn % 2 else reversed(order):
            if name in failed:
                continue
            try:
                machine.begin()
                seen = contenders[name].round()
                while turn >= WARM_UP and not machine.is_usual():
                    if again < 1:
                        seen = replace(seen, disturbed=True)
                        break
                    again -= 1
                    machine.begin()
                    seen = contenders[name].round()
            except PeerError as error:
                failed[name] = error
                continue
            if turn >= WARM_UP:
                rounds_of[name].append(seen)
    return rounds_of, failed


def _is_unavailable(errors: str) -> bool:
    """Whether a peer's last words say that something is not installed."""
    last = (errors.strip().splitlines() or [""])[-1]
    return last.startswith(("ModuleNotFoundError", "Unavailable"))


def _alike(rival: str) -> str:
    """The pysock of before a change does what the one of today does."""
    return "pysock" if rival == "before" else rival.removesuffix("_again")


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise ValueError("process without a pipe")
    return pipe
