"""Prints tables of ratios: each work, pysock against each rival, the goal, the verdict.

    python bench/report.py bench/results/*.json [--detail] [--subject RIVAL]
    python bench/report.py bench/results/*.json --page FILE [--marks NAME]

It reads the files that `--results` and `--benchmark-json` write.  A ratio above 1 says that
pysock is the faster one; it is a ratio of medians of rounds that were run by turns, and
after "+-" stands the spread of that ratio from turn to turn (half the middle half).  The
control is C, or who stands in for it, against itself in the same run: as far as it is from 1,
as far may the other figures be wrong.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from goals import (
    CONNECTIONS,
    DATAGRAMS,
    IDLE,
    IMPORT_GOAL,
    LIBRARIES,
    MEMORY_GOAL,
    ONE_CONNECTION,
    REMOTE,
    REMOTE_GOAL,
    SERVER,
    TLS,
    Row,
    Table,
)
from interleave import Round
from results import rounds_from, rounds_in

Rounds = Mapping[str, Sequence[Round]]  # of one work, by rival
Results = dict[str, dict[str, list[Round]]]  # by work and rival

TABLES = {
    "One connection": ONE_CONNECTION,
    "Network libraries, by the size of messages": LIBRARIES,
    "Servers": SERVER,
    "Servers, by the number of connections": CONNECTIONS,
    "TLS": TLS,
    "Datagrams": DATAGRAMS,
    "Remote commands": REMOTE,
}
BEGIN, END = "<!-- {}: begin -->", "<!-- {}: end -->"
ALL = "tables"  # the marks between which a page has all tables
MEMORY = "user memory of an idle connection"
NOISY = 0.05  # a control further than this from 1, or twice as spread, is told
DISTURBED = 0.25  # so is a larger share of rounds that the machine has disturbed
NEAR = 0.05  # a ratio that is nearer to its goal than this has neither met nor missed it


@dataclass(frozen=True)
class Verdict:
    """What a goal has come to: "met", "close" or "missed", by how much."""

    word: str
    ratio: str
    goal: float


def table(results: Results, subject: str = "pysock") -> str:
    """Return the tables of all works in *results*, as aligned Markdown."""
    tables = []
    for heading, kind in TABLES.items():
        columns = [
            column
            for column, usual in kind.columns.items()
            if column != "before" or any(usual in by_rival for by_rival in results.values())
        ]
        lines = [
            _line(kind, row, results[row.work], columns, subject)
            for row in kind.rows
            if row.work in results
        ]
        if kind is ONE_CONNECTION and "import" in results:
            title = "import pysock over import socket, selectors"
            ends = ("socket", subject, IMPORT_GOAL)
            lines.append(_over_line(title, results["import"], columns, *ends))
        if kind is REMOTE and "remote_true" in results:
            title = "`true`, connection open, over subprocess.run"
            ends = ("local", subject, REMOTE_GOAL)
            lines.append(_over_line(title, results["remote_true"], columns, *ends))
        if kind is SERVER and "server_idle" in results:
            ends = (subject, MEMORY_GOAL)
            lines.append(_memory_line(MEMORY, results["server_idle"], columns, *ends))
        if kind is CONNECTIONS:
            lines += [
                _memory_line(f"{MEMORY}, {count:,} of them", results[work], columns, subject)
                for count, work in IDLE.items()
                if work in results
            ]
        if lines:
            heads = [_heading(kind, column) for column in columns]
            first = [f"{subject} against", *heads, "control", "verdict"]
            tables.append(f"### {heading}\n\n{aligned([first, *lines])}")
    return "\n\n".join(tables)


def verdicts(results: Results) -> dict[tuple[str, str], Verdict]:
    """Return what each goal has come to, by row and column."""
    found = {}
    for kind in TABLES.values():
        for row in kind.rows:
            by_rival = results.get(row.work, {})
            for column, goal in row.goals.items():
                by = kind.by.get(column, "seconds")
                ratio = _ratio(by_rival, kind.rival(row, column), row.subject, by)
                if ratio is not None:
                    title = f"{row.work}: {row.title}"
                    rival = str(kind.rival(row, column))
                    spread = _half(_turns(by_rival, rival, row.subject, by))
                    word = _judge(by_rival, ratio, goal, spread)
                    found[title, column] = Verdict(word, _number(ratio), goal)
    return found


def detail(results: Results) -> str:
    """Return the medians and quartiles behind the ratios."""
    heads = ["work", "rival", "median", "middle half of the rounds", "rounds"]
    lines = [[*heads, "longest wait", "server CPU", "load's core"]]
    for work, by_rival in results.items():
        for rival, rounds in by_rival.items():
            low, high = _quartiles(_all(rounds, "seconds"))
            busy = _all(rounds, "load")
            lines.append(
                [
                    work,
                    rival,
                    _time(_middle(rounds)),
                    f"{_time(low)} .. {_time(high)}",
                    str(len(rounds)),
                    *(
                        _time(_middle(rounds, name)) if _all(rounds, name) else ""
                        for name in ("longest", "server")
                    ),
                    f"{median(busy):.0%}" if busy else "",
                ]
            )
    return aligned(lines)


def load(path: str) -> Results:
    """Return the rounds kept in a file of `--results` or of `--benchmark-json`."""
    with open(path, encoding="utf-8") as file:
        document: dict[str, Any] = json.load(file)
    results: Results = {}
    if "benchmarks" not in document:
        return rounds_in(document)
    for entry in document["benchmarks"]:
        info = entry["extra_info"]
        if "rival" in info:
            data = {"seconds": entry["stats"]["data"], **info.get("rounds", {})}
            results.setdefault(info["work"], {})[info["rival"]] = rounds_from(data)
    return results


def _is_in(kind: Table, results: Results) -> bool:
    return any(row.work in results for row in kind.rows)


def _heading(kind: Table, column: str) -> str:
    return f"{column} (goal)" if any(column in row.goals for row in kind.rows) else column


def _line(
    kind: Table, row: Row, by_rival: Rounds, columns: Sequence[str], subject: str
) -> list[str]:
    goals = row.goals if subject == "pysock" else {}
    if subject == "pysock":
        subject = row.subject
    cells, missed, close, unknown = [], [], [], []
    for column in columns:
        goal = goals.get(column)
        by = kind.by.get(column, "seconds")
        rival = kind.rival(row, column)
        ratio = _ratio(by_rival, rival, subject, by)
        if goal is not None and ratio is None:
            unknown.append(column)
        text = ""
        if ratio is not None:
            spread = _half(_turns(by_rival, str(rival), subject, by))
            text = f"{_number(ratio)} +-{_number(spread)}"
        if goal is not None and ratio is not None:
            word = _judge(by_rival, ratio, goal, spread)
            if word != "met":
                (close if word == "close" else missed).append(column)
        cells.append(text if goal is None else f"{text or '?'} ({goal:g})")
    if subject not in by_rival:
        verdict = "not run"
    elif missed:
        verdict = f"missed {', '.join(missed)}"
        if close:
            verdict += f", close {', '.join(close)}"
    elif close:
        verdict = f"close {', '.join(close)}"
    elif unknown:
        verdict = f"unknown {', '.join(unknown)}"
    else:
        verdict = "met" if goals else ""
    if subject in by_rival and _is_noisy(by_rival):
        verdict += ", noisy" if verdict else "noisy"
    if subject in by_rival and row.figure is not None:
        figure = row.figure(_middle(by_rival[subject]))
        verdict = f"{verdict}: {figure}" if verdict else figure
    return [row.title, *cells, _control(by_rival), verdict]


def _over_line(
    title: str, by_rival: Rounds, columns: Sequence[str], base: str, subject: str, goal: float
) -> list[str]:
    """How much longer than *base* the *subject* takes; not a ratio."""
    middle = {rival: _middle(rounds) for rival, rounds in by_rival.items()}
    control, doubt, verdict = "", NEAR * goal, "not run"
    if base in middle and f"{base}_again" in middle:
        apart = middle[f"{base}_again"] - middle[base]
        control, doubt = f"{apart * 1e3:+.1f} ms", max(doubt, abs(apart))
    if base in middle and subject in middle:
        over = middle[subject] - middle[base]
        word = "met" if over < goal - doubt else "missed" if over > goal + doubt else "close"
        verdict = f"{word}: {over * 1e3:+.1f} ms ({goal * 1e3:g})"
    return [title, *("" for _ in columns), control, verdict]


def _memory_line(
    title: str,
    by_rival: Rounds,
    columns: Sequence[str],
    subject: str,
    goal: float | None = None,
) -> list[str]:
    """KiB for an idle connection, of each; not a ratio."""
    memory = {
        rival: _middle(rounds, "memory")
        for rival, rounds in by_rival.items()
        if _all(rounds, "memory")
    }
    cells = []
    for column in columns:
        usual = None if column in SERVER.by else SERVER.columns[column]
        cells.append(f"{memory[usual] / 1024:.1f} KiB" if usual in memory else "")
    verdict = "not run"
    if subject in memory:
        verdict = f"{memory[subject] / 1024:.1f} KiB"
    if subject in memory and goal is not None:
        word = "met" if memory[subject] <= goal else "missed"
        verdict = f"{word}: {verdict} ({goal / 1024:g})"
    control = f"{memory['c_again'] / 1024:.1f} KiB" if "c_again" in memory else ""
    return [title, *cells, control, verdict]


def _all(rounds: Sequence[Round], name: str) -> list[float]:
    return [value for one in rounds if (value := getattr(one, name)) is not None]


def _middle(rounds: Sequence[Round], name: str = "seconds") -> float:
    return median(_all(rounds, name))


def _ratio(
    by_rival: Rounds, rival: str | None, subject: str, by: str = "seconds"
) -> float | None:
    """Return how many times faster than *rival* the *subject* is.

    A rival that is there twice counts with all its rounds.
    """
    if rival is None or rival not in by_rival or subject not in by_rival:
        return None
    rounds = [*by_rival[rival], *by_rival.get(f"{rival}_again", ())]
    return _middle(rounds, by) / _middle(by_rival[subject], by)


def _turns(by_rival: Rounds, rival: str, subject: str, by: str = "seconds") -> list[float]:
    """Return the ratios turn by turn."""
    mine = _all(by_rival[subject], by)
    return [
        one / other
        for name in (rival, f"{rival}_again")
        if name in by_rival
        for one, other in zip(_all(by_rival[name], by), mine, strict=False)
    ]


def _control(by_rival: Rounds) -> str:
    ratio = _ratio_of_control(by_rival)
    return "" if ratio is None else f"{ratio:.2f} +-{_spread_of_control(by_rival):.2f}"


def _ratio_of_control(by_rival: Rounds) -> float | None:
    name = _controlled(by_rival)
    if name is None:
        return None
    return _middle(by_rival[name]) / _middle(by_rival[f"{name}_again"])


def _controlled(by_rival: Rounds) -> str | None:
    """Return who is there twice."""
    return next((name for name in by_rival if f"{name}_again" in by_rival), None)


def _judge(by_rival: Rounds, ratio: float, goal: float, spread: float) -> str:
    """Return "met" or "missed", or "close" where control and spread do not allow to tell."""
    control = _ratio_of_control(by_rival) or 1
    wrong_by = max(1 + NEAR, control, 1 / control)  # times, either way
    if max(ratio * wrong_by, ratio + spread) < goal:
        return "missed"
    return "close" if min(ratio / wrong_by, ratio - spread) < goal else "met"


def _is_noisy(by_rival: Rounds) -> bool:
    ratio = _ratio_of_control(by_rival)
    rounds = [one.disturbed for rounds in by_rival.values() for one in rounds]
    return sum(rounds) > DISTURBED * len(rounds) or (
        ratio is not None
        and (abs(ratio - 1) > NOISY or _spread_of_control(by_rival) > 2 * NOISY)
    )


def _spread_of_control(by_rival: Rounds) -> float:
    name = _controlled(by_rival)
    return half_middle(by_rival[str(name)], by_rival[f"{name}_again"])


def half_middle(
    rival: Sequence[Round], subject: Sequence[Round], by: str = "seconds"
) -> float:
    """Return half the middle half of the ratios, turn by turn."""
    return _half(_turns({"rival": rival, "": subject}, "rival", "", by))


def _half(ratios: list[float]) -> float:
    """Return half the middle half."""
    low, high = _quartiles(ratios)
    return (high - low) / 2


def _quartiles(seconds: list[float]) -> tuple[float, float]:
    if len(seconds) < 2:
        return seconds[0], seconds[0]
    low, _, high = quantiles(seconds, n=4, method="inclusive")
    return low, high


def _number(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Print the tables of --results or --benchmark-json files."
    )
    parser.add_argument("results", nargs="+")
    parser.add_argument("--detail", action="store_true", help="medians and quartiles as well")
    parser.add_argument("--subject", default="pysock", help="whom to compare with the others")
    parser.add_argument(
        "--page", type=Path, help="write the tables into this page, between its marks"
    )
    parser.add_argument("--marks", default=ALL, help=f"these marks of the page, not {ALL!r}")
    arguments = parser.parse_args()
    results: Results = {}
    for path in arguments.results:
        try:
            results |= load(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            parser.error(f"{path} holds no results: {error!r}")
    if arguments.page is not None:
        missing = [name for name, kind in TABLES.items() if not _is_in(kind, results)]
        if missing and arguments.marks == ALL:
            parser.error(f"no results for: {', '.join(missing)}; a page has all tables")
        page = arguments.page.read_text(encoding="utf-8")
        begin, end = (mark.format(arguments.marks) for mark in (BEGIN, END))
        before, _, rest = page.partition(begin)
        _, mark, after = rest.partition(end)
        if not mark:
            parser.error(f"{arguments.page} lacks the lines {begin} and {end}")
        text = f"{before}{begin}\n\n{table(results, arguments.subject)}\n\n{end}{after}"
        arguments.page.write_text(text, encoding="utf-8")
        return
    print(table(results, arguments.subject))
    if arguments.detail:
        print()
        print(detail(results))


if __name__ == "__main__":
    main()
