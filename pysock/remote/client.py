"""Run commands on another machine as `subprocess.run` does here; store and fetch files."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from .. import Client, RemoteError
from .collecting import Sink, sink_of
from .fields import MOST_FIELDS
from .link import Expired, Link
from .process import Process
from .protocol import FRAMING, Entry, Exec

__all__ = ["Completed", "RemoteClient"]

_MAX_OUTPUT = 256 * 1024 * 1024
_MOST_WORDS = MOST_FIELDS - 16  # beside them a message has other fields


class Completed(subprocess.CompletedProcess[Any]):
    """What `subprocess.run` returns, and a little more.

    `reason` says why the server ended the command, "" where it did not; `incomplete` is
    whether its output was cut because another process held it after the command had been
    killed; `dropped` counts the bytes that *overflow* "tail" has left out.
    """

    reason: str = ""
    incomplete: bool = False
    dropped: int = 0

    def check_returncode(self) -> None:
        """Raise `subprocess.CalledProcessError` if `returncode` is not 0."""
        try:
            super().check_returncode()
        except subprocess.CalledProcessError as exc:
            if self.reason:
                exc.add_note(f"the server ended it: {self.reason}")
            raise


class RemoteClient:
    """A connection to a `RemoteServer`: commands and files, one after another.

    Where the connection was lost the next call makes a new one.

    Args:
        address: "unix:///path", "tls://host:port" and so on, as for `pysock.Client`.
        timeout: seconds that the server may be silent while something is waited for; it is
            asked for a sign of life in between, so that a quiet command may take any time.
            None: no limit.
        connect_timeout: seconds for connecting.
        authkey: bytes that the server has too; see `pysock.auth.load_key`.
        user: whose key it is, where the server knows several.
        pin: the SHA-256 of the server's certificate, as `pysock keygen` prints it.
        ca: path of a PEM file with the CAs, or the very certificate, to trust.
        tls: an `ssl.SSLContext` instead of *pin* and *ca*.
        server_hostname: the name that the certificate must have, if not the address's host.
        insecure: prove the key without TLS to another machine too.
        sock: a connected socket to use instead of *address*.

    Raises:
        OSError: it cannot be connected; `ssl.SSLError` is one.
        AuthenticationError: one end does not know the key of the other.
        RemoteError: the server is another version's.
        ValueError: options contradict each other.
    """

    def __init__(
        self,
        address: Any = None,
        *,
        timeout: float | None = 60.0,
        connect_timeout: float | None = 10.0,
        authkey: bytes | None = None,
        user: str = "",
        pin: Any = None,
        ca: str | os.PathLike[str] | None = None,
        tls: Any = None,
        server_hostname: str | None = None,
        insecure: bool = False,
        sock: Any = None,
    ) -> None:
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout is {timeout}, expected seconds above 0, or None")
        if pin is not None or ca is not None:
            if tls not in (None, True):
                raise ValueError(
                    "pin= and ca= are of no use with tls=, which says whom to trust"
                )
            from ..tls import client_context  # ssl is slow to import

            tls = client_context(ca=ca, pin=pin)
        self.address = address
        sockets = [] if sock is None else [sock]

        def connect() -> Client:
            if address is None and not sockets:
                raise ConnectionResetError(
                    errno.ECONNRESET,
                    "the connection over sock= was lost, and there is no other",
                )
            return Client(
                address,
                FRAMING,
                connect_timeout=connect_timeout,
                tls=tls,
                server_hostname=server_hostname,
                authkey=authkey,
                user=user,
                insecure=insecure,
                sock=sockets.pop() if sockets else None,
                keepalive=(60, 15, 4),
            )

        self._link = Link(connect, timeout)
        if address is None and sock is None:
            raise TypeError("a RemoteClient takes either an address or sock=")
        self._link.open()

    # ---------------------------------------------------------------- commands

    def run(
        self,
        args: Any,
        *,
        input: Any = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        capture_output: bool = True,
        shell: bool = False,
        cwd: Any = None,
        timeout: float | None = None,
        check: bool = False,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        universal_newlines: bool | None = None,
        env: Mapping[Any, Any] | None = None,
        max_output: int | None = _MAX_OUTPUT,
        overflow: str = "error",
        pty: tuple[int, int] | bool | None = None,
    ) -> Completed:
        """Run a command to its end; return its exit status and its output.

        Arguments, result and exceptions are those of `subprocess.run`; output is captured
        unless told otherwise.

        Args:
            args: the program and its arguments, or with *shell* a command line.
            input: what the command reads: bytes, or str with *text*.
            stdin: a binary file to read that from instead; reading it may hold up the
                output, see `Process.write` for terminals and pipes.
            stdout: where the output goes: None: into the result; `subprocess.DEVNULL`; a
                binary file or a descriptor.
            stderr: the same for the error output; `subprocess.STDOUT`: with the output.
            capture_output: False: what is not told to go anywhere goes nowhere.
            shell: have the server's shell run *args*.
            cwd: the folder to run in.
            timeout: seconds that it may take; then it is killed with all it has started.
            check: raise CalledProcessError for a status that is not 0.
            text, encoding, errors, universal_newlines: give and take str.
            env: variables to set besides those that the server sets.
            max_output: bytes of each stream in the result; None: no limit.
            overflow: what happens above that: "error": the command is killed, RemoteError;
                "tail": the last bytes are kept; "spill": stdout and stderr of the result are
                binary files, in memory up to *max_output*.
            pty: give it a terminal, of (rows, columns).

        Raises:
            subprocess.CalledProcessError: with *check*, it failed.
            subprocess.TimeoutExpired: it took too long; has the output so far.
            OSError: it cannot be started, as FileNotFoundError.
            RemoteError: the server refused (see its `code`), or there was too much output.
            ConnectionClosed: the connection was lost, and with it the exit status.
            TimeoutError: the server has been silent for too long.
        """
        words = _Text(bool(text or universal_newlines), encoding, errors)
        if input is not None and stdin is not None:
            raise ValueError("stdin and input may not both be used")
        if not capture_output:
            stdout = subprocess.DEVNULL if stdout is None else stdout
            stderr = subprocess.DEVNULL if stderr is None else stderr
        merge = stderr == subprocess.STDOUT
        sinks = {
            "stdout": sink_of(stdout, max_output, overflow),
            "stderr": sink_of(subprocess.DEVNULL if merge else stderr, max_output, overflow),
        }
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            process = self._start(
                args,
                deadline,
                input=words.encode(input),
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=stdout if stdout == subprocess.DEVNULL else None,
                stderr=stderr if stderr in (subprocess.DEVNULL, subprocess.STDOUT) else None,
                shell=shell,
                cwd=cwd,
                env=env,
                pty=pty,
            )
        except Expired:
            raise subprocess.TimeoutExpired(args, timeout or 0.0) from None
        with process:
            try:
                _collect(process, sinks, deadline)
            except Expired:
                _finish(process, sinks)
                out, err = words.results(sinks, lenient=True)
                raise subprocess.TimeoutExpired(args, timeout or 0.0, out, err) from None
            except _TooMuch:
                _finish(process, sinks)
                raise _overflow(max_output, words.results(sinks, lenient=True)) from None
        assert process.exit is not None and process.returncode is not None
        out, err = words.results(sinks)
        completed = Completed(args, process.returncode, out, err)
        completed.reason = process.exit.reason
        completed.incomplete = process.exit.incomplete
        completed.dropped = sum(sink.dropped for sink in sinks.values())
        if check:
            completed.check_returncode()
        return completed

    def start(
        self,
        args: Any,
        *,
        input: Any = None,
        stdin: Any = subprocess.PIPE,
        stdout: Any = None,
        stderr: Any = None,
        shell: bool = False,
        cwd: Any = None,
        env: Mapping[Any, Any] | None = None,
        pty: tuple[int, int] | bool | None = None,
    ) -> Process:
        """Start a command; iterate over what is returned for its output as it comes.

        Args:
            args, shell, cwd, env, pty: as for `run`.
            input: bytes that the command reads, sent while its output is read.
            stdin: `subprocess.PIPE`: what `Process.write` is given; `subprocess.DEVNULL`:
                nothing; or a binary file, read while the output is.
            stdout: None, or `subprocess.DEVNULL`: it is not sent.
            stderr: None, `subprocess.DEVNULL`, or `subprocess.STDOUT`: with the output.

        Raises: as `run`, for what goes wrong before the command runs; RuntimeError: another
            command or transfer is under way on this connection.
        """
        return self._start(
            args,
            None,
            input=input,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            shell=shell,
            cwd=cwd,
            env=env,
            pty=pty,
        )

    def _start(
        self,
        args: Any,
        deadline: float | None,
        *,
        input: Any,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        shell: bool,
        cwd: Any,
        env: Mapping[Any, Any] | None,
        pty: tuple[int, int] | bool | None,
    ) -> Process:
        source: Any = None
        if input is not None:
            source = io.BytesIO(input)
        elif hasattr(stdin, "read"):
            source = getattr(stdin, "buffer", stdin)
        wanted = source is not None or stdin in (subprocess.PIPE, True)
        if not wanted and stdin not in (subprocess.DEVNULL, None, False):
            raise TypeError(f"stdin is {stdin!r}, expected subprocess.PIPE, DEVNULL or a file")
        quiet = (stdout == subprocess.DEVNULL) | (stderr == subprocess.DEVNULL) << 1
        command = Exec(
            argv=() if shell else _argv(args),
            shell=_word(args, "command line") if shell else None,
            cwd=b"" if cwd is None else _word(cwd, "cwd"),
            env=_variables(env),
            pty=_size(pty),
            stdin=wanted,
            merge=stderr == subprocess.STDOUT,
            quiet=0 if pty else quiet,
        )
        message = command.encode()
        words = len(command.argv) + len(command.env)
        if len(message) > FRAMING.max_frame or words > _MOST_WORDS:
            program = os.fsdecode(command.argv[0]) if command.argv else "/bin/sh"
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG), program)
        return Process(self._link, args, message, source, deadline)

    # ---------------------------------------------------------------- files

    def put(
        self,
        local: str | os.PathLike[str],
        remote: str,
        *,
        overwrite: bool = True,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Store a file; it appears under its name when it is complete and its checksum agrees.

        What an earlier call could not complete is not sent again.

        Args:
            local: path of the file.
            remote: its path below the server's folder, with "/" between its parts.
            overwrite: whether it may replace one.
            progress: called with (bytes so far, bytes in all).

        Raises:
            FileExistsError: there is one, and *overwrite* is False.
            OSError: a file cannot be read or written; or the connection failed.
            RemoteError: the server refused, or the checksums differ.
        """
        from . import copying

        copying.put(self._link, local, remote, overwrite=overwrite, progress=progress)

    def get(
        self,
        remote: str,
        local: str | os.PathLike[str],
        *,
        overwrite: bool = True,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Fetch a file; arguments and errors are those of `put`."""
        from . import copying

        copying.get(self._link, remote, local, overwrite=overwrite, progress=progress)

    def listdir(self, remote: str = "") -> list[Entry]:
        """Return what is in a folder below the server's, or in that one."""
        from . import copying

        return copying.listdir(self._link, remote)

    def mkdir(self, remote: str) -> None:
        """Make a folder below the server's; it may exist already."""
        from . import copying

        copying.mkdir(self._link, remote)

    # ---------------------------------------------------------------- life

    @property
    def closed(self) -> bool:
        """Whether there is no connection at present."""
        return self._link.closed

    def close(self) -> None:
        """Close the connection; a command that still runs is ended."""
        self._link.close(for_good=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "connected"
        return f"<{type(self).__name__} {self.address} {state}>"


# ---------------------------------------------------------------- output


class _TooMuch(Exception):
    """There is more output than may be."""


def _collect(process: Process, sinks: dict[str, Sink], deadline: float | None) -> None:
    for channel, data in process._until(deadline):
        if not sinks[channel].write(data):
            raise _TooMuch


def _finish(process: Process, sinks: dict[str, Sink]) -> None:
    """Kill a command, and take what it has written until then."""
    process.kill()
    deadline = time.monotonic() + process.last_words
    while True:
        try:
            _collect(process, sinks, deadline)
            return
        except _TooMuch:
            continue
        except (Expired, OSError, EOFError):
            process.give_up()
            return


def _overflow(limit: int | None, results: tuple[Any, Any]) -> RemoteError:
    error = RemoteError(
        f"the command was killed: it wrote more than {limit} bytes; pass a larger "
        "max_output=, or overflow='tail' or 'spill'",
        "output",
    )
    error.output, error.stderr = results
    return error


class _Text:
    """What str are to bytes, as `subprocess` has it."""

    def __init__(self, wanted: bool, encoding: str | None, errors: str | None) -> None:
        self.wanted = wanted or encoding is not None or errors is not None
        self.encoding = encoding or "utf-8"
        self.errors = errors or "strict"

    def encode(self, data: Any) -> Any:
        if data is None or not self.wanted:
            if isinstance(data, str):
                raise TypeError("input is a str, expected bytes; text=True takes str")
            return data
        if not isinstance(data, str):
            raise TypeError(f"input is a {type(data).__name__}, expected a str with text=True")
        return data.encode(self.encoding, self.errors)

    def results(self, sinks: dict[str, Sink], lenient: bool = False) -> tuple[Any, Any]:
        """Return what the sinks have; *lenient*: whatever it is, for an error's sake."""
        return (
            self._decode(sinks["stdout"].result(), lenient),
            self._decode(sinks["stderr"].result(), lenient),
        )

    def _decode(self, found: Any, lenient: bool) -> Any:
        if not self.wanted or found is None:
            return found
        errors = "replace" if lenient else self.errors
        if isinstance(found, bytes):
            text = found.decode(self.encoding, errors)
            return text.replace("\r\n", "\n").replace("\r", "\n")
        return io.TextIOWrapper(found, self.encoding, errors)


# ---------------------------------------------------------------- input


def _argv(args: Any) -> tuple[bytes, ...]:
    if isinstance(args, str | bytes | os.PathLike):
        args = [args]
    words = tuple(_word(arg, "argument") for arg in args)
    if not words:
        raise ValueError("args is empty, expected a program and its arguments")
    return words


def _word(value: Any, what: str) -> bytes:
    if not isinstance(value, str | bytes | os.PathLike):
        raise TypeError(f"{what} is a {type(value).__name__}, expected str, bytes or a path")
    word = os.fsencode(value)
    if b"\0" in word:
        raise ValueError(f"{what} {value!r} has a NUL in it")
    return word


def _variables(env: Mapping[Any, Any] | None) -> tuple[bytes, ...]:
    found = []
    for name, value in (env or {}).items():
        pair = _word(name, "variable"), _word(value, f"variable {name!r}")
        if not pair[0] or b"=" in pair[0]:
            raise ValueError(f"variable {name!r}: illegal name")
        found.append(b"=".join(pair))
    return tuple(found)


def _size(pty: tuple[int, int] | bool | None) -> tuple[int, int] | None:
    if pty is None or pty is False:
        return None
    if pty is True:
        columns, rows = shutil.get_terminal_size()
        return rows, columns
    rows, columns = pty
    if not (0 <= rows <= 0xFFFF and 0 <= columns <= 0xFFFF):
        raise ValueError(f"pty is {pty!r}, expected (rows, columns)")
    return rows, columns
