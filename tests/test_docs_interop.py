"""What docs/interop.md names is there; test_docs_pages.py runs its programs."""

from __future__ import annotations

import re

import pysock
from pages import Page
from pysock import interop

PAGE = Page("docs/interop.md")


def test_names_in_the_text_exist():
    for name in re.findall(r"`interop\.(\w+)`", PAGE.text):
        assert name in interop.__all__
    handler = interop.MessageRequestHandler
    for name in ("framing", "timeout"):
        assert f"| `{name}` |" in PAGE.text and hasattr(handler, name)
    for name in re.findall(r"\| `(?:pysock\.)?(\w+)\([^|]*\|$", PAGE.text, re.MULTILINE):
        assert hasattr(pysock.Connection, name) or name in pysock.__all__, name
