"""What a remote server does for its clients: hears what they want, and does it if they may.

What passes while a command runs is in command.py; who may run what in policy.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from .. import Connection, ConnectionClosed, FramingError
from .command import Command
from .conversation import Conversation, State
from .policy import (
    Request,
    Rule,
    command_line,
    denied,
    environment,
    peer_of,
    request_of,
    shown,
)
from .protocol import Exec, Exit, Get, Kind, Put, Refusal, version
from .spawner import Order
from .spawning import SpawnerGone, Spawning
from .streams import Streams
from .talk import Talk

if TYPE_CHECKING:
    from .files import Files

__all__ = ["Service"]

logger = logging.getLogger("pysock.remote")

_TOKEN = b"PYSOCK_COMMAND"
_PATIENCE = 60.0  # seconds without a word of who transfers a file; what has come is kept


class Service:
    """What the connections of a `RemoteServer` have in common.

    Args:
        rule: says whether a request is allowed.
        allow_env: patterns of the variables that clients may set.
        files: what can be fetched and stored; None: nothing.
        max_running: commands and transfers at a time.
        time_limit: seconds that a command may take, None: no limit.
        max_output: bytes that it may write, None: no limit.
        limits: pairs of a resource and its limit, for each process.
        cwd: the folder to run in; None: the user's home.
        uids: whom to serve at Unix sockets, which need not have a mode that keeps others
            out; None: whoever gets in.
        stopping: says whether the server is.
    """

    def __init__(
        self,
        rule: Rule,
        allow_env: Sequence[str],
        files: Files | None,
        max_running: int,
        time_limit: float | None,
        max_output: int | None,
        limits: list[tuple[int, int]],
        cwd: bytes | None,
        uids: Collection[int] | None,
        stopping: Callable[[], bool],
    ) -> None:
        self.spawning = Spawning()
        self._rule = rule
        self._allow_env = tuple(allow_env)
        self._files = files
        self._max_running = max_running
        self._time_limit = time_limit
        self._max_output = max_output
        self._limits = limits
        self._cwd = cwd
        self._uids = uids
        self._stopping = stopping
        self._places = threading.Semaphore(max_running)
        self._commands: set[Command] = set()
        self._transfers: set[Talk] = set()
        self._ending = False  # whether what runs has been told to end
        self._guard = threading.Lock()
        # No talk: it holds its connection, which would be kept for ever.
        self._known: weakref.WeakKeyDictionary[Connection, tuple[Conversation, str]] = (
            weakref.WeakKeyDictionary()
        )

    def begin(self) -> None:
        """Get ready for clients."""
        self.spawning.open()  # before the first command, which would have to wait
        self._ending = False

    def end_all(self) -> None:
        """End all commands that run, and cut transfers; any thread may say so."""
        with self._guard:
            self._ending = True
            commands, transfers = list(self._commands), list(self._transfers)
        for command in commands:
            command.end("the server is stopping")
        for talk in transfers:
            talk.connection.close()

    def hear(self, message: bytes, connection: Connection) -> bytes | None:
        """Take a client's message between two commands; return the answer, if it is short.

        The server sends it when the client takes it; no thread waits for that.
        """
        talk = None
        known = self._known.get(connection)
        try:
            talk = Talk(connection, known)
            if known is None:
                self._known[connection] = talk.known
                _wait_for_readers(connection)
                self._check_user(talk)
            answer = self._serve(talk, *talk.conversation.received(message))
            return None if answer is None else talk.conversation.sent(answer)
        except FramingError as exc:
            logger.warning("%s: broke the rules: %s", self._who(talk), shown(str(exc)))
            if talk is not None:
                talk.give_up(exc)
            connection.close()
        except (OSError, ConnectionClosed) as exc:
            logger.info("%s: lost: %s", self._who(talk), shown(str(exc)))
            connection.close()
        return None

    def _check_user(self, talk: Talk) -> None:
        """Refuse a user of this machine who is neither the server's nor root.

        Raises:
            PermissionError: it is another one, or nobody knows who.
        """
        if self._uids is None or talk.connection.socket.family != socket.AF_UNIX:
            return
        found = talk.connection.peer_credentials
        if found is None or found.uid not in self._uids:
            refusal = Refusal("refused", "this server is another user's")
            talk.refuse(refusal)
            raise PermissionError(f"user {talk.user or 'unknown'} is not the server's")

    def _who(self, talk: Talk | None) -> str:
        return "client" if talk is None else f"user {shown(talk.user) or '-'}"

    def _serve(self, talk: Talk, kind: Kind, body: bytes) -> bytes | None:
        if kind is Kind.VERSION:
            return version()
        if kind is Kind.PING:
            return Kind.PONG(body)
        if talk.state in (State.RUNNING, State.PUTTING, State.GETTING):
            refusal = self._take(talk)
            return None if refusal is None else refusal.encode()
        return None

    def _take(self, talk: Talk) -> Refusal | None:
        """Do what a client asks for, if it may and there is room; return why not."""
        asked = talk.conversation.asked
        peer = getattr(talk.connection, "client_address", None)
        if isinstance(asked, Exec):
            request = request_of(asked, talk.user, peer)
        else:
            assert asked is not None
            what = "put" if isinstance(asked, Put) else "list" if asked.listing else "get"
            request = Request(talk.user, what, path=os.fsdecode(asked.path), peer=peer)
        refusal = self._refusal(request)
        if refusal is not None:
            _audit(request, refusal.code)
            return refusal
        if not self._places.acquire(blocking=False):
            _audit(request, "busy")
            return Refusal("busy", f"{self._max_running} commands run already")
        try:
            if isinstance(asked, Exec):
                return self._run(talk, asked, request)
            self._transfer(talk, asked, request)
            return None
        finally:
            self._places.release()

    def _refusal(self, request: Request) -> Refusal | None:
        if self._stopping():
            return Refusal("stopping", "the server is stopping")
        if request.kind != "run" and self._files is None:
            return Refusal("refused", "the server has no files (files_root=)")
        try:
            return None if self._rule(request) else denied(request)
        except Exception:
            logger.exception("allow() failed for %s", command_line(request))
            return Refusal("failed", "the server could not find out whether this is allowed")

    # ---------------------------------------------------------------- files

    def _transfer(self, talk: Talk, asked: Put | Get, request: Request) -> None:
        began = time.monotonic()
        before = talk.connection.stats
        outcome = "lost"
        assert self._files is not None
        with self._guard:
            self._transfers.add(talk)
        talk.connection.timeout = _PATIENCE
        try:
            if isinstance(asked, Put):
                outcome = self._files.put(talk, asked) or "done"
            else:
                outcome = self._files.get(talk, asked) or "done"
        finally:
            with self._guard:
                self._transfers.discard(talk)
            now = talk.connection.stats
            counts = [now.bytes_in - before.bytes_in, now.bytes_out - before.bytes_out, 0]
            _audit(request, outcome, counts, time.monotonic() - began)

    # ---------------------------------------------------------------- commands

    def _run(self, talk: Talk, asked: Exec, request: Request) -> Refusal | None:
        began = time.monotonic()
        token = _TOKEN + b"=" + secrets.token_hex(16).encode()
        try:
            env = environment(asked, self._allow_env, token)
        except PermissionError as exc:
            _audit(request, "refused")
            return Refusal("refused", str(exc))
        home = env[b"HOME"] if os.path.isdir(env[b"HOME"]) else b"/"
        cwd = os.path.join(self._cwd or home, asked.cwd)
        argv = [b"/bin/sh", b"-c", asked.shell] if asked.shell is not None else [*asked.argv]
        order = Order(argv, cwd, env, self._limits, asked.pty is not None, token)
        try:
            streams = Streams(asked.pty, asked.stdin, asked.merge, asked.quiet)
        except OSError as exc:
            _audit(request, "failed")
            return Refusal.of(exc)
        outcome, counts = "lost", [0, 0, 0]
        try:
            try:
                spawned = self.spawning.spawn(order, streams.theirs)
            except OSError as exc:
                outcome = f"not started: {exc.strerror}"
                return Refusal.of(exc, os.fsencode(exc.filename or ""))
            streams.close_theirs()
            command = Command(talk, spawned, streams, self._time_limit, self._max_output)
            counts = command.counts
            with self._guard:
                self._commands.add(command)
                late = self._ending
            if late:
                command.end("the server is stopping")
            try:
                outcome = _outcome(command.serve())
                spawned.release()
                return None
            finally:
                with self._guard:
                    self._commands.discard(command)
                spawned.close()
        except SpawnerGone as exc:
            outcome = "failed"
            return Refusal("failed", str(exc))
        finally:
            streams.close()
            _audit(request, outcome, counts, time.monotonic() - began)


def _audit(
    request: Request, outcome: str, counts: Sequence[int] = (0, 0, 0), seconds: float = 0.0
) -> None:
    """Write the line of one command: who, what, how it ended, bytes in and out, seconds."""
    logger.info(
        "user=%s peer=%s %s: %s, %d bytes in, %d out, %d err, %.3f s",
        shown(request.user) or "-",
        shown(peer_of(request)),
        command_line(request),
        shown(outcome),
        *counts,
        seconds,
    )


def _outcome(end: Exit) -> str:
    text = f"signal {end.signal}" if end.signal else f"exit {end.status}"
    return f"{text} ({end.reason})" if end.reason else text


def _wait_for_readers(connection: Connection) -> None:
    """Keep a client that does not read, as `| less` does not, from being given up for it."""
    sock = connection.socket
    if hasattr(socket, "TCP_USER_TIMEOUT") and sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
