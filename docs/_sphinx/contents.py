"""Pages as the site needs them, out of pages as people read them in the repository.

The index is a page of headings and lists of links: its contents are made from those.  A page
that is nothing but a link to a file outside docs/ is that file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

_LINK = re.compile(r"(?<!!)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
_ONLY_A_LINK = re.compile(r"# .*\n+\S.*\[[^\]]+\]\((\.\.[^)#]+)\)\.\n")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", _read)
    app.add_lexer("haproxy", TextLexer)
    return {"parallel_read_safe": True}


def stands_for(page: Path) -> Path | None:
    """Return the file outside docs/ that *page* is nothing but a link to, or None."""
    found = _ONLY_A_LINK.fullmatch(page.read_text(encoding="utf-8"))
    return (page.parent / found[1]).resolve() if found else None


def _read(app: Sphinx, docname: str, source: list[str]) -> None:
    page = Path(app.env.doc2path(docname))
    if page.suffix != ".md":
        return
    outside = stands_for(page)
    if outside is not None:
        app.env.note_dependency(str(outside))
        source[0] = outside.read_text(encoding="utf-8")
    elif docname == app.config.root_doc:
        source[0] += _contents(source[0])
    source[0] = _linked(source[0], (outside or page).parent, page.parent, Path(app.srcdir))


def _contents(text: str) -> str:
    """The tables of contents that the lists of links below the headings of *text* make."""
    trees = []
    for title, body in re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", text, re.MULTILINE):
        pages = re.findall(r"^(?:-|\d\.) \[[^\]]+\]\((?!\.\.)([^)#]+)\)", body, re.MULTILINE)
        if pages:
            listed = "\n".join(str(Path(page).with_suffix("")) for page in pages)
            trees.append(f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n```\n")
    return "".join(trees)


def _linked(text: str, written: Path, read: Path, docs: Path) -> str:
    """The text of a page of folder *written*, with links for a page of folder *read*."""
    stand_ins = {stands_for(page): page for page in docs.rglob("*.md")}

    def link(found: re.Match[str]) -> str:
        target = (written / found[1]).resolve()
        target = stand_ins.get(target, target)
        return f"]({os.path.relpath(target, read)}{found[2] or ''})"

    fenced = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else _LINK.sub(link, part) for part in fenced
    )
