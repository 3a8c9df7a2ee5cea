"""`pysock send` to an address for datagrams: each message one, each reply one."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from functools import partial

from .. import DatagramClient, FrameTooLarge
from . import DISCONNECTED, MISUSED, Failure, Parser
from .options import as_count, in_options

__all__ = ["REPLY_WITHIN", "add_options", "check_options", "for_datagrams", "send_datagrams"]

REPLY_WITHIN = 5.0  # seconds: a reply that was lost does not come
_STREAM_ONLY = ("until_close", "ca", "pin", "certificate", "key", "authkey", "insecure")
_DATAGRAM_ONLY = ("retries", "interface", "ttl", "broadcast")


def add_options(parser: Parser) -> None:
    """Add the options that only datagrams have."""
    add = parser.add_argument_group(
        "datagrams",
        "For udp:// and unixgram:// only. The address may be a group (multicast): then the "
        "reply that comes first is printed.",
    ).add_argument
    add(
        "--retries",
        metavar="N",
        type=partial(as_count, least=0, most=1_000_000),
        default=0,
        help="send a message that is not answered so many times again, spread over --timeout; "
        "default: %(default)s",
    )
    add(
        "--interface",
        metavar="NAME",
        type=lambda text: int(text) if re.fullmatch("[0-9]{1,9}", text) else text,
        help="the network interface by which what goes to a group leaves: its name, number or "
        "IPv4 address; default: the system's choice",
    )
    add(
        "--ttl",
        metavar="N",
        type=partial(as_count, most=255),
        help="how many routers may pass it on, up to 255; default: the system's choice, for "
        "groups 1",
    )
    add("--broadcast", action="store_true", help="the address is a broadcast address")


def for_datagrams(address: str) -> bool:
    """Whether *address* says that it is for datagrams."""
    return address.partition(":")[0].lower() in ("udp", "unixgram")


def check_options(options: argparse.Namespace, default_framing: str) -> None:
    """Refuse what means nothing for datagrams, or for streams if the address is for one.

    Raises:
        Failure: such an option was given.
    """
    if not for_datagrams(options.address):
        for name in _DATAGRAM_ONLY:
            if getattr(options, name):
                text = f"--{name} is for datagrams, '{options.address}' is not"
                raise Failure(text, MISUSED)
        return
    if options.retries and options.no_reply:
        raise Failure(
            "--retries is for replies that do not come, --no-reply for none", MISUSED
        )
    for name in _STREAM_ONLY:
        if getattr(options, name):
            text = f"--{name.replace('_', '-')} is for streams, '{options.address}' is not"
            raise Failure(text, MISUSED)
    if options.framing != default_framing or options.max_frame is not None:
        text = "--framing and --max-frame are for streams: a datagram is a message as it is"
        raise Failure(text, MISUSED)


def send_datagrams(
    options: argparse.Namespace,
    batches: Iterable[list[bytes]],
    show: Callable[[list[bytes]], None],
) -> None:
    """Send every message; show what answers each.

    Raises:
        Failure: one cannot be sent, or is not answered.
    """
    limit = options.timeout or REPLY_WITHIN
    number = 0
    try:
        with DatagramClient(
            options.address,
            timeout=limit,
            broadcast=options.broadcast,
            ttl=options.ttl,
            interface=options.interface,
        ) as client:
            for batch in batches:
                for message in batch:
                    number += 1
                    if options.no_reply:
                        client.send(message)
                    else:
                        show([client.request(message, retries=options.retries)])
    except FrameTooLarge as exc:
        raise Failure(f"message {number}: {exc}", MISUSED) from None
    except TimeoutError:
        if options.no_reply:
            text = f"message {number} could not be sent within {limit:g} s"
        else:
            text = (
                f"no reply to message {number} within {limit:g} s: the datagram may be lost, "
                "or the server gives none (--no-reply)"
            )
        raise Failure(text, DISCONNECTED) from None
    except ConnectionRefusedError:
        raise Failure(f"nobody receives at {options.address}", DISCONNECTED) from None
    except OSError as exc:
        raise Failure(in_options(exc.strerror or str(exc)), DISCONNECTED) from None
    except ValueError as exc:
        raise Failure(in_options(str(exc)), MISUSED) from None
