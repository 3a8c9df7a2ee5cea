"""Both ends of what `multiprocessing.connection` speaks, without pickle.

`send` is its `send_bytes` and `recv` its `recv_bytes`.  The proof of a key (`challenge`) has
one deadline, and holds nobody up but the one who is to prove it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import threading
import time

from .address import AddressLike, connect, format_peer, is_local, parse
from .challenge import LONGEST, Handshake, check_key
from .connection import Connection, check_limit, check_options, selector_of_any
from .errors import AuthenticationError, ConnectionClosed, FramingError
from .formats import MULTIPROCESSING
from .framing import Format, MultiprocessingConnection
from .limits import Seldom
from .listener import Listener as Listening
from .listener import Shortage
from .session import Session
from .waker import Waker

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any, Self

__all__ = ["Client", "Listener", "MultiprocessingSession"]

logger = logging.getLogger(__name__)

_MOST = 64  # proofs under way at a time
_PATIENCE = 0.5  # seconds that the oldest of them has at least, when others wait for its place
_TIME_LIMIT = 10.0  # seconds for a proof


def Client(  # as multiprocessing.connection calls it
    address: AddressLike,
    *,
    authkey: bytes | None = None,
    legacy: bool = False,
    insecure: bool = False,
    connect_timeout: float | None = _TIME_LIMIT,
    framing: Format = MULTIPROCESSING,
    timeout: float | None = None,
    linger: float = 5.0,
    keepalive: tuple[int, int, int] | None = None,
) -> Connection:
    """Return a connection to a `multiprocessing.connection.Listener`, or to one of pysock's.

    Args:
        address: "tcp://host:port", ("host", port), "unix:///path", "unix:@abstract" or a
            path: see `pysock.address.parse`.
        authkey: the key that each side proves to the other; None: the listener has none.
        legacy: do with MD5, which is all that Python 3.11 and older can do.
        insecure: prove the key to another machine too, where whoever is on the way may
            take the connection over.
        connect_timeout: seconds for connecting and the proof together; None: no limit.
        framing: `formats.MULTIPROCESSING`, or that with another `max_frame`.
        timeout, linger, keepalive: as for `Connection`.

    Raises:
        AuthenticationError: one side does not know the key of the other, or has none.
        OSError: nothing could be connected.
        TimeoutError: *connect_timeout* has passed.
        ValueError: the address is malformed, or options contradict each other.
    """
    target = parse(address)
    _check(target.scheme, authkey, framing, timeout, linger, keepalive)
    check_limit("connect_timeout", connect_timeout)
    began = time.monotonic()
    sock = connect(target, connect_timeout)
    try:
        if authkey is not None:
            _check_way(sock.getpeername(), insecure)
        connection = Connection(
            sock, framing, timeout=timeout, linger=linger, keepalive=keepalive
        )
    except BaseException:
        sock.close()
        raise
    if authkey is not None:
        try:
            side = Handshake(authkey, listening=False, legacy=legacy)
            _Proof(connection, side, began).run(connect_timeout)
        except BaseException as exc:
            connection.linger = 0.0
            connection.close()
            if isinstance(exc, TimeoutError):
                raise TimeoutError(f"cannot connect to {target}: {exc}") from None
            raise
    return connection


class Listener:
    """Listens for `multiprocessing.connection.Client`, or for pysock's.

    Unlike with the original no client can hold the others up: the proofs of a key go on
    side by side, and who fails is logged and forgotten.  At most 64 are under way; then the
    oldest, once it has had half a second, gives its place to the next client.

    Args:
        address: as for `Client`; port 0 lets the system choose, see `address`.
        authkey: the key that each side proves to the other; None: no client has one.
        legacy: do with MD5, which is all that Python 3.11 and older can do.
        insecure: have a key at an address that other machines reach, where whoever is on
            the way may take a connection over.
        handshake_timeout: seconds for the proof; None: no limit.
        backlog: connections that the system keeps waiting.
        framing: `formats.MULTIPROCESSING`, or that with another `max_frame`.
        timeout, linger, keepalive: as for `Connection`, for those that `accept` returns.

    Raises:
        OSError: the address cannot be had.
        ValueError: it is malformed, or options contradict each other.
    """

    last_accepted: Any = None
    """The address of the client that `accept` has returned last."""

    def __init__(
        self,
        address: AddressLike | socket.socket,
        *,
        authkey: bytes | None = None,
        legacy: bool = False,
        insecure: bool = False,
        handshake_timeout: float | None = _TIME_LIMIT,
        backlog: int = 512,
        framing: Format = MULTIPROCESSING,
        timeout: float | None = None,
        linger: float = 5.0,
        keepalive: tuple[int, int, int] | None = (60, 15, 4),
    ) -> None:
        scheme = "" if isinstance(address, socket.socket) else parse(address).scheme
        _check(scheme, authkey, framing, timeout, linger, keepalive)
        check_limit("handshake_timeout", handshake_timeout)
        self._authkey, self._legacy = authkey, legacy
        self._limit = handshake_timeout
        self._framing = framing
        self._options: dict[str, Any] = {
            "timeout": timeout,
            "linger": linger,
            "keepalive": keepalive,
        }
        self._listening = Listening(address, backlog, reuse_address=True)
        self.address: Any = self._listening.sockname
        """Where it listens, as `multiprocessing.connection` has it: (host, port) or a path."""
        try:
            if authkey is not None:
                _check_way(self.address, insecure)
            self._waker = Waker()
        except BaseException:
            self._listening.close()
            raise
        self._proofs: list[_Proof] = []  # under way, the oldest first
        self._closed = False
        self._pauses_until = 0.0
        self._turn = threading.RLock()  # a signal's handler may close it inside accept()
        self._left_at = time.monotonic()
        self._seldom = Seldom(logger)

    def accept(self, timeout: float | None = None) -> Connection:
        """Return a connection to the next client that has the key.

        Proofs go on while this waits; time in between does not count for them.

        Args:
            timeout: seconds; None: wait for ever.

        Raises:
            OSError: the listener is closed.
            TimeoutError: *timeout* seconds have passed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._turn.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise TimeoutError("another thread was accepting all the time")
        try:
            pause = time.monotonic() - self._left_at
            for proof in self._proofs:
                proof.began += pause
            return self._accept(deadline)
        finally:
            self._left_at = time.monotonic()
            self._turn.release()

    def fileno(self) -> int:
        """Return the descriptor that listens, -1 once closed."""
        return self._listening.fileno()

    def close(self) -> None:
        """Stop listening, and remove the Unix path that was made; `accept` raises then."""
        if not self._closed:
            self._closed = True
            self._waker.wake()
        with self._turn:  # no thread waits on what is closed now
            while self._proofs:
                self._proofs.pop().abandon()
            self._listening.close()
            self._waker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self, deadline: float | None) -> Connection:
        while True:
            for found in self._wait(deadline):
                proof = self._welcome() if found is None else found
                if proof is None or proof.closed:  # it had to make room for another
                    continue
                if self._goes_on(proof):
                    self.last_accepted = proof.peer
                    return proof.connection
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError("no client with the key came in time")

    def _wait(self, deadline: float | None) -> list[_Proof | None]:
        """Wait; return the proofs that can go on, and None for new clients."""
        if self._closed:
            raise OSError(errno.EBADF, "the listener is closed")
        now = time.monotonic()
        while self._limit is not None and self._proofs:
            if self._proofs[0].began + self._limit > now:
                break
            oldest = self._proofs[0]
            self._drop(oldest, f"{oldest.side.awaited} has not come in {self._limit:g} s")
        due = [] if deadline is None else [deadline]
        if self._limit is not None and self._proofs:
            due.append(self._proofs[0].began + self._limit)
        resumes_at = self._pauses_until
        if len(self._proofs) >= _MOST:
            resumes_at = max(resumes_at, self._proofs[0].began + _PATIENCE)
        with selector_of_any() as selector:
            selector.register(self._waker, selectors.EVENT_READ)
            for proof in self._proofs:
                selector.register(proof.connection, selectors.EVENT_READ, proof)
            if resumes_at <= now:
                selector.register(self._listening, selectors.EVENT_READ)
            else:
                due.append(resumes_at)
            found = selector.select(max(0.0, min(due) - now) if due else None)
        if self._closed:
            raise OSError(errno.EBADF, "the listener is closed")
        return [key.data for key, _ in found]

    def _welcome(self) -> _Proof | None:
        """Take the next client; return what it has to prove, if that has begun well."""
        try:
            client = self._listening.accept()
        except Shortage as exc:
            self._pauses_until = time.monotonic() + self._listening.next_pause()
            self._seldom.log(logging.WARNING, "cannot accept clients for now: %s", exc)
            return None
        if client is None:
            return None
        sock, peer = client
        try:
            connection = Connection(sock, self._framing, **self._options)
        except OSError:  # it has gone
            sock.close()
            return None
        if self._authkey is None:
            return _Proof(connection, None, peer=peer)
        if len(self._proofs) >= _MOST:
            self._drop(self._proofs[0], f"dropped, {_MOST} proofs of a key were under way")
        side = Handshake(self._authkey, listening=True, legacy=self._legacy)
        proof = _Proof(connection, side, peer=peer)
        connection.timeout = 0
        self._proofs.append(proof)
        return proof

    def _goes_on(self, proof: _Proof) -> bool:
        """Take the steps of a proof that can be taken now; return whether it is done."""
        try:
            while not proof.done:
                proof.step()
        except BlockingIOError:
            return False
        except AuthenticationError as exc:
            self._drop(proof, str(exc))
            return False
        if proof in self._proofs:
            self._proofs.remove(proof)
        proof.end()
        return True

    def _drop(self, proof: _Proof, why: str) -> None:
        self._proofs.remove(proof)
        proof.abandon()
        self._seldom.log(logging.WARNING, "%s: %s", format_peer(proof.peer), why)


