"""The project's documents, as tests read them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


class Page:
    """A document; the test module is skipped where it is not there.

    Args:
        name: its path in the project.
    """

    def __init__(self, name: str) -> None:
        self.path = ROOT / name
        if not self.path.exists():
            pytest.skip(f"{name} is not here", allow_module_level=True)
        self.text = self.path.read_text(encoding="utf-8")

    def blocks(self, language: str, text: str | None = None) -> list[str]:
        """The blocks of code in *language*: of a part of it, or of all."""
        where = self.text if text is None else text
        return re.findall(rf"^```{language}\n(.*?)^```$", where, re.DOTALL | re.MULTILINE)

    def section(self, title: str) -> str:
        """The text from one heading to the next of its level, or of a higher one."""
        found = re.search(rf"^(#+) {re.escape(title)}\n", self.text, re.MULTILINE)
        assert found, title
        rest = self.text[found.end() :]
        return re.split(rf"^#{{2,{len(found[1])}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """The text with each of these changed; all of them must be there."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def allowing_root(program: str) -> str:
    """The program as root has to write it, where that is who runs the tests."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return program
    return re.sub(r"(\bRemoteServer\(\s*\"[^\"]*\")", r"\1, allow_root=True", program)
