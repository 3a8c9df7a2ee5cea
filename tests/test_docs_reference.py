"""The reference has every public name, and docstrings become what Sphinx can read."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest

import pysock
from pages import ROOT
from pysock import auth, errors, formats, framing, interop, remote, testing, tls

FOLDER = ROOT / "docs" / "reference"
if not FOLDER.exists():
    pytest.skip("docs/ is not here", allow_module_level=True)


def named_in_reference() -> set[str]:
    """What the directives of the pages stand for, with the module's name."""
    found = set()
    for page in FOLDER.glob("*.rst"):
        module = ""
        for kind, name in re.findall(
            r"^ *\.\. (\w+):: ([\w.]+)", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            if kind in ("currentmodule", "automodule"):
                module = name
            elif kind.startswith("auto"):
                found.add(name if "." in name else f"{module}.{name}")
            if kind == "automodule":
                found.add(name)
    return found


NAMED = named_in_reference()
MODULES = {"auth", "errors", "formats", "framing", "interop", "remote", "tls"}


@pytest.mark.parametrize("name", sorted({*pysock.__all__} - MODULES - {"__version__"}))
def test_name_of_the_package_is_there(name: str) -> None:
    assert f"pysock.{name}" in NAMED


def test_modules_are_there() -> None:
    for name in MODULES | {"testing", "address"}:
        assert f"pysock.{name}" in NAMED


def test_names_of_modules_are_there() -> None:
    """Those whose page lists its members; the others have all that `__all__` has."""
    for module, less in (
        (errors, set()),
        (remote, set()),
        (framing, set()),
        (tls, {"explain", "own_certificate"}),
        (auth, {"Prover", "Verifier", "check_authkey", "check_user"}),
    ):
        for name in {*module.__all__} - less:
            assert {f"{module.__name__}.{name}", f"pysock.{name}"} & NAMED, name
    for whole in (formats, interop, testing):
        (page,) = [
            text
            for path in FOLDER.glob("*.rst")
            if f"automodule:: {whole.__name__}\n" in (text := path.read_text(encoding="utf-8"))
        ]
        assert ":no-members:" not in page.partition("automodule::")[2].partition("\n\n")[0]


@pytest.fixture(scope="module")
def docstrings() -> ModuleType:
    path = ROOT / "docs" / "_sphinx" / "docstrings.py"
    spec = importlib.util.spec_from_file_location("docstrings", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstring_becomes_restructured_text(docstrings: ModuleType) -> None:
    text = """Send `message`, as `5:hello,`; see `close()`.

    Args:
        message: what to send,
            and more of it.
        one, two: as for `Other`.

    Raises:
        TypeError, ValueError: they are wrong.

    Returns:
        Two
        lines.

    Raises: as `send`.  After that
        nothing.

    ```text
    +--+

    +--+
    ```

    Tree
        leaf
    """
    assert docstrings.converted(text) == (
        "Send :py:obj:`message <message>`, as ``5:hello,``; see :py:obj:`close() <close>`.\n\n"
        ":Parameters:\n"
        "    - **message** – what to send, and more of it.\n"
        "    - **one**, **two** – as for :py:obj:`Other <Other>`.\n\n"
        ":Raises:\n"
        "    - :py:obj:`TypeError <TypeError>`, :py:obj:`ValueError <ValueError>`"
        " – they are wrong.\n\n"
        ":Returns:\n    Two lines.\n\n"
        "**Raises:** as :py:obj:`send <send>`.  After that nothing.\n\n"
        "::\n\n    +--+\n    \n    +--+\n\n"
        "::\n\n    Tree\n        leaf\n"
    )


def test_stub_gives_signatures_and_docstrings(docstrings: ModuleType) -> None:
    said, arguments, result = docstrings._in_stub(pysock.Connection.send)
    assert said.startswith("Send one message; several buffers are gathered into one")
    assert (arguments, result) == ("(message: Buffer, *more: Buffer)", "None")
    said, _, _ = docstrings._in_stub(pysock.LengthField)
    assert "minimum: the smallest value of the length field." in said
    assert docstrings._in_stub(pysock.Connection.fileno)[2] == "int"
    assert docstrings._in_stub(pysock.DatagramClient.recv)[0].startswith("Return the next dat")
    assert docstrings._in_stub(pysock.Client) is None
