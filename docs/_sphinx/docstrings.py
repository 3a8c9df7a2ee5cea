"""The project's docstrings as Sphinx wants them.

Docstrings of the compiled module, and its signatures, come from framing.pyi, which says more
than the module itself.  In a docstring `name` is a link where there is something of that
name and code where not, "Args:" and its kin begin lists, and what is indented is a drawing.
"""

from __future__ import annotations

import ast
import importlib.resources
import inspect
import re
from typing import TYPE_CHECKING, Any

from pysock import framing

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_SECTIONS = {"Args:": "Parameters", "Raises:": "Raises", "Returns:": "Returns"}
_NAME = re.compile(r"[A-Za-z_][\w.]*")
_SHOWN = {"ReadableBuffer": "Buffer", "WriteableBuffer": "Buffer", "socket": "socket.socket"}


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-skip-member", _skip_member)
    app.connect("autodoc-process-docstring", _process_docstring)
    app.connect("autodoc-process-signature", _process_signature)
    app.connect("missing-reference", _missing_reference)
    return {"parallel_read_safe": True}


# ------------------------------------------------------------ the stub


def _stub() -> dict[str, tuple[str, str, str]]:
    """Docstring, arguments and result of everything in framing.pyi, by qualified name."""
    found: dict[str, tuple[str, str, str]] = {}

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                found[prefix + node.name] = (ast.get_docstring(node) or "", "", "")
                walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                said = ast.get_docstring(node) or ""
                if prefix + node.name in found and not said:
                    continue  # a setter, or an overload without a word
                result = ast.unparse(node.returns) if node.returns else ""
                found[prefix + node.name] = (said, _arguments(node), result)

    text = (importlib.resources.files("pysock") / "framing.pyi").read_text(encoding="utf-8")
    tree = ast.parse(text)
    walk(tree.body, "")
    found[""] = (ast.get_docstring(tree) or "", "", "")
    return found


def _arguments(node: ast.FunctionDef) -> str:
    """The arguments as documentation shows them: without self and private ones."""
    args = node.args
    first = args.posonlyargs or args.args
    if first and first[0].arg in ("self", "cls"):
        first.pop(0)
    both = zip(args.kwonlyargs, args.kw_defaults, strict=True)
    kept = [(arg, default) for arg, default in both if not arg.arg.startswith("_")]
    args.kwonlyargs = [arg for arg, _ in kept]
    args.kw_defaults = [default for _, default in kept]
    for part in ast.walk(args):
        if isinstance(part, ast.Name):
            part.id = _SHOWN.get(part.id, part.id)
    return f"({ast.unparse(args)})"


STUB = _stub()


def _in_stub(obj: Any) -> tuple[str, str, str] | None:
    if inspect.ismodule(obj):
        return STUB[""] if obj.__name__ == "pysock.framing" else None
    owner = getattr(obj, "__objclass__", None)
    if getattr(owner or obj, "__module__", None) != "pysock.framing":
        return None
    whole = (
        f"{owner.__qualname__}.{obj.__name__}" if owner else getattr(obj, "__qualname__", "")
    )
    within, _, name = whole.rpartition(".")
    if within.startswith("_"):  # a base of one of the classes that the stub tells of
        base = getattr(framing, within)
        heirs = (framing.FrameStream, framing.DatagramSocket)
        within = next((heir.__name__ for heir in heirs if issubclass(heir, base)), within)
    return STUB.get(f"{within}.{name}".lstrip("."))


def _skip_member(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    said = _in_stub(obj)
    return False if skip and said and said[0] and not name.startswith("_") else None


def _process_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: Any, result: Any
) -> tuple[str, str | None] | None:
    said = _in_stub(obj)
    if said is None or what not in ("class", "method", "function"):
        return (_shown(signature), result) if signature else None
    if what == "class":
        made = (STUB.get(f"{obj.__qualname__}.{name}") for name in ("__new__", "__init__"))
        return next(((said[1], None) for said in made if said), None)
    return said[1], said[2]


def _shown(signature: str) -> str:
    """A signature without private arguments, and with the names that people know."""
    text = re.sub(r", _\w+: [^,)]*", "", signature)
    text = re.sub(
        r"[~\w.]*\bAddress \| str \| bytes(?: \| [~\w.]+\[[^]]*\])+", "AddressLike", text
    )
    text = re.sub(r" \| [~\w.]*EllipsisType\b", "", text).replace("= Ellipsis", "= ...")
    return re.sub(r"\b(Readable|Writeable)Buffer\b", "Buffer", text)


# ------------------------------------------------------------ the text


def _process_docstring(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    said = _in_stub(obj)
    text = said[0] if said and said[0] else "\n".join(lines)
    lines[:] = converted(text).splitlines()


def converted(text: str) -> str:
    """A docstring as reStructuredText."""
    return "\n\n".join(_block(block) for block in _blocks(text)) + "\n"


def _blocks(text: str) -> list[str]:
    """The parts between empty lines; a list of arguments, or a drawing, is one part."""
    blocks: list[str] = []
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        last = blocks[-1] if blocks else ""
        inside = last.startswith("```") and not last.endswith("```")
        if inside or (part.startswith(" ") and last.split("\n", 1)[0] in _SECTIONS):
            blocks[-1] += f"\n\n{part}"
        else:
            blocks.append(part)
    return blocks


def _block(block: str) -> str:
    first, _, rest = block.partition("\n")
    if first.startswith("```"):
        return _literal(rest.removesuffix("```").rstrip())
    if first in _SECTIONS:
        return f":{_SECTIONS[first]}:\n{_items(inspect.cleandoc(rest), first)}"
    label = re.match(r"(Raises|Source|Returns): ", block)
    lines = block.splitlines()
    if label:
        words = " ".join(line.strip() for line in lines)
        return f"**{label[1]}:** {_inline(words[label.end() :])}"
    if all(line.startswith(" ") for line in lines):
        return _literal(inspect.cleandoc("\n" + block))
    if any(line.startswith(" ") for line in lines[1:]):
        return _literal(block)
    return _inline(block)


def _literal(text: str) -> str:
    return "::\n\n" + "\n".join(f"    {line}" for line in text.splitlines())


def _items(text: str, section: str) -> str:
    """The list of a section, whose items are "names: what"; or its plain text."""
    items = re.split(r"\n(?=\S)", text)
    if section == "Returns:":
        return "    " + _inline(" ".join(text.split()))
    said = []
    for item in items:
        names, _, what = item.partition(": ")
        mark = "**{}**" if section == "Args:" else ":py:obj:`{0} <{0}>`"
        named = ", ".join(mark.format(name.strip()) for name in names.split(","))
        if not what:
            named, what = "", item
        said.append(f"    - {named + ' – ' if named else ''}{_inline(' '.join(what.split()))}")
    return "\n".join(said)


def _inline(text: str) -> str:
    """Backquotes around a name make a link, around anything else code."""

    def code(found: re.Match[str]) -> str:
        name = found[1].removesuffix("()")
        return f":py:obj:`{found[1]} <{name}>`" if _NAME.fullmatch(name) else f"``{found[1]}``"

    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", code, text)
    return re.sub(r'"(\w+://[^"\s]*)"', r'``"\1"``', text)  # an address is no link


def _missing_reference(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """A name that is nothing of ours is code."""
    return contnode if node.get("reftype") in ("obj", "exc") else None
