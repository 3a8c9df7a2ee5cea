"""`pysock shell`: a prompt for commands on another machine, or one of them full-screen."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable

from .. import Error, RemoteError
from ..remote import Process, RemoteClient
from . import DISCONNECTED, FAILED, INTERRUPTED, Failure, Parser
from .feeder import descriptor_of
from .options import in_options
from .remote_options import (
    DEFAULT,
    MAY_NOT,
    add_connection,
    complain,
    connected,
    failure_of,
    is_lost,
    passed_on,
    shown,
    start_failure,
    told,
)
from .shell_prompt import open_prompt
from .shell_state import Place, Report
from .signals import Interrupts
from .terminal import GivenUp, interact, kept_terminal, status_of, window_size, write_all

DESCRIPTION = """\
Type commands that run on another machine, or as another user of this one: where `pysock
shell-server` runs. Each line goes to a shell there, and what it prints is shown as it comes.

With -t the command has a terminal there: for an editor, top, or a login shell."""

EPILOG = """\
examples:
  pysock shell
  pysock shell -t top
  pysock shell < commands.txt
  pysock shell tls://build.example.org:5210 --ca certificate.pem \\
      --authkey authkey

at the prompt:
  -t COMMAND    run this one full-screen, as in: -t vi notes.txt; -t alone: a
                login shell
  exit, Ctrl-D  leave
  Ctrl-C        interrupt the command (SIGINT); again: SIGTERM; again: SIGKILL
                to it and all it has started; then: wait no longer. At the
                prompt: a new line
  Up, Ctrl-R    what was typed before; a line that begins with a space is not
                kept
  Tab           complete the name of a file on the other side, or of a command

Each line has a shell of its own. The working folder (cd) and exported variables (export
NAME=value) are kept from one line to the next; other variables and functions are not, nor
what a line with `exec` or a trap for EXIT of its own has changed. Without -t a
command reads an empty input, and what is typed meanwhile waits for the prompt. A line is
over when nothing holds its output open any more: `server >log 2>&1 &` runs on in the
background.

With -t, at the start of a line, ~. gives the command and the connection up, ~Ctrl-Z
stops this program, and ~~ is one tilde.

Where standard input is no terminal its lines are run in order, each a whole command; this
ends early when the connection is lost, or at Ctrl-C.

files:
  ~/.local/state/pysock/shell-history
                what was typed, mode 0600; in $XDG_STATE_HOME/pysock
                where that is set

