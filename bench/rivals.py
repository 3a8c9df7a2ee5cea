"""Who is measured, and the command that starts each."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from interleave import Command, Rival

BENCH = Path(__file__).parent
PEERS = BENCH / "peers"

# For the time of `import`; the second is the control, as "c_again" is elsewhere.
STATEMENTS = {
    "socket": "import socket, selectors",
    "socket_again": "import socket, selectors",
    "pysock": "import pysock",
    "before": "import pysock",
}


def all_rivals(folder: Path, before: str | None = None) -> dict[str, Rival]:
    """Build the C peers into *folder*; return every rival but the servers by its name.

    Args:
        before: the interpreter that has the pysock of before a change.
    """
    c_peer = build(PEERS / "c_peer.c", folder)
    commands = {
        "c": (c_peer,),
        "c_again": (c_peer,),  # the control: what C against itself shows is noise
        "c_spin": (c_peer,),
        "c_own": (c_peer, "own"),
        "pysock": _python("pysock_peer"),
        "before": _python("pysock_peer", interpreter=before),
        "pysock_tls": _python("pysock_tls_peer"),
        "ssl": _python("ssl_peer"),
        "ssl_again": _python("ssl_peer"),
        "multiprocessing": _python("multiprocessing_peer"),
        "multiprocessing_nodelay": _python("multiprocessing_nodelay_peer"),
        "pyzmq": _python("pyzmq_peer"),
        "pynng": _python("pynng_peer"),
        "thriftpy2": _python("thriftpy2_peer"),
        "streams": _python("streams_peer"),
        "asyncio": _python("asyncio_peer"),
        "uvloop": _python("uvloop_peer"),
        "twisted": _python("twisted_peer"),
        "python": _python("python_peer"),
        "python_plain": _python("python_plain_peer"),
        "socket": _python("python_peer"),
        "socket_again": _python("python_peer"),
        "pysock_client": _python("dgram_pysock"),
        "python_client": _python("dgram_python"),
    }
    datagrams, remote = _datagram_peers(folder, before), _remote_peers(before)
    commands |= {name: ends[0] for name, ends in remote.items() if name not in commands}
    return {
        name: Rival(name, commands[name], datagrams.get(name), remote.get(name))
        for name in commands
    }


def _datagram_peers(folder: Path, before: str | None) -> dict[str, tuple[Command, Command]]:
    """Build the C peer into *folder*; return what starts client and server, by rival."""
    c = (build(PEERS / "dgram_c.c", folder, linux=True),)
    pysock, python = _python("dgram_pysock"), _python("dgram_python")
    old = _python("dgram_pysock", interpreter=before)
    return {
        "c": (c, c),
        "c_again": (c, c),
        "pysock": (pysock, pysock),
        "pysock_client": (pysock, c),
        "before": (old, old),
        "python": (python, python),
        "python_client": (python, c),
    }


def _remote_peers(before: str | None) -> dict[str, tuple[Command, Command]]:
    """Return what starts client and server where commands are run, by rival."""
    pysock, local, sshd = map(_python, ("remote_pysock", "remote_local", "remote_sshd"))
    old = _python("remote_pysock", interpreter=before)
    return {
        "local": (local, local),
        "local_again": (local, local),
        "pysock": (pysock, pysock),
        "before": (old, old),
        "ssh": (_python("remote_ssh"), sshd),
        "ssh_again": (_python("remote_ssh"), sshd),
        "ssh_gcm": (_python("remote_ssh", "gcm"), sshd),
        "paramiko": (_python("remote_paramiko"), sshd),
        "asyncssh": (_python("remote_asyncssh"), sshd),
    }


def server_rivals(folder: Path, before: str | None = None) -> dict[str, Rival]:
    """Build the server in C into *folder*; return every server by its name.

    Args:
        before: as for `all_rivals`.
    """
    server_c = build(PEERS / "server_c.c", folder, linux=True)
    commands = {
        "c": (server_c,),
        "c_again": (server_c,),
        "c_alone": (server_c,),
        "c_two": (server_c, "two"),
        "pysock": _python("server_pysock", "as-it-comes"),
        "pysock_alone": _python("server_pysock", "as-it-comes"),
        "pysock_inline": _python("server_pysock", "inline"),
        "pysock_two": _python("server_pysock", "two"),
        "before": _python("server_pysock", "as-it-comes", interpreter=before),
        "redis": _python("server_redis"),
        "uvloop": _python("server_uvloop"),
        "uvloop_plain": _python("server_uvloop", "plain"),
        "asyncio": _python("server_asyncio"),
        "streams": _python("server_streams"),
        "twisted": _python("server_twisted"),
        "threads": _python("server_threads"),
    }
    return {name: Rival(name, command) for name, command in commands.items()}


def build(source: Path, folder: Path, *, linux: bool = False) -> str:
    """Compile *source* into *folder*; what cannot be compiled here is not there."""
    program = folder / source.stem
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(compiler[0]) and (sys.platform == "linux" or not linux):
        subprocess.run([*compiler, "-O2", "-o", program, source], check=True)
    return str(program)


def _python(peer: str, *options: str, interpreter: str | None = None) -> Command:
    return interpreter or sys.executable, str(PEERS / f"{peer}.py"), *options
