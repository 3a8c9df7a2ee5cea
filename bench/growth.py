"""Measures how the cost of a message grows: with its size, depth, connections, processes.

    python bench/growth.py [--quick] [--only size,depth] [--results FOLDER]

Without `--results` only a whole run is kept in bench/results, others in its folder quick.

pysock and C do the same by turns, as in the tables.  Where their ratio at one place is far
from the ratio at both its neighbours, that place is marked: a cliff is to be explained, a
noisy place to be measured again.
`charts.py` draws the JSON.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from interleave import Contender, Pair, PeerError, Round, Work, interleave
from loaded import ServerPair, ServerWork
from pace import Pace
from report import aligned, half_middle
from results import FOLDER, by_field, described, write
from rivals import BENCH, all_rivals, build, server_rivals

KiB, MiB = 1024, 1024 * 1024
ROUNDS, QUICK_ROUNDS = 15, 2
CLIFF = 1.25  # a ratio this many times its neighbours' is told
ALL = ("c", "pysock", "c_again")
ONES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CONNECTIONS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
READ_AHEAD = 32 * KiB  # C reads smaller messages ahead, and larger ones where they belong


@dataclass(frozen=True)
class Place:
    """One point of a chart: what is done at *x* of an *axis*, and by whom."""

    axis: str
    x: int
    work: Work
    title: str = ""


def places() -> Iterator[Place]:
    """All points; a round is about 0.05 s, or one message."""
    for size in (4**power for power in range(15)):
        kind = "pingpong" if size < READ_AHEAD else "echo"
        count = max(min(1000, 16 * MiB // size), 1)
        yield Place("size", size, Work(f"growth_size_{size}", kind, ALL, count, size))
    for depth in ONES:
        count = max(1000, min(128_000, depth * 500)) // depth * depth
        work = ServerWork(
            f"growth_depth_{depth}", "batches", ALL, count, 32, connections=1, depth=depth
        )
        yield Place("depth", depth, work)
    for connections in CONNECTIONS:
        count = max(4000 if connections > 1 else 1000, connections)
        name = f"growth_connections_{connections}"
        work = ServerWork(name, "batches", ALL, count, 64, connections=connections)
        yield Place("connections", connections, work)
    for title, rivals, handler in (
        ("C, echo", ("c", "c_two"), "echo"),
        ("pysock, echo", ("pysock", "pysock_two"), "echo"),
        ("pysock, the handler computes", ("pysock", "pysock_two"), "compute"),
    ):
        name = f"growth_processes_{rivals[0]}_{handler}"
        work = ServerWork(
            name, "batches", rivals, 8000, 64, depth=4, handler=handler, several_cores=True
        )
        yield Place("processes", 2, work, title)


class Runner:
    """Runs places one after another, their rivals by turns."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self._folder = folder
        self._rounds = rounds
        self._pace = Pace()
        self._peers = all_rivals(folder)
        self._servers = server_rivals(folder)
        self._load = build(BENCH / "load.c", folder, linux=True)
        self._versions: dict[tuple[str, ...], str] = {}

    def run(self, place: Place) -> dict[str, list[Round]]:
        """Return the rounds of one place, by rival."""
        contenders: dict[str, Contender] = {}
        try:
            for name in place.work.rivals:
                contenders[name] = self._contender(place.work, name)
            rounds, failed = interleave(contenders, self._rounds, self._pace)
        finally:
            for contender in contenders.values():
                contender.close()
        for error in failed.values():
            raise error
        return rounds

    def version(self, work: Work, name: str) -> str:
        """Return what *name* says it is."""
        rival = (self._servers if isinstance(work, ServerWork) else self._peers)[name]
        if rival.command not in self._versions:
            self._versions[rival.command] = rival.version()
        return self._versions[rival.command]

    def _contender(self, work: Work, name: str) -> Contender:
        sockets = self._folder / work.name
        if isinstance(work, ServerWork):
            return ServerPair(self._servers[name], work, self._load, sockets)
        return Pair(self._peers[name], work, sockets)


