"""Who is measured, and the command that starts each."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from interleave import Rival

PEERS = Path(__file__).parent / "peers"

# For the time of `import`; the second is the control, as "c_again" is elsewhere.
STATEMENTS = {
    "socket": "import socket, selectors",
    "socket_again": "import socket, selectors",
    "pysock": "import pysock",
    "before": "import pysock",
}


def all_rivals(folder: Path, before: str | None = None) -> dict[str, Rival]:
    """Build the C peer into *folder*; return every rival by its name.

    Args:
        before: the interpreter that has the pysock of before a change.
    """
    c_peer = _build_c(folder)
    commands = {
        "c": (c_peer,),
        "c_again": (c_peer,),  # the control: what C against itself shows is noise
        "c_spin": (c_peer,),
        "c_own": (c_peer, "own"),
        "pysock": _python("pysock"),
        "before": _python("pysock", before),
        "multiprocessing": _python("multiprocessing"),
        "multiprocessing_nodelay": _python("multiprocessing_nodelay"),
        "pyzmq": _python("pyzmq"),
        "python": _python("python"),
        "python_plain": _python("python_plain"),
        "socket": _python("python"),
        "socket_again": _python("python"),
    }
    return {name: Rival(name, command) for name, command in commands.items()}


def _python(peer: str, interpreter: str | None = None) -> tuple[str, ...]:
    return interpreter or sys.executable, str(PEERS / f"{peer}_peer.py")


def _build_c(folder: Path) -> str:
    """Compile the C peer; without a compiler nothing is there, and it is skipped."""
    program = folder / "c_peer"
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler):
        subprocess.run([compiler, "-O2", "-o", program, PEERS / "c_peer.c"], check=True)
    return str(program)
