"""The manual page, written from the verbs' parsers: `python -m pysock.cli.manual`.

What `--help` says is put into the macros of man(7): paragraphs are filled again, tables of
terms become lists, and groups of options that several verbs have are printed once.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime

from .. import __version__
from . import grammar
from .grammar import Argument, Group, Option, Verb

__all__ = ["page"]

_NAME = "whole messages over sockets, and commands on another machine"
_SPECIAL = {
    "\\": "\\e",
    "-": "\\-",
    "'": "\\(aq",
    "`": "\\(ga",
    "^": "\\(ha",
    "~": "\\(ti",
}


def page(date: str) -> str:
    """Return the page, with *date* (as 2026-01-31) at its foot."""
    top, verbs = grammar.top(), grammar.verbs()
    shared = _shared(verbs)
    parts = [
        f'.TH PYSOCK 1 "{date}" "pysock {__version__}" "User Commands"',
        ".nr HY 0\n.nh\n.ad l",  # no word is cut, no gap stretched
        f".SH NAME\npysock \\- {_text(_NAME)}",
        ".SH SYNOPSIS",
        "\n.br\n".join(_usage(verb) for verb in [top, *verbs]),
        f".SH DESCRIPTION\n{_text(top.description)}",
        *(_item(_bold(verb.name), _text(verb.summary)) for verb in verbs),
        ".SH OPTIONS",
        *(_option(option) for option in top.options),
        *_body(top.epilog.partition("\n\n")[2]),  # what comes first is the list of verbs
        ".SH VERBS",
        *(part for verb in verbs for part in _verb(verb, shared)),
        ".SH OPTIONS OF SEVERAL VERBS",
        *(part for group, users in shared.items() for part in _common(group, users)),
    ]
    return "\n".join(parts) + "\n"


def _shared(verbs: list[Verb]) -> dict[Group, list[str]]:
    """Return the groups that are alike in several verbs, with these."""
    users: dict[Group, list[str]] = {}
    for verb in verbs:
        for group in verb.groups:
            users.setdefault(group, []).append(verb.name)
    return {
        group: names
        for group, names in users.items()
        if len(names) > 1 and not all(option.alone for option in group.options)
    }


def _verb(verb: Verb, shared: dict[Group, list[str]]) -> Iterator[str]:
    yield f".SS pysock {_text(verb.name)}\n{_usage(verb)}"
    yield from _body(verb.description)
    yield from map(_argument, verb.arguments)
    for group in verb.groups:
        if group in shared:
            name = _bold(_title(group, shared[group]))
            yield f".PP\n{_wrapped(f'More options are under {name} below.')}"
            continue
        if group.title != "options":
            yield f".PP\n{_bold(group.title + ':')}\n{_text(group.description)}"
        yield from (_option(option) for option in group.options if not option.alone)
    yield from _body(verb.epilog)


def _common(group: Group, users: list[str]) -> Iterator[str]:
    yield f".SS {_text(_title(group, users))}\n{_text(group.description)}"
    yield from map(_option, group.options)


def _title(group: Group, users: list[str]) -> str:
    return f"{group.title}: {', '.join(users)}"


# ---------------------------------------------------------------- what help says


def _body(text: str) -> Iterator[str]:
    """Yield the parts of a description or an epilog."""
    for part in filter(None, text.split("\n\n")):
        if "\n " not in part:
            label, _, rest = part.partition(": ")
            if label == "exit status":
                part = rest
                yield f".PP\n{_bold('exit status:')}"
            else:
                yield ".PP"
            yield _text(part)
            continue
        title, *lines = part.splitlines()
        yield f".PP\n{_bold(title)}"
        if title == "examples:":
            yield "\n".join([".PP\n.EX", *(_literal(line[2:]) for line in lines), ".EE"])
        else:
            yield from _table(lines)


def _table(lines: list[str]) -> Iterator[str]:
    """Yield the terms with what is said of each; lines without terms as a paragraph."""
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("   "):
            rows[-1].append(line.strip())
        else:
            rows.append(re.split(" {2,}", line.strip(), maxsplit=1))
    if all(len(row) == 1 for row in rows):
        yield _text(" ".join(row[0] for row in rows))
        return
    for term, *said in rows:
        yield _item(_bold(term), _text(" ".join(said)))


def _usage(verb: Verb) -> str:
    prog = f"pysock {verb.name}".strip()
    return f"{_bold(prog)}{_variables(verb.usage.removeprefix(prog))}"


def _argument(argument: Argument) -> str:
    return _item(_variables(argument.value.name), _text(argument.help))


def _option(option: Option) -> str:
    shape = f" {_variables(option.shape)}" if option.shape else ""
    return _item(", ".join(_bold(name) + shape for name in option.names), _text(option.help))


# ---------------------------------------------------------------- the macros


def _item(term: str, said: str) -> str:
    return f".TP\n{term}\n{said}"


def _text(text: str) -> str:
    """Return words to be filled; what stands between backticks becomes bold."""
    parts = re.split("`([^`]+)`", text)
    return _wrapped(
        "".join(
            _bold(part) if index % 2 else _escaped(part) for index, part in enumerate(parts)
        )
    )


def _wrapped(source: str) -> str:
    """Return *source* in lines, none of which is taken for a macro."""
    lines = textwrap.wrap(source, 78, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in lines)


def _bold(text: str) -> str:
    return f"\\fB{_escaped(text)}\\fR"


def _variables(text: str) -> str:
    """Return *text* with what stands for something else in italics."""
    return re.sub("[A-Z]+", lambda match: f"\\fI{match[0]}\\fR", _escaped(text))


def _literal(line: str) -> str:
    return f"\\&{_escaped(line)}" if line[:1] in (".", "'", "") else _escaped(line)


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(char, char) for char in text)


def _today() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return f"{now:%Y-%m-%d}"


if __name__ == "__main__":
    sys.stdout.write(page(_today()))
