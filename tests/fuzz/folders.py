"""Folders for one input, in memory where there is such a place: there they cost little."""

from __future__ import annotations

import os
import tempfile

_MEMORY = "/dev/shm"
_PLACE = _MEMORY if os.access(_MEMORY, os.W_OK) else None


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a new folder, for a `with` statement."""
    return tempfile.TemporaryDirectory(prefix="fuzz", dir=_PLACE)


def scratch_file() -> tuple[int, str]:
    """Return the descriptor and the path of a new file, which is to be removed."""
    return tempfile.mkstemp(prefix="fuzz", dir=_PLACE)
