"""What the command line is made of, as the verbs' parsers have it.

Completion and the manual page are written from this, so that there is no second list of
options.  argparse has no public way to ask a parser; what is read of it is read here only.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

from ..formats import NAMED
from . import VERBS, Parser, ShowVersion, load, top_parser

__all__ = ["Argument", "Group", "Option", "Value", "Verb", "brief", "top", "verb", "verbs"]

# What can be completed, by what help calls it; everything else is free text.
KINDS = {
    "ADDRESS": "address",  # a Unix socket has a path
    "COMMAND": "command",
    "FILE": "file",
    "FOLDER": "folder",
    "LOCAL... REMOTE": "file",
    "PROGRAM": "command",
    "REMOTE... LOCAL": "file",
    "USER": "user",
}
WORDS = {"FORMAT": tuple(sorted(NAMED))}

BRIEF = 72  # characters of help beside what is completed


class Value(NamedTuple):
    """What an option or an argument takes.

    Args:
        name: what help calls it, as FILE.
        kind: "address", "file", "folder", "user", "command" (its name, and then its
            arguments), "word" or "" for free text.
        words: for "word": those that there are.
    """

    name: str
    kind: str
    words: tuple[str, ...] = ()


class Argument(NamedTuple):
    """An argument that goes by its place.

    Args:
        value: what it takes.
        shape: how usage writes it, as [MESSAGE ...].
        help: what help says of it.
        many: whether there may be several.
    """

    value: Value
    shape: str
    help: str
    many: bool


class Option(NamedTuple):
    """An option.

    Args:
        names: as -t and --terminal.
        value: what it takes; None: nothing.
        shape: how help writes its value, as FILE or [FILE].
        help: what help says of it.
        needed: whether it must be given.
        optional: whether it may go without its value.
        rest: whether all that follows is its value.
        repeated: whether it may be given again.
        alone: whether nothing else counts where it is given.
        rivals: the names of options that cannot be given beside it.
    """

    names: tuple[str, ...]
    value: Value | None
    shape: str
    help: str
    needed: bool
    optional: bool
    rest: bool
    repeated: bool
    alone: bool
    rivals: tuple[str, ...]


class Group(NamedTuple):
    """Options that belong together, under their title."""

    title: str
    description: str
    options: tuple[Option, ...]


class Verb(NamedTuple):
    """A verb; one without a name is the command itself."""

    name: str
    summary: str
    usage: str
    description: str
    epilog: str
    arguments: tuple[Argument, ...]
    groups: tuple[Group, ...]

    @property
    def options(self) -> list[Option]:
        """All its options."""
        return [option for group in self.groups for option in group.options]

    @property
    def flags(self) -> list[str]:
        """All names of its options."""
        return [name for option in self.options for name in option.names]


def verbs() -> list[Verb]:
    """Return every verb there is."""
    return [verb(name) for name in VERBS]


def verb(name: str) -> Verb:
    """Return a verb by its name."""
    return _read(load(name)[1], name, VERBS[name])


def top() -> Verb:
    """Return what stands before a verb."""
    parser = top_parser()
    return _read(parser, "", parser.description or "")


def brief(text: str) -> str:
    """Return the beginning of a help text, for a list where each has half a line."""
    text = text.partition("; ")[0].partition(" (default")[0]
    if len(text) <= BRIEF:
        return text
    return text[: BRIEF - 3].rpartition(" ")[0].rstrip(",:;") + "..."


def _read(parser: Parser, name: str, summary: str) -> Verb:
    vars(parser)["color"] = False  # which Python 3.14 has, for terminals
    groups = []
    arguments: list[Argument] = []
    for group in parser._action_groups:
        actions = group._group_actions
        arguments += [
            _argument(parser, action) for action in actions if not action.option_strings
        ]
        options = tuple(_option(parser, action) for action in actions if action.option_strings)
        if options:
            groups.append(Group(group.title or "", group.description or "", options))
    return Verb(
        name,
        summary,
        parser.usage or _usage(parser.prog, groups, arguments),
        parser.description or "",
        parser.epilog or "",
        tuple(arguments),
        tuple(groups),
    )


def _usage(prog: str, groups: list[Group], arguments: list[Argument]) -> str:
    options = [option for group in groups for option in group.options]
    needed = [f"{option.names[-1]} {option.shape}" for option in options if option.needed]
    some = [] if all(option.needed or option.alone for option in options) else ["[options]"]
    return " ".join([prog, *needed, *some, *(argument.shape for argument in arguments)])


def _argument(parser: Parser, action: argparse.Action) -> Argument:
    return Argument(
        value=_value(action),
        shape=_shape(parser, action),
        help=_help(parser, action),
        many=action.nargs in ("*", "+"),
    )


def _option(parser: Parser, action: argparse.Action) -> Option:
    rivals = [
        name
        for group in parser._mutually_exclusive_groups
        if action in group._group_actions
        for other in group._group_actions
        if other is not action
        for name in other.option_strings
    ]
    takes = action.nargs != 0
    return Option(
        names=tuple(action.option_strings),
        value=_value(action) if takes else None,
        shape=_shape(parser, action) if takes else "",
        help=_help(parser, action),
        needed=action.required,
        optional=action.nargs == "?",
        rest=action.nargs == argparse.REMAINDER,
        repeated=isinstance(action, argparse._AppendAction),
        alone=isinstance(action, argparse._HelpAction | ShowVersion),
        rivals=tuple(rivals),
    )


def _value(action: argparse.Action) -> Value:
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices is not None:
        return Value(name, "word", tuple(map(str, action.choices)))
    if name in WORDS:
        return Value(name, "word", WORDS[name])
    return Value(name, KINDS.get(name, ""))


def _shape(parser: Parser, action: argparse.Action) -> str:
    return parser._get_formatter()._format_args(action, action.dest.upper())


def _help(parser: Parser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action)
