"""Compares the verdicts of two runs: which rows do not say the same?

    python bench/agree.py FOLDER FOLDER

The folders are those of `--results`.  A row is told where a goal was met in one run and
missed in the other ("opposed"), and where only one run was too close to it to tell.
The exit status is 1 if rows are opposed, 2 if there is nothing to compare.
"""

import argparse
import sys
from pathlib import Path

from report import Results, aligned, load, verdicts


def results_in(folder: Path) -> Results:
    """Return all that the tables' files in *folder* hold."""
    results: Results = {}
    for path in sorted(folder.glob("*.json")):
        results |= load(str(path))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the verdicts of two runs.")
    parser.add_argument("folders", nargs=2, type=Path, metavar="FOLDER")
    folders = parser.parse_args().folders
    first, second = (verdicts(results_in(folder)) for folder in folders)
    lines = [["row", "against", "goal", "first", "", "second", "", ""]]
    opposed = 0
    for key in first.keys() & second.keys():
        one, other = first[key], second[key]
        if one.word != other.word:
            opposed += {one.word, other.word} == {"met", "missed"}
            says = "opposed" if {one.word, other.word} == {"met", "missed"} else ""
            lines.append(
                [*key, f"{one.goal:g}", one.word, one.ratio, other.word, other.ratio, says]
            )
    lines[1:] = sorted(lines[1:])
    both = len(first.keys() & second.keys())
    if both == 0:
        parser.error("these folders have no results with the same goals")
    print(aligned(lines))
    print(f"\n{both} verdicts, {len(lines) - 2} differ, {opposed} are opposed")
    sys.exit(opposed > 0)


if __name__ == "__main__":
    main()
