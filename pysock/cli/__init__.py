"""The command `pysock`: finds the verb, and turns what goes wrong into one line.

Each verb is a module of this package, with `configure(parser)` and `run(options)`, and with
`parse(parser, arguments)` where that is not argparse's business alone; it is imported when it
is asked for.

Exit status: 0 when all went well; 1 when something on this side failed, such as writing
the output; 2 for a wrong command line or a message that cannot be sent; 130 after Ctrl-C;
141 when the reader of the output has gone; 255 when the connection failed.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NoReturn, TextIO

__all__ = ["Failure", "main"]

FAILED = 1
MISUSED = 2
INTERRUPTED = 128 + 2  # as a shell tells SIGINT
UNREAD = 128 + 13  # and SIGPIPE
DISCONNECTED = 255

CLOSED = "cannot write the output: standard output is closed"
WIDEST = 100  # columns of help: longer lines are hard to read

DESCRIPTION = """\
Whole messages over sockets: send them, serve them, measure, look into what was recorded;
and commands and files on another machine."""

EPILOG = """\
`pysock VERB --help` tells more of one.

examples:
  pysock demo
  pysock send --help

exit status: 0; 1 something on this side failed, such as writing the output; 2 a wrong command
line or a message that cannot be sent; 130 after Ctrl-C; 141 the reader of the output has gone;
255 no connection, or one that failed"""

# Each verb, and what `pysock --help` says of it.
VERBS = {
    "bench": "put load on a server and say how it does",
    "completion": "print a script that completes these commands at the Tab key",
    "demo": "show what pysock is for, over real sockets, in a few seconds",
    "dump": "show the messages in a file of a stream's bytes",
    "get": "fetch files from a server of remote commands",
    "guess": "say which format the bytes in a file follow",
    "keygen": "make a certificate, its private key and an authkey",
    "put": "send files to a server of remote commands",
    "run": "run a command on another machine, as ssh does",
    "send": "send messages to a server and print its replies",
    "serve": "run a server that answers messages with a function of yours",
    "shell": "type commands that another machine runs",
    "shell-server": "be the server of run, shell, put and get",
}


class Failure(Exception):
    """What ends a verb: a sentence for the user, and the exit status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text, status)
        self.text = text
        self.status = status


class NoReader(Exception):
    """Nobody reads the output any more, which is no failure of ours."""


class Formatter(argparse.HelpFormatter):
    """Fills paragraphs to the width of the screen; what is indented stays as it is."""

    def __init__(self, prog: str, **options: Any) -> None:
        import shutil

        options.setdefault("width", min(shutil.get_terminal_size().columns, WIDEST) - 2)
        super().__init__(prog, **options)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            "\n".join(indent + line for line in part.splitlines())
            if "\n " in part
            else "\n".join(indent + line for line in self._split_lines(part, width))
            for part in text.strip("\n").split("\n\n")
        )

    def _split_lines(self, text: str, width: int) -> list[str]:
        import textwrap

        # An option that is cut at its hyphen is none.
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == argparse.REMAINDER and action.metavar:
            return f"[{action.metavar} ...]"
        return super()._format_args(action, default_metavar)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=Formatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise Failure(f"{message}; see {self.prog} --help", MISUSED)

    def print_help(self, file: Any = None) -> None:
        if file is not None:
            super().print_help(file)
            return
        with writing() as out:  # argparse itself is silent where this fails
            out.write(self.format_help())


class ShowVersion(argparse.Action):
    """Prints the version, and ends the program; argparse's own is silent where this fails."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .. import __version__

        with writing() as out:
            out.write(f"pysock {__version__}\n")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (default: that of the process); return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = arguments[0] if arguments and arguments[0] in VERBS else None
    _fill_closed()
    try:
        try:
            status = _run(verb, arguments)
        finally:
            _flush()
    except Failure as exc:
        _complain(verb, exc.text)
        status = exc.status
    except MemoryError:
        _complain(verb, "not enough memory")
        status = FAILED
    except KeyboardInterrupt:
        status = INTERRUPTED
    except NoReader:
        status = UNREAD
    return status


def _fill_closed() -> None:
    """Give standard streams that are closed a descriptor, which no connection can have then.

    Writing to a closed output stays an error, writing to a closed stderr does nothing.
    """
    if os.name != "posix":
        return
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # the lowest one that is free


def _run(verb: str | None, arguments: list[str]) -> int:
    try:
        if verb is None:
            return _top(arguments)
        module, parser = load(verb)
        parse = getattr(module, "parse", Parser.parse_intermixed_args)
        options = parse(parser, arguments[1:])
        status: int = module.run(options)
        return status
    except SystemExit as exc:  # --help and --version
        return exc.code if isinstance(exc.code, int) else 0


def load(verb: str) -> tuple[ModuleType, Parser]:
    """Return the module of *verb*, and the parser that it has configured."""
    module = importlib.import_module(f"{__name__}.{verb.replace('-', '_')}")
    parser = Parser(f"pysock {verb}", module.DESCRIPTION, module.EPILOG)
    module.configure(parser)
    return module, parser


def top_parser() -> Parser:
    """Return the parser of what stands before a verb's own options."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items())
    parser = Parser("pysock", DESCRIPTION, f"verbs:\n{verbs}\n\n{EPILOG}")
    parser.usage = "pysock [-h] [--version] VERB ..."
    parser.add_argument(
        "--version",
        action=ShowVersion,
        nargs=0,
        default=argparse.SUPPRESS,
        help="show program's version number and exit",
    )
    parser.add_argument(
        "verb", metavar="VERB", choices=list(VERBS), help="what to do, one of those below"
    )
    return parser


def _top(arguments: list[str]) -> int:
    """Answer `pysock` without a verb it knows."""
    words = arguments[:1]
    if words and words[0].startswith("-") and words != ["--"]:
        words.append(next(iter(VERBS)))  # or the verb is missed, and not the option told
    top_parser().parse_args(words)
    raise AssertionError("not reached: a known verb does not come here")


def _complain(verb: str | None, text: str) -> None:
    """Write one line on stderr, whatever *text* holds."""
    if sys.stderr is not None:  # print() would take stdout instead
        line = " ".join(text.split())
        with contextlib.suppress(OSError):  # nobody takes it
            print(f"pysock {verb}: {line}" if verb else f"pysock: {line}", file=sys.stderr)


@contextlib.contextmanager
def writing() -> Iterator[TextIO]:
    """Lend standard output to what writes to it.

    Raises:
        NoReader: nobody reads it any more.
        Failure: it is closed, or cannot be written.
    """
    if sys.stdout is None:
        raise Failure(CLOSED, FAILED)
    try:
        yield sys.stdout
    except OSError as exc:
        # EINVAL: a closed pipe on Windows.
        if isinstance(exc, BrokenPipeError) or exc.errno == errno.EINVAL:
            raise NoReader from None
        raise Failure(f"cannot write the output: {exc.strerror}", FAILED) from None


def check_output() -> None:
    """Refuse to do what would be printed nowhere.

    Raises:
        Failure: standard output is closed.
    """
    with writing():
        pass


def _flush() -> None:
    """Write out what is buffered, so that the interpreter has nothing left to fail at.

    Raises:
        NoReader: nobody reads the output any more.
        Failure: it cannot be written.
    """
    if sys.stdout is None:
        return
    try:
        with writing() as out:
            out.flush()
    except (Failure, NoReader):
        # What is left goes nowhere: the interpreter flushes once more at its end.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        raise
