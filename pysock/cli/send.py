"""`pysock send`: netcat for frames.

A background thread reads messages and sends them, the main thread receives replies and
prints them.  So neither side ever waits for the other to read, and however many lines
there are, no more than a buffer of them is in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from .. import AuthenticationError, Client, ConnectionClosed, FramingError, IncompleteFrame
from ..formats import NAMED
from . import DISCONNECTED, FAILED, MISUSED, Failure, Parser, check_output, writing
from .options import (
    add_address,
    add_client_security,
    as_seconds,
    as_size,
    client_security,
    format_of,
    in_options,
)
from .send_datagrams import add_options, check_options, for_datagrams, send_datagrams

DESCRIPTION = """\
Send messages to a server, each as one frame, and print the replies, each on a line of its
own.

Without MESSAGE the lines of standard input are sent, each as soon as it is read. It ends when
everything is sent and as many replies as messages have come; --no-reply and --until-close are
other ways to end.

To udp://host:port and unixgram:///path each message is one datagram, sent when the one
before it has been answered."""

DEFAULT_FRAMING = "length4"
GRACE = 5.0  # seconds of silence after which --no-reply takes a server for content

EPILOG = f"""\
examples:
  pysock send 127.0.0.1:8000 hello "how are you?"
  pysock send unix:///run/me/app.sock --no-reply < lines.txt
  pysock send localhost:6379 --framing crlf PING
  pysock send tls://app.example.org:5210 --ca certificate.pem \\
      --authkey authkey hello
  pysock send udp://127.0.0.1:9000 --timeout 1 --retries 3 hello

formats:
{textwrap.fill(", ".join(sorted(NAMED)), 78, initial_indent="  ", subsequent_indent="  ")}

TLS has no end of one direction: there --until-close waits for a server that ends the
connection by itself, and --no-reply for one that is silent for {GRACE:g} s (--timeout).

exit status: 0; 1 this side failed; 2 a wrong command line, a file that it names cannot be
used, or a message that cannot be sent; 255 no connection, a connection that failed, timed out
or ended before the last reply, or one of the two sides could not prove who it is"""

CHUNK = 64 * 1024
NAP = 0.5  # the longest sleep: a signal that comes just before one is seen after it


def configure(parser: Parser) -> None:
    """Add the verb's arguments."""
    add_address(parser, ", udp://host:port, unixgram:///path")
    add = parser.add_argument
    add(
        "messages",
        metavar="MESSAGE",
        nargs="*",
        default=[],  # without it argparse calls this required
        help="what to send; default: the lines of standard input",
    )
    add(
        "--framing",
        metavar="FORMAT",
        default=DEFAULT_FRAMING,
        help="how messages become frames, one of the formats below; default: %(default)s",
    )
    add(
        "--max-frame",
        metavar="BYTES",
        type=as_size,
        help="longest message to send or accept, as in 64k or 1M; default: the format's own, "
        "often 64M",
    )
    add(
        "--timeout",
        metavar="SECONDS",
        type=as_seconds,
        help="longest wait for a connection (default: 10), and for a server that owes a reply "
        "or takes nothing (default: no limit; for datagrams 5)",
    )
    end = parser.add_mutually_exclusive_group()
    end.add_argument(
        "--no-reply",
        action="store_true",
        help="print nothing; after the last message end this side's half of the connection, "
        f"and wait until the server ends its own or is silent for {GRACE:g} s (--timeout)",
    )
    end.add_argument(
        "--until-close",
        action="store_true",
        help="after the last message end this side's half of the connection, and print what "
        "comes until the server ends its own",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--hex",
        action="store_true",
        help="messages are given, and replies printed, in hexadecimal",
    )
    form.add_argument("--raw", action="store_true", help="print no newline after a reply")
    add_options(parser)
    add_client_security(parser)


def run(options: argparse.Namespace) -> int:
    """Connect, exchange, return 0."""
    check_options(options, DEFAULT_FRAMING)
    if not options.no_reply:
        check_output()
    if for_datagrams(options.address):
        given = _given(options, 64 * CHUNK, lambda message: message)
        send_datagrams(options, given, partial(_print, options))
        return 0
    framing = format_of(options.framing, options.max_frame)
    batches = _given(options, framing.max_frame, framing.encode)
    security = client_security(options)
    try:
        client = Client(
            options.address,
            framing,
            timeout=NAP,
            connect_timeout=options.timeout or 10.0,
            **security,
        )
    except (AuthenticationError, OSError) as exc:
        raise Failure(in_options(_reason(exc)), DISCONNECTED) from None
    except ValueError as exc:
        raise Failure(in_options(str(exc)), MISUSED) from None
    _Exchange(client, batches, options).run()
    return 0


