"""The works of `protocol.py` for rivals that call back, and so cannot wait in a loop.

A peer gives `listen` and `connect`.  These run the rival's own event loop, set `write` and
`stop` of the end that they are handed, call `connected`, and then `received` with whole
messages, and `pause` and `resume` as its transport asks for.
"""

import sys
from collections.abc import Callable, Sequence
from time import perf_counter

import protocol


class End:
    """One end of a work."""

    write: Callable[[Sequence[bytes]], None]
    stop: Callable[[], None]

    def __init__(self, options: protocol.Options) -> None:
        self._options = options

    def connected(self) -> None: ...
    def received(self, messages: Sequence[bytes]) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Client(End):
    """Reads lines and runs rounds: blocking meanwhile, for between them nothing is due."""

    def __init__(self, options: protocol.Options) -> None:
        super().__init__(options)
        self._streams = options.work.startswith("stream")
        small = options.work in ("stream_many", "stream_each")
        window = protocol.BATCH if small else 1
        window = protocol.DEPTH if options.work == "pipelined" else window
        self._batch = [b"x" * options.size] * window
        self._paused = False
        self._left = self._due = 0

    def connected(self) -> None:
        print("ready", flush=True)
        self._next_round()

    def received(self, messages: Sequence[bytes]) -> None:
        self._due -= len(messages)
        if self._due > 0:
            return
        if self._left > 0:
            self._due = len(self._batch)
            self._send()
            return
        print(perf_counter() - self._started, flush=True)
        if not self._streams:
            protocol.check(messages[-1], self._options)
        self._next_round()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        if self._streams:
            self._pump()

    def _next_round(self) -> None:
        if not sys.stdin.readline():
            self.stop()
            return
        self._started = perf_counter()
        self._left = self._options.count
        self._due = 1 if self._streams else len(self._batch)
        if self._streams:
            self._pump()
        else:
            self._send()

    def _send(self) -> None:
        self._left -= len(self._batch)
        self.write(self._batch)

    def _pump(self) -> None:
        while self._left > 0 and not self._paused:
            self._send()


class EchoServer(End):
    def received(self, messages: Sequence[bytes]) -> None:
        self.write(messages)


class CountingServer(End):
    _got = 0

    def received(self, messages: Sequence[bytes]) -> None:
        self._got += len(messages)
        if self._got >= self._options.count:
            self._got -= self._options.count
            self.write([b"ok"])


Run = Callable[[protocol.Options, End], None]


def main(version: str, listen: Run, connect: Run) -> None:
    """Be one end of a rival, as the command line says."""
    if sys.argv[1] == "version":
        print(version)
        return
    role, work, address, count, size, spin = sys.argv[1:]
    options = protocol.Options(work, address, int(count), int(size), float(spin))
    if role == "client":
        connect(options, Client(options))
        return
    protocol.end_with_the_runner()
    server = CountingServer if work.startswith("stream") else EchoServer
    listen(options, server(options))
