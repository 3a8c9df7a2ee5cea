"""The drawings in docs/formats.md are those of the formats: each is read, and compared.

What is read is the text alone: the fields between the bars, and what the arrows below span.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from typing import NamedTuple

import pytest

import pysock
from pages import ROOT, Page
from pysock import formats

PAGE = Page("docs/formats.md")


class Drawing(NamedTuple):
    """A drawing as it is read."""

    name: str
    made: str
    offsets: list[int]
    names: list[str]
    kinds: list[str]
    fields: list[bytes]
    columns: list[int]
    spans: dict[str, tuple[int, int, int]]  # from and up to which field, and the number there

    def bytes_of(self, span: str) -> bytes:
        first, last, _ = self.spans[span]
        return b"".join(self.fields[first:last])


def read(block: str) -> Drawing:
    head, _, *lines = block.splitlines()
    name, _, made = head.partition(" = ")
    offsets, border, *rows = lines
    end = rows.index(border)
    columns = [found.start() for found in re.finditer(r"\+", border)]
    table = [
        [row[a + 1 : b].strip() for a, b in zip(columns, columns[1:], strict=False)]
        for row in rows[:end]
    ]
    begins = {found.start(): int(found[0]) for found in re.finditer(r"\d+", offsets)}
    assert [*begins] == columns[:-1]
    spans = {}
    for row in rows[end + 1 :]:
        found = re.fullmatch(r"(\w+) +\|([ <-]*(\d+)[ >-]*)\|", row)
        assert found, row
        first, last = found.start(2) - 1, found.end(2)
        spans[found[1]] = (columns.index(first), columns.index(last), int(found[3]))
    kinds = table[1] if len(table) == 3 else [""] * len(table[0])
    fields = [data(cell) for cell in table[-1]]
    return Drawing(name, made, [*begins.values()], table[0], kinds, fields, columns, spans)


def data(cell: str) -> bytes:
    """The bytes of a cell: hexadecimal digits and 'text'."""
    parts = re.split(r"'([^']*)'", cell)
    return b"".join(
        part.encode().decode("unicode_escape").encode("latin-1")
        if i % 2
        else bytes.fromhex(part)
        for i, part in enumerate(parts)
    )


DRAWINGS = [read(block) for block in PAGE.blocks("text")]
IDS = [drawing.name for drawing in DRAWINGS]


def test_every_named_format_is_drawn_once() -> None:
    assert sorted(IDS) == sorted(formats.NAMED)


@pytest.mark.parametrize("drawing", DRAWINGS, ids=IDS)
def test_format_makes_and_reads_the_frame_that_is_drawn(drawing: Drawing) -> None:
    framing = formats.named(drawing.name)
    assert repr(framing) == drawing.made
    if drawing.name == "chrome-native" and sys.byteorder == "big":
        pytest.skip("the drawing is of a little endian machine")
    frame = b"".join(drawing.fields)
    assert drawing.offsets == [
        len(b"".join(drawing.fields[:i])) for i in range(len(drawing.fields))
    ]
    message = drawing.bytes_of("message")
    assert len(message) == drawing.spans["message"][2]
    assert framing.encode(message) == frame
    assert framing.decoder().feed(frame) == [message]
    assert framing.decoder().feed(frame[:-1]) == [message] * (drawing.name == "raw") or (
        drawing.name == "raw"
    )


@pytest.mark.parametrize("drawing", DRAWINGS, ids=IDS)
def test_length_counts_what_the_arrow_spans(drawing: Drawing) -> None:
    if "length" not in drawing.names:
        assert "length" not in drawing.spans
        return
    at = drawing.names.index("length")
    kind, field = drawing.kinds[at], drawing.fields[at]
    sized = re.fullmatch(r"[ui](8|16|24|32|64)", kind)
    if sized:
        little = "little" in drawing.made or "native" in drawing.made
        assert 8 * len(field) == int(sized[1])
        length = int.from_bytes(field, "little" if little else "big")
    elif kind == "varint":
        assert len(field) == 1 and field[0] < 0x80
        length = field[0]
    else:
        (digits,) = re.findall(rb"\d+", field)
        length = int(digits)
    assert drawing.spans["length"][2] == length == len(drawing.bytes_of("length"))


@pytest.mark.parametrize("drawing", DRAWINGS, ids=IDS)
def test_fields_have_the_sizes_that_are_said(drawing: Drawing) -> None:
    for kind, field in zip(drawing.kinds, drawing.fields, strict=True):
        if bits := re.fullmatch(r"[ui](\d+)", kind):
            assert 8 * len(field) == int(bits[1])
        elif size := re.fullmatch(r"(\d+) bytes", kind):
            assert len(field) == int(size[1])


NUMBERED = [
    drawing
    for drawing in DRAWINGS
    if dict(zip(drawing.names, drawing.kinds, strict=True)).get("length", "")[1:].isdigit()
]


@pytest.mark.parametrize("drawing", NUMBERED, ids=[drawing.name for drawing in NUMBERED])
def test_one_byte_more_where_the_arrow_is_counts_one_more(drawing: Drawing) -> None:
    framing = formats.named(drawing.name)
    message = drawing.bytes_of("message")
    trailer = getattr(framing, "trailer", b"")
    longer = message.removesuffix(trailer) + b"\0" + trailer
    at = drawing.offsets[drawing.names.index("length")]
    size = len(drawing.fields[drawing.names.index("length")])
    order = framing.byteorder if isinstance(framing, pysock.LengthField) else "big"
    order = sys.byteorder if order == "native" else order
    lengths = [
        int.from_bytes(framing.encode(data)[at : at + size], order)
        for data in (message, longer)
    ]
    assert lengths[1] == lengths[0] + 1


def test_page_has_what_is_drawn_today() -> None:
    spec = importlib.util.spec_from_file_location(
        "frames", ROOT / "docs" / "_sphinx" / "frames.py"
    )
    assert spec is not None and spec.loader is not None
    frames = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(frames)
    assert frames.page_with(frames.sections()) == PAGE.text, "run docs/_sphinx/frames.py"


def test_docstring_of_a_format_has_the_same_drawing() -> None:
    """What framing.pyi draws for `LengthField(4)` and `Varint()` is so, too."""
    assert pysock.LengthField(4).encode(b"hello") == data("00 00 00 05 'hello'")
    assert pysock.Varint().encode(b"hello") == data("05 'hello'")