class _Exchange:
    """Sends from one thread what the other receives the replies to."""

    def __init__(
        self, client: Client, batches: Iterable[list[bytes]], options: argparse.Namespace
    ) -> None:
        self._client = client
        self._batches = batches
        self._no_reply: bool = options.no_reply
        self._until_close: bool = options.until_close
        # A server that is still answering loses what it has not read when its client
        # is gone; so its own end is waited for.
        self._half_closes = self._no_reply or self._until_close
        self._options = options
        self._timeout: float | None = options.timeout
        self._turn = threading.Lock()  # around the two that decide whether all is done
        self._received = 0
        self._input_ended = False
        self._since = 0.0  # the server's last sign of life, or when it came to owe one
        self._failure: Failure | None = None  # of the sending thread

    def run(self) -> None:
        """Send everything, print every reply.

        Raises:
            Failure: something could not be sent, or a reply did not come.
        """
        sender = threading.Thread(target=self._send_all, daemon=True)
        try:
            sender.start()
            self._receive_all()
        except BaseException:
            self._client.linger = 0.0
            raise
        finally:
            self._client.close()
            if self._input_ended:
                sender.join()  # it may be the one that closes, and wait for the last bytes
        if self._failure is None or self._failure.status == DISCONNECTED and self._until_close:
            return  # a server that has ended the connection need not take what follows
        raise self._failure

    # ------------------------------------------------------------ the sending thread

    def _send_all(self) -> None:
        try:
            for batch in self._batches:
                self._send(batch)
        except Failure as exc:
            self._failure = exc
            if exc.status == DISCONNECTED:
                self._client.close()
        except FramingError as exc:
            number = self._client.stats.messages_out + 1
            self._failure = Failure(f"message {number}: {exc}", MISUSED)
        except ConnectionClosed:
            return  # by the main thread, which knows why
        except (AuthenticationError, OSError) as exc:
            self._failure = _lost(exc)
        except MemoryError:
            self._failure = Failure("not enough memory for this message", FAILED)
        with self._turn:
            self._input_ended = True
            self._since = time.monotonic()
            done = self._is_done()
        if done:
            self._client.close()  # this wakes the main thread
        elif self._half_closes:
            # Where that fails, the receiving thread meets the same error.
            with contextlib.suppress(OSError, ConnectionClosed):
                self._client.shutdown(socket.SHUT_WR)

    def _send(self, batch: list[bytes]) -> None:
        """Send *batch*, as long as the server goes on taking it."""
        moved = time.monotonic()
        if not self._is_owed():
            self._since = moved
        while True:
            unsent = self._client.unsent
            try:
                self._client.send_many(batch)
                return
            except TimeoutError as exc:
                accepted = getattr(exc, "accepted", 0)
            now = time.monotonic()
            if accepted or self._client.unsent != unsent:
                moved = now
            batch = batch[accepted:]
            # A server that owes replies is the receiving thread's business.
            if self._no_reply and self._timeout and now >= moved + self._timeout:
                self._client.linger = 0.0
                text = f"the server took nothing for {self._timeout:g} s"
                raise Failure(text, DISCONNECTED)

    # ------------------------------------------------------------ the main thread

    def _receive_all(self) -> None:
        while True:
            self._client.settimeout(min(NAP, max(self._patience(), 0.001)))
            try:
                replies = self._client.recv_many()
            except TimeoutError:
                if self._patience() != 0:
                    continue
                if self._no_reply:
                    return
                text = f"no reply within {self._timeout:g} s{self._score()}"
                raise Failure(text, DISCONNECTED) from None
            except (IncompleteFrame, FramingError, AuthenticationError, OSError) as exc:
                raise _lost(exc) from None
            except ConnectionClosed:
                if self._client.closed or self._until_close:
                    return
                if self._no_reply and self._input_ended:
                    return
                if self._failure is not None and self._failure.status == MISUSED:
                    raise self._failure from None
                text = f"the server closed the connection{self._score()}"
                raise Failure(text, DISCONNECTED) from None
            if not self._no_reply:
                _print(self._options, replies)
            with self._turn:
                self._received += len(replies)
                self._since = time.monotonic()
                if self._is_done():
                    return

    def _is_owed(self) -> bool:
        """Whether the server has to send something, or to end the connection."""
        if self._half_closes:
            return self._input_ended
        return self._client.stats.messages_out > self._received

    def _is_done(self) -> bool:
        return self._input_ended and not self._is_owed()

    def _patience(self) -> float:
        """Seconds that a receive may wait; 0: the server has been silent for too long."""
        limit = self._timeout or (GRACE if self._no_reply else math.inf)
        if not self._is_owed():
            return limit
        return max(0.0, self._since + limit - time.monotonic())

    def _score(self) -> str:
        if self._half_closes:
            return ""
        sent = self._client.stats.messages_out
        return f": {self._received} of {sent} replies had come" if sent else ""


