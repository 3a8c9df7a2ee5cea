"""Sockets for datagrams: addresses resolved, bound, connected, joined to groups."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Iterable

from .address import Address, AddressLike, parse
from .unixpath import Made, bind_private, identity, unlink_if_same

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "Made",
    "bound",
    "check",
    "identity",
    "is_group",
    "join",
    "join_all",
    "local",
    "most_of",
    "parse_datagram",
    "remote",
    "remove_temporary",
    "serving",
    "set_options",
    "temporary_path",
    "unlink_if_same",
]

UDP_MOST = 65535  # bytes; what a length field of 16 bits can tell
UNIX_MOST = 256 * 1024  # what Linux sends with the buffers it gives from the start

_EXAMPLES = "'udp://127.0.0.1:8000' or 'unixgram:///run/me/app.sock'"
_MULTICAST_ALL = 49  # Linux; the socket module has no name for it
_MESSAGES = {socket.SOCK_DGRAM, socket.SOCK_RAW, getattr(socket, "SOCK_RDM", None)}


def parse_datagram(address: AddressLike) -> Address:
    """Return what *address* means, where it is for datagrams.

    ("host", port), "host:port" and a path mean UDP and Unix datagrams here.

    Raises:
        TypeError, ValueError: it is malformed, or for a stream.
    """
    target = parse(address)
    scheme = address.partition(":")[0].lower() if isinstance(address, str) else ""
    if scheme in ("tcp", "tls", "unix"):
        raise ValueError(f"address '{target}' is for a stream, expected {_EXAMPLES}")
    if isinstance(address, Address) and not target.datagram:
        raise ValueError(f"address '{target}' is for a stream, expected {_EXAMPLES}")
    if target.scheme == "fd":
        raise ValueError(
            f"address '{target}': pass the inherited socket itself, as socket.socket(fileno=3)"
        )
    scheme = "unixgram" if target.path else "udp"
    if target.path and not hasattr(socket, "AF_UNIX"):
        raise OSError(
            errno.EAFNOSUPPORT,
            f"this system has no Unix sockets for Python: {target}; use udp://127.0.0.1:port",
        )
    return Address(scheme, target.host, target.port, target.path)


def most_of(family: int) -> int:
    """Return how long datagrams of that family mostly are at most, in bytes."""
    return UNIX_MOST if family == getattr(socket, "AF_UNIX", None) else UDP_MOST


def check(sock: socket.socket) -> None:
    """Refuse a socket that gives no datagrams.

    Raises:
        TypeError: it is no socket.
        ValueError: it is for a stream, or for a sequence of packets.
    """
    if not isinstance(sock, socket.socket):
        raise TypeError(f"sock is a {type(sock).__name__}, expected a socket")
    if sock.fileno() < 0:
        raise ValueError("the socket is closed")
    if sock.type not in _MESSAGES:
        kind = getattr(sock.type, "name", sock.type)
        raise ValueError(f"the socket is a {kind}, not for datagrams: use Connection for it")


def is_group(host: str) -> bool:
    """Whether *host* is the number of a multicast group."""
    try:
        number = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(number, "ipv4_mapped", None) or number).is_multicast


def remote(address: AddressLike, family: int = socket.AF_UNSPEC) -> tuple[int, Any]:
    """Return the (family, socket address) to send to.

    Args:
        address: any form; names are resolved.
        family: the one wanted.  An IPv6 socket takes IPv4 addresses in their mapped form.

    Raises:
        OSError: the name cannot be resolved.
        ValueError: *address* is malformed, or of another family.
    """
    target = parse_datagram(address)
    if target.path:
        if family not in (socket.AF_UNSPEC, socket.AF_UNIX):
            raise ValueError(f"address '{target}' cannot be sent to from this socket")
        return socket.AF_UNIX, target.path
    if not target.host:
        raise ValueError(
            f"address '{target}': no host, which means every local address and is for "
            f"receiving; name one, as in 'udp://127.0.0.1:{target.port}'"
        )
    if not target.port:
        raise ValueError(f"address '{target}': port 0 is for receiving, name the other's port")
    if family not in (socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6):
        raise ValueError(f"address '{target}' cannot be sent to from this socket")
    found = _resolve(target, family)
    if family == socket.AF_UNSPEC:
        # Datagrams tell of no failure that could be answered with the next address.
        return next((pair for pair in found if pair[0] == socket.AF_INET), found[0])
    return found[0]


def local(target: Address) -> tuple[int, Any]:
    """Return the (family, socket address) to receive at."""
    if target.path:
        return socket.AF_UNIX, target.path
    if target.host:
        found = _resolve(target, socket.AF_UNSPEC)
        return next((pair for pair in found if pair[0] == socket.AF_INET), found[0])
    if socket.has_dualstack_ipv6():
        return socket.AF_INET6, ("::", target.port)
    return socket.AF_INET, ("0.0.0.0", target.port)


def _resolve(target: Address, family: int) -> list[tuple[int, Any]]:
    flags = socket.AI_V4MAPPED if family == socket.AF_INET6 else 0
    try:
        found = socket.getaddrinfo(
            target.host, target.port, family, socket.SOCK_DGRAM, flags=flags
        )
    except socket.gaierror as exc:
        raise type(exc)(exc.errno, f"cannot resolve {target}: {exc.strerror}") from None
    return [(each, sockaddr) for each, _, _, _, sockaddr in found]


def serving(
    target: Address,
    reuse_address: bool,
    reuse_port: bool,
    broadcast: bool,
    interface: str | int | None = None,
) -> tuple[socket.socket, Made | None]:
    """Return a socket that receives at *target*, and the identity of a path it made.

    Raises:
        OSError: the address cannot be had.
    """
    family, sockaddr = local(target)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if target.path:
            bind_private(sock, target.path)
            made = None if target.abstract else identity(target.path)
            return sock, made
        group = is_group(target.host)
        if group and family == socket.AF_INET6 and not sockaddr[3] and interface is not None:
            sockaddr = (*sockaddr[:3], _index(interface))  # such a group is one network's
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, bool(target.host))
        if group or reuse_address:
            # Of a group each of several programs is to get every datagram.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif sys.platform == "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        if reuse_port:
            if not hasattr(socket, "SO_REUSEPORT"):
                raise OSError(errno.ENOPROTOOPT, "this system has no SO_REUSEPORT")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if group and sys.platform == "win32":
            sockaddr = ("", *sockaddr[1:])  # which binds to no group
        sock.bind(sockaddr)
        return sock, None
    except OSError as exc:
        sock.close()
        reason = exc.strerror or str(exc)
        raise type(exc)(exc.errno, f"cannot receive at {target}: {reason}") from None
    except BaseException:
        sock.close()
        raise


def bound(family: int, sockaddr: Any = None) -> socket.socket:
    """Return a socket that can be answered.

    Args:
        family: of the socket.
        sockaddr: the address to receive at; None: the system chooses.
    """
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == getattr(socket, "AF_UNIX", None):
            if sockaddr is not None:
                bind_private(sock, sockaddr)
            elif sys.platform == "linux":
                sock.bind("")  # to a name that nobody has
        else:
            if sockaddr is None and sys.platform == "win32":
                # Nothing can be waited for there with a socket that has no address.
                sockaddr = ("::" if family == socket.AF_INET6 else "0.0.0.0", 0)
            if sockaddr is not None and sockaddr[0] == "::" and socket.has_dualstack_ipv6():
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            if sockaddr is not None:
                sock.bind(sockaddr)
        return sock
    except BaseException:
        sock.close()
        raise


def temporary_path() -> str:
    """Return a path for a Unix socket where the system gives none a name of its own."""
    folder = tempfile.mkdtemp(prefix="pysock-")  # which only this user can enter
    return os.path.join(folder, "client")


def remove_temporary(path: str) -> None:
    """Remove what `temporary_path` made, and the socket there."""
    with contextlib.suppress(OSError):
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


def set_options(
    sock: socket.socket, broadcast: bool, ttl: int | None, interface: str | int | None
) -> None:
    """Set what concerns datagrams that leave.

    Args:
        broadcast: let them go to everybody on the network.
        ttl: routers that they may pass; None: as the system has it, 1 for groups.
        interface: by which those to groups leave: its name or number, or its IPv4 address.
    """
    if broadcast:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if ttl is not None:
        if not isinstance(ttl, int) or not 1 <= ttl <= 255:
            raise ValueError(f"ttl is {ttl!r}, expected 1 to 255")
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
        if _speaks_ipv4(sock):
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
    if interface is None:
        return
    ipv4 = isinstance(interface, str) and interface.count(".") == 3
    if sock.family == socket.AF_INET6 and not ipv4:
        index = _index(interface)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    if _speaks_ipv4(sock):
        option = _ipv4_interface(interface)
        if len(option) == 8:
            option = b"\0\0\0\0" + option  # no group
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, option)


def _speaks_ipv4(sock: socket.socket) -> bool:
    if sock.family == socket.AF_INET6:
        # An IPv6 socket that takes IPv4 as well has these options too, on Linux.
        only = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        return sys.platform == "linux" and not only
    return sock.family == socket.AF_INET


def _only_joined(sock: socket.socket) -> None:
    """Have the socket hear of no groups but those that it joins itself."""
    if sys.platform == "linux" and sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _MULTICAST_ALL, 0)
    elif sys.platform == "linux" and sock.family == socket.AF_INET6:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IPV6, 29, 0)  # IPV6_MULTICAST_ALL, Linux 4.20


def join(
    sock: socket.socket, group: str, interface: str | int | None = None, leave: bool = False
) -> None:
    """Have the socket receive what is sent to a multicast group, or no more.

    Args:
        group: its number.
        interface: on which network: the interface's name or number, or for IPv4 its
            address; None: the system chooses.
        leave: end it.

    Raises:
        OSError: the group cannot be joined.
        ValueError: *group* is not one, or not of this socket's family.
    """
    host, _, zone = group.partition("%")
    if not is_group(host):
        raise ValueError(
            f"group {group!r} is no multicast address, expected one of 224.0.0.0/4 or ff00::/8"
        )
    number = ipaddress.ip_address(host)
    if zone and interface is None:
        interface = zone
    if isinstance(number, ipaddress.IPv6Address):
        if sock.family != socket.AF_INET6:
            raise ValueError(f"group {group!r} needs an IPv6 socket")
        index = 0 if interface is None else _index(interface)
        sock.setsockopt(
            socket.IPPROTO_IPV6,
            socket.IPV6_LEAVE_GROUP if leave else socket.IPV6_JOIN_GROUP,
            number.packed + struct.pack("@I", index),
        )
        return
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise ValueError(f"group {group!r} needs a UDP socket")
    # An IPv6 socket that takes IPv4 as well joins IPv4 groups by this option too.
    sock.setsockopt(
        socket.IPPROTO_IP,
        socket.IP_DROP_MEMBERSHIP if leave else socket.IP_ADD_MEMBERSHIP,
        number.packed + (b"\0\0\0\0" if interface is None else _ipv4_interface(interface)),
    )


def join_all(sock: socket.socket, groups: Iterable[str], interface: str | int | None) -> None:
    """Join every one of *groups*, and hear of no others."""
    if isinstance(groups, str):
        raise TypeError(f"groups is {groups!r}, expected a list of addresses")
    wanted = list(groups)
    if wanted:
        _only_joined(sock)
    for group in wanted:
        join(sock, group, interface)


def _index(interface: str | int) -> int:
    if isinstance(interface, int):
        return interface
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        names = ", ".join(name for _, name in socket.if_nameindex())
        raise ValueError(f"no interface {interface!r} here; there is {names}") from None


def _ipv4_interface(interface: str | int) -> bytes:
    """Return the interface as IP_ADD_MEMBERSHIP has it behind the group."""
    if isinstance(interface, str) and interface.count(".") == 3:
        with contextlib.suppress(OSError):
            return socket.inet_aton(interface)
    index = _index(interface)
    if sys.platform == "win32":
        return struct.pack("!I", index)
    return b"\0\0\0\0" + struct.pack("@i", index)
