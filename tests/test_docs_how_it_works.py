"""What docs/how-it-works.md says of the source is in the source: numbers, names, files."""

from __future__ import annotations

import re

import pytest

from pages import ROOT, Page

PAGE = Page("docs/how-it-works.md")
SOURCES = {
    path.name: path for folder in ("src", "pysock") for path in ROOT.glob(f"{folder}/*")
}
ROWS = re.findall(
    r"^\| .* \| (\d+)( KiB| ms)?,?[^|]* \| `(\w+)` in ([\w.]+) \|$", PAGE.text, re.M
)

if "answer.pxi" not in SOURCES:
    pytest.skip("the source is not here", allow_module_level=True)


@pytest.mark.parametrize(
    ("number", "unit", "name", "file"), ROWS, ids=[row[2] for row in ROWS]
)
def test_number_is_that_of_the_source(number: str, unit: str, name: str, file: str) -> None:
    text = SOURCES[file].read_text(encoding="utf-8")
    (value,) = re.findall(rf"\b{name} = ([\d. *]+)", text)
    scale = {" KiB": 1024, " ms": 1e-6 if name == "TICK" else 1e-3, "": 1}[unit]
    found = eval(value) * (1e-6 if name == "TICK" else 1)
    assert found == pytest.approx(int(number) * (1e-3 if name == "TICK" else scale))


def test_every_row_is_read() -> None:
    table = PAGE.section("Numbers")
    assert len(ROWS) == table.count("\n|") + table.startswith("|") - 2


def test_files_and_functions_that_are_named_exist() -> None:
    files = {*re.findall(r"\b(\w+\.(?:pxi|h|py))\b", PAGE.text)} - {"few_calls.py"}
    assert files and files <= {*SOURCES}
    text = "\n".join(SOURCES[name].read_text(encoding="utf-8") for name in sorted(files))
    drawn = PAGE.blocks("text", PAGE.section("The path of a message"))[0]
    functions = {*re.findall(r"\b(\w+)\(\)", drawn)} - {"recv", "send"}
    functions |= {*re.findall(r"\(`(\w+)`(?:, `\w+`)* in", PAGE.text)}
    assert len(functions) > 10
    for name in functions:
        assert re.search(rf"\b{name}\(", text), name