exit status: that of the last command, 128 more than the number of a signal that ended it,
or what `exit` was given; 255 no connection, or a lost one; 2 a wrong command line; 130
after Ctrl-C in lines that are read from a file"""

ASKING = 2.0  # seconds that completing a name may take
LONGEST_NAMES = 1024 * 1024  # bytes
_LOGIN = b'exec "${SHELL:-/bin/sh}" -l'
_EXIT = re.compile(rb"\s*exit(?:\s+([0-9]{1,3}))?\s*;?\s*")
# What a prompt leaves set that is ended by a signal: pasting, a hidden cursor, colours.
_UNSET = b"\x1b[?2004l\x1b[?25h\x1b[0m"


def configure(parser: Parser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add(
        "address",
        metavar="ADDRESS",
        nargs="?",
        help=f"the server, as tls://host:port or unix:///path; default: {DEFAULT}",
    )
    add(
        "-t",
        metavar="COMMAND",
        dest="command",
        nargs=argparse.REMAINDER,
        help="run COMMAND at a terminal there, or without one a login shell; everything after "
        "-t is the command's",
    )
    add_connection(parser)


def run(options: argparse.Namespace) -> int:
    """Run the verb; return the exit status."""
    with kept_terminal() as terminal, connected(options) as remote:
        if options.command is not None:
            return _full_screen(remote, options.command)
        if not (os.isatty(0) and os.isatty(1)):
            lines = sys.stdin.buffer if sys.stdin is not None else []
            return Shell(remote, interactive=False).script(lines)
        if terminal is None:
            return Shell(remote, interactive=True).prompt()
        terminal.farewell = lambda: write_all(1, _UNSET)
        return Shell(remote, interactive=True).prompt(terminal.suspend)


def _full_screen(remote: RemoteClient, command: list[str]) -> int:
    try:
        process = remote.start(
            command or _LOGIN, shell=not command, pty=window_size(), env=passed_on()
        )
    except (Error, OSError, EOFError) as exc:
        if not command and _needs_more(exc):
            raise _limited() from None
        raise start_failure(exc, remote, command[0] if command else "") from None
    try:
        with process:
            try:
                return interact(process, stdin=descriptor_of(sys.stdin))
            except GivenUp:
                remote.close()  # or the command's end would be waited for
                raise
    except (Error, OSError, EOFError) as exc:
        raise failure_of(exc) from None


def _needs_more(exc: Exception) -> bool:
    """Whether the server does not allow what a shell runs."""
    return isinstance(exc, RemoteError) and exc.code == "refused" and MAY_NOT in str(exc)


def _limited() -> Failure:
    text = (
        "this server allows only some programs, and the shell needs them all: "
        "`pysock run -- PROGRAM` runs one of those"
    )
    return Failure(text, DISCONNECTED)


class Shell:
    """Runs lines on the other side, and keeps what one leaves behind for the next.

    Args:
        remote: the other side.
        interactive: whether somebody types the lines.
    """

    def __init__(self, remote: RemoteClient, interactive: bool) -> None:
        self._remote = remote
        self._interactive = interactive
        self._place = Place()
        self._env = passed_on()
        self._within_line = False  # the last output had no newline at its end
        self.over: int | None = None  # the status to end with, once that is known
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self._colour = interactive and not plain and os.isatty(2)

    # ---------------------------------------------------------------- where lines are from

    def prompt(self, suspend: Callable[[], object] | None = None) -> int:
        """Run what is typed; return the status to end with.

        Args:
            suspend: called at Ctrl-Z.
        """
        self._begin()
        prompt = open_prompt(self._names, suspend)
        if prompt.missing:
            self._say(prompt.missing)
        status = 0
        while self.over is None:
            try:
                self._end_line()
                line = prompt.ask()
                status = self.run(os.fsencode(line), status)
            except KeyboardInterrupt:
                self._within_line = True
            except EOFError:
                return status
        return self.over

    def script(self, lines: Iterable[bytes]) -> int:
        """Run *lines*; return the status to end with."""
        self._begin()
        status = 0
        try:
            for line in lines:
                status = self.run(line, status)
                if self.over is not None:
                    return self.over
        except OSError as exc:
            raise Failure(f"cannot read standard input: {exc.strerror}", FAILED) from None
        return status

    def _begin(self) -> None:
        """Ask for what the other side is like.

        Raises:
            Failure: it runs no command lines for us.
        """
        try:
            self._line(b"", visible=False)
        except (Error, OSError, EOFError) as exc:
            raise (_limited() if _needs_more(exc) else failure_of(exc)) from None

    # ---------------------------------------------------------------- a line

    def run(self, line: bytes, last: int = 0) -> int:
        """Run one line; return its status.  What goes wrong is said.

        Args:
            line: what was typed.
            last: the status of the line before it.
        """
        line = line.strip(b"\r\n")
        if not line.strip():
            return last
        if found := _EXIT.fullmatch(line):
            self.over = int(found[1] or last) & 255
            return self.over
        if b"\0" in line:
            self._say("a command line cannot hold a NUL byte")
            return FAILED
        try:
            if line == b"-t" or line.startswith(b"-t "):
                return self._terminal(line[2:].strip() or _LOGIN)
            return self._line(line)
        except Failure as exc:
            self._say(exc.text)
            self.over = None if self._interactive else exc.status
            return exc.status
        except KeyboardInterrupt:
            self._within_line = True
            self._say("given up")
            self.over = None if self._interactive else INTERRUPTED
            return INTERRUPTED
        except (Error, OSError, EOFError, RuntimeError) as exc:
            return self._went_wrong(exc)

    def _line(self, line: bytes, visible: bool = True) -> int:
        report = Report()
        with Interrupts(most=4) as interrupts:
            process = interrupts.go_to(
                self._remote.start(
                    self._place.command(line),
                    shell=True,
                    input=self._place.prelude(report),
                    cwd=os.fsdecode(self._place.cwd) or None,
                )
            )
            with process:
                self._follow(process, report, visible)
        self._place.update(report.told)
        if interrupts.count:
            self._within_line = True  # the terminal has shown ^C
            if not self._interactive:
                self.over = INTERRUPTED
        if visible:
            self._tell_end(process)
        return status_of(process.returncode)

    def _follow(self, process: Process, report: Report, visible: bool) -> None:
        for channel, data in process:
            if channel == "stderr":
                data = report.filter(data)
            if visible:
                self._show(channel, data)
        if visible:
            self._show("stderr", report.rest())

    def _terminal(self, line: bytes) -> int:
        exports = self._place.exports()
        process = self._remote.start(
            exports + b"\n" + line if exports else line,
            shell=True,
            pty=window_size(),
            cwd=os.fsdecode(self._place.cwd) or None,
            env=self._env,
        )
        with process, contextlib.ExitStack() as opened:
            stdin = 0
            if not self._interactive:  # the lines there are for us
                stdin = os.open(os.devnull, os.O_RDONLY)
                opened.callback(os.close, stdin)
            status = interact(process, stdin=stdin, whole_lines=self._interactive)
        self._tell_end(process)
        return status

    def _went_wrong(self, exc: Exception) -> int:
        if self._remote.closed or is_lost(exc):
            return self._lose(told(exc))
        self._say(told(exc))
        folder = os.fsdecode(self._place.cwd)
        if isinstance(exc, OSError) and folder and exc.filename == folder:
            self._say("the next line runs in the first folder again")
            self._place.cwd = b""
            if not self._interactive:
                self.over = FAILED
        return FAILED

    def _lose(self, why: str) -> int:
        if self._interactive:
            self._say(f"the connection was lost: {why}; the next line connects again")
        else:
            self._say(f"the connection was lost: {why}")
            self.over = DISCONNECTED  # what follows may rely on what was lost
        return DISCONNECTED

    def _names(self, command: bytes) -> Iterable[bytes]:
        """Return what *command* prints, for completing a name; nothing where it fails."""
        if self._remote.closed:
            return []
        try:
            done = self._remote.run(
                command,
                shell=True,
                cwd=os.fsdecode(self._place.cwd) or None,
                stderr=subprocess.DEVNULL,
                timeout=ASKING,
                max_output=LONGEST_NAMES,
            )
        except (Error, OSError, EOFError, subprocess.SubprocessError):
            return []
        return done.stdout.split(b"\0")[:-1]  # type: ignore[no-any-return]

    # ---------------------------------------------------------------- what is shown

    def _show(self, channel: str, data: bytes) -> None:
        if data:
            write_all(2 if channel == "stderr" else 1, data)
            self._within_line = not data.endswith(b"\n")

    def _end_line(self) -> None:
        if self._within_line:
            write_all(1, b"\n")
            self._within_line = False

    def _say(self, text: str) -> None:
        if self._interactive:
            self._end_line()
        complain("shell", text)

    def _tell_end(self, process: Process) -> None:
        """Say how a command has ended, where that is not as usual."""
        text = _ending(process)
        if text and self._interactive:
            self._end_line()
            line = f"\x1b[31m[{text}]\x1b[0m" if self._colour else f"[{text}]"
            with contextlib.suppress(OSError):
                print(line, file=sys.stderr, flush=True)


def _ending(process: Process) -> str:
    end = process.exit
    if end is None:
        return ""
    parts = []
    if end.signal:
        parts.append(f"signal {shown(end.signal)}" + (", memory written to a file" * end.core))
    elif end.status > 128 and end.status - 128 in signal.valid_signals():
        name = _name_of(end.status - 128)
        parts.append(f"exit {end.status}" + (f", as after signal {name}" if name else ""))
    elif end.status:
        parts.append(f"exit {end.status}")
    if end.reason:
        parts.append(shown(in_options(end.reason)))
    if end.incomplete:
        parts.append("a process in the background still has the output, which is cut here")
    return "; ".join(parts)


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:  # a real-time signal
        return ""
