"""Prints one table of ratios: each work, pysock against each rival, the goal, the verdict.

    python bench/report.py results.json [--detail] [--subject RIVAL]

A ratio above 1 says that pysock is the faster one; it is a ratio of medians of
rounds that were run by turns.  The control is C against itself in the same run,
and after "+-" the spread of that ratio from turn to turn (half the middle half):
as far as these are from 1 and 0, as far may the other figures be wrong.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

Results = dict[str, dict[str, list[float]]]  # seconds per message, by work and rival

NOISY = 0.05  # a control further than this from 1, or twice as spread, is told

COLUMNS = {
    "C": "c",
    "multiprocessing": "multiprocessing",
    "pyzmq": "pyzmq",
    "pure Python": "python",
    "before": "before",
}


@dataclass(frozen=True)
class Row:
    """One line: ratios with their goals, by column.

    *instead* names the rivals that stand in for a column's usual one; a column
    that is None is left empty.
    """

    title: str
    work: str
    goals: Mapping[str, float] = field(default_factory=dict)
    instead: Mapping[str, str | None] = field(default_factory=dict)

    def rival(self, column: str) -> str | None:
        return self.instead.get(column, COLUMNS[column])


# The goals are the design's.  Rows without one are there to be fair: the same work
# with a rival's known handicap taken away, or C doing all that a Python caller gets.
ONLY_C = {"multiprocessing": None, "pyzmq": None, "pure Python": None, "before": None}
ROWS = [
    Row("64 B ping-pong, TCP", "pingpong", {"C": 0.95, "multiprocessing": 1.3, "pyzmq": 2}),
    Row("64 B ping-pong, Unix socket", "pingpong_unix"),
    Row("64 B ping-pong, spin 50 us; C sleeps", "pingpong_spin", {"C": 3}),
    Row("- C spins too", "pingpong_spin", {"C": 0.8}, {**ONLY_C, "C": "c_spin"}),
    Row("64 B pipelined 16 deep", "pipelined", {"C": 0.85, "multiprocessing": 10, "pyzmq": 5}),
    Row(
        "- multiprocessing without Nagle",
        "pipelined",
        instead={**ONLY_C, "C": None, "multiprocessing": "multiprocessing_nodelay"},
    ),
    Row(
        "64 B stream, send_many to recv_many",
        "stream_many",
        {"C": 0.7, "multiprocessing": 60, "pyzmq": 20},
    ),
    Row("- C gives each message its own memory", "stream_many", {}, {**ONLY_C, "C": "c_own"}),
    Row(
        "64 B stream, one by one with `for`",
        "stream_each",
        {"C": 0.4, "pure Python": 25},
        {"pure Python": "python_plain"},
    ),
    Row(
        "- C own memory; Python sends joined",
        "stream_each",
        instead={**ONLY_C, "C": "c_own", "pure Python": "python"},
    ),
    Row("16 KiB stream", "stream_16k", {"C": 0.95, "multiprocessing": 1.2}),
    Row("1 MiB stream", "stream_1m", {"C": 0.95, "multiprocessing": 1.2}),
    Row("64 MiB echo", "echo_64m", {"C": 0.9, "multiprocessing": 1.5}),
    Row("64 MiB echo, one buffer at each end", "echo_64m_into"),
]
IMPORT_GOAL = 0.015  # seconds that `import pysock` may take longer than what it needs


def table(results: Results, subject: str = "pysock") -> str:
    """Return the table of all works in *results*, as aligned Markdown."""
    columns = [
        column
        for column, usual in COLUMNS.items()
        if column != "before" or any(usual in by_rival for by_rival in results.values())
    ]
    lines = [[f"{subject} against", *map(_heading, columns), "C control", "verdict"]]
    for row in ROWS:
        if row.work in results:
            lines.append(_line(row, results[row.work], columns, subject))
    if "import" in results:
        lines.append(_import_line(results["import"], columns, subject))
    return _aligned(lines)


def detail(results: Results) -> str:
    """Return the medians and quartiles behind the ratios."""
    lines = [["work", "rival", "median", "middle half of the rounds", "rounds"]]
    for work, by_rival in results.items():
        for rival, seconds in by_rival.items():
            low, high = _quartiles(seconds)
            lines.append(
                [
                    work,
                    rival,
                    _time(median(seconds)),
                    f"{_time(low)} .. {_time(high)}",
                    str(len(seconds)),
                ]
            )
    return _aligned(lines)


def load(path: str) -> Results:
    """Return the rounds kept in a file of `--benchmark-json`."""
    with open(path, encoding="utf-8") as file:
        document: dict[str, Any] = json.load(file)
    results: Results = {}
    for entry in document["benchmarks"]:
        info = entry["extra_info"]
        if "rival" in info:
            results.setdefault(info["work"], {})[info["rival"]] = entry["stats"]["data"]
    return results


def _heading(column: str) -> str:
    return f"{column} (goal)" if any(column in row.goals for row in ROWS) else column


def _line(
    row: Row, by_rival: Mapping[str, list[float]], columns: Sequence[str], subject: str
) -> list[str]:
    cells, missed, unknown = [], [], []
    for column in columns:
        goal = row.goals.get(column) if subject == "pysock" else None
        ratio = _ratio(by_rival, row.rival(column), subject)
        if goal is not None and ratio is None:
            unknown.append(column)
        if goal is not None and ratio is not None and ratio < goal:
            missed.append(column)
        text = "" if ratio is None else _number(ratio)
        cells.append(text if goal is None else f"{text or '?'} ({goal:g})")
    if subject not in by_rival:
        verdict = "not run"
    elif missed:
        verdict = f"missed {', '.join(missed)}"
    elif unknown:
        verdict = f"unknown {', '.join(unknown)}"
    else:
        verdict = "met" if row.goals and subject == "pysock" else ""
    if subject in by_rival and verdict and _is_noisy(by_rival):
        verdict += ", noisy"
    return [row.title, *cells, _control(by_rival), verdict]


def _import_line(
    by_rival: Mapping[str, list[float]], columns: Sequence[str], subject: str
) -> list[str]:
    middle = {rival: median(seconds) for rival, seconds in by_rival.items()}
    control, verdict = "", "not run"
    if "socket" in middle and "socket_again" in middle:
        control = f"{(middle['socket_again'] - middle['socket']) * 1e3:+.1f} ms"
    if "socket" in middle and subject in middle:
        over = middle[subject] - middle["socket"]
        word = "met" if over <= IMPORT_GOAL else "missed"
        verdict = f"{word}: {over * 1e3:+.1f} ms ({IMPORT_GOAL * 1e3:g})"
    title = "import pysock over import socket, selectors"
    return [title, *("" for _ in columns), control, verdict]


def _ratio(
    by_rival: Mapping[str, list[float]], rival: str | None, subject: str
) -> float | None:
    """Return how many times faster than *rival* the *subject* is."""
    if rival is None or rival not in by_rival or subject not in by_rival:
        return None
    return median(by_rival[rival]) / median(by_rival[subject])


def _control(by_rival: Mapping[str, list[float]]) -> str:
    ratio = _ratio(by_rival, "c", "c_again")
    return "" if ratio is None else f"{ratio:.2f} +-{_spread(by_rival):.2f}"


def _is_noisy(by_rival: Mapping[str, list[float]]) -> bool:
    ratio = _ratio(by_rival, "c", "c_again")
    return ratio is not None and (abs(ratio - 1) > NOISY or _spread(by_rival) > 2 * NOISY)


def _spread(by_rival: Mapping[str, list[float]]) -> float:
    """Return half the middle half of the control's ratios, turn by turn."""
    turns = zip(by_rival["c"], by_rival["c_again"], strict=True)
    low, high = _quartiles([c / again for c, again in turns])
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


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the table of a --benchmark-json file.")
    parser.add_argument("results")
    parser.add_argument("--detail", action="store_true", help="medians and quartiles as well")
    parser.add_argument("--subject", default="pysock", help="whom to compare with the others")
    arguments = parser.parse_args()
    results = load(arguments.results)
    print(table(results, arguments.subject))
    if arguments.detail:
        print()
        print(detail(results))


if __name__ == "__main__":
    main()
