"""The table of docs/cases.md and the marks of the tests say the same."""

from __future__ import annotations

import ast
import re

import pytest

from pages import ROOT, Page

PAGE = Page("docs/cases.md")
GROUPS = {"H": 22, "P": 23, "D": 20, "L": 19, "C": 15, "S": 13, "T": 32, "R": 36} | {
    "G": 18, "K": 10, "I": 10, "X": 9, "Z": 12
}  # fmt: skip
CASES = [
    f"{group}{number:02}" for group, count in GROUPS.items() for number in range(1, count + 1)
]
ROWS = re.findall(r"^\| ([A-Z]\d\d) \| (.+?) \| (.+) \|$", PAGE.text, re.MULTILINE)
ANSWERS = {case: answer for case, _, answer in ROWS}


class Marked:
    """A test: its file, its name, the cases of its mark, and those that it names in words."""

    def __init__(self, file: str, test: ast.FunctionDef) -> None:
        self.file, self.name = file, test.name
        self.cases = [
            argument.value
            for call in ast.walk(test)
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.case"
            for argument in call.args
            if isinstance(argument, ast.Constant)
        ]
        words = f"{test.name.upper().replace('_', ' ')} {ast.get_docstring(test) or ''}"
        self.said = {word for word in re.findall(r"\b[A-Z]\d\d\b", words) if word in CASES}


TESTS = [
    Marked(path.name, node)
    for path in sorted((ROOT / "tests").glob("test_*.py"))
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
]


def test_every_case_is_in_the_table_once_and_in_order() -> None:
    assert [case for case, _, _ in ROWS] == CASES


@pytest.mark.parametrize("case", CASES)
def test_answer_is_one(case: str) -> None:
    answer = ANSWERS[case]
    files = re.findall(r"`(test_\w+\.py)`", answer)
    if answer.startswith("tested in"):
        assert files
    else:
        assert re.match("`make [a-z-]+`|decided otherwise: .|not here: .", answer)
    for file in files:
        assert any(case in test.cases for test in TESTS if test.file == file), file


def test_marks_are_of_cases_that_are_tested() -> None:
    for test in TESTS:
        assert len({*test.cases}) == len(test.cases), test.name
        for case in test.cases:
            assert "test_" in ANSWERS[case], f"{test.file}: {test.name}: {case}"


def test_cases_that_a_test_names_in_words_are_in_its_mark() -> None:
    missing = [(test.file, test.name) for test in TESTS if test.said - {*test.cases}]
    assert missing == []
