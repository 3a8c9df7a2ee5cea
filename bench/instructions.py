"""Counts the instructions that pysock's core loops take for a message, with valgrind.

    python bench/instructions.py [--only NAME ...]      compare with instructions.json
    python bench/instructions.py --update               write that file
    python bench/instructions.py --before PYTHON        compare with another build instead

What else the machine does changes nothing: two counts agree to a fraction of a percent.
But a count depends on the compiler and on Python, so that figures of other ones are not
compared.  The exit status is 1 if a loop takes more than before, 2 if nothing was counted.

The loops are in peers/instructions_loops.py.  Each runs with N and with 2 N messages, and
the difference is divided by N: what is done once cancels.  All run in one process and one
thread, for to start Python under valgrind takes longer than a loop.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent
LOOPS = BENCH / "peers" / "instructions_loops.py"
RECORD = BENCH / "instructions.json"
PARTS = ("all", "module", "python", "rest")
JUDGED = ("all", "module")
TOLERANCE = 2.0  # percent
SLACK = 0.5  # instructions; a message of a batch may take no more than 30
PATIENCE = 900  # seconds for all loops, which take one minute where nothing else runs

Counts = dict[str, float]  # instructions for a message, by part


class CannotCount(Exception):
    """Something that is needed is missing, or has failed."""


@dataclass(frozen=True)
class Build:
    """A Python with pysock, as its own `describe` tells of it."""

    python: str
    folder: str
    module: str
    counts: dict[str, int]
    made_with: dict[str, str]


def describe(python: str) -> Build:
    """Return what *python* has to measure."""
    # -P: the source tree, where there is no compiled module, stays off the path.
    told = run([python, "-P", str(LOOPS), "describe"])
    return Build(python, **json.loads(told))


def run(command: Sequence[str], **options: Any) -> str:
    """Return what a program prints."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, **options
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise CannotCount(str(exc)) from None
    if done.returncode != 0:
        raise CannotCount(f"{' '.join(command)}\n{done.stderr.strip()}")
    return done.stdout


def count(build: Build, names: Sequence[str], keep: Path | None) -> dict[str, Counts]:
    """Return the instructions of some loops."""
    run_loops(build, names[:1], [])  # compiles what Python keeps compiled
    with tempfile.TemporaryDirectory() as folder:
        out = (keep or Path(folder)).resolve() / "callgrind.out"
        tool = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}"]
        run_loops(build, names, [*tool, "--dump-after=sched_yield"])
        counts = {}
        for place, name in enumerate(names):
            once, twice = (
                by_part(Path(f"{out}.{3 * place + time}").read_text(), build.module)
                for time in (2, 3)  # the first has warmed up
            )
            found = {part: (twice[part] - once[part]) / build.counts[name] for part in PARTS}
            found["all"] = sum(found.values())
            counts[name] = {part: round(found[part], 1) for part in PARTS}
        return counts


def run_loops(build: Build, names: Sequence[str], tool: list[str]) -> None:
    """Run loops in a folder of their own, with nothing of this process' surroundings."""
    environment = {"PYTHONHASHSEED": "0", "PYTHONPATH": build.folder}
    for variable in ("PATH", "LD_LIBRARY_PATH"):
        if variable in os.environ:
            environment[variable] = os.environ[variable]
    with tempfile.TemporaryDirectory() as folder:
        command = [*tool, build.python, "-P", "-S", str(LOOPS.resolve()), *names]
        run(command, cwd=folder, env=environment)


def by_part(profile: str, module: str) -> Counter[str]:
    """Return the instructions in a file of callgrind, by whose object they are in."""
    names: dict[str, str] = {}  # an object has its name only where it is mentioned first
    found: Counter[str] = Counter()
    part, in_call = "rest", False
    for line in profile.splitlines():
        if match := re.match(r"c?ob=(\(\d+\))(?: (.*))?", line):
            number, name = match.groups()
            if name is not None:
                names[number] = part_of(os.path.basename(name), module)
            if line.startswith("ob="):
                part = names[number]
        elif line.startswith("calls="):
            in_call = True
        elif match := re.match(r"[+*\d-]\S* (\d+)$", line):
            # The line after a call has what was called in it, which is counted elsewhere.
            if not in_call:
                found[part] += int(match[1])
            in_call = False
    return found


