"""What `pysock shell` keeps between two lines: the folder, and the exported variables.

Each line is run by a shell of its own.  That shell reads on standard input what the lines
before it have left behind, and tells before it ends what this one does, between two marks
in its error output, from where they are taken out again.  The marks are random, and in two
halves until they are written, so that no listing of processes shows one.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

__all__ = ["Place", "Report", "quoted"]

# The shell's own, and what the server sets for each command.
_NOT_KEPT = re.compile(
    rb"PWD|OLDPWD|SHLVL|_|U?ID|EUID|GID|EGID|PPID|GROUPS|BASHOPTS|SHELLOPTS|PYSOCK_.*"
)
_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_REPORT = 4 * 1024 * 1024


def quoted(text: bytes) -> bytes:
    """Return *text* as one word of a shell."""
    return b"'" + text.replace(b"'", b"'\"'\"'") + b"'"


class Report:
    """Takes what a line's shell tells out of its error output."""

    def __init__(self) -> None:
        self.halves = [secrets.token_hex(16).encode() for _ in range(2)]
        self._begin = b"".join(self.halves)
        self._end = b"".join(reversed(self.halves))
        self._within = False
        self._rest = b""
        self.told: bytes | None = None

    def filter(self, data: bytes) -> bytes:
        """Return the error output in *data*, and before it, as far as that is known."""
        shown = []
        self._rest += data
        while True:
            mark = self._end if self._within else self._begin
            before, found, after = self._rest.partition(mark)
            if not found:
                break
            if self._within:
                self.told = before
            else:
                shown.append(before)
            self._within = not self._within
            self._rest = after
        if not self._within:
            kept = self._half_mark()
            shown.append(self._rest[: len(self._rest) - kept])
            self._rest = self._rest[len(self._rest) - kept :]
        elif len(self._rest) > _LONGEST_REPORT:
            self._rest = self._rest[-len(self._end) :]
        return b"".join(shown)

    def rest(self) -> bytes:
        """Return what was held back, when no more comes."""
        return b"" if self._within else self._rest

    def _half_mark(self) -> int:
        """Return how many bytes at the end may begin a mark."""
        for length in range(min(len(self._begin) - 1, len(self._rest)), 0, -1):
            if self._begin.startswith(self._rest[-length:]):
                return length
        return 0


@dataclass
class Place:
    """Where the next line runs.

    Attributes:
        cwd: the folder; b"": the server's choice.
        before: the one before it, for `cd -`.
        changed: exported variables that differ from the server's; None where it was unset.
    """

    cwd: bytes = b""
    before: bytes = b""
    changed: dict[bytes, bytes | None] = field(default_factory=dict)
    _first: dict[bytes, bytes] | None = None

    def command(self, line: bytes) -> bytes:
        """Return the command line that runs *line* and tells what it leaves behind."""
        # Descriptor 9 is for the telling; what the line starts must not hold it open.
        return b'eval "$(cat)"; eval ' + quoted(line) + b" </dev/null 9>&-"

    def prelude(self, report: Report) -> bytes:
        """Return what that command line reads on standard input."""
        first, second = report.halves
        lines = []
        if self.cwd:  # its name, where there are links, is known to the shell only by this
            lines.append(b"cd " + quoted(self.cwd) + b" 2>/dev/null")
        # A shell that Ctrl-C ends must say so, and yet run what follows an `exit`.
        lines += [
            b"OLDPWD=" + quoted(self.before) if self.before else b"unset OLDPWD",
            self.exports(),
            b"exec 9>&2",
            b"pysock_report() { {",
            b'command printf \'%%s%%s%%s\\0%%s\\0\' %s %s "$PWD" "${OLDPWD-}"'
            % (first, second),
            b"command -p env -0",
            b"command printf '%%s%%s' %s %s" % (second, first),
            b"} 2>/dev/null >&9; }",
            b"trap pysock_report EXIT",
            b"trap 'trap \"pysock_report; trap - INT EXIT; kill -INT $$\" EXIT; exit 130' INT",
        ]
        return b"\n".join(lines)

    def exports(self) -> bytes:
        """Return the commands that set the exported variables."""
        return b"\n".join(
            b"unset " + name if value is None else b"export %s=%s" % (name, quoted(value))
            for name, value in self.changed.items()
        )

    def update(self, told: bytes | None) -> None:
        """Note what a line has left behind, if its shell came to tell."""
        if told is None or told.count(b"\0") < 2:
            return
        cwd, before, *variables = told.split(b"\0")
        if not cwd.startswith(b"/"):
            return
        self.cwd, self.before = cwd, before
        found = {}
        for variable in variables:
            name, equals, value = variable.partition(b"=")
            if equals and _NAME.fullmatch(name) and not _NOT_KEPT.fullmatch(name):
                found[name] = value
        if not found:
            return  # no `env -0` there
        if self._first is None:
            self._first = found
        gone = self._first.keys() - found.keys()
        self.changed = {
            name: value for name, value in found.items() if self._first.get(name) != value
        } | dict.fromkeys(gone)
