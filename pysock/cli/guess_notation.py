"""Formats as text: the Python expression that makes one, and a format from such text."""

from __future__ import annotations

import ast

from .. import formats, framing
from ..framing import Format
from . import MISUSED, Failure
from .options import in_options

__all__ = ["expression", "framing_from"]

_MOST = 1000  # characters of an expression
_ESCAPES = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r", 0x22: '\\"', 0x5C: "\\\\"}
_CLASSES = {
    name: value
    for name in framing.__all__
    if isinstance(value := getattr(framing, name), type)
    and issubclass(value, Format)
    and value is not Format
}


def expression(found: Format) -> str:
    """Return the Python expression that makes this format, with double quotes only."""
    call = ast.parse(repr(found), mode="eval").body
    if not isinstance(call, ast.Call):
        raise TypeError(f"{found!r} is no call")
    given = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    words = [_literal(ast.literal_eval(value)) for value in call.args]
    if isinstance(found, framing.LengthField):
        words.append(str(given.pop("width", 4)))
        if (order := given.pop("byteorder", "big")) != "big":
            words.append(_literal(order))
    for only in ("delimiter", "size", "terminator"):
        if only in given:
            words.append(_literal(given.pop(only)))
    words += [f"{name}={_literal(value)}" for name, value in given.items()]
    return f"pysock.{type(found).__name__}({', '.join(words)})"


def _literal(value: object) -> str:
    if isinstance(value, bytes):
        return 'b"' + "".join(map(_escaped, value)) + '"'
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _escaped(byte: int) -> str:
    plain = chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"
    return _ESCAPES.get(byte, plain)


def framing_from(text: str, max_frame: int | None = None) -> Format:
    """Return the format called *text*, or that the expression *text* makes.

    Args:
        text: a name, such as "dns", or an expression, such as "LengthField(2, offset=1)".
        max_frame: the longest payload in bytes; None: the format's own limit.

    Raises:
        Failure: there is no such format.
    """
    try:
        made = _made(text) if "(" in text else formats.named(text)
    except (ValueError, OverflowError, TypeError) as exc:
        raise Failure(str(exc), MISUSED) from None
    try:
        return made if max_frame is None else made.replace(max_frame=max_frame)
    except (ValueError, OverflowError) as exc:
        raise Failure(in_options(str(exc)), MISUSED) from None


def _made(text: str) -> Format:
    """Call the format's class with literals; nothing else is ever evaluated."""
    if len(text) > _MOST:
        raise ValueError(f"a format of {len(text)} characters, more than {_MOST}")
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError
        name = ast.unparse(call.func).removeprefix("pysock.").removeprefix("framing.")
        positional = [ast.literal_eval(value) for value in call.args]
        given = {word.arg or "**": ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(
            f"{text!a} is no format: give a name, or a call such as "
            'LengthField(2, "little", offset=1)'
        ) from None
    if name not in _CLASSES:
        known = ", ".join(sorted(_CLASSES))
        raise ValueError(f"{name!a} is no format; there are {known}")
    made: Format = _CLASSES[name](*positional, **given)
    return made