def _print(options: argparse.Namespace, replies: list[bytes]) -> None:
    """Write *replies* to standard output."""
    with writing() as text:
        out = text.buffer
        for reply in replies:
            out.write(reply.hex().encode() if options.hex else reply)
            out.write(b"" if options.raw else b"\n")
        out.flush()


def _lost(exc: Exception) -> Failure:
    return Failure(f"the connection failed: {in_options(_reason(exc))}", DISCONNECTED)


def _reason(exc: Exception) -> str:
    return (isinstance(exc, OSError) and exc.strerror) or str(exc)


# ---------------------------------------------------------------- what the user gave


def _given(
    options: argparse.Namespace, longest: int, check: Callable[[bytes], object]
) -> Iterable[list[bytes]]:
    """Return the messages of the command line, or of standard input, as they come."""
    if options.messages:
        return [_arguments(options.messages, check, options.hex)]
    return _input(longest, options.hex)


def _arguments(
    texts: list[str], check: Callable[[bytes], object], in_hex: bool
) -> list[bytes]:
    """Return the messages of the command line, every one of which can be sent."""
    messages = []
    for number, text in enumerate(texts, 1):
        message = os.fsencode(text)
        try:
            if in_hex:
                message = _from_hex(message)
            check(message)
        except ValueError as exc:
            raise Failure(f"message {number}: {exc}", MISUSED) from None
        messages.append(message)
    return messages


def _from_hex(text: bytes) -> bytes:
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise ValueError("not hexadecimal: write 2 digits a byte, as in 48656c6c6f") from None


def _input(max_frame: int, in_hex: bool) -> Iterator[list[bytes]]:
    """Yield the lines of standard input, as many at a time as have come."""
    longest = max_frame + CHUNK  # a line's bytes; beyond, no format can send it
    lines_read = 0
    for lines in _lines(3 * longest if in_hex else longest):
        messages: list[bytes] = lines
        if in_hex:
            messages = []
            for line in lines:
                try:
                    messages.append(_from_hex(line))
                except ValueError as exc:
                    if messages:
                        yield messages  # those before it go
                    number = lines_read + len(messages) + 1
                    raise Failure(f"message {number}: {exc}", MISUSED) from None
        lines_read += len(lines)
        yield messages


def _lines(longest: int) -> Iterator[list[bytes]]:
    """Yield the lines of standard input without their newlines.

    Read through the descriptor: a thread that is left waiting in a file object's lock
    would make the interpreter's end fail.
    """
    begun: list[bytes] = []  # the pieces of a line whose newline has not come yet
    size = 0
    while chunk := _read_some():
        first, *lines = chunk.split(b"\n")
        begun.append(first)
        size += len(first)
        if size > longest:
            raise FramingError(f"{size} bytes and no end of the line; see --max-frame")
        if lines:
            rest = lines.pop()
            yield [b"".join(begun), *lines]
            begun, size = [rest], len(rest)
    if size:
        yield [b"".join(begun)]


def _read_some() -> bytes:
    if sys.stdin is None:
        return b""
    try:
        return os.read(sys.stdin.fileno(), CHUNK)
    except OSError as exc:
        raise Failure(f"cannot read standard input: {exc.strerror}", FAILED) from None
