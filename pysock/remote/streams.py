"""The ends of a command's pipes, or of its terminal, as its server holds them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import termios

__all__ = ["Streams"]

_PIPE_SIZE = 256 * 1024
_WINDOW_SIZE = struct.Struct("HHHH")


class Streams:
    """The ends of a command's pipes, or of its terminal.

    Args:
        pty: (rows, columns) of a terminal, None for pipes.
        stdin: whether the command has input.
        merge: whether its error output goes where its output goes.
        quiet: 1: its output goes nowhere, 2: its error output, 3: both.
    """

    def __init__(
        self, pty: tuple[int, int] | None, stdin: bool, merge: bool, quiet: int
    ) -> None:
        self.terminal = pty is not None
        self.outputs: dict[int, int] = {}  # descriptor: stream
        self.input: int | None = None
        self._terminals: list[int] = []  # that have ended, and are still open
        self.theirs: list[int] = []  # for the command, to be closed when it has started
        try:
            if pty is not None:
                self._open_terminal(pty)
            else:
                self._open_pipes(stdin, merge, quiet)
        except BaseException:
            self.close()
            raise

    def _open_terminal(self, pty: tuple[int, int]) -> None:
        master, slave = os.openpty()
        self.outputs[master] = 1
        self.input = master
        self.theirs = [slave, slave, slave]
        os.set_blocking(master, False)
        self.resize(*pty)

    def _open_pipes(self, stdin: bool, merge: bool, quiet: int) -> None:
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.theirs.append(nowhere)
        if stdin:
            theirs, self.input = os.pipe()
            os.set_blocking(self.input, False)
            self.theirs[0] = theirs
            os.close(nowhere)
        self.theirs.append(self._output(1, quiet & 1))
        self.theirs.append(self.theirs[1] if merge else self._output(2, quiet & 2))

    def _output(self, stream: int, quiet: int) -> int:
        if quiet:
            return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        ours, theirs = os.pipe()
        self.outputs[ours] = stream
        os.set_blocking(ours, False)
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # there is a limit for each user
                fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        return theirs

    def resize(self, rows: int, columns: int) -> None:
        """Say how large the terminal is, if it is still open."""
        for descriptor in self.outputs:
            with contextlib.suppress(OSError):
                size = _WINDOW_SIZE.pack(rows, columns, 0, 0)
                fcntl.ioctl(descriptor, termios.TIOCSWINSZ, size)

    def end_input(self, within_line: bool = False) -> None:
        """Have the command read the end of its input.

        A terminal that takes no more just now still has its `input` afterwards.

        Args:
            within_line: whether the input ends without a newline: a terminal then needs its
                end key twice, for the first one sends the line off.
        """
        if self.input is None:
            return
        if self.terminal:
            with contextlib.suppress(OSError, termios.error):
                settings = termios.tcgetattr(self.input)
                if settings[3] & termios.ICANON:  # else that key is a byte as any other
                    try:
                        os.write(self.input, settings[6][termios.VEOF] * (1 + within_line))
                    except BlockingIOError:
                        return
        else:
            os.close(self.input)
        self.input = None

    def close_theirs(self) -> None:
        """Close what is the command's, which has its own copies by now."""
        for descriptor in set(self.theirs):
            os.close(descriptor)
        self.theirs = []

    def close_output(self, descriptor: int) -> None:
        """Close one end.

        A terminal stays open until the end: to close it would hang up on a command that has
        only closed its own side.
        """
        if descriptor == self.input:
            self.input = None
        if self.terminal:
            self._terminals.append(descriptor)
        else:
            os.close(descriptor)
        del self.outputs[descriptor]

    def close(self) -> None:
        """Close all that is open."""
        self.close_theirs()
        if self.input is not None and self.input not in self.outputs:
            os.close(self.input)
        self.input = None
        for descriptor in [*self.outputs, *self._terminals]:
            os.close(descriptor)
        self.outputs.clear()
        self._terminals.clear()
