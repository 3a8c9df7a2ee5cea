"""Compares the verdicts of two runs: which rows do not say the same?

    python bench/agree.py FOLDER FOLDER

The folders are those of `--results`.  A row is told where a goal was met in one run and
missed in the other ("opposed"), and where only one run was too close to it to tell.
The exit status is 1 if rows are opposed, 2 if there is nothing to compare: no goals that
both have, or files of machines on which a wake-up does not cost the same (see `wakeup.py`).
"""

import argparse
import json
import sys
from pathlib import Path

from report import Results, aligned, load, verdicts
from wakeup import APART, in_words

# Of one file, as it keeps them: the seconds of a wake-up, and for how many a processor polls.
Costs = dict[str, tuple[float | None, float | None]]


def results_in(folder: Path) -> Results:
    """Return all that the tables' files in *folder* hold."""
    results: Results = {}
    for path in sorted(folder.glob("*.json")):
        results |= load(str(path))
    return results


def costs_in(folder: Path) -> Costs:
    """Return what a wake-up cost for each of the tables' files in *folder*."""
    machines = {
        path.stem: json.loads(path.read_text(encoding="utf-8")).get("machine", {})
        for path in sorted(folder.glob("*.json"))
    }
    return {name: (one.get("wakeup"), one.get("polls")) for name, one in machines.items()}


def unlike(first: Costs, second: Costs) -> list[str]:
    """Return in words for which files a wake-up cost something else in the other run."""
    found = []
    for name in sorted(first.keys() & second.keys()):
        (one, polls), (other, others_polls) = first[name], second[name]
        if one is None or other is None:
            continue  # an older file, which does not say
        if polls != others_polls or max(one, other) > APART * min(one, other):
            found.append(
                f"{name}: {in_words(one, polls)}; but then {in_words(other, others_polls)}"
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the verdicts of two runs.")
    parser.add_argument("folders", nargs=2, type=Path, metavar="FOLDER")
    folders = parser.parse_args().folders
    if differences := unlike(*(costs_in(folder) for folder in folders)):
        parser.error("these runs are not alike, measure again\n" + "\n".join(differences))
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
