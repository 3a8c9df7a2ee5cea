"""The threads of one run of a server, and the one that waits for the end.

What they do by turns is their crew's, which is compiled (lead.pxi): one thread is started,
that one starts the next, and so on while handlers block.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Iterator
from selectors import EVENT_READ
from typing import TYPE_CHECKING

from .waker import Waker

if TYPE_CHECKING:
    from typing import Any, Self

try:
    from selectors import PollSelector
except ImportError:  # Windows, whose select() takes any descriptor
    from selectors import SelectSelector as PollSelector  # type: ignore[assignment]

__all__ = ["CUT", "NEVER", "Workers"]

NEVER = float("inf")
_NO_MEMORY_NAP = 0.01  # seconds, after an allocation that has failed
CUT = 1.0  # seconds that a thread gets to notice that it is to end
_LONGEST_WAIT = 86400.0  # what poll() takes has an end


class Workers:
    """Threads that take turns, from the first to the end of the last.

    A subclass makes `_crew`, and defines `_close_all`.

    Args:
        server: whose handler they call.
        deadlines: for the drain, one for each time that the server was told to stop.
        workers: the most threads; 0: the thread that calls `run` does it all.
        logger: for what goes wrong.
    """

    def __init__(
        self, server: Any, deadlines: list[float], workers: int, logger: logging.Logger
    ) -> None:
        self.server = server
        self._deadlines = deadlines
        self._workers = workers
        self._logger = logger
        self._log = server._seldom.log
        self._threads: set[threading.Thread] = set()
        self._crew: Any = None
        self._act_at = 0.0 if server._acts else NEVER
        self._spawn_at = NEVER
        self._over = False
        self._watches = True  # the thread that waits: False while it does so without an end
        self._crash: BaseException | None = None

    def __enter__(self) -> Self:
        try:
            self._waker = Waker()
        except OSError:
            self._crew.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._close_all()
        finally:
            self._waker.close()

    def _close_all(self) -> None:
        """End what is left, and have all threads return."""
        raise NotImplementedError

    def run(self) -> None:
        """Serve until the server is told to stop, and has drained."""
        with self._woken_by_signals():
            if self._workers == 0:
                self._serve_here()
                return
            self._spawn()  # the leader, which starts the next
            if self._threads:
                self._wait_for_the_end()
            elif self._crash is None:
                raise RuntimeError("cannot start a thread to serve in; workers=0 needs none")
            if self._crash is not None:
                raise self._crash

    def _serve_here(self) -> None:
        self._crew.run()

    @property
    def stopping(self) -> bool:
        """Whether the server has been told to stop, or has stopped."""
        return self._over or bool(self._deadlines)

    @property
    def threads(self) -> int:
        """How many threads take turns."""
        return int(self._crew.threads)

    def is_mine(self) -> bool:
        """Whether the calling thread is one that serves, which cannot wait for the end."""
        return threading.current_thread() in self._threads

    def wake(self) -> None:
        """Have everybody look whether the server is stopping."""
        self._crew.call_server()
        self._waker.wake()

    @contextlib.contextmanager
    def _woken_by_signals(self) -> Iterator[None]:
        """In the main thread, let a signal end a wait that it came just before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = self._waker.wake_on_signals()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)

    def _spawn(self) -> None:
        """Start another thread that takes turns, if there may be one more."""
        if len(self._threads) >= self._workers or self._over:
            return
        name = f"{self.server!r} worker {len(self._threads) + 1}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as exc:
            self._threads.discard(thread)
            self._spawn_at = time.monotonic() + 1.0
            self._crew.call_at(self._spawn_at)
            self._log(logging.WARNING, "cannot start another thread to serve in: %s", exc)

    def _work(self) -> None:
        try:
            self._threads.add(threading.current_thread())  # start() may have failed behind it
            self._crew.run()
        except BaseException as exc:
            self._crash = exc
        self._waker.wake()

    def _wait_for_the_end(self) -> None:
        """Wait for the end of the drain, and for signals, while others serve."""
        while not self._over and self._crash is None:
            try:
                if not self._wait_once():
                    return
            except MemoryError:
                time.sleep(_NO_MEMORY_NAP)

    def _wait_once(self) -> bool:
        """Return whether there is more to wait for."""
        stop_at = min(self._deadlines, default=None)
        left = None if stop_at is None else stop_at - time.monotonic()
        if left is not None and left <= 0:
            # Perhaps all threads are in handlers, and none is there to notice.
            return False
        self._watches = False  # before it is asked: what begins after that pokes
        interval = self._watch_interval()
        if interval is not None:
            self._watches = True
            left = interval if left is None else min(interval, left)
        with PollSelector() as selector:  # select() takes no descriptor above 1023
            selector.register(self._waker, EVENT_READ)
            selector.select(None if left is None else min(left, _LONGEST_WAIT))
        self._waker.calm()
        self._watch()
        return True

    def _watch_interval(self) -> float | None:
        """Seconds between two calls of `_watch`, None where nothing needs one."""
        return None

    def _watch(self) -> None:
        """Look after what the leader might be too busy for; for the thread that waits."""

    def _act(self, now: float) -> None:
        """Do what every leader has to do now and then."""
        if now >= self._spawn_at:
            self._spawn_at = NEVER
            if not self._crew.followers:
                self._spawn()
        if now >= self._act_at:
            self._act_at = now + 1.0
            self.server.service_actions()

    def _join(self, end: float) -> None:
        """Wait for all threads, until *end*; who does not come back is left behind."""
        for thread in list(self._threads):
            while thread in self._threads:
                try:
                    thread.join(max(0.0, end - time.monotonic()))
                    break
                except RuntimeError:
                    time.sleep(0.001)  # it is just being started
            if thread.is_alive():
                self._logger.warning("%s: its handler does not end, left behind", thread.name)
