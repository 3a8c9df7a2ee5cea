"""The load of `pysock bench`: sends requests and counts what comes back.

One thread drives all connections of a process, which never wait, with a selector; others
connect, since that may take long.
"""

from __future__ import annotations

import contextlib
import math
import queue
import select
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .. import AuthenticationError, Client, FramingError, wait
from ..framing import Format
from .bench_histogram import Histogram
from .options import in_options

__all__ = ["Load"]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
ENDLESS = 1 << 63
SECOND = 1_000_000_000
SLOWEST_REOPENING = SECOND  # between two attempts when none succeeds
TICK = SECOND // 4  # between two looks at the time limits, at most; and between reports

clock = time.perf_counter_ns


class Link:
    """One of the connections, and what is under way on it."""

    __slots__ = ("conn", "events", "heard", "in_line", "times", "under_way")

    def __init__(self) -> None:
        self.conn: Client | None = None
        self.events = 0  # that the selector watches for
        self.times: deque[tuple[int, int]] = deque()  # (when, how many requests)
        self.under_way = 0
        self.heard = 0  # when something last came, or an answer came to be owed
        self.in_line = False  # for the next request that is due


class Load:
    """A number of connections, and the requests over them.

    Args:
        address, framing, message: what is sent where.
        connections: how many.
        depth: requests under way on each.
        timeout: seconds for connecting, and for a server to go on answering.
        connectors: threads that connect.
        security: what a Client takes for TLS and keys.
        reopening: seconds between two attempts to replace lost connections, at least.
        progress: called now and then during a run, with the number of replies so far.
    """

    def __init__(
        self,
        address: str,
        framing: Format,
        message: bytes,
        connections: int,
        depth: int,
        timeout: float,
        reopening: float,
        connectors: int,
        security: dict[str, Any],
        progress: Callable[[int], object],
    ) -> None:
        self._message = message
        self._depth = depth
        self._timeout = timeout
        self._progress = progress
        self._patience = int(timeout * SECOND)
        self._tick = min(TICK, max(self._patience // 10, SECOND // 100))
        self._links = [Link() for _ in range(connections)]
        self._selector = selectors.DefaultSelector()
        self._wakee, self._waker = socket.socketpair()
        for end in (self._wakee, self._waker):
            end.setblocking(False)
        self._selector.register(self._wakee, READ)
        self._connector = Connector(
            connectors, self._wake, address, framing, connect_timeout=timeout, **security
        )
        self._broken: deque[Link] = deque()
        self._reopening = self._pause = int(reopening * SECOND)
        self._reopen_at = 0
        self._ahead: list[Link] = []  # with replies that no selector can see
        self._opened = 0
        self._stopping = False
        self._begin(0, None, 0, 0)

    def _begin(self, seconds: float, requests: int | None, rate: float, offset: float) -> None:
        """Set every count to zero."""
        self._histogram = Histogram()
        self._sent = self._answered = self._failed = 0
        self._left = ENDLESS if requests is None else requests
        self._errors: dict[str, int] = {}
        self._examples: dict[str, str] = {}
        self._start = self._alive_at = clock()
        self._end = self._start + int(seconds * SECOND) if seconds else ENDLESS
        self._period = SECOND / rate if rate else 0.0  # between two requests that are due
        self._first_due = self._start + int(offset * SECOND)
        self._line: deque[Link] = deque()  # who may send what comes due, longest free first
        for link in self._links:
            link.in_line = False
        self._bytes_in = self._bytes_out = 0
        self._bytes_in, self._bytes_out = (-count for count in self._traffic())

    def stop(self) -> None:
        """End the run that is under way at once; another thread calls this."""
        self._stopping = True
        self._wake()

    def close(self) -> None:
        """End all connections."""
        for link in self._links:
            if link.conn is not None:
                link.conn.close()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is awake
            self._waker.send(b"x")

    # ------------------------------------------------------------ connections

    def open(self) -> dict[str, Any]:
        """Try once to open each connection; return how that went.

        Raises:
            ValueError: the address is malformed.
        """
        for link in self._links:
            self._connector.ask(link)
        over = time.monotonic() + self._timeout + 0.5
        for _ in self._links:
            # Who is late is taken up during the run.
            with contextlib.suppress(queue.Empty):
                left = max(0.0, over - time.monotonic())
                self._take_up(*self._connector.done.get(timeout=left))
        if not self._opened and not self._errors:
            self._count("connect", f"no connection within {self._timeout:g} s")
        return {"opened": self._opened, "errors": self._errors, "examples": self._examples}

    def _take_up(self, link: Link, outcome: Client | Exception) -> None:
        """Begin to use a new connection, if it is one."""
        if isinstance(outcome, Client):
            link.conn = outcome
            link.times.clear()
            link.events = READ
            self._selector.register(outcome, READ, link)
            self._opened += 1
            self._pause = self._reopening
        elif isinstance(outcome, OSError | AuthenticationError):
            self._count("connect", outcome)
            self._broken.append(link)
            self._pause = min(2 * self._pause, SLOWEST_REOPENING)
        else:
            raise outcome

    def _take_up_all(self) -> None:
        with contextlib.suppress(queue.Empty, BlockingIOError):
            self._wakee.recv(4096)
            while True:
                link, outcome = self._connector.done.get_nowait()
                self._take_up(link, outcome)
                self._use(link, clock())

    def _lose(self, link: Link, kind: str, why: Exception | str) -> None:
        """Give a connection up, and the requests under way on it."""
        conn = link.conn
        assert conn is not None
        self._count(kind, why)
        self._failed += link.under_way
        link.under_way = 0
        self._bytes_in += conn.stats.bytes_in
        self._bytes_out += conn.stats.bytes_out
        self._selector.unregister(conn)
        link.conn, link.events = None, 0
        conn.close()
        self._broken.append(link)

    def _count(self, kind: str, why: Exception | str, count: int = 1) -> None:
        self._errors[kind] = self._errors.get(kind, 0) + count
        if isinstance(why, OSError):
            why = why.strerror or str(why)
        self._examples.setdefault(kind, in_options(str(why)))

    def _traffic(self) -> tuple[int, int]:
        """Return the bytes received and sent since the run began."""
        stats = [link.conn.stats for link in self._links if link.conn is not None]
        return (
            self._bytes_in + sum(each.bytes_in for each in stats),
            self._bytes_out + sum(each.bytes_out for each in stats),
        )

    # ------------------------------------------------------------ one run

    def run(
        self, seconds: float, requests: int | None, rate: float, offset: float
    ) -> dict[str, Any]:
        """Send for so long, or so many requests; return what was counted.

        What is under way at the end is waited for, unless `stop` was the end.

        Args:
            seconds: 0 for no limit.
            requests: None for no limit.
            rate: requests per second; 0: as fast as they are answered.
            offset: seconds before the first one is due.
        """
        self._begin(seconds, requests, rate, offset)
        look_at = self._start
        cpu = time.process_time()
        for link in self._links:
            self._use(link, self._start)
        known: dict[str, Any] = {}
        while True:
            self._turn(look_at)
            now = clock()
            if self._period:
                self._send_due(min(now, self._end - 1), now)
            if self._broken and self._left and now >= self._reopen_at:
                self._connector.ask(self._broken.popleft())
                self._reopen_at = now + self._pause
            if now >= look_at:
                look_at = now + self._tick
                self._look_after(now)
            idle = self._sent == self._answered + self._failed
            over = now >= self._end or self._stopping or self._is_hopeless(now)
            if not known and (over or (idle and not self._left)):
                known = self._counts(now)
                known["cpu"] = time.process_time() - cpu
                self._left = 0
            if known and (idle or self._stopping):
                break
        return known | {
            "answered": self._answered,
            "histogram": self._histogram.packed(),
            "errors": self._errors,
            "examples": self._examples,
            "opened": self._opened,
        }

    def _counts(self, now: int) -> dict[str, Any]:
        """Return what is known when sending ends."""
        bytes_in, bytes_out = self._traffic()
        return {
            "seconds": (now - self._start) / SECOND,
            "sent": self._sent,
            "unsent": self._unsent(now),
            "in_time": self._answered,
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
        }

    def _unsent(self, now: int) -> int:
        """Return how many requests should have been sent by now."""
        if self._period:
            due = math.ceil((min(now, self._end) - self._first_due) / self._period)
            return min(self._left, max(0, due - self._sent))
        return self._left if self._is_hopeless(now) else 0

    def _turn(self, until: int) -> None:
        """Wait for something to happen, or for the time; see to what has happened."""
        if self._left:
            until = min(until, self._end)
            if self._line:
                until = min(until, self._next_due())
            if self._broken:
                until = min(until, self._reopen_at)
        ahead, self._ahead = self._ahead, []
        left = 0.0 if ahead else max(0.0, (until - clock()) / SECOND)
        if self._period:
            left = self._doze(left)
        for key, events in self._selector.select(left):
            link = key.data
            if link is None:
                self._take_up_all()
                continue
            if events & WRITE:
                self._flush(link)
            if events & READ and link.conn is not None:
                self._receive(link)
        for link in ahead:
            if link.conn is not None:
                self._receive(link)

    def _doze(self, seconds: float) -> float:
        """Wait for events; return for how long more to wait.

        The timeout of epoll counts in milliseconds and is rounded up: too late for what
        comes due.  That of select does not, and tells of epoll's own descriptor.
        """
        if seconds and hasattr(select, "epoll"):
            select.select([self._selector.fileno()], [], [], seconds)
            return 0.0
        return seconds

    def _look_after(self, now: int) -> None:
        """Do what need not be done at once."""
        for link in self._links:
            if link.conn is None:
                continue
            self._alive_at = now
            if link.under_way and now - link.heard > self._patience:
                self._lose(link, "timeout", f"no reply within {self._timeout:g} s")
        self._progress(self._answered)

    def _is_hopeless(self, now: int) -> bool:
        """Whether the requests that are left can be sent to nobody."""
        return self._end == ENDLESS and now - self._alive_at > self._patience

    # ------------------------------------------------------------ requests and replies

    def _use(self, link: Link, now: int) -> None:
        """Send over a connection that has room for more."""
        if not self._period:
            self._send(link, min(self._depth - link.under_way, self._left), now, now)
        elif not link.in_line:
            link.in_line = True
            self._line.append(link)

    def _next_due(self) -> int:
        return self._first_due + int(self._sent * self._period)

    def _send_due(self, until: int, now: int) -> None:
        """Send what has come due, each over the connection that has been free longest."""
        while self._line and self._left and (due := self._next_due()) <= until:
            link = self._line.popleft()
            link.in_line = False
            if link.events == READ:
                self._send(link, 1, due, now)
                if link.events == READ and link.under_way < self._depth:
                    self._use(link, now)

    def _send(self, link: Link, count: int, due: int, now: int) -> None:
        """Send *count* requests, or as many as there is room for."""
        conn = link.conn
        if count <= 0 or conn is None:
            return
        try:
            if count == 1:
                conn.send(self._message)
            else:
                conn.send_many([self._message] * count)
        except BlockingIOError as exc:
            count = int(exc.accepted)  # type: ignore[attr-defined]
            self._watch(link, READ | WRITE)
        except (OSError, AuthenticationError) as exc:
            self._lose(link, "lost", exc)
            return
        if count:
            if not link.under_way:
                link.heard = now
            link.times.append((due, count))
            link.under_way += count
            self._sent += count
            self._left -= count

    def _flush(self, link: Link) -> None:
        """Send the rest of what was accepted, and then more."""
        assert link.conn is not None
        link.heard = now = clock()
        try:
            link.conn.flush()
        except BlockingIOError:
            return
        except (OSError, AuthenticationError) as exc:
            self._lose(link, "lost", exc)
            return
        self._watch(link, READ)
        if link.under_way < self._depth:
            self._use(link, now)

    def _watch(self, link: Link, events: int) -> None:
        if link.events != events:
            assert link.conn is not None
            link.events = events
            self._selector.modify(link.conn, events, link)

    def _receive(self, link: Link) -> None:
        """Take in the replies that have come, and send as many requests again."""
        conn = link.conn
        assert conn is not None
        try:
            count = len(conn.recv_many())
        except BlockingIOError:
            link.heard = clock()  # a part of one
            return
        except FramingError as exc:
            self._lose(link, "framing", exc)
            return
        except (OSError, EOFError, AuthenticationError) as exc:
            self._lose(link, "lost", exc)
            return
        link.heard = now = clock()
        if count > link.under_way:
            unasked = count - link.under_way
            self._count("unasked", "the server sends more replies than requests", unasked)
            count = link.under_way
        link.under_way -= count
        self._answered += count
        # Sent first and counted then: what this process does is no part of a latency.
        times = link.times
        if link.events == READ:
            self._use(link, now)
        while count:
            when, how_many = times[0]
            if how_many > count:
                times[0] = (when, how_many - count)
                how_many = count
            else:
                times.popleft()
            count -= how_many
            self._histogram.record(now - when, how_many)
        if conn.pending and link.conn is not None and wait((conn,), 0):
            self._ahead.append(link)


class Connector:
    """Threads that connect, so that nobody else waits for it."""

    def __init__(
        self, most: int, wake: Callable[[], object], *where: Any, **options: Any
    ) -> None:
        self._most = most
        self._wake = wake
        self._where, self._options = where, options  # of a Client
        self._orders: queue.SimpleQueue[Link] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[tuple[Link, Client | Exception]] = queue.SimpleQueue()
        self._threads = 0

    def ask(self, link: Link) -> None:
        """Have a connection made for *link*; it comes out of `done`."""
        self._orders.put(link)
        if self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            link = self._orders.get()
            try:
                self.done.put((link, self._connect()))
            except Exception as exc:
                self.done.put((link, exc))
            self._wake()

    def _connect(self) -> Client:
        return Client(*self._where, timeout=0, linger=0, **self._options)
