"""Several processes behind one address: a master that starts, watches and ends workers.

The master opens the listening sockets, forks, and sleeps; it has no threads and never
imports the user's module, so that workers started after SIGHUP run what stands in the
file then.  The system hands each connection to one worker; one that nobody has accepted
yet belongs to all of them, and so survives the end of any.

SIGTERM ends the workers after what is under way is done, SIGINT as well; either one a
second time ends them at once.  SIGHUP replaces the workers one by one, each when its
successor is ready.  A worker that dies is replaced, with growing pauses if it does so
again and again.  Workers whose master dies end by themselves.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable

from .address import Made, identity
from .listener import Listener, open_listeners
from .loading import CannotStart, Loader
from .server import Server
from .systemd import notify
from .worker import CUT, FAILED, MARGIN, READY, Signals, fork, work, work_alone

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["serve"]

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds before a worker is replaced once more
_MANY = 10  # failures, beyond which the pause grows no more
_LONG_LIFE = 10.0  # a worker that lived so long has not failed at once
_PATIENCE = 2 * MARGIN  # seconds past the drain that a worker gets before it is killed
_LONGEST_DRAIN = 1e6  # seconds; the system waits for no more than about twice that
_LAST_WORDS = 4096  # bytes of why a worker could not start


def serve(
    address: Any,
    handler: Any,
    *,
    processes: int = 1,
    drain: float = 30.0,
    factory: bool = False,
    app_dir: str | os.PathLike[str] | None = None,
    ready: Callable[[Server], object] | None = None,
    **options: Any,
) -> int:
    """Serve as a program: in worker processes, until SIGTERM or SIGINT.

    SIGTERM and SIGINT finish what is under way, a second one ends at once; SIGHUP
    replaces the workers one by one.  Handlers of these signals are restored at the end;
    one for SIGCHLD goes on being called.  Limits such as `max_connections` are for each
    process.  Where the system cannot fork, all happens in this process.

    Args:
        address: as for `Server`; "fd://3" for a socket from systemd.
        handler: as for `Server`; or "module:name", which each worker imports anew.
        processes: how many workers.
        drain: seconds after which what is still under way is cut.
        factory: call *handler* in each worker, and serve with what it returns.
        app_dir: where "module" is looked for first; None: the current folder.
        ready: called once the first worker serves, with a server that tells the
            `addresses` (port 0 has become the port that the system chose) and options.
        options: for `Server`.

    Returns:
        The exit status: 0 after SIGTERM, 130 after SIGINT, 1 if the server ended by
        itself.

    Raises:
        OSError: an address cannot be had.
        RuntimeError: this is not the main thread; or no worker could start, and why.
        TypeError, ValueError: an argument is wrong.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "serve() handles signals, which only the main thread can: call it there; "
            "in another thread use Server(...).serve_forever()"
        )
    if processes < 1:
        raise ValueError(f"processes is {processes}, expected 1 or more")
    if not 0 <= drain < math.inf:
        raise ValueError(f"drain is {drain}, expected seconds, 0 or more")
    drain = min(drain, _LONGEST_DRAIN)
    loader = Loader(handler, factory, app_dir)
    try:
        if hasattr(os, "fork"):
            return _Master(address, loader, processes, drain, ready, options).run()
        if processes > 1:
            raise ValueError(f"processes is {processes}: this system has no fork(), use 1")
        return work_alone(address, loader, options, drain, ready)
    except CannotStart as exc:
        raise RuntimeError(str(exc)) from exc


class _Worker:
    """A child process, as its master knows it."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        self.pid = pid
        self.control = control
        self.born = time.monotonic()
        self.said = b""
        self.is_silent = False  # it has closed its end, or died
        self.ready = False
        self.stopped_at: float | None = None  # when it was told to end
        self.kill_at: float | None = None

    def hear(self) -> bool:
        """Take in what the worker has said; return whether it has become ready by that."""
        with contextlib.suppress(OSError):
            while len(self.said) < _LAST_WORDS:
                data = self.control.recv(_LAST_WORDS, socket.MSG_DONTWAIT)
                if not data:
                    self.is_silent = True
                    break
                self.said += data
        before, self.ready = self.ready, self.said[:1] == READY
        return self.ready and not before

    def send_signal(self, number: int) -> None:
        """Send a signal; the number cannot be another's, for it has not been reaped."""
        with contextlib.suppress(ProcessLookupError):  # but somebody else may have
            os.kill(self.pid, number)

    def stop(self, drain: float) -> None:
        """Tell the worker to end."""
        if self.stopped_at is None:
            self.stopped_at = time.monotonic()
            self.send_signal(signal.SIGTERM)
        self.kill_at = self.stopped_at + MARGIN + (drain + _PATIENCE if self.ready else 0.0)

    def cut(self) -> None:
        """Tell the worker to end at once."""
        kill_at = time.monotonic() + MARGIN
        self.kill_at = kill_at if self.kill_at is None else min(kill_at, self.kill_at)
        if self.ready:
            with contextlib.suppress(OSError):
                self.control.send(CUT, socket.MSG_DONTWAIT)
        else:
            self.send_signal(signal.SIGKILL)