class MultiprocessingSession(Session):
    """A session with a `multiprocessing.connection.Client` that has proved its key.

    For a `pysock.Server` with its threads and limits: derive from it, set `authkey` and
    override `handle`.  The proof, in `setup`, goes on in the session's own thread.
    """

    authkey: bytes | None = None
    """The key that each side proves to the other; a subclass sets it."""

    legacy = False
    """Whether MD5 will do, which is all that Python 3.11 and older can do."""

    insecure = False
    """Whether clients of other machines may prove the key without TLS too."""

    handshake_timeout: float | None = _TIME_LIMIT
    """Seconds for the proof; None: no limit."""

    def setup(self) -> None:
        """Called before `handle`; proves the key.

        Raises:
            AuthenticationError: the client does not know it.
        """
        connection = self.connection
        if not isinstance(connection.framing, MultiprocessingConnection):
            limit = connection.framing.max_frame
            connection.framing = MULTIPROCESSING.replace(max_frame=limit)
        if connection.tls is None:
            _check_way(connection.getpeername(), self.insecure)
        if self.authkey is None:
            raise TypeError(
                f"{type(self).__name__} has no authkey: set it in the class, or derive from "
                "pysock.Session, which needs none"
            )
        side = Handshake(self.authkey, listening=True, legacy=self.legacy)
        try:
            _Proof(connection, side).run(self.handshake_timeout)
        except TimeoutError as exc:
            raise AuthenticationError(*exc.args) from None


