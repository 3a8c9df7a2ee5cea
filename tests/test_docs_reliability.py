"""The tables of docs/reliability.md name tests that there are, and each promise has one."""

from __future__ import annotations

import re

from pages import ROOT, Page

PAGE = Page("docs/reliability.md")
ROWS = re.findall(
    r"^\| (?!promise|run |---)(.+?) \| ?(.*) \| (.+) \|$", PAGE.text, re.MULTILINE
)
PROMISES = [(promise, tests) for promise, _, tests in ROWS if not promise.startswith("`make")]
RUNS = [(run, result) for run, _, result in ROWS if run.startswith("`make")]


def test_every_promise_names_tests_that_are_there() -> None:
    assert len(PROMISES) > 50
    for promise, tests in PROMISES:
        names = re.findall(r"`(test_\w+\.py)`", tests)
        assert names, promise
        for name in names:
            text = (ROOT / "tests" / name).read_text(encoding="utf-8")
            assert re.search(r"^(    )?def test_", text, re.MULTILINE), name


def test_no_promise_stands_twice() -> None:
    promises = [promise for promise, _ in PROMISES]
    assert len(promises) == len({*promises})


def test_every_run_has_the_day_and_the_result_of_its_last_one() -> None:
    assert len(RUNS) > 5
    for run, result in RUNS:
        assert re.fullmatch("`make [a-z-]+`", run), run
        assert re.match(r"20\d\d-\d\d-\d\d: .", result), run