def part_of(file: str, module: str) -> str:
    """Return to which part an object file belongs."""
    if file == module:
        return "module"
    return "python" if re.match(r"(lib)?python\d", file) else "rest"


def grown(now: Counts, before: Counts, tolerance: float) -> list[str]:
    """Return the judged parts in which a loop takes more than before."""
    return [
        part for part in JUDGED if now[part] > before[part] * (1 + tolerance / 100) + SLACK
    ]


def compare(
    now: dict[str, Counts], before: dict[str, Counts], tolerance: float
) -> tuple[str, bool]:
    """Return a table of the counts, and whether one has grown."""
    lines = [f"{'':18}{'before':>10}{'now':>10}{'change':>9}   in module, Python, the rest"]
    any_grown = False
    for name, counts in now.items():
        parts = " + ".join(f"{counts[part]:.1f}" for part in PARTS[1:])
        if name not in before:
            lines.append(f"{name:18}{'-':>10}{counts['all']:10.1f}{'new':>9}   {parts}")
            continue
        was = before[name]
        change = 100 * (counts["all"] / was["all"] - 1)
        line = f"{name:18}{was['all']:10.1f}{counts['all']:10.1f}{change:+8.2f}%   {parts}"
        if more := grown(counts, was, tolerance):
            any_grown = True
            line += "   GREW"
            if "all" not in more:
                line += f" in the module, from {was['module']:.1f}"
        elif grown(was, counts, tolerance):
            line += "   fell: see --update"
        lines.append(line)
    return "\n".join(lines), any_grown


def differences(now: dict[str, str], before: dict[str, str]) -> list[str]:
    """Return in what two builds differ so that their counts say nothing."""
    return [
        f"{what}: {before.get(what)} there, {now.get(what)} here"
        for what in sorted({*now, *before})
        if now.get(what) != before.get(what)
    ]


def main(args: argparse.Namespace) -> int:
    """Count and compare; return the exit status."""
    if shutil.which("valgrind") is None:
        raise CannotCount("valgrind is not installed; on Debian: apt install valgrind")
    build = describe(sys.executable)
    names = args.only or list(build.counts)
    if unknown := set(names) - set(build.counts):
        raise CannotCount(
            f"no loop {', '.join(sorted(unknown))}; there are {', '.join(build.counts)}"
        )
    if args.keep is not None:
        args.keep.mkdir(parents=True, exist_ok=True)
    kept = json.loads(RECORD.read_text()) if RECORD.exists() else None
    different: list[str] = []
    before: dict[str, Counts] = {}
    if args.before is not None:
        other = describe(args.before)
        different = differences(build.made_with, other.made_with)
        before = count(other, [name for name in names if name in other.counts], None)
    elif kept is not None:
        different = differences(build.made_with, kept["made_with"])
        before = {} if different else kept["loops"]
    now = count(build, names, args.keep)
    table, any_grown = compare(now, before, args.tolerance)
    print("Instructions for a message\n\n" + table + "\n")
    if args.update:
        # Of other loops only what was made alike can stay.
        loops = {} if different or kept is None else kept["loops"]
        loops = {**loops, **now}
        loops = {name: loops[name] for name in build.counts if name in loops}
        record = {"made_with": build.made_with, "loops": loops}
        RECORD.write_text(json.dumps(record, indent=2) + "\n")
        print(f"{RECORD} is written")
        return 0
    if different:
        print("Nothing is judged, for the figures of before were made otherwise:")
        print("\n".join(different))
        return 0
    if not before:
        print(f"There is no {RECORD}: --update writes it")
        return 0
    if any_grown:
        print(f"GREW: more than {args.tolerance:g} % and {SLACK} above before")
    return 1 if any_grown else 0


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description="Count instructions for a message.")
    parser.add_argument("--only", action="append", metavar="NAME", help="this loop alone")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="PERCENT",
        help=f"by which a count may grow, {TOLERANCE:g} by default",
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="where to leave callgrind's files"
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--update", action="store_true", help=f"write {RECORD.name}")
    other.add_argument(
        "--before",
        metavar="PYTHON",
        help="an interpreter that has another pysock: compare with that one",
    )
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main(arguments()))
    except CannotCount as error:
        print(f"Nothing was counted: {error}", file=sys.stderr)
        sys.exit(2)
