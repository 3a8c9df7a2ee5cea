"""Find the handler that "module:name" means, or say in one line why there is none."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["CannotStart", "Loader"]


class CannotStart(Exception):
    """Why nothing can be served: a sentence for the user."""


class Loader:
    """Finds the handler in the process that will use it.

    Args:
        handler: itself, or "module:name".
        factory: whether to call it, and take what it returns.
        folder: where modules are looked for first; None: the current folder.

    Raises:
        TypeError: *handler* is neither a name nor can be called.
        ValueError: it is a name of another form; *folder* is none.
    """

    def __init__(self, handler: Any, factory: bool, folder: str | os.PathLike[str] | None):
        if isinstance(handler, str):
            module, colon, name = handler.partition(":")
            parts = [*module.split("."), *name.split(".")]
            if module.endswith(".py") and module[:-3].isidentifier():
                raise ValueError(
                    f"handler {handler!r} names a file: write {module[:-3]}:{name or 'handle'}"
                )
            if not colon or not all(part.isidentifier() for part in parts):
                raise ValueError(
                    f"handler {handler!r} is not of the form module:name, as in app:handle"
                )
        elif not callable(handler):
            raise TypeError(
                f"handler is a {type(handler).__name__}, expected a function, "
                "a Session class or 'module:name'"
            )
        self._handler = handler
        self._factory = factory
        self._folder = os.path.abspath(folder or ".")
        if not os.path.isdir(self._folder):
            raise ValueError(f"{self._folder!r} is not a folder to look for modules in")

    def load(self) -> Callable[..., Any]:
        """Return the handler.

        Raises:
            CannotStart: there is none; the text says where it went wrong.
        """
        found = self._handler
        if isinstance(found, str):
            found = self._import(*found.split(":"))
        if self._factory:
            try:
                found = found()
            except (Exception, SystemExit) as exc:
                raise self._told(f"{self._name()}() failed", exc) from exc
        if not callable(found):
            called = f"{self._name()}{'()' if self._factory else ''}"
            raise CannotStart(
                f"{called} is a {type(found).__name__}, expected a function or a Session class"
            )
        return found  # type: ignore[no-any-return]

    def _name(self) -> str:
        return str(getattr(self._handler, "__qualname__", self._handler))

    def _import(self, module: str, name: str) -> Any:
        if sys.path[:1] != [self._folder]:
            sys.path.insert(0, self._folder)
        importlib.invalidate_caches()
        try:
            found: Any = importlib.import_module(module)
        except (Exception, SystemExit) as exc:
            missing = getattr(exc, "name", None) or ""
            is_named = isinstance(exc, ModuleNotFoundError) and not _frames(exc)
            if is_named and f"{module}.".startswith(f"{missing}."):
                raise CannotStart(
                    f"there is no module {missing!r} in {self._folder}, "
                    "nor elsewhere on Python's path"
                ) from exc
            raise self._told(f"cannot import {module!r}", exc) from exc
        for part in name.split("."):
            try:
                found = getattr(found, part)
            except AttributeError as exc:
                file = getattr(sys.modules[module], "__file__", None) or "built in"
                raise CannotStart(f"module {module!r} ({file}) has no {name!r}") from exc
        return found

    def _told(self, what: str, exc: BaseException) -> CannotStart:
        """Say what went wrong, and which line of the user's own brought it about."""
        where = ""
        frames = _frames(exc)
        if isinstance(exc, SyntaxError) and exc.filename:
            where = f"{exc.filename}, line {exc.lineno}: "
        elif frames:
            frame = ([frame for frame in frames if self._is_own(frame)] or frames)[-1]
            where = f"{frame.filename}, line {frame.lineno}: "
        reason = exc.msg if isinstance(exc, SyntaxError) else str(exc)
        return CannotStart(f"{what}: {where}{type(exc).__name__}{reason and ': '}{reason}")

    def _is_own(self, frame: traceback.FrameSummary) -> bool:
        is_below = frame.filename.startswith(os.path.join(self._folder, ""))
        return is_below and "site-packages" not in frame.filename  # as of .venv there


def _frames(exc: BaseException) -> list[traceback.FrameSummary]:
    """Return where *exc* came through, less this file and the import system."""
    skipped = (__file__, "<frozen ", importlib.__file__)
    frames = traceback.extract_tb(exc.__traceback__)
    return [frame for frame in frames if not frame.filename.startswith(skipped)]
