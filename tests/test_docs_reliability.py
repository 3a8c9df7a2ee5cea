"""The tables of docs/reliability.md name tests that there are, and each promise has one."""

from __future__ import annotations

import re

from pages import ROOT, Page

PAGE = Page("docs/reliability.md")
ROWS = re.findall(r"^\| (?!promise|---)(.+) \| (.+) \|$", PAGE.text, re.MULTILINE)


def test_every_promise_names_tests_that_are_there() -> None:
    assert len(ROWS) > 50
    for promise, tests in ROWS:
        names = re.findall(r"`(test_\w+\.py)`", tests)
        assert names, promise
        for name in names:
            text = (ROOT / "tests" / name).read_text(encoding="utf-8")
            assert re.search(r"^(    )?def test_", text, re.MULTILINE), name


def test_no_promise_stands_twice() -> None:
    promises = [promise for promise, _ in ROWS]
    assert len(promises) == len({*promises})
