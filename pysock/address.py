"""Addresses: one value for all the forms people write; connecting and listening.

An Address is parsed once and prints as a URL.  `connect` and `listen` turn it
into a socket; what is spoken over that socket, TLS included, is not known here.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time

from .systemd import listener
from .unixpath import Made, bind_and_listen, identity, unlink_if_same

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "Address",
    "AddressLike",
    "Made",
    "connect",
    "format_peer",
    "identity",
    "is_local",
    "listen",
    "parse",
    "unlink_if_same",
]

_LONGEST = 2e6  # seconds: 23 days, what a socket's settimeout() takes everywhere
_SCHEMES = ("tcp", "tls", "unix", "udp", "unixgram", "fd")
_PATH_BYTES = 107 if sys.platform == "linux" else 103  # sun_path, less the final NUL
_EXAMPLES = "'tcp://127.0.0.1:8000' or 'unix:///run/me/app.sock'"


class Address:
    """Where to connect or listen; `str` gives the URL that `parse` reads back.

    Args:
        scheme: "tcp", "tls", "unix", "udp", "unixgram" or "fd".
        host: name or number, without brackets; empty means every local address; with
            "fd" the descriptor's name, if it goes by that.
        port: 0 lets the system choose when listening.
        path: of a Unix socket; an abstract name begins with NUL.
        fd: number of an inherited descriptor, else -1.
    """

    __slots__ = ("fd", "host", "path", "port", "scheme")

    scheme: str
    host: str
    port: int
    path: str
    fd: int

    def __init__(
        self, scheme: str, host: str = "", port: int = 0, path: str = "", fd: int = -1
    ) -> None:
        # By hand: dataclasses would take longer to import than all of pysock.
        for name, value in zip(Address.__slots__, (fd, host, path, port, scheme), strict=True):
            object.__setattr__(self, name, value)

    def _values(self) -> tuple[str, str, int, str, int]:
        return self.scheme, self.host, self.port, self.path, self.fd

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an Address cannot be changed: {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"an Address cannot be changed: {name}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Address):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"Address{self._values()!r}"

    def __reduce__(self) -> tuple[type[Address], tuple[object, ...]]:
        return Address, self._values()

    @property
    def datagram(self) -> bool:
        """Whether this is an address for datagrams, not for a stream."""
        return self.scheme in ("udp", "unixgram")

    @property
    def abstract(self) -> bool:
        """Whether this is a Unix address that has no file."""
        return self.path.startswith("\0")

    def __str__(self) -> str:
        if self.scheme == "fd":
            return f"fd://{self.host or self.fd}"
        if not self.path:
            return f"{self.scheme}://{_joined(self.host, self.port)}"
        if self.abstract:
            return f"{self.scheme}:@{self.path[1:]}"
        if self.path.startswith("/"):
            return f"{self.scheme}://{self.path}"
        return f"{self.scheme}:{'./' if self.path.startswith('@') else ''}{self.path}"


AddressLike = (
    Address | str | bytes | os.PathLike[str] | tuple[str, int] | tuple[str, int, int, int]
)


def parse(address: AddressLike) -> Address:
    """Return the Address that *address* means.

    Args:
        address: "tcp://host:port", also tls and udp; "host:port"; (host, port), also
            with flow and scope as IPv6 has them; "unix:///path", "unix:path",
            "unix:@abstract", also unixgram; a path, which as a str needs a "/";
            "fd://N" and "fd://name" for an inherited socket.  IPv6 numbers stand in
            brackets.  Paths are taken literally.

    Raises:
        TypeError: *address* is none of these types.
        ValueError: it is malformed; the message says how.
    """
    if isinstance(address, Address):
        return address
    if isinstance(address, tuple):
        return _parse_tuple(address)
    if isinstance(address, bytes | os.PathLike):
        return _unix("unix", os.fsdecode(address), address)
    if not isinstance(address, str):
        raise TypeError(
            f"address is a {type(address).__name__}, expected a str, a path or (host, port)"
        )
    head, _, rest = address.partition(":")
    scheme = head.lower()
    if scheme in ("unix", "unixgram"):
        return _parse_unix(scheme, rest, address)
    if rest.startswith("//") and "/" not in head:
        if scheme == "fd":
            return _parse_fd(rest[2:], address)
        if scheme not in _SCHEMES:
            raise _refused(address, f"scheme {head!r} is unknown", f"use {_EXAMPLES}")
        return _parse_host_port(scheme, rest[2:], address)
    if "/" in address or address.startswith("\0"):
        return _unix("unix", address, address)
    return _parse_host_port("tcp", address, address)


def connect(address: AddressLike, timeout: float | None = None) -> socket.socket:
    """Return a non-blocking socket connected to *address*.

    Every address that the name resolves to is tried, in the resolver's order and
    under one deadline; one that does not answer gets a fair share of what is left.
    Resolving a name cannot be interrupted: it counts against the deadline, but may
    outlast it.

    Raises:
        OSError: nothing could be connected.  The message tells every address and why;
            the class is that of the most telling failure; where several failed,
            the cause is an ExceptionGroup of them all.
        TimeoutError: *timeout* seconds have passed; at once if it is 0 or less.
        ValueError: *address* is malformed, or cannot be connected to.
    """
    target = _for_streams(parse(address), "connect to")
    if target.scheme == "fd":
        raise _refused(target, "cannot connect to a descriptor", f"use {_EXAMPLES}")
    if not target.path:
        if not target.host:
            raise _refused(
                target,
                "no host, which means every local address and is for listening",
                f"name one host, as in '{target.scheme}://127.0.0.1:{target.port or 8000}'",
            )
        if not target.port:
            raise _refused(target, "port 0 is for listening", "name the server's port")
    if timeout is not None and not timeout > 0:
        raise TimeoutError(f"cannot connect to {target}: no time was left for it")
    deadline = None if timeout is None else time.monotonic() + timeout
    candidates = _resolve(target, "connect to")
    failures: list[tuple[Any, OSError]] = []
    left = share = None
    for index, (family, sockaddr) in enumerate(candidates):
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            share = min(left / (len(candidates) - index), _LONGEST)
        try:
            return _connect_one(family, sockaddr, share)
        except OSError as exc:
            # Without its traceback, which would tie this frame into a cycle.
            failures.append((sockaddr, exc.with_traceback(None)))
    late = deadline is not None and time.monotonic() >= deadline
    raise _connect_error(target, failures, timeout if late else None)


def listen(
    address: AddressLike, backlog: int = 512, reuse_address: bool = True
) -> socket.socket:
    """Return a non-blocking socket that listens on *address*.

    An empty host is every address of the machine, IPv6 and IPv4 through one socket
    where the system can; "::" is IPv6 alone.  A name is listened on at its first
    IPv4 address, if it has any.  A Unix path has mode 0600 from the moment it
    exists; one left behind by a dead server is replaced.  A socket that was inherited
    ("fd") listens already, and becomes the caller's.

    Args:
        address: any form that `parse` takes.
        backlog: connections that wait for `accept`.
        reuse_address: take the port although connections of an earlier server
            linger on it.  Windows: no other program may take the port either way.

    Raises:
        OSError: it cannot be had; EADDRINUSE if a server is answering there, or if
            what stands at the Unix path is no socket: neither is ever removed.
        ValueError: *address* is malformed, or cannot be listened on.
    """
    target = _for_streams(parse(address), "listen on")
    sock = None
    try:
        if target.scheme == "fd":
            return listener(target.host or target.fd)
        if target.path:
            sock = socket.socket(socket.AF_UNIX)
            bind_and_listen(sock, target.path, backlog)
        else:
            family, sockaddr = _local(target)
            sock = socket.socket(family)
            _listen_tcp(sock, target, sockaddr, backlog, reuse_address)
        sock.setblocking(False)
        return sock
    except BaseException as exc:
        if sock is not None:
            sock.close()
        if isinstance(exc, OSError) and not isinstance(exc, socket.gaierror):
            raise _renamed(exc, f"cannot listen on {target}: {_reason(exc)}") from None
        raise


def format_peer(sockaddr: Any) -> str:
    """Return a socket address as one short line for logs and messages."""
    if isinstance(sockaddr, str | bytes):
        if not sockaddr:
            return "unix"  # a client's socket has no name
        # The peer chose its name: no newline or escape sequence may reach a log.
        return repr(str(Address("unix", path=os.fsdecode(sockaddr))))[1:-1]
    if not isinstance(sockaddr, tuple) or not isinstance(sockaddr[0], str):
        return repr(sockaddr)
    host, port = sockaddr[:2]
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]  # IPv4, seen by a socket that takes both
    return _joined(_scoped(sockaddr) if ":" in host else host, port)


def is_local(sockaddr: Any) -> bool:
    """Whether a socket address is a Unix one or of the loopback: nobody else is there."""
    if isinstance(sockaddr, str | bytes):
        return True
    host = sockaddr[0] if isinstance(sockaddr, tuple) else None
    return isinstance(host, str) and (
        host == "::1" or host.removeprefix("::ffff:").startswith("127.")
    )


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _scoped(sockaddr: tuple[Any, ...]) -> str:
    """Return the host of a socket address with its IPv6 zone."""
    host: str = sockaddr[0]
    scope = sockaddr[3] if len(sockaddr) == 4 else 0
    return f"{host}%{scope}" if scope and "%" not in host else host


def _refused(seen: object, what: str, todo: str) -> ValueError:
    shown = repr(seen) if isinstance(seen, str | bytes | tuple) else f"'{seen}'"
    return ValueError(f"address {shown}: {what}; {todo}")


def _number(text: str, most: int, what: str, seen: object, like: str = _EXAMPLES) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= most:
        return int(text)
    raise _refused(seen, f"{what} {text!r} is not a number from 0 to {most}", f"as in {like}")


def _parse_tuple(address: tuple[Any, ...]) -> Address:
    if len(address) not in (2, 4) or not isinstance(address[0], str):
        raise _refused(address, "not (host, port)", "as in ('127.0.0.1', 8000)")
    port = address[1]
    if not isinstance(port, int):
        raise TypeError(f"port is a {type(port).__name__}, expected an int")
    host = _host(_scoped(address), address)
    return Address("tcp", host, _number(str(port), 65535, "port", address))


def _parse_host_port(scheme: str, text: str, seen: str) -> Address:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host:
            raise _refused(seen, "brackets hold an IPv6 number", "as in '[::1]:8000'")
        colon, port = rest[:1], rest[1:]
        if colon not in ("", ":"):
            raise _refused(seen, f"{rest!r} follows the bracket", "write ':' and the port")
    else:
        host, colon, port = text.rpartition(":")
        if ":" in host:
            raise _refused(seen, "too many colons", _fewer_colons(text, seen))
    if not colon or not port:
        raise _refused(seen, "no port", f"as in {_EXAMPLES}; a path needs a '/', as './name'")
    return Address(scheme, _host(host, seen), _number(port, 65535, "port", seen))


def _fewer_colons(text: str, seen: str) -> str:
    """Return what to write instead of *text*, the end of *seen*: something that is valid."""
    begun = seen[: len(seen) - len(text)]
    head, _, rest = text.partition(":")
    host, _, port = text.rpartition(":")
    forms = [f"{begun}[{host}]:{port}", f"{begun}[{text}]:8000"]
    if not begun and rest.count(":") == 1:
        forms.insert(0, f"{head}://{rest}")
    for form in forms:
        try:
            parse(form)
        except ValueError:
            continue
        return f"as in '{form}'" if form is forms[-1] else f"write '{form}' if that is meant"
    return f"as in {_EXAMPLES}"


def _host(host: str, seen: object) -> str:
    if ":" in host:
        number, percent, zone = host.partition("%")
        try:
            socket.inet_pton(socket.AF_INET6, number)
        except (OSError, ValueError):  # that one for what C could not be told
            raise _refused(seen, f"{number!r} is no IPv6 number", "as in '::1'") from None
        if percent and not zone:
            raise _refused(seen, "no zone after '%'", "as in 'fe80::1%eth0'")
        if _is_no_name(zone):
            what = f"zone {zone!r} holds what no name can"
            raise _refused(seen, what, "as in 'fe80::1%eth0'")
        return host
    if _is_no_name(host):
        raise _refused(seen, f"host {host!r} holds what no name can", f"as in {_EXAMPLES}")
    try:
        host.encode("idna")  # as the resolver will, which would raise a bare UnicodeError
    except UnicodeError:
        raise _refused(
            seen, f"host {host!r} is no host name", "its parts are 1 to 63 characters long"
        ) from None
    return host


def _is_no_name(name: str) -> bool:
    return any(char <= " " or char in "/\\@?#[]\x7f" for char in name)


def _parse_unix(scheme: str, rest: str, seen: str) -> Address:
    if rest.startswith("//"):
        rest = rest[2:]
        if rest and not rest.startswith("/"):
            raise _refused(
                seen,
                "two slashes and then no path from the root",
                f"write '{scheme}:///{rest}', or '{scheme}:{rest}'",
            )
    return _unix(scheme, "\0" + rest[1:] if rest.startswith("@") else rest, seen)


def _unix(scheme: str, path: str, seen: object) -> Address:
    name = path[1:] if path.startswith("\0") else path
    if not name:
        raise _refused(seen, "no path", "as in 'unix:///run/me/app.sock'")
    if "\0" in name:
        raise _refused(seen, "NUL in the path", "leave it out")
    if name.startswith("@") and path == name:
        path = name = f"./{name}"  # the same file, and no abstract address when it is written
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError as exc:
        what = f"the path holds {name[exc.start : exc.end]!r}, as no file name can"
        raise _refused(seen, what, "leave it out") from None
    if length > _PATH_BYTES:
        raise _refused(
            seen,
            f"the path is {length} bytes long, a Unix socket's may be {_PATH_BYTES}",
            "choose a shorter one, or one relative to the current folder",
        )
    return Address(scheme, path=path)


def _parse_fd(text: str, seen: str) -> Address:
    if not text or text.isdigit() or text[0] in "+-":
        like = "'fd://3' or 'fd://web'"
        return Address("fd", fd=_number(text, 2**31 - 1, "descriptor", seen, like))
    if not (text.isascii() and text.isprintable()) or set(text) & {":", "/"}:
        raise _refused(seen, f"{text!r} is no descriptor's name", "as in 'fd://web'")
    return Address("fd", text)


def _for_streams(target: Address, action: str) -> Address:
    """Refuse the addresses that no stream socket can have."""
    if target.datagram:
        raise _refused(
            target,
            f"cannot {action} datagrams",
            "see pysock.DatagramServer and DatagramClient",
        )
    if target.path and not hasattr(socket, "AF_UNIX"):
        raise OSError(
            errno.EAFNOSUPPORT,
            f"this system has no Unix sockets for Python: {target}; use tcp://127.0.0.1:port",
        )
    return target


def _resolve(target: Address, action: str) -> list[tuple[int, Any]]:
    """Return (family, socket address) of everything that *target* may mean."""
    if target.path:
        return [(socket.AF_UNIX, target.path)]
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except socket.gaierror as exc:
        raise _renamed(exc, f"cannot {action} {target}: {_reason(exc)}") from None
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def _connect_one(family: int, sockaddr: Any, limit: float | None) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if isinstance(sockaddr, tuple):
            sock.settimeout(limit)
            try:
                sock.connect(sockaddr)
            except TimeoutError as exc:
                if exc.errno is None:  # ours, not the system's
                    raise TimeoutError(f"no answer in {limit:.3g} s") from None
                raise
            if sock.getsockname() == sockaddr:
                # The system chose the very port we connect to as our own; nobody listens.
                raise OSError(errno.ECONNREFUSED, "connected to itself, nobody listens there")
            sock.setblocking(False)
        else:
            sock.setblocking(False)
            _connect_unix(sock, sockaddr, limit)
        return sock
    except BaseException:
        sock.close()
        raise


def _connect_unix(sock: socket.socket, path: str, limit: float | None) -> None:
    """Connect; with a full backlog there is nothing to poll, so try again."""
    end = None if limit is None else time.monotonic() + limit
    pause = 0.001
    while True:
        code = sock.connect_ex(path)
        if code == 0:
            return
        if code != errno.EAGAIN:
            hint = {
                errno.ENOENT: ", no server has made this path",
                errno.ECONNREFUSED: ", no server listens on this path any more",
                errno.EPROTOTYPE: ", datagrams are received there: use 'unixgram:'",
            }.get(code, "")
            raise OSError(code, os.strerror(code) + hint)
        if end is not None:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError("its backlog was full all the time")
            pause = min(pause, left)
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _connect_error(
    target: Address, failures: list[tuple[Any, OSError]], waited: float | None
) -> OSError:
    """Return one error that tells all *failures*; *waited* if time ran out."""
    told = "; ".join(
        _reason(exc)
        if str(target).endswith(format_peer(sockaddr))
        else f"{format_peer(sockaddr)}: {_reason(exc)}"
        for sockaddr, exc in failures
    )
    error: OSError
    errors = [exc for _, exc in failures]
    if waited is not None:
        told = told or "resolving the name took all of it, no address was tried"
        error = TimeoutError(f"cannot connect to {target} in {waited:g} s: {told}")
    elif not failures:
        error = OSError(f"cannot connect to {target}: the name resolved to no address")
    else:
        telling = max(reversed(errors), key=_weight)
        error = _renamed(telling, f"cannot connect to {target}: {told}")
    if len(errors) > 1:
        error.__cause__ = ExceptionGroup("every address failed", errors)
    return error


def _weight(exc: OSError) -> int:
    """Rank failures: a refusal comes from the machine itself, silence may."""
    return 2 if isinstance(exc, ConnectionRefusedError) else isinstance(exc, TimeoutError)


def _renamed(exc: OSError, text: str) -> OSError:
    """Return an error of the same class and number with another text."""
    return type(exc)(text) if exc.errno is None else type(exc)(exc.errno, text)


def _reason(exc: OSError) -> str:
    return exc.strerror or str(exc)


def _local(target: Address) -> tuple[int, Any]:
    """Return the (family, socket address) to listen on."""
    if target.host:
        found = _resolve(target, "listen on")
        return next((pair for pair in found if pair[0] == socket.AF_INET), found[0])
    if socket.has_dualstack_ipv6():
        return socket.AF_INET6, ("::", target.port)
    return socket.AF_INET, ("0.0.0.0", target.port)


def _listen_tcp(
    sock: socket.socket, target: Address, sockaddr: Any, backlog: int, reuse_address: bool
) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, bool(target.host))
    if sys.platform == "win32":
        # SO_REUSEADDR would let any program there take the port over.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    elif reuse_address:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(sockaddr)
    sock.listen(backlog)
