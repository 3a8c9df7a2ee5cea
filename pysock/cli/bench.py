"""`pysock bench`: puts load on a server and says how it does.

The load comes from processes of its own, see `bench_crew`.  Here they are started, told
when to begin, and what they have counted is put together.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import time
from functools import partial
from typing import Any

from . import (
    DISCONNECTED,
    FAILED,
    INTERRUPTED,
    MISUSED,
    Failure,
    Parser,
    check_output,
    writing,
)
from .bench_crew import Crew, ctrl_c
from .bench_histogram import Histogram
from .bench_report import PERCENTILES, Progress, show
from .demo import Screen
from .options import (
    add_address,
    add_client_security,
    as_count,
    as_number,
    as_seconds,
    as_size,
    client_security,
    context_arguments,
    format_of,
)

DESCRIPTION = """\
Put load on a server of yours and say how it does: requests per second, how long replies
take, what goes wrong. Every request has one reply.

Each connection sends its next request when the reply to the last one has come; with
--depth it has several under way. With --rate requests come due at fixed times instead, as
those of independent users do, and a latency is counted from there: a server that stalls is
charged for everybody whom it keeps waiting.

Only put load on a server that is yours, or whose owner knows."""

EPILOG = """\
examples:
  pysock bench 127.0.0.1:8000
  pysock bench unix:///run/me/app.sock -c 500 -s 16k -t 30
  pysock bench 127.0.0.1:8000 --rate 20000 --json=result.json
  pysock bench localhost:6379 --framing crlf --message PING

The latency of a request ends when its reply has come whole. Requests of the warm-up are
not counted. After the end replies are still waited for, and Ctrl-C is an end like any
other, except that then they are not. A connection that is lost is replaced, after at
least 10 ms. With --framing raw a reply is what one receive returns.

what --json prints, times in seconds:
  address framing connections depth processes message_bytes rate
                          what was asked for; rate is null without --rate
  seconds                 how long requests were sent
  requests                that were sent; each is answered or unanswered
  answered unanswered     the sum of these two is "requests"
  replies                 those of "answered" that came within "seconds"
  unsent                  requests that came due (--rate), or were left (-n),
                          and could not be sent; no part of "requests"
  requests_per_second     replies / seconds
  bytes_out_per_second bytes_in_per_second
                          of everything on the wire, headers too
  latency                 of the answered requests: min mean p50 p90 p99 p99.9
                          max; null where there are none
  histogram               [latency, count] pairs; the counts add up to
                          "answered"
  connections_opened      at first and later, those that replaced others too
  errors                  counts: lost (connections), timeout (connections
                          given up), connect (attempts that failed), framing
                          (replies that do not follow it), unasked (replies
                          without a request)
  error_examples          what was said of the first error of each kind
  busy                    share of the time that the busiest of the processes
                          that send was computing
  interrupted             true after Ctrl-C

exit status: 0 also where some requests failed; 1 this side failed; 2 a wrong command line, a
file that it names cannot be used, or a message that cannot be sent; 130 after Ctrl-C; 255 no
request was answered"""

REOPENING = 0.01  # seconds between two attempts to replace lost connections, in all
CONNECTORS = 8  # connections that each process makes at a time
HANDSHAKES = 12  # of them in all with TLS or a key: servers limit those of one client
KINDS = ("lost", "timeout", "connect", "framing", "unasked")
MOST_CONNECTIONS = 1_000_000
MOST_PROCESSES = 1024
MOST_RATE = 1e9


def configure(parser: Parser) -> None:
    """Add the verb's arguments."""
    add_address(parser)
    add = parser.add_argument
    add(
        "-c",
        "--connections",
        metavar="N",
        type=partial(as_count, most=MOST_CONNECTIONS),
        default=50,
        help="connections to open; default: %(default)s",
    )
    add(
        "-d",
        "--depth",
        metavar="N",
        type=as_count,
        default=1,
        help="requests that each may have under way, without a reply yet; "
        "default: %(default)s",
    )
    message = parser.add_mutually_exclusive_group()
    message.add_argument(
        "-s",
        "--size",
        metavar="BYTES",
        type=as_size,
        default=64,
        help="length of each message, as in 100, 64k or 1M; default: %(default)s",
    )
    message.add_argument("--message", metavar="TEXT", help="send this message")
    message.add_argument("--file", metavar="FILE", help="send what this file holds")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "-t",
        "--duration",
        metavar="SECONDS",
        type=as_seconds,
        default=5.0,
        help="how long to send; default: %(default)g",
    )
    length.add_argument(
        "-n",
        "--requests",
        metavar="N",
        type=as_count,
        help="send so many requests instead, however long that takes",
    )
    add(
        "--warmup",
        metavar="SECONDS",
        type=partial(as_seconds, zero=True),
        default=0.5,
        help="how long to send before that, uncounted; default: %(default)g",
    )
    add(
        "-p",
        "--processes",
        metavar="N",
        type=partial(as_count, most=MOST_PROCESSES),
        help="processes that send; default: as many as processors, 4 at most",
    )
    add(
        "--rate",
        metavar="N",
        type=partial(as_number, what="requests per second", most=MOST_RATE),
        help="requests per second in all; default: as many as are answered",
    )
    add(
        "--framing",
        metavar="FORMAT",
        default="length4",
        help="how messages become frames, a name that `pysock send --help` lists; "
        "default: %(default)s",
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
        default=10.0,
        help="longest wait for connecting, and for a server that owes a reply; "
        "default: %(default)g",
    )
    add(
        "--json",
        metavar="FILE",
        nargs="?",
        const="-",
        help="print one JSON object, described below, instead of the report; with FILE, "
        "write it there and print the report too",
    )
    add_client_security(parser)


