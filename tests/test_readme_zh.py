"""README.zh-CN.md says what README.md says, as far as a program can tell.

Both have the same sections, and in them the same paragraphs, tables and code, with the same
names, numbers and links.  A sentence that changes without any of these is left to the reader.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from pages import ROOT, Page

PAGE, TRANSLATION = Page("README.md"), Page("README.zh-CN.md")

_PIECE = re.compile(
    r"^```(?s:.*?)^```$|^#+ .*$|^\|.*\|$|^- .*(?:\n  .*)*|^.+(?:\n.+)*", re.MULTILINE
)
_CODE = re.compile(r"`([^`]*)`")
_LINK = re.compile(r"\]\(([^)]*)\)")
_CHINESE = "[\u4e00-\u9fff]"
# Words that are the same in every language.
_NAMES = re.compile(r"`[^`]*`|\b(?:pysock|ZeroMQ|TLS|CURVE|MiB)\b")

_SPELLED = {
    "two": "[二两双]", "three": "三", "four": "四", "five": "五", "six": "六", "seven": "七",
    "eight": "八", "nine": "九", "ten": "十",
}  # fmt: skip


def sections(page: Page) -> list[list[str]]:
    """Each heading with what is below it: paragraphs, items, rows and blocks of code."""
    found: list[list[str]] = []
    for piece in _PIECE.findall(page.text):
        if piece.startswith("#"):
            found.append([])
        found[-1].append(piece)
    return found


def cells(piece: str) -> list[str]:
    """The cells of a row, without its edges; all else is one cell."""
    text = " ".join(piece.split())
    return text[1:-1].split("|") if text.startswith("|") else [text]


def facts(piece: str) -> tuple[str, list[Any]]:
    """What a translation must not change: the kind of a piece, and what is not words."""
    if piece.startswith("```"):
        return piece, []
    kind = re.match(r"#+|\||- |", piece)
    assert kind
    return kind[0], [cell_facts(cell) for cell in cells(piece)]


def cell_facts(cell: str) -> dict[str, Any]:
    links = [link.replace(".zh-CN.", ".") for link in _LINK.findall(cell)]
    words = _LINK.sub("", _CODE.sub("", cell))
    return {
        "code": {*_CODE.findall(cell)},
        "links": {re.sub("^#.*", "#", link) for link in links},
        "numbers": sorted(re.findall(r"\d+(?:\.\d+)*", words)),
        "bold": words.count("**"),
    }


OURS, THEIRS = sections(PAGE), sections(TRANSLATION)
PAIRS = [
    pytest.param(ours, theirs, id=ours[0].lstrip("# "))
    for ours, theirs in zip(OURS, THEIRS, strict=False)  # a test below says if one is longer
]


def test_every_section_has_its_counterpart():
    levels = [[re.sub(" .*", "", section[0]) for section in page] for page in (OURS, THEIRS)]
    assert levels[0] == levels[1]


def test_blocks_of_code_are_equal():
    assert PAGE.every_block()
    assert PAGE.every_block() == TRANSLATION.every_block()


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_section_has_the_same_pieces_and_facts(ours, theirs):
    assert [facts(piece) for piece in theirs] == [facts(piece) for piece in ours]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_numbers_in_words_are_there_too(ours, theirs):
    for mine, its in zip(ours, theirs, strict=True):
        if not mine.startswith("```"):
            for word in _SPELLED.keys() & set(re.findall(r"\w+", mine.lower())):
                assert re.search(_SPELLED[word], its), word


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_section_is_translated(ours, theirs):
    for mine, its in zip(ours, theirs, strict=True):
        if mine.startswith("```") or not re.search("[A-Za-z]", _NAMES.sub("", mine)):
            continue
        assert re.search(_CHINESE, its), its
        assert not re.search("[A-Za-z]+ [a-z]+ [a-z]+", _NAMES.sub("", its)), its
        for cell, its_cell in zip(cells(mine), cells(its), strict=True):
            assert cell != its_cell or not re.search("[A-Za-z]", _NAMES.sub("", cell)), cell


@pytest.mark.parametrize("page", [PAGE, TRANSLATION], ids=["English", "Chinese"])
def test_links_lead_somewhere(page):
    page.check_links()


def test_each_page_links_the_other_at_its_top():
    assert OURS[0][1].startswith("[简体中文](README.zh-CN.md)")
    assert THEIRS[0][1].startswith("[English](README.md)")


def test_links_lead_to_chinese_pages_where_there_are_any():
    links = _LINK.findall(TRANSLATION.text)
    assert "docs/sockets.zh-CN.md" in links
    for link in links:
        path = ROOT / link.partition("#")[0].replace(".md", ".zh-CN.md")
        assert link == "README.md" or ".zh-CN." not in path.name or not path.is_file(), link


def test_lines_end_where_a_space_does_no_harm():
    """A line's end is shown as a space, which between two Chinese characters is a fault."""
    found = re.search(rf".*{_CHINESE}\n *{_CHINESE}.*", TRANSLATION.text)
    assert found is None, found
