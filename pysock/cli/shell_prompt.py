"""The prompt of `pysock shell`: editing, history, completion of names on the other side."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .shell_state import quoted

__all__ = ["PROMPT", "Prompt", "Word", "completions", "names_command", "open_prompt"]

PROMPT = ">>: "
LONGEST_HISTORY = 10_000  # lines
MOST_NAMES = 1000  # that are asked for at once
_SPECIAL = re.compile(r"""([^\w@%+=:,./~-])""")

Names = Callable[[bytes], Iterable[bytes]]  # runs a command line, returns what it prints
Suspend = Callable[[], object]


class Prompt:
    """Asks for a line with what Python brings along.

    Args:
        history: lines that were typed, in a file.
    """

    missing = "prompt_toolkit is not installed: Tab does not complete file names"

    def __init__(self, history: History) -> None:
        self._history = history
        try:
            import readline
        except ImportError:  # Windows
            self.missing += ", and there is no history"
        else:
            readline.clear_history()
            readline.set_auto_history(False)
            for line in history.lines():
                readline.add_history(line)

    def ask(self) -> str:
        """Return a line.

        Raises:
            EOFError: Ctrl-D was typed.
            KeyboardInterrupt: Ctrl-C was typed.
        """
        line = input(PROMPT)
        if self._history.add(line) and "readline" in sys.modules:
            sys.modules["readline"].add_history(line)
        return line


class ToolkitPrompt(Prompt):
    """Asks for a line with prompt_toolkit.

    Args:
        history: lines that were typed, in a file.
        names: runs a command line on the other side and returns what it prints.
        suspend: called at Ctrl-Z.
    """

    missing = ""

    def __init__(self, history: History, names: Names, suspend: Suspend | None) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.application import run_in_terminal
        from prompt_toolkit.completion import Completer, Completion
        from prompt_toolkit.history import InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings
        from prompt_toolkit.shortcuts import CompleteStyle

        class Remote(Completer):
            def get_completions(self, document: Any, complete_event: Any) -> Any:
                for start, text, shown in completions(document.text_before_cursor, names):
                    yield Completion(text, start, display=shown)

        class Kept(InMemoryHistory):
            def append_string(self, string: str) -> None:
                if history.add(string):
                    super().append_string(string)

        keys = KeyBindings()
        if suspend is not None:

            @keys.add("c-z")
            def stop(event: object) -> None:
                run_in_terminal(suspend)

        self._session: Any = PromptSession(
            history=Kept(list(history.lines())),
            completer=Remote(),
            complete_while_typing=False,
            key_bindings=keys,
            complete_style=CompleteStyle.READLINE_LIKE,
            output=_output(),
        )

    def ask(self) -> str:
        line: str = self._session.prompt(PROMPT)
        return line


def _output() -> Any:
    """Return the terminal without questions to it, whose answers a program would read."""
    if sys.platform == "win32":
        return None
    from prompt_toolkit.output import create_output

    output: Any = create_output(sys.stdout)
    output.enable_cpr = False
    return output


def open_prompt(names: Names, suspend: Suspend | None = None) -> Prompt:
    """Return the best prompt that is to be had here.

    Args:
        names: runs a command line on the other side and returns what it prints.
        suspend: stops this program, for Ctrl-Z.
    """
    history = History.of_user()
    try:
        return ToolkitPrompt(history, names, suspend)
    except ImportError:
        return Prompt(history)


class History:
    """Lines that were typed, in a file that only its owner can read; a write may fail.

    Args:
        path: of the file, None for none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._last = ""
        try:
            if path is not None:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
                os.chmod(path, 0o600)
        except OSError:
            self._path = None

    @classmethod
    def of_user(cls) -> History:
        """Return the one below $XDG_STATE_HOME."""
        folder = os.environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(folder):
            folder = os.path.expanduser("~/.local/state")
        path = Path(folder, "pysock", "shell-history")
        return cls(path if path.is_absolute() else None)

    def lines(self) -> list[str]:
        """Return the last ones, the oldest first; the file is cut to them."""
        if self._path is None:
            return []
        try:
            text = self._path.read_text(errors="surrogateescape", encoding="utf-8")
        except OSError:
            return []
        lines = text.split("\n")[:-1]
        if len(lines) > 2 * LONGEST_HISTORY:
            self._cut(lines[-LONGEST_HISTORY:])
        return lines[-LONGEST_HISTORY:]

    def add(self, line: str) -> bool:
        """Add *line*, but none that is empty, the last again, or begins with a space."""
        if not line.strip() or line[0].isspace() or line == self._last:
            return False
        self._last = line
        if self._path is not None:
            flat = " ".join(line.splitlines())
            with contextlib.suppress(OSError), open(self._path, "ab") as file:
                file.write(flat.encode(errors="surrogateescape") + b"\n")
        return True

    def _cut(self, lines: list[str]) -> None:
        assert self._path is not None
        new = self._path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write("".join(f"{line}\n" for line in lines))
            os.replace(new, self._path)