class _Slot:
    """The place of one worker among the `processes`."""

    def __init__(self) -> None:
        self.worker: _Worker | None = None
        self.successor: _Worker | None = None  # takes the place when it is ready
        self.failures = 0
        self.start_at = 0.0

    def pause(self, lived: float) -> float:
        """Count a failure; return the seconds before the next start."""
        if lived >= _LONG_LIFE:
            self.failures = 0
        pause = 0.0
        if self.failures:
            pause = min(_FIRST_PAUSE * 2 ** (self.failures - 1), _LONGEST_PAUSE)
        self.failures = min(self.failures + 1, _MANY)
        self.start_at = time.monotonic() + pause
        return pause


class _Master:
    """Starts, watches and ends the workers."""

    def __init__(
        self,
        address: Any,
        loader: Loader,
        processes: int,
        drain: float,
        ready: Callable[[Server], object] | None,
        options: dict[str, Any],
    ) -> None:
        self._address = address
        self._loader = loader
        self._drain = drain
        self._ready = ready
        self._options = dict(options)
        self._slots = [_Slot() for _ in range(processes)]
        self._reloading: list[_Slot] = []  # still to get a successor
        self._workers: dict[int, _Worker] = {}
        self._listeners: list[Listener] = []
        self._sockets: list[socket.socket] = []
        self._made: list[Made] = []
        self._has_served = False
        self._status: int | None = None  # once it is to end

    def run(self) -> int:
        """Serve; return the exit status."""
        numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD]
        with Signals(numbers) as self._signals:
            try:
                self._open()
                while self._status is None or self._workers:
                    self._step()
            finally:
                self._close()
                self._kill_all()
        return self._status

    def _step(self) -> None:
        for worker in self._workers.values():
            if worker.hear():
                self._welcome(worker)
        for number in self._signals.take():
            self._handle(number)
        self._reap()
        now = time.monotonic()
        for worker in self._workers.values():
            if worker.kill_at is not None and now >= worker.kill_at:
                logger.warning("worker %d does not end: it is killed", worker.pid)
                worker.send_signal(signal.SIGKILL)
                worker.kill_at = now + MARGIN
        if self._status is None:
            self._start_workers()
            self._wait()
        elif self._workers:
            self._wait()

    def _wait(self) -> None:
        """Sleep until a signal comes, a worker says something or it is time for something."""
        poll = select.poll()
        poll.register(self._signals.woken, select.POLLIN)
        moments = []
        for worker in self._workers.values():
            if not (worker.said or worker.is_silent):
                poll.register(worker.control, select.POLLIN)
            if worker.kill_at is not None:
                moments.append(worker.kill_at)
        if self._status is None:
            moments += [slot.start_at for slot in self._wanted() if slot.worker is None]
        left = max(0.0, min(moments) - time.monotonic()) if moments else math.inf
        poll.poll(min(left, 3600.0) * 1000 + 1)

    # ---------------------------------------------------------------- addresses

    def _open(self) -> None:
        backlog = self._options.get("backlog", 512)
        encrypted = self._options.get("tls") is not None
        self._listeners = open_listeners(
            self._address, backlog, Server.allow_reuse_address, encrypted
        )
        self._sockets = [listener.sock for listener in self._listeners]
        if self._options.get("allow_uids") is not None:
            for listener in self._listeners:
                listener.let_others_connect()
        health = self._options.get("health")
        if health is not None:
            self._listeners += open_listeners(health, backlog, Server.allow_reuse_address)
            self._options["health"] = self._listeners[-1].sock
        for listener in self._listeners:
            address = listener.address
            if address.path and not (address.abstract or listener.shared):
                self._made.append(identity(address.path))
        self._try_options()

    def _try_options(self) -> None:
        """Make a server that never serves.

        It finds out what is wrong with the options, in the process that can say so.
        """
        sockets = [sock.dup() for sock in self._sockets]
        options = dict(self._options)
        copies = list(sockets)
        if options.get("health") is not None:
            options["health"] = options["health"].dup()
            copies.append(options["health"])
        try:
            with Server(sockets, bytes, **options) as self._trial:
                pass
        finally:
            for sock in copies:
                sock.close()

    def _close(self) -> None:
        """Close the listening sockets; those of the workers stay open."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    # ---------------------------------------------------------------- signals

    def _handle(self, number: int) -> None:
        if number == signal.SIGHUP:
            if self._status is None:
                self._reload()
        elif number != signal.SIGCHLD:
            if self._status is None:
                self._status = 128 + number if number == signal.SIGINT else 0
                self._stop()
            else:
                for worker in self._workers.values():
                    worker.cut()

    def _stop(self) -> None:
        logger.info("ending: what is under way has %g s", self._drain)
        notify("STOPPING=1")
        self._close()
        for worker in self._workers.values():
            worker.stop(self._drain)

    def _reload(self) -> None:
        for slot in self._slots:
            if slot.successor is not None:  # it may have the code of before
                slot.successor.stop(self._drain)
                slot.successor = None
        self._reloading = [slot for slot in self._slots if slot.worker is not None]
        if self._reloading:  # else those to come have the new code anyway
            logger.info("replacing the workers one by one")
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def _reloaded(self, text: str, level: int = logging.INFO) -> None:
        self._reloading.clear()
        logger.log(level, text)
        notify("READY=1")

    # ---------------------------------------------------------------- workers

    def _wanted(self) -> list[_Slot]:
        """Until one has served there is no use in more: all would fail alike."""
        return self._slots if self._has_served else self._slots[:1]

    def _start_workers(self) -> None:
        for slot in self._wanted():
            if slot.worker is None and time.monotonic() >= slot.start_at:
                try:
                    slot.worker = self._start()
                except OSError as exc:
                    if not self._has_served:
                        raise
                    pause = slot.pause(0.0)
                    logger.error("%s; trying again in %g s", exc.strerror, pause)
        if self._reloading and self._reloading[0].successor is None:
            try:
                self._reloading[0].successor = self._start()
            except OSError as exc:
                self._reloaded(f"the workers go on as they are: {exc.strerror}", logging.ERROR)

    def _welcome(self, worker: _Worker) -> None:
        """Note that a worker serves; who had its place may go."""
        if worker.stopped_at is not None:
            worker.stop(self._drain)  # it has something to finish now
            return
        logger.debug("worker %d is ready", worker.pid)
        if not self._has_served:
            self._has_served = True
            notify("READY=1")
            if self._ready is not None:
                self._ready(self._trial)
        for slot in self._slots:
            if slot.successor is worker:
                if slot.worker is not None:
                    slot.worker.stop(self._drain)
                slot.worker, slot.successor = worker, None
                self._reloading.remove(slot)
                if not self._reloading:
                    self._reloaded("all workers are replaced")

    def _reap(self) -> None:
        for worker in list(self._workers.values()):
            try:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = worker.pid, 0  # the application's own SIGCHLD handler did it
            if pid:
                if worker.hear():
                    self._welcome(worker)
                worker.control.close()
                del self._workers[pid]
                self._bury(worker, os.waitstatus_to_exitcode(status))

    def _bury(self, worker: _Worker, status: int) -> None:
        if worker.stopped_at is not None or self._status is not None:
            logger.debug("worker %d has ended: %s", worker.pid, _told(status))
            return
        how = _told(status)
        if worker.said[:1] == FAILED:
            how = worker.said[1:].decode(errors="replace")
        for slot in self._slots:
            if slot.successor is worker:
                slot.successor = None
                self._reloaded(f"the workers go on as they are: {how}", logging.ERROR)
            elif slot.worker is worker:
                slot.worker = None
                if not self._has_served and status != -signal.SIGTERM:
                    raise CannotStart(how if worker.said else f"the first worker {how}")
                pause = slot.pause(time.monotonic() - worker.born)
                logger.log(
                    logging.ERROR if status else logging.INFO,
                    "worker %d: %s; the next starts %s",
                    worker.pid,
                    how,
                    f"in {pause:g} s" if pause else "now",
                )

    def _kill_all(self) -> None:
        """End what an exception has left running."""
        for worker in self._workers.values():
            worker.send_signal(signal.SIGKILL)
        for worker in self._workers.values():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(worker.pid, 0)
            worker.control.close()
        self._workers.clear()

    def _start(self) -> _Worker:
        """Start a worker.

        Raises:
            OSError: the system has no room for another process.
        """
        theirs = [worker.control for worker in self._workers.values()]
        pid, control = fork(self._signals, theirs, self._work)
        worker = self._workers[pid] = _Worker(pid, control)
        return worker

    def _work(self, control: socket.socket) -> int:
        return work(
            self._loader, self._sockets, self._options, self._drain, control, self._made
        )


def _told(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