class _Proof:
    """The proof of a key over a connection, which until then takes short messages only.

    Args:
        connection: what it goes over.
        side: what answers; None: there is nothing to prove.
        began: when its time has begun; None: now.
        peer: the other side's address.
    """

    def __init__(
        self,
        connection: Connection,
        side: Any,
        began: float | None = None,
        peer: Any = None,
    ) -> None:
        self.connection, self.side, self.peer = connection, side, peer
        self.began = time.monotonic() if began is None else began
        self.done = side is None
        self._first = b"" if side is None else side.begin()
        self._kept = connection.framing, connection.timeout
        if side is not None:
            connection.framing = connection.framing.replace(max_frame=LONGEST)

    @property
    def closed(self) -> bool:
        return self.connection.closed

    def step(self) -> None:
        """Send what is to be sent first, or take a message and answer it.

        Raises:
            AuthenticationError: the proof has failed.
            BlockingIOError, TimeoutError: nothing has come yet.
        """
        try:
            if self._first:
                first, self._first = self._first, b""
                self.connection.send(first)
                return
            reply = self.side.take(self.connection.recv())
            self.done = self.side.done
            if reply:
                self.connection.send(reply)
        except AuthenticationError:
            if self.side.farewell:
                with contextlib.suppress(ConnectionClosed, OSError):
                    self.connection.send(self.side.farewell)
            raise
        except FramingError as exc:
            raise AuthenticationError(f"{self.side.awaited} was to come: {exc}") from exc
        except (BlockingIOError, TimeoutError):
            raise
        except (ConnectionClosed, OSError) as exc:
            raise AuthenticationError(
                f"the connection ended before {self.side.awaited} came ({exc}): the other "
                "side may have no authkey, or another one"
            ) from exc

    def run(self, limit: float | None) -> None:
        """Take all steps within *limit* seconds.

        Raises:
            AuthenticationError: the proof has failed.
            TimeoutError: the time is over.
        """
        while not self.done:
            left = None if limit is None else self.began + limit - time.monotonic()
            try:
                if left is not None and left <= 0:
                    raise TimeoutError
                self.connection.timeout = left
                self.step()
            except TimeoutError:
                raise TimeoutError(
                    f"{self.side.awaited} has not come in {limit:g} s: has the other side an "
                    "authkey?"
                ) from None
        self.end()

    def end(self) -> None:
        """Let the connection be as it was before."""
        self.connection.framing, self.connection.timeout = self._kept

    def abandon(self) -> None:
        """Close the connection, and wait for nobody."""
        self.connection.linger = 0.0
        self.connection.close()


def _check(
    scheme: str,
    authkey: bytes | None,
    framing: Format,
    timeout: float | None,
    linger: float,
    keepalive: tuple[int, int, int] | None,
) -> None:
    """Refuse what no connection could be made with, before any I/O."""
    if scheme == "tls":
        raise ValueError("multiprocessing.connection has no TLS: expected tcp:// or unix:")
    if authkey is not None:
        check_key(authkey)
    check_options(framing, timeout, 0.0, linger, keepalive)
    if not isinstance(framing, MultiprocessingConnection):
        raise ValueError(f"framing is {framing!r}, expected formats.MULTIPROCESSING")


def _check_way(address: Any, insecure: bool) -> None:
    """Refuse to prove a key where others may be on the way."""
    if not insecure and not is_local(address):
        raise ValueError(
            f"{format_peer(address)}: a key is not proved between machines without TLS, which "
            "multiprocessing.connection has not: whoever is on the way may take the "
            "connection over; use pysock.Client and Server with tls=, or insecure=True"
        )