# ---------------------------------------------------------------- completion


@dataclass(frozen=True)
class Word:
    """The last word of a line that is being typed, as a shell reads it.

    Attributes:
        start: where it begins in the line.
        text: what it means.
        quote: the quotation mark that is still open, or "".
        first: whether it names a command.
        fixed: whether *text* is all there is to know: no variable, no pattern.
        home: whether it begins with `~/`, which *text* is without.
    """

    start: int
    text: str
    quote: str = ""
    first: bool = False
    fixed: bool = True
    home: bool = False

    @classmethod
    def last_of(cls, line: str) -> Word:
        """Return the word that *line* ends with, which may be empty."""
        start, text, quote, first, fixed, escaped = 0, "", "", True, True, False
        for at, char in enumerate(line):
            if escaped:
                # Within double quotes most characters keep their backslash.
                text += char if not quote or char in '$`"\\' else f"\\{char}"
                escaped = False
            elif char == quote:
                quote = ""
            elif char == "\\" and quote != "'":
                escaped = True
            elif quote:
                fixed = fixed and (quote == "'" or char not in "$`")
                text += char
            elif char in "'\"":
                quote = char
            elif char in " \t\n;|&<>()=`":
                if char in ";|&(\n`":
                    first = True
                elif text or char in "<>":
                    first = False
                start, text, fixed = at + 1, "", True
            else:
                fixed = fixed and char not in "$*?["
                text += char
        home = line.startswith("~/", start)
        return cls(start, text[2:] if home else text, quote, first, fixed, home)

    def spelt(self, text: str, whole: bool) -> str:
        """Return how *text* is typed in this word's place.

        Args:
            text: what the word is to mean.
            whole: whether nothing more will follow.
        """
        home = "~/" if self.home else ""
        end = self.quote if whole else ""
        if self.quote == "'":
            return home + "'" + text.replace("'", "'\"'\"'") + end
        if self.quote == '"':
            return home + '"' + re.sub(r'([$`"\\])', r"\\\1", text) + end
        if not home and text.startswith("~"):
            return "\\" + _SPECIAL.sub(r"\\\1", text)
        return home + _SPECIAL.sub(r"\\\1", text)


def names_command(word: Word) -> bytes:
    """Return the command line that prints the names which *word* may become.

    Each ends in a NUL byte, a folder's in a slash before that.
    """
    folder, slash, name = os.fsencode(word.text).rpartition(b"/")
    pattern = quoted(name) + b"*" if name else b"*"
    go = b""
    if word.home:
        go = b'cd "$HOME"/' + quoted(folder or b".") + b" 2>/dev/null && "
    elif slash:
        go = b"cd -- " + quoted(folder or b"/") + b" 2>/dev/null && "
    count = b"n=$((n+1)); [ $n -le %d ] || break; " % MOST_NAMES
    listing = (
        b"for f in " + pattern + b"; do " + count + b'if [ -d "./$f" ]; then '
        b'printf "%s/\\0" "$f"; elif [ -e "./$f" ] || [ -L "./$f" ]; then '
        b'printf "%s\\0" "$f"; fi; done'
    )
    if not word.first or slash or word.home or not name:
        return b"n=0; " + go + listing
    return (
        b"n=0; " + listing + b"; IFS=:; for d in $PATH; do for f in "
        b'"$d"/' + pattern + b"; do " + count + b'if [ -f "$f" ] && [ -x "$f" ]; then '
        b'printf "%s\\0" "${f##*/}"; fi; done; done'
    )


def completions(line: str, names: Names) -> Iterable[tuple[int, str, str]]:
    """Yield how the last word of *line* may be completed.

    Args:
        line: as far as it is typed.
        names: runs a command line on the other side and returns what it prints.

    Yields:
        Where the new word begins, counted from the end (0 or less), its text, its name.
    """
    word = Word.last_of(line)
    if not word.fixed:
        return
    folder, slash, _ = word.text.rpartition("/")
    for name in sorted(set(names(names_command(word)))):
        try:
            shown = name.decode()
        except UnicodeDecodeError:
            continue  # it cannot be typed
        if shown.isprintable():
            text = word.spelt(folder + slash + shown, not shown.endswith("/"))
            yield word.start - len(line), text, shown
