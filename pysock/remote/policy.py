"""Who may run what, in which environment, and how that is written down."""

from __future__ import annotations

import fnmatch
import functools
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .protocol import Exec, Refusal

__all__ = ["Request", "Rule", "environment", "rule_of", "shown"]

MOST_VARIABLES = 32
LONGEST_VARIABLE = 1024
LONGEST_SHOWN = 256
LONGEST_AUDITED = 4096
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OWN = ("LANG", "LC_*", "TZ")  # of the server, for its commands
_OFFERED = ("TERM", "LANG", "LC_*")  # sent with every command, and no matter where unwanted

Rule = Callable[["Request"], object]


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody wants done.

    Args:
        user: whose key was proved, or the system's user at a Unix socket; "" where neither
            is known.
        kind: "run", "put", "get" or "list".
        argv: the program and its arguments, where there is no shell.
        shell: the command line for the shell, where there is one.
        cwd: the folder to run in; "": the server's choice.
        env: variables that the client sets.
        pty: whether it wants a terminal.
        path: of a file, below the served folder.
        peer: the client's address.
    """

    user: str
    kind: str
    argv: tuple[str, ...] = ()
    shell: str | None = None
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    pty: bool = False
    path: str = ""
    peer: Any = None


def rule_of(allow: Any) -> Rule:
    """Return the function that says whether a request is allowed.

    Args:
        allow: as for `RemoteServer`.

    Raises:
        TypeError: it is none of these.
    """
    if allow is None:
        return lambda request: True
    if callable(allow):
        return allow  # type: ignore[no-any-return]
    if isinstance(allow, Mapping):
        rules = {user: rule_of(rule) for user, rule in allow.items()}
        return lambda request: request.user in rules and rules[request.user](request)
    if isinstance(allow, str | bytes) or not isinstance(allow, Iterable):
        raise TypeError(
            f"allow is a {type(allow).__name__}, expected a list of commands, a mapping from "
            "users to such lists, or a function"
        )
    entries = list(allow)
    for entry in entries:
        parts = [entry] if isinstance(entry, str) else entry
        if not isinstance(parts, list | tuple) or not parts:
            raise TypeError(f"allow has {entry!r}, expected a program, or a list of words")
        if not all(isinstance(part, str) for part in parts):
            raise TypeError(f"allow has {entry!r}, expected words that are str")
    return lambda request: any(_fits(entry, request) for entry in entries)


def _fits(entry: str | Sequence[str], request: Request) -> bool:
    if request.kind != "run":
        return entry == request.kind
    if request.shell is not None:
        return entry == request.shell
    words = (entry,) if isinstance(entry, str) else tuple(entry)
    return request.argv[: len(words)] == words


def environment(command: Exec, allowed: Sequence[str], token: bytes) -> dict[bytes, bytes]:
    """Return the environment of a command: a clean one, and what its client may add.

    Args:
        command: what the client sent.
        allowed: patterns of the names that it may set.
        token: NAME=value, by which all that the command starts is found.

    Raises:
        PermissionError: a name is not among them, or there is too much; its text says which.
    """
    if len(command.env) > MOST_VARIABLES:
        raise PermissionError(
            f"{len(command.env)} variables, expected {MOST_VARIABLES} at most"
        )
    given = dict([token.split(b"=", 1)])
    for variable in command.env:
        name, _, value = variable.partition(b"=")
        text = os.fsdecode(name)
        if not _matches(text, allowed):
            if _matches(text, _OFFERED):
                continue
            raise PermissionError(
                f"variable {shown(text)} may not be set: the server allows "
                f"{', '.join(allowed) or 'none'} (allow_env=)"
            )
        if len(variable) > LONGEST_VARIABLE:
            raise PermissionError(
                f"variable {shown(text)} has {len(variable)} bytes, expected "
                f"{LONGEST_VARIABLE} at most"
            )
        given[name] = value
    return {**_login(os.geteuid()), **given}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@functools.cache
def _login(uid: int) -> dict[bytes, bytes]:
    """Return what a login of a user would set, and the server's own language."""
    import pwd

    found = {"PATH": _PATH, "HOME": "/", "SHELL": "/bin/sh"}
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        pass
    else:
        shell = user.pw_shell or "/bin/sh"
        found |= {"HOME": user.pw_dir, "SHELL": shell}
        found |= {"USER": user.pw_name, "LOGNAME": user.pw_name}
    found |= {name: value for name, value in os.environ.items() if _matches(name, _OWN)}
    return {os.fsencode(name): os.fsencode(value) for name, value in found.items()}


def user_of(connection: Any) -> str:
    """Return who is at the other end: by key, or by the system's word; "" for nobody known."""
    user = getattr(connection, "user", None)
    if user is not None:
        return str(user)
    found = connection.peer_credentials
    if found is None:
        return ""
    import pwd

    try:
        return pwd.getpwuid(found.uid).pw_name
    except KeyError:
        return str(found.uid)


def request_of(command: Exec, user: str, peer: Any) -> Request:
    """Return what a client's EXEC asks for."""
    pairs = (os.fsdecode(variable).partition("=") for variable in command.env)
    return Request(
        user,
        "run",
        tuple(map(os.fsdecode, command.argv)),
        None if command.shell is None else os.fsdecode(command.shell),
        os.fsdecode(command.cwd),
        {name: value for name, _, value in pairs},
        command.pty is not None,
        peer=peer,
    )


def shown(text: str, longest: int = LONGEST_SHOWN) -> str:
    """Return *text* as one line without control characters, for logs and messages."""
    line = text.encode("unicode_escape", "surrogateescape").decode()
    if any(not char.isprintable() or ord(char) > 126 for char in text):
        text = line
    return text if len(text) <= longest else text[: longest - 3] + "..."


def peer_of(request: Request) -> str:
    """Return a client's address as an audit line has it."""
    peer = request.peer
    if not isinstance(peer, tuple):
        return str(peer or "-")
    host = str(peer[0]).removeprefix("::ffff:")
    return f"[{host}]:{peer[1]}" if ":" in host else f"{host}:{peer[1]}"


def command_line(request: Request, longest: int = LONGEST_AUDITED) -> str:
    """Return what is run, as an audit line has it."""
    if request.kind != "run":
        return shown(f"{request.kind} {request.path}", longest)
    words = request.argv if request.shell is None else ("sh", "-c", request.shell)
    folder = f" (in {request.cwd})" if request.cwd else ""
    return shown(shlex.join(words) + folder, longest)


def denied(request: Request) -> Refusal:
    """Return what a client hears whose request is not allowed."""
    who = f"user {shown(request.user)}" if request.user else "this client"
    return Refusal("refused", f"{who} may not: {command_line(request, LONGEST_SHOWN)}")
