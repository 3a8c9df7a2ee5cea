"""Run one target: over files, or with atheris, which makes them up.

run.py TARGET FILE...                give it these
run.py --fuzz TARGET [OPTION...]     libFuzzer's options, and folders with a corpus
run.py --words TARGET                print the dictionary for libFuzzer
run.py --list
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from fuzz import targets


def fuzz(name: str, options: list[str]) -> None:
    import atheris

    # What is imported late is to be counted as well.
    with atheris.instrument_imports(include=["pysock", "http"], enable_loader_override=False):
        target = targets.target_of(name)
        # What libFuzzer's shell is to run where it needs a second process.
        again = f"{sys.executable} -P {__file__} --fuzz {name}"
        atheris.Setup([again, *options], target, internal_libfuzzer=None)
        atheris.Fuzz()


def repeat(name: str, files: list[str]) -> None:
    target = targets.target_of(name)
    for file in files:
        print(f"{name}: {file}", flush=True)
        target(Path(file).read_bytes())


def main(args: list[str]) -> None:
    logging.disable(logging.CRITICAL)
    if args[:1] == ["--list"]:
        print(*targets.NAMES, sep="\n")
    elif len(args) >= 2 and args[0] == "--words":
        targets.target_of(args[1])
        for word in targets.words_of(args[1]):
            print('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"')
    elif len(args) >= 2 and args[0] == "--fuzz":
        fuzz(args[1], args[2:])
    elif len(args) >= 2 and args[0] in targets.NAMES:
        repeat(args[0], args[1:])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
