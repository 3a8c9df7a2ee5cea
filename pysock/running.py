"""From the start of a server to its end: what all servers have in common."""

from __future__ import annotations

import logging
import os
import threading
import time

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any, NoReturn, Self

    from .workers import Workers

__all__ = ["Run", "Runner"]

logger = logging.getLogger("pysock.server")


class Run:
    """From `start` or `serve_forever` to the end.

    A signal's handler may call `stop` at any point of this in the same thread, so nothing
    here takes a lock that it could find taken.
    """

    def __init__(
        self, thread: threading.Thread | None = None, serving: int | None = None
    ) -> None:
        self.thread = thread  # that was started for it
        self.serving = serving  # the thread that serves, which cannot wait
        self.loop: Any = None
        self.process = os.getpid()  # a child has no part in it
        self.deadlines: list[float] = []  # one for each call of `stop`
        self.ended = False
        self._gate = threading.Lock()
        self._gate.acquire()

    def finish(self) -> None:
        """Let those go on that wait for the end."""
        self.ended = True
        self._gate.release()

    def wait(self) -> None:
        """Wait for the end."""
        self._gate.acquire()
        self._gate.release()


class Runner:
    """A server's life: it serves here or in the background, and is stopped from anywhere.

    A subclass defines `_make_loop`, `fileno` and `server_close`.
    """

    def __init__(self) -> None:
        self._run: Run | None = None  # the present one, or the last
        self._running = threading.Lock()

    def _make_loop(self, deadlines: list[float], once: bool) -> Workers:
        """Return what serves from now to the last of the *deadlines*."""
        raise NotImplementedError

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"cannot copy or pickle a {type(self).__name__}, which holds what is open here"
        )

    def fileno(self) -> int:
        """Return the descriptor that is waited on, -1 once it is closed."""
        raise NotImplementedError

    def server_close(self) -> None:
        """Give up the address."""
        raise NotImplementedError

    def serve_forever(self) -> None:
        """Serve until `stop` or `shutdown` is called.

        Raises:
            RuntimeError: the server is running already, or closed.
        """
        self._serve_here()

    def _serve_here(self, once: bool = False) -> None:
        run = self._run
        if run is None or run.ended or run.thread is not threading.current_thread():
            run = self._claim(Run(serving=threading.get_ident()))
        try:
            run.serving = threading.get_ident()
            with self._make_loop(run.deadlines, once) as loop:
                run.loop = loop
                loop.run()
        finally:
            self._finish(run)

    def _claim(self, run: Run) -> Run:
        self._check_open()
        if not self._running.acquire(blocking=False):
            raise RuntimeError("the server is running already")
        self._run = run
        return run

    def _finish(self, run: Run) -> None:
        run.loop = None
        self._running.release()
        run.finish()

    @property
    def _loop(self) -> Any:
        run = self._run
        return None if run is None else run.loop

    def start(self) -> Self:
        """Serve in a background thread, which ends with the program; return the server.

        Raises:
            RuntimeError: the server is running already, or closed.
        """
        self._check_open()
        thread = threading.Thread(target=self._serve, name=f"{self!r}", daemon=True)
        run = self._claim(Run(thread))
        try:
            thread.start()
        except RuntimeError:
            run.thread = None
            self._finish(run)
            raise
        return self

    def _check_open(self) -> None:
        if self.fileno() < 0:
            raise RuntimeError("the server is closed")

    def _serve(self) -> None:
        try:
            self.serve_forever()
        except BaseException:
            # A handler's sys.exit(), say: clients must not wait for who serves no more.
            logger.critical("%r has ended", self, exc_info=True)
            self.server_close()
        finally:
            run = self._run
            if run is not None and run.thread is threading.current_thread() and not run.ended:
                self._finish(run)  # an overridden serve_forever() never came to ours

    def stop(self, drain: float = 30.0) -> None:
        """Stop serving: nothing new is accepted, what is under way is finished.

        Returns when all is over; from a handler, a session or a signal's handler it
        returns at once.  Another call may shorten the drain.

        Args:
            drain: seconds after which what is not done is cut.
        """
        if drain != drain:
            raise ValueError("drain is not a number, expected seconds")
        run = self._run
        if run is None or run.process != os.getpid():
            return
        if not run.ended:
            run.deadlines.append(time.monotonic() + drain)
            loop = run.loop
            if loop is not None:
                loop.wake()
            if threading.get_ident() == run.serving or (loop is not None and loop.is_mine()):
                return
            run.wait()
        if run.thread is not None and run.thread is not threading.current_thread():
            run.thread.join()

    def shutdown(self) -> None:
        """As `stop()`."""
        self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop(drain=30.0 if kind is None else 0.0)
        self.server_close()

    @property
    def stopping(self) -> bool:
        """Whether `stop` has been called and the server has not ended yet."""
        run = self._run
        return run is not None and bool(run.deadlines) and not run.ended
