"""A server that runs commands, and stores and fetches files, for those who may.

What it does for them is in service.py.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import resource
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from .. import Server
from .policy import rule_of
from .protocol import FRAMING
from .service import Service
from .spawner import LADDER

if TYPE_CHECKING:
    from .files import Files

__all__ = ["RemoteServer"]

_MARGIN = 2.0  # seconds beyond the last step of a command's end
_MOST_RUNNING = 900  # more than that its spawner has no descriptors for
_SPARE = 8  # threads for those that are only told that there are too many commands
_LIMITS = {
    "cpu": "RLIMIT_CPU",
    "memory": "RLIMIT_AS",
    "processes": "RLIMIT_NPROC",
    "file_size": "RLIMIT_FSIZE",
    "open_files": "RLIMIT_NOFILE",
}
_LARGEST_LIMIT = (1 << 62) - 1  # what systems take, and the end of none


class RemoteServer(Server):
    """Runs commands for clients, and sends their output however long.

    At a Unix socket it needs no key: it serves its own user, and root.  Elsewhere
    it needs TLS and a key: everybody who has it may do what this process's user may.

    Args:
        address: as for `Server`.
        allow: what may be run: None: everything; a list of programs, each with any
            arguments, or of lists of words that a command must begin with ("put", "get" and
            "list" stand for files; a command line for the shell must be in it word for
            word); a mapping from users to such lists; or a function that is called with a
            `Request` and says whether.
        allow_root: serve also where this process is root's.
        allow_env: patterns of the variables that clients may set.
        files_root: the folder whose files clients may fetch and store; None: no files.
        max_running: commands and transfers at a time, 900 at most.
        time_limit: seconds that a command may take; None: no limit.
        max_output: bytes that a command may write; None: no limit.
        limits: of each process: "cpu" (seconds), "memory" (bytes), "processes" (of the
            user), "file_size" (bytes), "open_files".
        cwd: the folder that commands run in; None: the user's home.
        tls: as for `Server`.
        authkey: as for `Server`.
        insecure: do without TLS and key at a loopback address, where every user of this
            machine may then run commands.
        options: others of `Server`: allow_uids, backlog, excess, handshake_timeout, health,
            keepalive, linger, max_connections, proxy_protocol, trusted_proxies.

    Raises:
        OSError: an address cannot be had.
        PermissionError: this process is root's.
        ValueError: an option is malformed, or would let strangers run commands.
    """

    def __init__(
        self,
        address: Any,
        *,
        allow: Any = None,
        allow_root: bool = False,
        allow_env: Sequence[str] = ("TERM", "LANG", "LC_*"),
        files_root: str | os.PathLike[str] | None = None,
        max_running: int = 64,
        time_limit: float | None = None,
        max_output: int | None = None,
        limits: Mapping[str, int] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        tls: Any = None,
        authkey: Any = None,
        insecure: bool = False,
        **options: Any,
    ) -> None:
        if os.geteuid() == 0 and not allow_root:
            raise PermissionError(
                errno.EPERM,
                "commands would run as root: run the server as another user, or pass "
                "allow_root=True",
            )
        _check_numbers(max_running, time_limit, max_output)
        self._service = Service(
            rule_of(allow),
            allow_env,
            None if files_root is None else _files_of(files_root),
            max_running,
            time_limit,
            max_output,
            _resource_limits(limits or {}),
            None if cwd is None else os.fsencode(cwd),
            None if authkey or insecure or "allow_uids" in options else {0, os.geteuid()},
            lambda: self.stopping,
        )
        self._timers: list[threading.Timer] = []
        super().__init__(
            address,
            self._service.hear,
            framing=FRAMING,
            workers=max_running + _SPARE,
            idle_timeout=None,  # who runs nothing just now is welcome to stay
            send_timeout=None,  # and who reads slowly holds up only its own command
            tls=tls,
            authkey=authkey,
            insecure=insecure,
            **options,
        )
        try:
            secured = tls is not None and authkey is not None
            for listener in self._listeners:
                _check_address(listener.address, listener.sockname, secured, insecure)
        except ValueError:
            self.server_close()
            raise

    # ---------------------------------------------------------------- life

    def serve_forever(self) -> None:
        """Serve until `stop` or `shutdown` is called.

        Raises:
            RuntimeError: the server is running already, or closed.
        """
        self._service.begin()
        try:
            super().serve_forever()
        finally:
            self._stop_clocks()

    def start(self) -> Self:
        """Serve in a background thread, which ends with the program; return the server.

        Raises:
            RuntimeError: the server is running already, or closed.
        """
        if self.fileno() >= 0:
            self._service.begin()
        return super().start()

    def _stop_clocks(self) -> None:
        # Without a lock: a signal's handler may call `stop` in the midst of this.
        with contextlib.suppress(IndexError):
            while True:
                timer = self._timers.pop()
                timer.cancel()
                timer.join()

    def stop(self, drain: float = 30.0) -> None:
        """Stop serving: no new command is taken; what runs has some time left.

        Then it is ended: HUP, TERM after 1 s, KILL after 5 s; and its client is told so.

        Args:
            drain: seconds that commands and transfers which run have left.
        """
        timer = threading.Timer(max(0.0, drain), self._service.end_all)
        timer.daemon = True
        if drain < threading.TIMEOUT_MAX:
            timer.start()
            self._timers.append(timer)
        super().stop(drain + LADDER[-1][0] + _MARGIN)
        if not self.stopping:
            self._stop_clocks()

    def server_close(self) -> None:
        """Close the listeners; what still runs is ended."""
        super().server_close()
        self._service.spawning.close()


def _check_address(address: Any, sockname: Any, secured: bool, insecure: bool) -> None:
    """Refuse an address at which strangers could run commands."""
    if address.path or secured:
        return
    if not insecure:
        raise ValueError(
            f"'{address}' is no Unix socket: pass tls= and authkey=, or everybody who reaches "
            "it could run commands (insecure=True allows that on loopback)"
        )
    # Where it listens, and not what it was called: no host at all means every address.
    host = str(sockname[0]).partition("%")[0]
    if not ipaddress.ip_address(host).is_loopback:
        raise ValueError(
            f"'{address}' listens on {host}, which is no loopback address: insecure=True is "
            "for those"
        )


def _check_numbers(max_running: int, time_limit: float | None, max_output: int | None) -> None:
    if not isinstance(max_running, int) or not 1 <= max_running <= _MOST_RUNNING:
        raise ValueError(f"max_running is {max_running!r}, expected 1 to {_MOST_RUNNING}")
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"time_limit is {time_limit!r}, expected seconds above 0, or None")
    if max_output is not None and max_output < 0:
        raise ValueError(f"max_output is {max_output!r}, expected 0 bytes or more, or None")


def _resource_limits(limits: Mapping[str, int]) -> list[tuple[int, int]]:
    """Return pairs of a resource and its limit."""
    found = []
    for name, number in limits.items():
        if name not in _LIMITS:
            raise ValueError(f"limits has {name!r}, expected {', '.join(_LIMITS)}")
        if not isinstance(number, int) or not 0 <= number <= _LARGEST_LIMIT:
            raise ValueError(f"limits[{name!r}] is {number!r}, expected 0 to {_LARGEST_LIMIT}")
        found.append((getattr(resource, _LIMITS[name]), number))
    return found


def _files_of(root: str | os.PathLike[str]) -> Files:
    from .files import Files  # most servers have none

    return Files(root)
