"""Run pytest once for every test file, so that a crash or a hang costs only that file.

    python ci/each.py [-j N] [--limit SECONDS] [--leave GLOB]... [--times FILE]
        -- COMMAND... [-- FILE...]

COMMAND starts pytest; without FILE it is all of tests/ but what --leave names.  Those that
took longest, as --times remembers, come first.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from xml.etree import ElementTree

TAIL = 12000  # characters of what a failed file's run has said
GRACE = 10  # seconds for what was killed to let go of its output


def run(command: list[str], file: str, report: Path, limit: float) -> tuple[int | None, str]:
    """Return the status, None where the time was over, and what was said."""
    # Relative: the program may have other names for our folders.
    process = subprocess.Popen(
        [*command, file, f"--junitxml={os.path.relpath(report)}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        try:
            return None, process.communicate(timeout=GRACE)[0]
        except subprocess.TimeoutExpired as exc:  # another program holds it too
            said = (exc.output or b"").decode(errors="replace")
            process.stdout.close()
            return None, said
    return process.returncode, said


def count(report: Path, reasons: Counter[str]) -> Counter[str]:
    """Return how many tests passed, failed or were skipped; why goes to *reasons*."""
    counts: Counter[str] = Counter()
    if not report.exists():
        return counts
    for case in ElementTree.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            counts["failed"] += 1
        elif skipped is None:
            counts["passed"] += 1
        else:
            counts["skipped"] += 1
            reasons[(skipped.get("message") or "").removeprefix("Skipped: ")] += 1
    return counts


def tell(counts: Counter[str]) -> str:
    names = ("passed", "skipped", "failed", "died")
    return ", ".join(f"{counts[name]} {name}" for name in names if counts[name]) or "no test"


def run_all(
    command: list[str], files: list[str], left: list[str], limit: float, at_once: int
) -> dict[str, float]:
    """Run the files and tell of each, and in the end of all; *left* are not run.

    Return how long they took, those that failed as infinity.
    """
    total: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    took: dict[str, float] = {}
    failed = []
    began = time.monotonic()

    def timed(file: str) -> tuple[int | None, str, float]:
        started = time.monotonic()
        status, said = run(command, file, report_of(file), limit)
        return status, said, time.monotonic() - started

    with tempfile.TemporaryDirectory(dir=".") as folder, ThreadPoolExecutor(at_once) as pool:

        def report_of(file: str) -> Path:
            return Path(folder, f"{Path(file).stem}.xml")

        running = {pool.submit(timed, file): file for file in files}
        for done in as_completed(running):
            file = running[done]
            status, said, took[file] = done.result()
            counts = count(report_of(file), reasons)
            if status not in (0, 5) and not counts["failed"]:  # 5: there was no test
                counts["died"] = 1
            total += counts
            print(f"{file:44} {tell(counts)}  ({took[file]:.1f} s)", flush=True)
            if counts["failed"] or counts["died"]:
                failed.append(file)
                how = "no end in time" if status is None else f"status {status}"
                print(f"---- {file}: {how}\n{said[-TAIL:]}\n----", flush=True)
    print("tests skipped, and why:")
    for reason, times in reasons.most_common():
        print(f"    {times:5} {reason}")
    if left:
        print(f"{len(left)} files not run: {' '.join(left)}")
    if failed:
        print(f"{len(failed)} files failed: {' '.join(sorted(failed))}")
    print(f"{tell(total)} in {len(files)} files, {time.monotonic() - began:.0f} s")
    return took | dict.fromkeys(failed, math.inf)


def remembered(times: Path | None) -> dict[str, float]:
    """Return how long each file took the last time; *times* may not be there yet."""
    if times is not None:
        with contextlib.suppress(FileNotFoundError):
            return json.loads(times.read_text())
    return {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-j", type=int, default=1, metavar="N", help="files at the same time")
    parser.add_argument("--times", type=Path, help="where to remember how long files take")
    parser.add_argument("--limit", type=float, default=1200, help="seconds for each file")
    parser.add_argument("--leave", action="append", default=[], help="a glob of files")
    arguments = sys.argv[1:]
    cut = arguments.index("--")
    options, command = parser.parse_args(arguments[:cut]), arguments[cut + 1 :]
    files: list[str] = []
    if "--" in command:
        cut = command.index("--")
        command, files = command[:cut], command[cut + 1 :]
    left: list[str] = []
    if not files:
        found = sorted(Path("tests").glob("test_*.py"))
        left = [path.stem for path in found if any(map(path.match, options.leave))]
        files = [str(path) for path in found if path.stem not in left]
    known = remembered(options.times)
    files.sort(key=lambda file: -known.get(file, math.inf))
    took = run_all(command, files, left, options.limit, options.j)
    if options.times:
        options.times.write_text(json.dumps(known | took, indent=1))
    return 1 if math.inf in took.values() else 0


if __name__ == "__main__":
    sys.exit(main())
