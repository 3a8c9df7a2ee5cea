"""Imports go down only: the table of layers, held against the code."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pysock

PACKAGE = Path(pysock.__file__).parent
SOURCES = Path(__file__).parent.parent / "src"

CORE = {"errors", "framing", "formats"}

# Each module, and what it may import of ours; a row uses only rows above it.
ALLOWED: dict[str, set[str]] = {
    "_version": set(),
    "errors": set(),
    "hints": set(),
    "challenge": {"errors"},
    "framing": {"errors", "hints"},
    "formats": {"framing"},
    "unixpath": set(),
    "systemd": set(),
    "waker": set(),
    "address": {"systemd", "unixpath"},
    "proxy": {"errors"},
    "health": {"address", "waker"},
    "keyfile": set(),
    "penalties": set(),
    "credentials": set(),
    "connection": CORE | {"credentials"},
    "tls": {"errors", "keyfile"},
    "auth": {"errors", "hints", "keyfile"},
    "greeting": CORE | {"connection", "tls"},
    "client": CORE | {"address", "connection", "tls", "auth", "greeting"},
    "session": CORE | {"address", "connection", "proxy"},
    "limits": set(),
    "listener": {"address"},
    "handshake": {"auth", "errors", "framing", "greeting", "penalties", "proxy", "session"},
    "admission": {"address", "credentials", "listener"},
    "sweep": {"session"},
    "workers": {"waker"},
    "running": {"workers"},
    "loop": CORE | {"address", "admission", "session", "sweep", "workers"},
    "server": CORE
    | {"address", "auth", "connection", "handshake", "health", "limits", "tls"}
    | {"listener", "loop", "running", "session"},
    "loading": set(),
    "worker": {"address", "loading", "server", "waker"},
    "prefork": {"address", "listener", "loading", "server", "systemd", "worker"},
    "dgramsocket": {"address", "unixpath"},
    "datagram": CORE | {"address", "dgramsocket"},
    "dgramloop": CORE | {"workers"},
    "dgramserver": CORE
    | {"address", "dgramloop", "dgramsocket", "limits", "proxy", "running", "session"},
    "mpconnection": CORE
    | {"address", "challenge", "connection", "limits", "listener", "session", "waker"},
    "interop": CORE | {"address", "connection", "mpconnection"},
    "faults": set(),
    "relay": {"faults"},
    "testing": CORE | {"connection", "faults", "relay"},
    "pytest_plugin": {"connection", "testing"},
}

# The layers on top use what a user may use: the public names and these modules.
ON_TOP = ["remote", "cli"]
PUBLIC_MODULES = {"auth", "errors", "formats", "framing", "remote", "testing", "tls"}


def imports(path: Path, package: str) -> Iterator[str]:
    """Yield the absolute names that the module at *path*, inside *package*, imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


def ours(names: Iterator[str]) -> set[str]:
    """Return the second part of those *names* that are pysock's own."""
    parts = [f"{name}.".split(".") for name in names]
    return {name[1] for name in parts if name[0] == "pysock"}


MODULES = sorted(
    path.stem for path in PACKAGE.glob("*.py") if path.stem not in ("__init__", "__main__")
)
TOP_FILES = sorted(path for name in ON_TOP for path in (PACKAGE / name).rglob("*.py"))


def test_table_goes_down_only():
    above: set[str] = set()
    for name, below in ALLOWED.items():
        assert below <= above, f"{name} may import {below - above}, which comes after it"
        above.add(name)


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_only_what_lies_below(name):
    assert name in ALLOWED, f"give {name}.py a row in this table"
    assert ours(imports(PACKAGE / f"{name}.py", "pysock")) <= ALLOWED[name]


def test_compiled_module_imports_only_what_lies_below():
    files = [*SOURCES.glob("*.pyx"), *SOURCES.glob("*.pxi")]
    if not files:
        pytest.skip("the sources of the compiled module are not here")
    pattern = re.compile(r"\b(?:from|c?import)\s+((?:pysock)?\.[\w.]+|pysock\b)")
    found = {
        name.partition(".")[2] for file in files for name in pattern.findall(file.read_text())
    }
    assert found <= ALLOWED["framing"]


@pytest.mark.parametrize(
    "path", TOP_FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_layers_on_top_use_public_names_only(path):
    layer = path.relative_to(PACKAGE).parts[0]
    package = ".".join(["pysock", *path.relative_to(PACKAGE).parent.parts])
    used = ours(imports(path, package)) - {"", layer}
    assert used <= {*pysock.__all__, *PUBLIC_MODULES}


def test_library_needs_nothing_but_the_standard_one():
    for name in ALLOWED:
        path = PACKAGE / f"{name}.py"
        if path.exists():
            top = {target.partition(".")[0] for target in imports(path, "pysock")}
            # _typeshed is for type checkers only; a plugin has who it is plugged into.
            known = {"pysock", "_typeshed", "pytest" if name == "pytest_plugin" else "pysock"}
            assert top - known <= set(sys.stdlib_module_names)