def run(options: argparse.Namespace) -> int:
    """Measure and report; return 0, or 130 after Ctrl-C."""
    check_output()
    message = _message(options)
    count = min(options.processes or min(_processors(), 4), options.connections)
    shares = [_share(options.connections, index, count) for index in range(count)]
    if issubclass(selectors.DefaultSelector, selectors.SelectSelector) and max(shares) > 500:
        text = f"500 connections a process are the most on this system, not {max(shares)}"
        raise Failure(f"{text}: see --processes", MISUSED)
    with contextlib.closing(Progress()) as progress:
        results, interrupted = _measure(options, message, shares, progress)
    histogram = Histogram()
    for each in results:
        histogram.add(each["histogram"])
    result = _put_together(options, len(message), results, histogram)
    result["interrupted"] = interrupted
    _check(result, interrupted)
    text = json.dumps(result) + "\n"
    if options.json == "-":
        with writing() as out:
            out.write(text)
    else:
        show(Screen(), result, histogram)
    if options.json not in (None, "-"):
        try:
            with open(options.json, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as exc:
            raise Failure(f"cannot write {options.json}: {exc.strerror}", FAILED) from None
    return INTERRUPTED if interrupted else 0


def _measure(
    options: argparse.Namespace, message: bytes, shares: list[int], progress: Progress
) -> tuple[list[dict[str, Any]], bool]:
    """Return what each process has counted, and whether Ctrl-C was the end.

    Raises:
        Failure: nothing could be measured.
    """
    security = client_security(options)
    plan = {
        "address": options.address,
        "framing": options.framing,
        "max_frame": options.max_frame,
        "size": len(message),
        "depth": options.depth,
        "timeout": options.timeout,
        "reopening": REOPENING * len(shares),
        "connectors": _connectors(len(shares), security),
        "security": _portable(options, security),
    }
    with Crew([plan | {"connections": share} for share in shares], message) as crew:
        progress.update(0.0, "connecting")
        opened = crew.answers()
        if not sum(each["opened"] for each in opened):
            raise _nothing_worked(opened)
        if options.warmup:
            progress.update(0.0, "warming up")
            crew.order(_orders(options, shares, options.warmup, None))
            warm = crew.answers()
            if not any(each["answered"] for each in warm) and _errors(warm):
                raise _nothing_worked(warm)
        seconds = 0.0 if options.requests else options.duration
        orders = _orders(options, shares, seconds, options.requests)

        def watch(answered: int) -> None:
            if pressed:
                crew.stop()
            passed = time.monotonic() - began
            share = answered / options.requests if options.requests else passed / seconds
            progress.update(share, f"{answered / max(passed, 0.1):,.0f} requests/s")

        with ctrl_c() as pressed:
            began = time.monotonic()
            crew.order(orders)
            results = crew.answers(watch)
        for each, first in zip(results, opened, strict=True):
            for kind, count in first["errors"].items():  # they are no part of the warm-up
                each["errors"][kind] = each["errors"].get(kind, 0) + count
            each["examples"] = first["examples"] | each["examples"]
        return results, bool(pressed)


def _connectors(processes: int, security: dict[str, Any]) -> int:
    """Return how many connections each process may be making at a time."""
    if "tls" in security or "authkey" in security:
        return max(1, HANDSHAKES // processes)
    return CONNECTORS


def _portable(options: argparse.Namespace, security: dict[str, Any]) -> dict[str, Any]:
    """Return *security* as JSON can have it; it goes through a pipe."""
    key: bytes | None = security.get("authkey")
    return security | {
        "tls": context_arguments(options),
        "authkey": None if key is None else key.hex(),
    }


def _orders(
    options: argparse.Namespace, shares: list[int], seconds: float, requests: int | None
) -> list[dict[str, Any]]:
    """Return the order for each process, according to its share of the connections."""
    total = sum(shares)
    parts: list[int | None] = [None] * len(shares)
    if requests is not None:
        ends = [requests * sum(shares[:index]) // total for index in range(len(shares) + 1)]
        parts = [end - begin for begin, end in zip(ends, ends[1:], strict=False)]
    rate = options.rate or 0.0
    return [
        {
            "seconds": seconds,
            "requests": part,
            "rate": rate * share / total,
            "offset": index / rate if rate else 0.0,
        }
        for index, (share, part) in enumerate(zip(shares, parts, strict=True))
    ]


# ---------------------------------------------------------------- the result


def _put_together(
    options: argparse.Namespace, size: int, results: list[dict[str, Any]], latency: Histogram
) -> dict[str, Any]:
    """Return the object that --json prints."""

    def total(name: str) -> int:
        return sum(each[name] for each in results)

    seconds = max(each["seconds"] for each in results)
    examples: dict[str, str] = {}
    for each in results:
        examples = each["examples"] | examples
    return {
        "address": options.address,
        "framing": options.framing,
        "connections": options.connections,
        "depth": options.depth,
        "processes": len(results),
        "message_bytes": size,
        "rate": options.rate,
        "seconds": seconds,
        "requests": total("sent"),
        "answered": total("answered"),
        "unanswered": total("sent") - total("answered"),
        "replies": total("in_time"),
        "unsent": total("unsent"),
        "requests_per_second": total("in_time") / seconds,
        "bytes_out_per_second": total("bytes_out") / seconds,
        "bytes_in_per_second": total("bytes_in") / seconds,
        "latency": _summary(latency) if latency.total else None,
        "histogram": [[_seconds_of(middle), count] for middle, count in latency],
        "connections_opened": total("opened"),
        "errors": {kind: _errors(results, kind) for kind in KINDS},
        "error_examples": examples,
        "busy": min(1.0, max(each["cpu"] / each["seconds"] for each in results)),
    }


def _summary(latency: Histogram) -> dict[str, float]:
    return {
        "min": _seconds_of(latency.smallest),
        "mean": _seconds_of(latency.mean),
        **{f"p{each:g}": _seconds_of(latency.percentile(each)) for each in PERCENTILES},
        "max": _seconds_of(latency.largest),
    }


def _seconds_of(nanoseconds: float) -> float:
    return round(nanoseconds) / 1e9


def _errors(results: list[dict[str, Any]], kind: str | None = None) -> int:
    """Return how many errors there were, of one kind or of any."""
    return sum(
        count
        for each in results
        for name, count in each["errors"].items()
        if kind in (None, name)
    )


def _check(result: dict[str, Any], interrupted: bool) -> None:
    """Raise where there is nothing to report."""
    if result["answered"]:
        return
    if any(result["errors"].values()):
        raise _nothing_worked([{"examples": result["error_examples"]}])
    if interrupted:
        raise KeyboardInterrupt


def _nothing_worked(results: list[dict[str, Any]]) -> Failure:
    """Return what tells why, the most telling reason of all."""
    for kind in ("framing", "lost", "timeout", "connect"):
        for each in results:
            if kind in each["examples"]:
                why: str = each["examples"][kind]
                return Failure(
                    why if kind == "connect" else f"no request was answered: {why}",
                    DISCONNECTED,
                )
    return Failure("no request was answered", DISCONNECTED)


# ---------------------------------------------------------------- what the user gave


def _message(options: argparse.Namespace) -> bytes:
    """Return the message to send, which the format can carry."""
    framing = format_of(options.framing, options.max_frame)
    if options.message is not None:
        message = os.fsencode(options.message)
    elif options.file is not None:
        try:
            with open(options.file, "rb") as file:
                message = file.read()
        except OSError as exc:
            raise Failure(f"cannot read {options.file}: {exc.strerror}", MISUSED) from None
    elif options.size > framing.max_frame:
        text = f"message: length {options.size} exceeds {framing.max_frame}; see --max-frame"
        raise Failure(text, MISUSED)
    else:
        message = b"x" * options.size
    try:
        framing.encode(message)
    except ValueError as exc:
        own = options.message is not None or options.file is not None
        todo = "" if own else "; give a request of the protocol with --message or --file"
        raise Failure(f"message: {exc}{todo}", MISUSED) from None
    return message


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _share(total: int, index: int, count: int) -> int:
    """Return the part of *total* that number *index* of *count* gets."""
    return total * (index + 1) // count - total * index // count
