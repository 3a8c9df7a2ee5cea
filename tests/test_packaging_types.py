"""The files that mypy and pyright read in `tests/typing` use the whole public interface."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULES = [
    "pysock",
    "pysock.address",
    "pysock.auth",
    "pysock.errors",
    "pysock.formats",
    "pysock.framing",
    "pysock.interop",
    "pysock.pytest_plugin",
    "pysock.remote",
    "pysock.testing",
    "pysock.tls",
]
FILES = sorted((Path(__file__).parent / "typing").glob("*.py"))


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` as text, and nothing for what is no such chain."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def used_in(program: str) -> tuple[set[str], set[str]]:
    """Return the full names that *program* uses, and all that it names after a dot.

    A subclass uses what it overrides.
    """
    tree = ast.parse(program)
    imported: dict[str, str] = {}
    names: set[str] = set()
    members: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    names.update(imported.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            members.add(node.attr)
            first, _, rest = dotted(node).partition(".")
            if first in imported:
                whole = f"{imported[first]}.{rest}"
                # Of formats.DNS, where that is of pysock, it uses both.
                names.update({whole, whole.rpartition(".")[0]})
        elif isinstance(node, ast.ClassDef):
            members.update(one.name for one in node.body if isinstance(one, ast.FunctionDef))
            members.update(
                target.id
                for one in node.body
                if isinstance(one, ast.Assign)
                for target in one.targets
                if isinstance(target, ast.Name)
            )
    return names, members


def members_of(thing: object) -> Iterator[str]:
    """The public attributes that a class has from this package."""
    if inspect.isclass(thing):
        for base in thing.__mro__:
            if base.__module__.startswith("pysock"):
                yield from (name for name in vars(base) if not name.startswith("_"))


USES = [used_in(path.read_text(encoding="utf-8")) for path in FILES]
NAMES = set().union(*(names for names, _ in USES))
MEMBERS = set().union(*(members for _, members in USES))


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_used(module: str):
    offered = importlib.import_module(module).__all__
    assert {f"{module}.{name}" for name in offered} - NAMES == set()


@pytest.mark.parametrize("module", MODULES)
def test_every_public_member_is_used(module: str):
    offered = importlib.import_module(module)
    lacking = set()
    for name in offered.__all__:
        if sys.platform == "win32" and name in ("RemoteServer", "Request"):
            continue
        wanted = set(members_of(getattr(offered, name)))
        lacking |= {f"{module}.{name}.{member}" for member in wanted - MEMBERS}
    assert lacking == set()


def test_uses_are_told_by_their_full_names():
    names, members = used_in(
        "import pysock\n"
        "from pysock import tls\n"
        "from pysock.errors import Error\n"
        "class Mine(pysock.Session):\n"
        "    handshake_timeout = None\n"
        "    def handle(self): self.connection.send(tls.pin_of(b''))\n"
    )
    assert names >= {
        "pysock.Session",
        "pysock.tls.pin_of",
        "pysock.tls",
        "pysock.errors.Error",
    }
    assert not {"pysock.Error", "pysock.Client"} & names
    assert members >= {"handshake_timeout", "handle", "send", "connection"}