def table(kept: dict[str, tuple[Place, dict[str, list[Round]]]]) -> str:
    """Return one table for each axis, as aligned Markdown."""
    tables = []
    for axis in dict.fromkeys(place.axis for place, _ in kept.values()):
        seen = [(place, rounds) for place, rounds in kept.values() if place.axis == axis]
        pairs = [place.work.rivals[:2] for place, _ in seen]
        ratios = [
            _middle(rounds[first]) / _middle(rounds[second])
            for (first, second), (_, rounds) in zip(pairs, seen, strict=True)
        ]
        heads = [axis, "C", "pysock", "C / pysock", "C / C again", ""]
        if axis == "processes":
            heads = ["processes", "1", "2", "2 to 1", "", ""]
        lines = [heads]
        for at, (place, rounds) in enumerate(seen):
            first, second = pairs[at]
            spread = half_middle(rounds[first], rounds[second])
            again = rounds.get("c_again")
            lines.append(
                [
                    place.title or f"{place.x:,}",
                    f"{_middle(rounds[first]) * 1e6:,.2f} us",
                    f"{_middle(rounds[second]) * 1e6:,.2f} us",
                    f"{ratios[at]:.2f} +-{spread:.2f}",
                    f"{_middle(rounds['c']) / _middle(again):.2f}" if again else "",
                    _cliff(ratios, at, rounds) if again else "",
                ]
            )
        tables.append(aligned(lines))
    return "\n\n".join(tables)


def _cliff(ratios: list[float], at: int, rounds: dict[str, list[Round]]) -> str:
    """Say so if the ratio is far from both its neighbours' (or the only one's)."""
    near = [ratios[i] for i in (at - 1, at + 1) if 0 <= i < len(ratios)]
    apart = min((_apart(ratios[at], one) for one in near), default=1.0)
    if apart < CLIFF:
        return ""
    noise = _apart(_middle(rounds["c"]), _middle(rounds["c_again"]))
    return "cliff" if noise < 1 + (CLIFF - 1) / 2 else "noisy"


def _apart(one: float, other: float) -> float:
    return max(one / other, other / one)


def _middle(rounds: list[Round]) -> float:
    return median(one.seconds for one in rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: does it work")
    parser.add_argument("--only", help="these axes, with commas between: size,depth")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="bench/results for a whole run, else bench/results/quick",
    )
    arguments = parser.parse_args()
    only = arguments.only.split(",") if arguments.only else None
    axes = {place.axis for place in places()}
    if only is not None and not axes.issuperset(only):
        parser.error(f"there is no axis {arguments.only}; there are {', '.join(sorted(axes))}")
    part = arguments.quick or only is not None
    results = arguments.results or (FOLDER / "quick" if part else FOLDER)
    kept: dict[str, tuple[Place, dict[str, list[Round]]]] = {}
    works: dict[str, Any] = {}
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder), QUICK_ROUNDS if arguments.quick else ROUNDS)
        for place in places():
            if only is not None and place.axis not in only:
                continue
            started, work = time.monotonic(), place.work
            try:
                rounds = runner.run(place)
            except PeerError as error:
                print(f"{work.name}: {error}", file=sys.stderr)
                failed = True
                continue
            print(f"{work.name} in {time.monotonic() - started:.1f} s", flush=True)
            kept[work.name] = place, rounds
            facts = {"axis": place.axis, "x": place.x, "title": place.title}
            rivals = {
                name: {
                    "version": runner.version(work, name),
                    "count": work.count_for(name),
                    "rounds": {"seconds": [one.seconds for one in seen]} | by_field(seen),
                }
                for name, seen in rounds.items()
            }
            works[work.name] = {"work": described(work) | facts, "rivals": rivals}
    print(table(kept))
    write(results / "growth.json", works, quick=part)
    sys.exit(failed)


if __name__ == "__main__":
    main()
