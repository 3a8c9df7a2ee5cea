"""`pysock send` to an address for datagrams: each message one, each reply one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from .. import DatagramClient, FrameTooLarge
from . import DISCONNECTED, MISUSED, Failure

__all__ = ["REPLY_WITHIN", "for_datagrams", "send_datagrams"]

REPLY_WITHIN = 5.0  # seconds: a reply that was lost does not come
_STREAM_ONLY = ("until_close", "ca", "pin", "certificate", "key", "authkey", "insecure")


def for_datagrams(address: str) -> bool:
    """Whether *address* says that it is for datagrams."""
    return address.partition(":")[0].lower() in ("udp", "unixgram")


def check_options(options: argparse.Namespace, default_framing: str) -> None:
    """Refuse what means nothing for datagrams.

    Raises:
        Failure: such an option was given.
    """
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
        with DatagramClient(options.address, timeout=limit) as client:
            for batch in batches:
                for message in batch:
                    number += 1
                    if options.no_reply:
                        client.send(message)
                    else:
                        show([client.request(message)])
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
        raise Failure(exc.strerror or str(exc), DISCONNECTED) from None
    except ValueError as exc:
        raise Failure(str(exc), MISUSED) from None
