"""One process that serves: load the handler, serve, end when told to.

It may be a child of `prefork`, to which one end of a socket pair connects it: there it
says that it is ready, or why it never will be; there it hears that it must end at once,
or, by the end of the stream, that its master has died.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

from .address import Made, unlink_if_same
from .loading import CannotStart, Loader
from .server import Server
from .waker import Waker

if sys.platform != "win32":
    import fcntl

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Self

__all__ = ["CUT", "FAILED", "MARGIN", "READY", "Signals", "fork", "work", "work_alone"]

logger = logging.getLogger("pysock.prefork")

READY, FAILED, CUT = b"+", b"-", b"!"  # what is said between master and worker
MARGIN = 1.0  # seconds for a server's own end, after the drain
ORPHAN_DRAIN = 5.0  # the longest drain of a worker whose master is dead
_FLUSHING = 5  # seconds, whole ones, for a worker's last output


class Signals:
    """Signals as a queue, with a descriptor that becomes readable when one has come.

    Earlier handlers come back at the end; one for SIGCHLD, which may be there for children
    that are not ours, is called all the while.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self.numbers = set(numbers)
        self._came: deque[int] = deque()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.woken = Waker()
        self.mask_before = _block(self.numbers)
        self._waker_before = self.woken.wake_on_signals()
        for number in self.numbers:
            self._before[number] = signal.signal(number, self._note)
        _set_mask(self.mask_before - self.numbers)
        return self

    def __exit__(self, *_: object) -> None:
        _block(self.numbers)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._waker_before)
        self.woken.close()
        _set_mask(self.mask_before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came.append(number)
        before = self._before.get(number)
        if callable(before) and number == getattr(signal, "SIGCHLD", None):
            before(number, frame)

    def take(self) -> list[int]:
        """Return the signals that have come since the last call."""
        self.woken.calm()
        return [self._came.popleft() for _ in range(len(self._came))]


def _block(numbers: Iterable[int]) -> set[int]:
    """Hold *numbers* back in this thread; return what was held back before."""
    if sys.platform == "win32":
        return set()
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, numbers))


def _set_mask(mask: Iterable[int]) -> None:
    """Hold exactly the signals in *mask* back in this thread."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# ---------------------------------------------------------------- processes


def fork(
    signals: Signals,
    foreign: Iterable[socket.socket],
    run: Callable[[socket.socket], int],
) -> tuple[int, socket.socket]:
    """Start a process for *run*; return its number, and a socket connected to it.

    Args:
        signals: of this process, whose handling the child does not take over.
        foreign: sockets connected to other children, which it must not hold.
        run: gets the other end of the socket; it returns the exit status.

    Raises:
        OSError: the system has no room for another process.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()  # or what is in it would be written twice
    ours, theirs = socket.socketpair()
    # A signal must not run these handlers in the child, nor be lost there.
    mask = _block(signal.valid_signals())
    try:
        with warnings.catch_warnings():
            # Of a caller's other threads.  From 3.15 on, one that is made an error would be
            # raised here when the child is there already.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _become_child(signals, [ours, *foreign], theirs, run)
    except OSError as exc:
        ours.close()
        text = f"cannot start another process: {exc.strerror}"
        raise type(exc)(exc.errno, text) from None
    finally:
        theirs.close()
        _set_mask(mask)
    return pid, ours


def _become_child(
    signals: Signals,
    foreign: Iterable[socket.socket],
    control: socket.socket,
    run: Callable[[socket.socket], int],
) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGHUP):
            # These come to all of a terminal's processes; what they mean for a worker its
            # master decides.  Not ignored: commands that it runs would inherit that.
            signal.signal(number, lambda *_: None)
        signals.woken.close()
        for sock in foreign:
            sock.close()  # else its end would not tell of the master's death
        _set_mask(signals.mask_before - signals.numbers)
        status = run(control)
    except BaseException:
        logger.critical("worker %d has failed", os.getpid(), exc_info=True)
    finally:
        try:
            signal.alarm(_FLUSHING)  # which kills: nobody may be reading any more
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


# ---------------------------------------------------------------- serving


class _Server(Server):
    """A server that tells when it has ended."""

    on_end: Callable[[], None]
    has_ended = False

    def serve_forever(self) -> None:
        try:
            super().serve_forever()
        except BaseException:
            # A handler's sys.exit(), say.  Told here, for the process ends after this.
            logger.critical("%r has ended", self, exc_info=True)
        finally:
            self.has_ended = True
            self.on_end()


