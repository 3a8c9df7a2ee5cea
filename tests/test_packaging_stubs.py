"""The stub of the compiled module explains every public name: editors show it from there."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import pysock

FOLDER = Path(pysock.__file__).parent
Documented = ast.ClassDef | ast.FunctionDef


def is_marked(node: ast.FunctionDef, *names: str) -> bool:
    """Whether a decorator is one of *names*, alone or as the last part of a dotted one."""
    found = {getattr(mark, "attr", getattr(mark, "id", "")) for mark in node.decorator_list}
    return not found.isdisjoint(names)


def public(body: list[ast.stmt], owner: str) -> Iterator[tuple[str, Documented]]:
    """Every public class, function, method and property, with its dotted name."""
    for node in body:
        if not isinstance(node, Documented) or node.name.startswith("_"):
            continue
        name = f"{owner}.{node.name}"
        if isinstance(node, ast.ClassDef):
            yield name, node
            yield from public(node.body, name)
        elif not is_marked(node, "setter", "deleter"):
            yield name, node


def undocumented(stub: str) -> set[str]:
    seen: dict[str, bool] = {}  # of several overloads one may speak for all
    for name, node in public(ast.parse(stub).body, "framing"):
        seen[name] = seen.get(name, False) or bool(ast.get_docstring(node))
    return {name for name, documented in seen.items() if not documented}


def test_every_public_name_of_the_stub_has_a_docstring():
    assert undocumented((FOLDER / "framing.pyi").read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("stub", "missing"),
    [
        ("def f(): ...", {"framing.f"}),
        ("class C:\n    'What it is.'\n    def m(self): ...", {"framing.C.m"}),
        ("class C:\n    'What it is.'\n    def _m(self): ...", set()),
        ("@overload\ndef f(): ...\n@overload\ndef f(n): 'What it does.'", set()),
        ("class C:\n  'C'\n  @p.setter\n  def p(self, value): ...", set()),
    ],
)
def test_undocumented_names_are_found(stub: str, missing: set[str]):
    assert undocumented(stub) == missing


def test_the_marker_of_types_is_installed():
    assert (FOLDER / "py.typed").exists()


@pytest.mark.parametrize(
    "name",
    ["Connection", "Decoder", *(cls.__name__ for cls in pysock.Format.__subclasses__())],
)
def test_help_tells_the_arguments(name):
    signature = inspect.signature(getattr(pysock, name))
    assert {"max_frame", "framing"} & set(signature.parameters)
    assert "--" not in inspect.getdoc(getattr(pysock, name)).splitlines()
