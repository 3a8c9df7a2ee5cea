"""Draw the frames of the formats that have names, for docs/formats.md.

    python docs/_sphinx/frames.py     writes them into the page

The format itself makes the frame that is drawn, and says where its header ends; what is
written here is only what protocols call their fields, and a message for an example.
tests/test_docs_formats.py reads the drawings again and compares them with the format.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

from pysock import formats
from pysock.framing import Delimiter, Format, LengthField, Raw, Varint

PAGE = Path(__file__).parent.parent / "formats.md"
BEGIN, END = "<!-- begin: made by _sphinx/frames.py -->\n", "<!-- end -->\n"
MARGIN = 10  # columns for the words on the left


class Known(NamedTuple):
    """What a protocol calls the parts of its frame, and an example.

    Args:
        header: its fields as "name:type", "|" between them; a type is u16 and the like, a
            number of bytes, or words for what has no fixed size.
        payload: its name.
        message: the example, as hexadecimal digits and 'quoted' text.
        trailer: its name.
    """

    header: str
    payload: str
    message: str
    trailer: str = ""


KNOWN = {
    "amqp": Known(
        "type:u8|channel:u16|length:u32", "payload", "01 0000 00000000 000a002900 ce", "end"
    ),
    "bgp": Known("marker:16|length:u16|type:u8", "body", "ff" * 16 + "0000 03 0602"),
    "cassandra": Known(
        "version:u8|flags:u8|stream:i16|opcode:u8|length:u32",
        "body",
        "04 00 0000 0f 00000000 00000002 6f6b",
    ),
    "chrome-native": Known("length:u32", "JSON", "'{\"a\":1}'"),
    "dns": Known("length:u16", "message", "1234 0100 0001 0000 0000 0000"),
    "erlang1": Known("length:u8", "packet", "'hello'"),
    "erlang2": Known("length:u16", "packet", "'hello'"),
    "erlang4": Known("length:u32", "packet", "'hello'"),
    "http2": Known(
        "length:u24|type:u8|flags:u8|stream:u32",
        "payload",
        "000000 06 00 00000000 0102030405060708",
    ),
    "kafka": Known("length:i32", "request or response", "0012 0000 00000001 0001 61"),
    "lsp": Known("length:header lines", "JSON", '\'{"method":"exit"}\''),
    "memcached": Known(
        "magic to vbucket:8|length:u32|opaque and cas:12",
        "body",
        "80 00 0005 00 00 0000 00000000 00000000 0000000000000000 'Hello'",
    ),
    "minecraft": Known("length:varint", "packet", "00 2f 09 'localhost' 1f40 01"),
    "modbus": Known(
        "transaction:u16|protocol:u16|length:u16|unit:u8",
        "PDU",
        "0001 0000 0000 11 03 006b 0003",
    ),
    "mongodb": Known(
        "length:i32|request:i32|response to:i32|opcode:i32",
        "body",
        "00000000 01000000 00000000 dd070000 00000000 00 0500000000",
    ),
    "mqtt": Known("type, flags:u8|length:varint", "the rest", "30 00 0001 74 6869"),
    "multiprocessing": Known("length:i32", "message", "'hello'"),
    "mysql": Known("length:u24|sequence:u8", "payload", "000000 00 03 'SELECT 1'"),
    "netstring": Known("length:digits, colon", "string", "'hello'", "comma"),
    "postgres": Known("type:u8|length:i32", "body", "51 00000000 'SELECT 1' 00"),
    "protobuf": Known("length:varint", "message", "08 96 01"),
    "sp": Known("length:u64", "message", "'hello'"),
    "thrift": Known("length:i32", "message", "8001 0001 00000004 'ping' 00000000 00"),
    "tls-record": Known("type:u8|version:u16|length:u16", "fragment", "15 0303 0000 0100"),
    "tpkt": Known("version:u8|reserved:u8|length:u16", "TPDU", "03 00 0000 02f080"),
    "zookeeper": Known("length:i32", "jute record", "fffffffe 0000000b"),
    # of one's own
    "length1": Known("length:u8", "message", "'hello'"),
    "length2": Known("length:u16", "message", "'hello'"),
    "length4": Known("length:u32", "message", "'hello'"),
    "length8": Known("length:u64", "message", "'hello'"),
    "length2-little": Known("length:u16", "message", "'hello'"),
    "length4-little": Known("length:u32", "message", "'hello'"),
    "length8-little": Known("length:u64", "message", "'hello'"),
    "varint": Known("length:varint", "message", "'hello'"),
    "content-length": Known("length:header lines", "message", "'hello'"),
    "line": Known("", "message", "'hello'", "LF"),
    "crlf": Known("", "message", "'hello'", "CR LF"),
    "nul": Known("", "message", "'hello'", "NUL"),
    "raw": Known("", "message", "'hello'"),
}

SIZES = {"u8": 1, "u16": 2, "u24": 3, "u32": 4, "u64": 8, "i16": 2, "i32": 4}


class Cell(NamedTuple):
    """One field of a frame: its name, its type, its bytes."""

    name: str
    kind: str
    data: bytes


def wire(text: str) -> bytes:
    """Bytes from hexadecimal digits and 'quoted' text."""
    parts = re.split(r"'([^']*)'", text)
    return b"".join(
        part.encode() if i % 2 else bytes.fromhex(part) for i, part in enumerate(parts)
    )


def shown(data: bytes, text: bool) -> str:
    """Bytes as a drawing has them; all as text, or where four letters stand together."""
    if text:
        return f"'{data.decode().encode('unicode_escape').decode()}'"
    parts = re.split(rb"([\x20-\x26\x28-\x7e]{4,})", data)
    words = [
        f"'{part.decode()}'" if i % 2 else part.hex(" ")
        for i, part in enumerate(parts)
        if part
    ]
    return " ".join(words)


def cells_of(framing: Format, known: Known, frame: bytes) -> list[Cell]:
    """The fields of *frame*; their sizes have to fit those that the format says."""
    payload, header = (len(frame), 0) if not known.header else framing.unpack_header(frame)
    if isinstance(framing, Delimiter):
        payload -= len(framing.delimiter)
    cells, at = [], 0
    for field in filter(None, known.header.split("|")):
        name, _, kind = field.rpartition(":")
        size = SIZES.get(kind) or (int(kind) if kind.isdigit() else header - at)
        kind = f"{kind} bytes" if kind.isdigit() else kind
        cells.append(Cell(name, kind, frame[at : at + size]))
        at += size
    if at != header:
        raise ValueError(f"the header has {header} bytes, its fields have {at}")
    cells.append(Cell(known.payload, "", frame[at : at + payload]))
    rest = frame[at + payload :]
    if bool(rest) != bool(known.trailer):
        raise ValueError(f"behind the payload there is {rest!r}")
    if rest:
        cells.append(Cell(known.trailer, "", rest))
    return cells


def counted(framing: Format, cells: list[Cell]) -> tuple[int, int] | None:
    """The cells, from one up to another, whose bytes the length counts."""
    names = [cell.name for cell in cells]
    if "length" not in names:
        return None
    length = names.index("length")
    header = len(cells) - 1
    if isinstance(framing, LengthField):
        header -= bool(framing.trailer)
        first = {"rest": length + 1, "with_length": length, "frame": 0, "body": header}
        return first[framing.counts], len(cells) - (
            bool(framing.trailer) if framing.counts == "body" else 0
        )
    header = length + 1
    return header, header + 1


def draw(name: str) -> str:
    """The drawing of the format called *name*."""
    framing, known = formats.named(name), KNOWN[name]
    frame = framing.encode(wire(known.message))
    (message,) = framing.decoder().feed(frame)
    cells = cells_of(framing, known, frame)
    text = not isinstance(framing, LengthField | Varint | Raw) and name != "multiprocessing"
    bodies = [shown(cell.data, text) for cell in cells]
    widths = [
        max(len(cell.name), len(cell.kind), len(body))
        for cell, body in zip(cells, bodies, strict=True)
    ]
    columns = [MARGIN]
    for width in widths:
        columns.append(columns[-1] + width + 3)
    offsets = [sum(len(cell.data) for cell in cells[:i]) for i in range(len(cells))]

    def row(words: list[str], mark: str = "|") -> str:
        inside = f" {mark} ".join(word.ljust(n) for word, n in zip(words, widths, strict=True))
        return f"{'':{MARGIN}}{mark} {inside} {mark}"

    border = row(["-" * width for width in widths], "+").replace("+ -", "+--")
    border = border.replace("- +", "--+").rstrip()
    lines = [_at("offset", dict(zip(columns, map(str, offsets), strict=False))), border]
    lines.append(row([cell.name for cell in cells]))
    if known.header:
        lines.append(row([cell.kind for cell in cells]))
    lines += [row(bodies), border]
    span = counted(framing, cells)
    if span:
        size = sum(len(cell.data) for cell in cells[span[0] : span[1]])
        lines.append(_span("length", columns[span[0]], columns[span[1]], size))
    begin = offsets.index(frame.index(message))
    ends = [*offsets[1:], len(frame)]
    end = ends.index(offsets[begin] + len(message)) + 1
    lines.append(_span("message", columns[begin], columns[end], len(message)))
    drawn = "\n".join(line.rstrip() for line in lines)
    return f"```text\n{name} = {framing!r}\n\n{drawn}\n```\n"


def _at(word: str, marks: dict[int, str]) -> str:
    line = word
    for column, mark in marks.items():
        line = line.ljust(column) + mark
    return line


def _span(word: str, left: int, right: int, size: int) -> str:
    inside = right - left - 1
    number = f" {size} "
    arrow = f"<{number.center(inside - 2, '-')}>" if inside > len(number) + 3 else number
    return f"{word:{left}}|{arrow.center(inside)}|"


# ------------------------------------------------------------ the page


def _said() -> dict[str, str]:
    """What formats.py says of each protocol, by the name of its constant."""
    spec = importlib.util.find_spec("pysock.formats")
    assert spec is not None and spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    said = {}
    for node, behind in zip(body, body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(behind, ast.Expr):
            assert isinstance(node.target, ast.Name) and isinstance(behind.value, ast.Constant)
            said[node.target.id] = " ".join(str(behind.value.value).split())
    return said


def sections() -> str:
    """All drawings, with what formats.py says, as the page has them."""
    said = _said()
    parts = [BEGIN, "## Of protocols\n"]
    own = "## For protocols of your own\n"
    for name in KNOWN:
        constant = name.upper().replace("-", "_")
        if constant not in said and own:
            parts.append(own)
            own = ""
        parts.append(f"### {name}\n")
        if constant in said:
            parts.append(f"`formats.{constant}`. {said[constant]}\n")
        parts.append(draw(name))
    return "\n".join(parts) + "\n" + END


def page_with(drawings: str) -> str:
    """The page, with these drawings in the place of those it has."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return before + drawings + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page_with(sections()), encoding="utf-8")
