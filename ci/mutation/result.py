"""Print how many faults were noticed; write those that were not to the file given."""

from __future__ import annotations

import collections
import sys

from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files

LOST = "timeout", "segfault"

counts: collections.Counter[str] = collections.Counter()
with open(sys.argv[1], "w", encoding="utf-8") as page:
    for path in walk_mutatable_files():
        data = SourceFileMutationData(path=path)
        data.load()
        for name, code in data.exit_code_by_key.items():
            status = status_by_exit_code[code]
            counts[status] += 1
            if status != "killed":
                print(
                    f"# {name}: {status}",
                    get_diff_for_mutant(name, path=path),
                    sep="\n",
                    file=page,
                )

lost = sum(counts[status] for status in LOST)
noticed, total = counts["killed"] + lost, counts.total()
print(
    f"{100 * noticed // total} %: {noticed} of {total} killed, {lost} of them by no end or "
    f"a crash; {counts['no tests']} in code that no test calls"
)
