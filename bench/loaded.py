"""Runs the rounds of a server: it in one process, `load.c` in another.

The clock is the load generator's.  Beside it stands what the server's processes used
of a processor, so that one can see whose speed a figure is.
"""

import os
import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from interleave import PeerError, Processes, Rival, Round, Unavailable, Work, cores

ALONE = "_alone"  # a rival with this at its end has no idle connections beside it
SPARE_FILES = 100  # descriptors that a server needs for itself


@dataclass(frozen=True)
class ServerWork(Work):
    """What a server is asked: *count* messages in a round, over *connections*.

    The kinds are those of `load.c`.  *depth* requests are under way on each connection;
    *idle* further ones have each been answered once, and are quiet.  *handler* is one of
    `peers/serving.py`.  Servers that use *several_cores* get them if there are enough.
    """

    connections: int = 50
    depth: int = 1
    idle: int = 0
    handler: str = "echo"
    several_cores: bool = False

    def idle_for(self, rival: str) -> int:
        """Return how many idle connections *rival* has to hold."""
        return 0 if rival.endswith(ALONE) else self.idle

    def shorter(self) -> Self:
        """Return the same with a quarter of the messages and idle connections."""
        least = self.connections * self.depth  # each connection still has its batch
        return replace(
            self,
            count=max(self.count // 4, least),
            fewer={rival: max(count // 4, least) for rival, count in self.fewer.items()},
            # One round: the memory of so many connections is what is asked for.
            idle=self.idle if self.rounds == 1 else self.idle // 4,
        )


class ServerPair(Processes):
    """A server and what loads it, connected and ready.

    Args:
        load: the program that `load.c` was made into.
        sockets: how the path of a Unix socket begins.
    """

    def __init__(self, rival: Rival, work: ServerWork, load: str, sockets: Path) -> None:
        super().__init__()
        if not Path(load).exists():
            raise Unavailable("no load generator: it wants Linux and a C compiler")
        self._idle = idle = work.idle_for(rival.name)
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if files != resource.RLIM_INFINITY and files < idle + work.connections + SPARE_FILES:
            raise Unavailable(f"{idle} idle connections: the hard limit is {files} files")
        self._count = count = work.count_for(rival.name)
        at = f"unix://{sockets}-{rival.name}" if work.unix else "tcp://127.0.0.1:0"
        load_cores, server_cores = several_cores() if work.several_cores else cores()
        shape = [str(n) for n in (count, work.size, work.connections, work.depth)]
        protocol = "redis" if rival.name.startswith("redis") else "frames"
        try:
            self._server = self._start([*rival.command, work.handler, at], server_cores)
            at = self._server.answer()
            self._load = self._start([load, protocol, work.kind, at, *shape], load_cores)
            if (said := self._answer()) != "connected":
                raise PeerError(f"load: {said!r} instead of 'connected'")
            if idle:
                self._ask("round\n")  # what the busy ones need is there before it counts
                self._before = self._user_memory()
                self._ask(f"idle {idle}\n")
        except BaseException:
            self.close()
            raise

    def _ask(self, line: str) -> str:
        self._load.ask(line)
        return self._answer()

    def _answer(self) -> str:
        try:
            return self._load.answer()
        except PeerError as error:  # mostly it is the server that went wrong
            raise PeerError(f"{error}\nthe server said:\n{self._server.errors()}") from None

    def round(self) -> Round:
        """Run one round."""
        try:
            used = self._processor_seconds()
            seconds, longest, load, *shares = map(float, self._ask("round\n").split())
            used = self._processor_seconds() - used
            memory = (self._user_memory() - self._before) / self._idle if self._idle else None
        except OSError as error:  # of what /proc says of the server
            raise PeerError(f"the server is gone: {error}\n{self._server.errors()}") from None
        return Round(
            seconds / self._count, longest, load / seconds, used / self._count, memory, *shares
        )

    def _processes(self) -> list[int]:
        """The server's process, and its children if there are workers among them."""
        pid = self._server.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [pid, *map(int, children.split())]

    def _processor_seconds(self) -> float:
        # CPUCLOCK_SCHED of another process, as clock_getcpuclockid(3) makes it.
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in self._processes())

    def _user_memory(self) -> int:
        """Bytes that are resident; what the kernel holds for sockets is not in it."""
        lines = Path(f"/proc/{self._server.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) * 1024


def several_cores() -> tuple[set[int], set[int]]:
    """Return the cores of the load and of a server with two processes.

    With fewer than three there is nothing to keep apart: both may use all.
    """
    allowed = sorted(os.sched_getaffinity(0))
    return ({allowed[0]}, set(allowed[1:3])) if len(allowed) > 2 else (set(), set())