class _Life:
    """Runs a server in another thread until it ends or is ended."""

    def __init__(self, server: _Server, drain: float, signals: Signals) -> None:
        self._server = server
        self._drain = drain
        self._signals = signals
        self._ends_at: float | None = None
        self.control: socket.socket | None = None
        self.made: list[Made] = []
        self.came: list[int] = []  # the signals, in order

    def run(self) -> bool:
        """Serve; return whether it ended because it was told to."""
        self._server.on_end = self._signals.woken.wake
        self._server.start()
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals.woken, selectors.EVENT_READ)
            if self.control is not None:
                with contextlib.suppress(OSError):  # a master that is dead is seen below
                    self.control.sendall(READY)
                selector.register(self.control, selectors.EVENT_READ)
            while not self._server.has_ended and self._left() != 0:
                for key, _ in selector.select(self._left()):
                    if key.fileobj is self.control:
                        self._listen(selector)
                for number in self._signals.take():
                    self._handle(number)
        if self._server.has_ended:
            self._server.server_close()
        else:
            logger.warning("a handler does not return: it is left behind")
        return self._ends_at is not None

    def _left(self) -> float | None:
        return None if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())

    def _handle(self, number: int) -> None:
        # A supervisor may signal all processes, and the master then does it too: to a
        # worker twice means nothing.
        if not self.came:
            self._end(self._drain)
        elif self.control is None:
            self._end(0.0, MARGIN / 2)
        self.came.append(number)

    def _listen(self, selector: selectors.BaseSelector) -> None:
        assert self.control is not None
        try:
            data = self.control.recv(16)
        except OSError:
            data = b""
        if data:
            self._end(0.0, MARGIN / 2)
            return
        selector.unregister(self.control)
        logger.error("the master process has died: worker %d ends", os.getpid())
        _remove(self.made)
        self._end(min(self._drain, ORPHAN_DRAIN))

    def _end(self, drain: float, margin: float = MARGIN) -> None:
        at = time.monotonic() + drain + margin
        self._ends_at = at if self._ends_at is None else min(at, self._ends_at)
        # In a thread of its own: it waits, and more may come that shortens the wait.
        thread = threading.Thread(target=self._server.stop, args=(drain,), daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no room for another one
            self._server.stop(drain)


def work(
    loader: Loader,
    sockets: list[socket.socket],
    options: dict[str, Any],
    drain: float,
    control: socket.socket,
    made: list[Made],
) -> int:
    """Serve as a child of `prefork`; return the exit status.

    Args:
        loader: of the handler.
        sockets: to listen on.
        options: of the Server.
        drain: seconds that SIGTERM leaves for what is under way.
        control: connected to the master.
        made: the Unix paths that the master made, to be removed if it dies.
    """
    try:
        with _outliving_nobody(control, made):
            handler = loader.load()
            try:
                server = _Server(sockets, handler, **options)
            except Exception as exc:
                raise CannotStart(f"no server can be made: {exc}") from exc
    except CannotStart as exc:
        logger.debug("the handler cannot be had", exc_info=True)
        with contextlib.suppress(OSError):
            control.sendall(FAILED + str(exc).encode(errors="backslashreplace"))
        return 1
    with Signals([signal.SIGTERM]) as signals:
        life = _Life(server, drain, signals)
        life.control, life.made = control, made
        return 0 if life.run() else 1


def work_alone(
    address: Any,
    loader: Loader,
    options: dict[str, Any],
    drain: float,
    ready: Callable[[Server], object] | None,
) -> int:
    """Serve in this process, where the system cannot fork; return the exit status.

    Raises:
        CannotStart: the handler cannot be had.
        OSError: an address cannot be had.
    """
    server = _Server(address, loader.load(), **options)
    try:
        with Signals([signal.SIGINT, signal.SIGTERM]) as signals:
            life = _Life(server, drain, signals)
            if ready is not None:
                ready(server)
            if not life.run():
                return 1
            return 128 + signal.SIGINT if life.came[0] == signal.SIGINT else 0
    finally:
        server.server_close()


def _remove(made: list[Made]) -> None:
    for each in made:
        with contextlib.suppress(OSError):
            unlink_if_same(each)


@contextlib.contextmanager
def _outliving_nobody(control: socket.socket, made: list[Made]) -> Iterator[None]:
    """End this process if its master dies while the user's module is being imported.

    That may take for ever, and this process holds the listening sockets.  No thread can
    watch, for the module may fork.
    """

    def look(*_: object) -> None:
        with contextlib.suppress(BlockingIOError):
            if not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                _remove(made)
                os._exit(1)

    flags = fcntl.fcntl(control, fcntl.F_GETFL)
    signal.signal(signal.SIGIO, look)
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(control, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        look()
        yield
    finally:
        fcntl.fcntl(control, fcntl.F_SETFL, flags)
        signal.signal(signal.SIGIO, signal.SIG_DFL)
