"""What is read on this side, passed on to a command on the other one."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from . import DISCONNECTED, Failure
from .signals import GONE, PARTING

if TYPE_CHECKING:
    from ..remote import Process

__all__ = ["Escapes", "Feeder", "descriptor_of"]

CHUNK = 64 * 1024


def descriptor_of(file: Any) -> int | None:
    """Return a standard stream's descriptor, None where it was closed when we came."""
    try:
        return None if file is None else int(file.fileno())
    except (OSError, ValueError):
        return None


class Feeder:
    """While entered, passes on what is read, in a thread of its own.

    Args:
        process: the command.
        descriptor: where to read; None: there is no input.
        wished: called with "leave" or "stop" where that is typed; None: such keys are none.

    Attributes:
        failure: why the input could not be read; the command is killed then, for half of
            its input may not pass for all of it.
    """

    def __init__(
        self,
        process: Process,
        descriptor: int | None,
        wished: Callable[[str], object] | None = None,
    ) -> None:
        self.failure: Failure | None = None
        self._process = process
        self._descriptor = -1 if descriptor is None else descriptor
        self._wished = wished
        self._thread = threading.Thread(target=self._run, name="pysock input", daemon=True)

    def __enter__(self) -> Feeder:
        if self._descriptor >= 0:
            self._told, self._telling = socket.socketpair()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            self._telling.close()
            if sys.platform != "win32":  # there it may wait for a key
                self._thread.join(PARTING)

    def _run(self) -> None:
        # What goes wrong with the command or the connection, who reads its output is told.
        with self._told, contextlib.suppress(*GONE):
            try:
                self._pass_on()
            except Failure as exc:
                self.failure = exc
                self._process.kill()

    def _pass_on(self) -> None:
        escapes = Escapes() if self._wished is not None else None
        for data in self._chunks():
            wish = ""
            if escapes is not None:
                data, wish = escapes.filter(data)
            if data:
                self._process.write(data)
            if self._wished is not None and wish:
                self._wished(wish)
                if wish == "leave":
                    return
        if not self._is_over():
            self._process.close_stdin()

    def _chunks(self) -> Iterator[bytes]:
        while not self._is_over(wait=True):
            try:
                data = os.read(self._descriptor, CHUNK)
            except BlockingIOError:  # another reader was faster
                continue
            except OSError as exc:
                if exc.errno == errno.EIO and os.isatty(self._descriptor):
                    return  # it was hung up, or is not for those in the background
                text = f"cannot read standard input: {exc.strerror}"
                raise Failure(text, DISCONNECTED) from None
            if not data:
                return
            yield data

    def _is_over(self, wait: bool = False) -> bool:
        """Return whether nothing more is to be passed on; *wait* until that or for input."""
        if sys.platform == "win32":  # it can wait for sockets only
            return False
        watched: list[Any] = [self._told, self._descriptor] if wait else [self._told]
        ready, _, _ = select.select(watched, (), (), None if wait else 0)
        return self._told in ready


class Escapes:
    """Finds `~.` and `~` Ctrl-Z at the start of a line; `~~` is one tilde."""

    def __init__(self) -> None:
        self._state = 1  # 0: within a line, 1: at its start, 2: after its tilde

    def filter(self, typed: bytes) -> tuple[bytes, str]:
        """Return what is to be passed on, and "leave", "stop" or ""."""
        out = bytearray()
        for byte in typed:
            if self._state == 2:
                self._state = 0
                if byte == ord("."):
                    return bytes(out), "leave"
                if byte == 0x1A:
                    self._state = 1
                    return bytes(out), "stop"
                out += b"" if byte == ord("~") else b"~"
            elif self._state == 1 and byte == ord("~"):
                self._state = 2
                continue
            out.append(byte)
            self._state = 1 if byte in b"\r\n" else 0
        return bytes(out), ""
