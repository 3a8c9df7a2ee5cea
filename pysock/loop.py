"""One run of a server: accept, take turns, limits, and an end that loses nothing.

Idle connections are parked in one poller; no thread waits on them.  One thread leads: it
waits at the poller, and what it finds readable it serves right there.  It receives all
that has come, calls the handler for each message and sends the replies together.  So a
quick handler runs as fast as in an event loop: nothing is handed from thread to thread.

A handler may also block.  A second thread stands by and looks once in a millisecond
whether the leader is still in the same handler; then it takes the lead, another one stands
by, and so on up to `workers` threads.  The one that was held up finishes its connection,
puts it back into the poller, and waits until it is needed again.  A reply that would block
holds nobody: its rest stays with the connection, which is parked for writing and not read
from until the peer has taken it.

How the lead changes hands is in crew.pxi.  Here is what the leader does besides:

    let_in      takes up a new client (see admission.py)
    _step       goes on with a connection that is in its handshake, or near its end
    _attend     does what is due: limits, the drain, connections that ended elsewhere

Only the leading thread runs these, so they need no locks.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from .address import format_peer
from .admission import Admission
from .errors import ConnectionClosed, Error
from .framing import _FADING, _GREETING, _HELD, _READ, _SERVED, _Crew, _Memory
from .session import ServerConnection, counted, explain_failure, hold
from .sweep import Sweep
from .workers import CUT, NEVER, Workers

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Loop"]

logger = logging.getLogger("pysock.server")

_FADING_TICK = 0.05  # how often a connection that is being closed is looked at
_FIRST_REQUEST = 1.0  # what a client that has sent nothing yet gets when the server stops
_LAST_WORD = 1.0  # what a client gets to read why its handshake has failed


class Loop(Workers):
    """What a server has while it runs.

    Args:
        server: the `Server`: its handler, its limits, and what to call.
        deadlines: for the drain, one for each time that the server was told to stop.
        once: serve one connection, in this thread.
    """

    def __init__(self, server: Any, deadlines: list[float], once: bool = False) -> None:
        # A loop that only starts sessions is never held up.
        alone = server._sessions or once
        super().__init__(server, deadlines, 0 if alone else server.workers, logger)
        self.once = once
        self.served: set[ServerConnection] = set()
        self._limits = server.limits
        self._handshakes = server._handshakes
        self._fading: set[ServerConnection] = set()
        self._gone: deque[ServerConnection] = deque()  # closed by a session or a handler
        self._leaving: set[ServerConnection] = set()  # other threads are in calls of theirs
        self._drain_began: float | None = None
        self._counted = False
        self._taken = self._fed = False
        memory = self._limits.max_memory
        self._memory = None if memory is None else _Memory(memory, self._memory_freed)
        self._crew = _Crew(server.handler, server._pass_connection, self._workers, self)
        self._sweep = Sweep(self, self._crew)
        self._admission = Admission(self, self._crew)

    # ---------------------------------------------------------------- running

    def run(self) -> None:
        """Serve until the server is told to stop, and has drained."""
        server = self.server
        server._open_health()
        if server._health is not None:
            server._health.start()
        super().run()

    def _serve_here(self) -> None:
        self._crew.watch_for(self._waker.fileno(), self._waker.calm)
        self._crew.run()

    def _watch_interval(self) -> float | None:
        return self._sweep.interval if self.served else None

    def _watch(self) -> None:
        self._sweep.for_leader()

    @property
    def takeovers(self) -> int:
        """How often one thread has taken the lead from another."""
        return 0 if self._counted else int(self._crew.takeovers)

    def _close_all(self) -> None:
        """Cut what is left, and have all threads return."""
        self.server._close_health()
        self._over = True
        self._crew.end()
        for connection in list(self.served):
            self._cut(connection)
        end = time.monotonic() + CUT
        self._join(end)
        while [connection for connection in self.served if not connection._end()]:
            if time.monotonic() >= end:
                break  # whoever is in a call leaves it behind
            time.sleep(0.001)
        with self.server._counting:
            for connection in self.served:
                self.server._counts.update(counted(connection))
            self.served.clear()
            self.server._counts["takeovers"] += self.takeovers
            self._counted = True
        if not self._crew.threads:
            self._crew.close()
        self._fading.clear()
        self._gone.clear()

    # ---------------------------------------------------------------- what is due

    def _attend(self, now: float) -> float:
        """Do what is due; return when to call again."""
        crew = self._crew
        crew.take_returned()
        while self._gone:
            self._forget(self._gone[0])
            self._gone.popleft()
        for connection in list(self._leaving):
            self._forget(connection)
        for connection in list(self._fading):
            self._fade(connection, now)
        if now >= self._sweep.at:
            self._sweep.run(now)
        for connection in self._handshakes.overdue(now):
            self._step(connection)  # it may have come while this thread was held up
            if connection in self._handshakes:
                self.overdue(connection, "its handshake takes too long")
        for connection in self._handshakes.delayed(now):
            self._step(connection)
        crew.retry()
        if self._fed:
            self._fed = False
            crew.feed()
        self._act(now)
        stop_at = min(self._deadlines, default=None)
        if stop_at is not None and not self._drain(now, stop_at):
            self._over = True
            crew.end()
            self._waker.wake()
            return NEVER
        self._admission.watch(now)
        if self.once and self._taken and not self.served:
            crew.end()
            return NEVER
        moments = [self._sweep.at, self._act_at, self._spawn_at, self._admission.next_at()]
        if self._fading or self._leaving or stop_at is not None:
            moments.append(now + _FADING_TICK)
        if (at := self._handshakes.next_at()) is not None:
            moments.append(at)
        return min(moments)

    def _memory_freed(self) -> None:
        self._fed = True
        self._crew.call_server()

    def overdue(self, connection: ServerConnection, why: str, quiet: bool = False) -> None:
        """Close a connection whose peer has reached a limit in time."""
        self.tell_overdue(connection, why, quiet)
        if quiet and connection._stage == _SERVED:
            self._fade(connection)
        else:
            self._cut(connection)

    def tell_overdue(
        self, connection: ServerConnection, why: str, quiet: bool = False
    ) -> None:
        """Log and count a connection that is closed for being slow."""
        level = logging.DEBUG if quiet else logging.WARNING
        self._log(level, "%s: closed, %s", format_peer(connection.client_address), why)
        self.server._counts["overdue"] += 1

    # ---------------------------------------------------------------- new clients

    def let_in(self, sock: socket.socket, client_address: Any, now: float) -> None:
        """Take up a new client."""
        try:
            connection = self.server._adopt(sock, client_address)
        except OSError:
            sock.close()  # reset before it was looked at
            return
        try:
            self._take_up(connection, now)
        except MemoryError:
            connection._end()
            self._forget(connection)
            raise

    def _take_up(self, connection: ServerConnection, now: float) -> None:
        connection._loop = self
        self._taken = True
        if self._workers == 0 and (self.once or not self.server._sessions):
            self._sweep.leave_to(connection)  # no other thread could look
        if self._memory is not None:
            connection._share_memory(self._memory)
        self.server._counts["accepted"] += 1
        self.served.add(connection)
        if len(self.served) == 1 and self._sweep.begin(now) and not self._watches:
            self._waker.wake()  # see Sweep.for_leader()
        self._crew.add(connection)
        if self._handshakes.needed:
            connection._stage = _GREETING
            self._handshakes.begin(connection, now)
            self._crew.call_at(self._handshakes.next_at() or NEVER)
            self._park(connection, _READ)
        else:
            self._begin(connection)

    def _begin(self, connection: ServerConnection) -> None:
        """Serve a connection that is ready for its first message."""
        if self.server._sessions:
            connection._stage = _HELD
            self._crew.park(connection, 0)
            try:
                self._start_session(connection)
            except MemoryError:
                connection._end()  # nobody holds it
                raise
        else:
            connection._stage = _SERVED
            self._park(connection, _READ)

    def _cannot_park(self, connection: ServerConnection, exc: OSError) -> None:
        self._log(logging.WARNING, "cannot wait for a connection: %s", exc)
        self._forget(connection)

    def _park(self, connection: ServerConnection, want: int) -> None:
        try:
            self._crew.park(connection, want)
        except OSError as exc:
            self._cannot_park(connection, exc)

    def _step(self, connection: ServerConnection) -> None:
        """Go on with a connection that is not served by turns."""
        if connection.closed:
            self._forget(connection)
        elif connection._stage == _GREETING:
            self._greet(connection)
        elif connection._stage == _FADING:
            self._fade(connection)

    def _greet(self, connection: ServerConnection) -> None:
        """Go on with a handshake."""
        try:
            want = self._handshakes.step(connection, time.monotonic())
        except (OSError, Error) as exc:
            explain_failure(self.server, connection, exc)
            self.server._counts["handshake_failures"] += 1
            self._handshakes.forget(connection)
            self._admission.place_is_free()
            # An alert, or the refusal of a proof, is to arrive.
            connection.linger = min(connection.linger, _LAST_WORD)
            self._fade(connection)
            return
        except Exception:
            # Whatever it is, such as an error of a user's own context, others go on.
            peer = format_peer(connection.client_address)
            self._log(logging.ERROR, "handshake failed for %s", peer, exc_info=True)
            self.server._counts["handshake_failures"] += 1
            self._forget(connection)
            return
        if want is not None:
            self._park(connection, max(want, 0))
            self._crew.call_at(self._handshakes.next_at() or NEVER)
            if want == 0:
                self._crew.requeue(connection)
            return
        self._admission.place_is_free()
        self._begin(connection)
        if connection._crypt is not None and connection._stage == _SERVED:
            self._crew.requeue(connection)  # the poller does not see what is in there

    # ---------------------------------------------------------------- ends

    def _failed(self, connection: ServerConnection) -> None:
        """Tell of what ended a turn; any thread, with the exception being handled."""
        exc = sys.exception()
        assert exc is not None
        explain_failure(self.server, connection, exc)

    def _recovered(self) -> None:
        """Hear that what an allocation's failure had interrupted was done."""
        self._log(logging.WARNING, "memory ran out for a moment: what was under way goes on")

    def let_go(self, connection: ServerConnection) -> None:
        """Hear from any thread that it is about to close a connection."""
        self._crew.release(connection)

    def was_closed(self, connection: ServerConnection) -> None:
        """Hear from any thread that it has closed a connection."""
        self._gone.append(connection)
        self._crew.call_server()

    def _finish(self, connection: ServerConnection) -> None:
        """Deal with a connection whose turn was its last."""
        if connection.closed:
            self._forget(connection)
        else:
            self._fade(connection)

    def _fade(self, connection: ServerConnection, now: float | None = None) -> None:
        """Close a connection so that its last replies arrive, without waiting for it."""
        now = time.monotonic() if now is None else now
        if connection._ends_at is None:
            connection._stage = _FADING
            self._fading.add(connection)
            connection._ends_at = now + connection.linger
            self._crew.call_at(now + _FADING_TICK)
        try:
            events = connection._fade()
        except (OSError, ConnectionClosed):
            events = 0
        if events and now < connection._ends_at:
            # Where another thread is in a call (-1), the next tick will tell.
            self._park(connection, max(events, 0))
        else:
            self._forget(connection)

    def _cut(self, connection: ServerConnection) -> None:
        """End a connection now; a thread that is in it notices, and closes it."""
        if connection._stage == _HELD or self._crew.is_serving(connection):
            connection._cut()
        else:
            self._forget(connection)

    def _forget(self, connection: ServerConnection) -> None:
        if connection not in self.served:
            return
        self._crew.release(connection)
        if not connection._end():
            self._leaving.add(connection)  # a thread is in a call, and is told to leave
            self._crew.call_at(time.monotonic() + _FADING_TICK)
            return
        self._leaving.discard(connection)
        self._crew.drop(connection)
        with self.server._counting:
            self.server._counts.update(counted(connection))
            self.served.discard(connection)
        self._fading.discard(connection)
        if connection in self._handshakes:
            self._handshakes.forget(connection)
        self._admission.place_is_free()

    def _drain(self, now: float, stop_at: float) -> bool:
        """Close what need not go on; return whether there is anything left to wait for."""
        if self._drain_began is None:
            self._drain_began = now
            self._crew.draining = True
            self.server._close_health()
            self._admission.empty()  # who has connected is served
            self._admission.watch(now)
            for connection in self.served:
                if connection._stage == _SERVED:
                    self._crew.requeue(connection)  # what has come already is answered
            return bool(self.served) and now < stop_at
        fresh = now < self._drain_began + _FIRST_REQUEST
        for connection in list(self.served):
            if fresh and connection.stats.messages_in == 0:
                continue
            if connection._stage == _HELD:
                connection._wind_up()
            elif connection._stage == _GREETING:
                self._forget(connection)
            elif connection._stage == _SERVED and self._crew.is_idle(connection):
                self._fade(connection, now)
        return bool(self.served) and now < stop_at

    # ---------------------------------------------------------------- sessions

    def _start_session(self, connection: ServerConnection) -> None:
        if self.once:
            self._hold(connection)
            return
        thread = threading.Thread(
            target=self._hold,
            args=(connection,),
            name=f"session {format_peer(connection.client_address)}",
            daemon=True,  # one that does not end must not hold up the program's end
        )
        # Registered before it starts: a thread that ran first would outlive the server.
        self._threads.add(thread)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as exc:
            self._threads.discard(thread)
            connection._end()
            self._forget(connection)
            self._log(logging.WARNING, "cannot start a thread for a session: %s", exc)

    def _hold(self, connection: ServerConnection) -> None:
        try:
            self._threads.add(threading.current_thread())
            if not hold(self.server.handler, connection, self.server):
                with self.server._counting:  # sessions end in threads of their own
                    self.server._counts["handler_errors"] += 1
        finally:
            self._threads.discard(threading.current_thread())
