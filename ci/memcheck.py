"""Tell what valgrind has found in a process's own compiled module.

    python ci/memcheck.py REPORT...

A report is what memcheck writes with --xml=yes.  What has no frame of the module is only
counted: it is the interpreter's, or another library's.  So is what tracemalloc has noted of
our calls, which CPython 3.11 does not free when it stops.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

MODULE = "framing."
NOT_OURS = "tracemalloc_add_trace"


def is_ours(error: ElementTree.Element) -> bool:
    if any(found.text == NOT_OURS for found in error.iter("fn")):
        return False
    return any(MODULE in Path(found.text or "").name for found in error.iter("obj"))


def told(error: ElementTree.Element) -> str:
    """What is wrong, and where: a line for each frame."""
    lines = [
        (element.text or "").strip()
        for element in error.iter()
        if element.tag in ("what", "text", "auxwhat")
    ]
    for frame in error.iter("frame"):
        parts = {child.tag: child.text or "" for child in frame}
        place = f"{parts['file']}:{parts.get('line')}" if "file" in parts else parts.get("obj")
        lines.append(f"    {parts.get('fn', '?')} ({place})")
    return "\n".join(lines)


def main(reports: list[str]) -> int:
    ours = others = 0
    for report in reports:
        try:
            errors = list(ElementTree.parse(report).iter("error"))
        except ElementTree.ParseError as exc:
            print(f"{report} is not whole: {exc}")  # the process did not come to its end
            return 1
        for error in errors:
            if is_ours(error):
                ours += 1
                print(told(error), end="\n\n")
            else:
                others += 1
    print(f"== memcheck: {ours} reports with frames of the module, {others} without")
    return 1 if ours or not reports else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
