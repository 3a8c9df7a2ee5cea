"""`pysock guess`: say which format the bytes of a capture follow."""

from __future__ import annotations

import argparse
import json
import shlex
from typing import Any

from ..framing import Delimiter, Fixed
from . import FAILED, Failure, Parser, check_output
from .dump import pieces, say
from .guess_notation import expression
from .guess_rank import Proposal, propose
from .guess_walk import BROKEN, CUT, EXACT
from .options import as_size

DESCRIPTION = """\
Say which formats cut the bytes of FILE, or of standard input, into frames; the best comes
first. The bytes are those of one direction of a stream, as for `pysock dump`."""

LOOK = 16 << 20  # bytes of the file

EPILOG = f"""\
examples:
  pysock guess capture.bin
  pysock guess --skip 24 capture.bin   # the first 24 bytes are no frames
  pysock guess --json < capture.bin

Each line has the Python expression that makes the format, the names of the formats that are
the same for these bytes, how many frames there are, and what speaks for it: lengths that
fit, an end exactly at a frame's end, what is alike in all frames. The bits are the sum of
that: 10 bits mean that about one in 1000 other captures would look as good by accident.
Short captures of few frames fit many formats: capture more. At most the first
{LOOK >> 20} MiB are looked at.

exit status: 0; 1 no format fits well enough, or this side failed; 2 a wrong command line or
a file that cannot be read or is no stream"""

SHOWN = 5
OWN = "length4"  # pysock's default, which is likely where nothing speaks for a protocol
PARTLY = 3


def configure(parser: Parser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add(
        "file",
        metavar="FILE",
        nargs="?",
        default="-",
        help="where the bytes are; default: standard input",
    )
    add(
        "--skip",
        metavar="BYTES",
        type=as_size,
        help="how many bytes to leave out before the first frame; default: the greeting of a "
        "protocol that has one, else 0",
    )
    add("--json", action="store_true", help="print the proposals as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Print the proposals; return 0 if there is one that fits."""
    check_output()
    data, whole = _read(options.file)
    if len(data) <= (options.skip or 0):
        what = "no bytes" if not data else f"only {len(data)} bytes, --skip is {options.skip}"
        raise Failure(f"{what}: nothing to guess from", FAILED)
    found = propose(data, options.skip, whole)
    sure = [proposal for proposal in found if proposal.is_sure][:SHOWN]
    if options.json:
        _print_json(data, whole, sure)
    elif sure:
        _print(sure, data, whole, options.file)
    else:
        _print_partly(found, data)
    return 0 if sure else FAILED


def _read(path: str) -> tuple[bytes, bool]:
    """Return the beginning of a file, and whether that is all of it."""
    data = bytearray()
    for piece in pieces(path):
        data += piece
        if len(data) > LOOK:
            return bytes(data[:LOOK]), False
    return bytes(data), True


# ---------------------------------------------------------------- output


def _print(sure: list[Proposal], data: bytes, whole: bool, path: str) -> None:
    if not whole:
        say(f"only the first {len(data)} bytes were looked at")
    for number, proposal in enumerate(sure, 1):
        names = f" = {', '.join(proposal.names)}" if proposal.names else ""
        say(f"{number}. {expression(proposal.format)}{names}: {_reasons(proposal, data)}")
    best = sure[0]
    skip = f"--skip {best.start} " if best.start else ""
    name = "FILE" if path == "-" else shlex.quote(path)
    made = expression(best.format)
    say(
        "",
        "to go on with the first:",
        f"  pysock dump --framing {shlex.quote(_called(best))} {skip}{name}",
        f"  pysock.Client(ADDRESS, {made})",
    )


def _called(proposal: Proposal) -> str:
    """Return what stands for a format after --framing."""
    if OWN in proposal.names and not proposal.sign:
        return OWN
    return (proposal.names or [expression(proposal.format).removeprefix("pysock.")])[0]


def _reasons(proposal: Proposal, data: bytes) -> str:
    walked = proposal.walked
    edges = walked.edges
    sizes = [after - at for at, after in zip(edges, edges[1:], strict=False)]
    low, high = min(sizes), max(sizes)
    count = f"{len(sizes)} frame{'s' if len(sizes) > 1 else ''} of {low}"
    parts = [f"{count} bytes" if low == high else f"{count} to {high} bytes"]
    if proposal.start:
        parts.append(f"after {proposal.start} bytes before the first")
    if walked.outcome == EXACT:
        parts.append("the last ends exactly where the bytes do")
    elif walked.outcome == CUT:
        due = f" of {walked.due}" if walked.due else ""
        parts.append(f"then one that is cut, {len(data) - edges[-1]}{due} bytes")
    else:
        parts.append(f"looked at up to offset {edges[-1]}")
    if proposal.sign:
        parts.append(proposal.sign)
    if isinstance(proposal.format, Delimiter):
        parts.append("all of it text")
    elif proposal.alike:
        parts.append(f"much alike in all: {_ranges(proposal.alike)}")
    elif isinstance(proposal.format, Fixed):
        parts.append("bytes repeat at this distance")
    if not isinstance(proposal.format, Delimiter):
        parts.append(f"{proposal.score:.0f} bits")
    return "; ".join(parts)


def _ranges(positions: list[int]) -> str:
    """Return positions as `bytes 0-2 and 5`."""
    runs: list[list[int]] = []
    for at in positions:
        if runs and runs[-1][1] == at - 1:
            runs[-1][1] = at
        else:
            runs.append([at, at])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    text = ", ".join(texts[:-1]) + " and " + texts[-1] if len(texts) > 1 else texts[0]
    return f"byte{'s' if len(positions) > 1 else ''} {text}"


def _print_partly(found: list[Proposal], data: bytes) -> None:
    say(f"nothing tiles these {len(data)} bytes well enough to be believed")
    say(
        "(where a capture begins within a frame, --skip BYTES leaves the rest of that one out)"
    )
    best = sorted(found, key=lambda proposal: -proposal.score)[:PARTLY]
    if not best:
        say("no format has even one whole frame in them")
        return
    say("the nearest:")
    for proposal in best:
        end = proposal.walked.edges[-1]
        frames = proposal.walked.frames
        text = f"{frames} frame{'s' if frames > 1 else ''} up to offset {end}"
        if proposal.walked.outcome == BROKEN:
            text += f", then {data[end : end + 8].hex(' ')}, which is none"
        elif proposal.walked.outcome == CUT:
            text += f", then one that is cut, {len(data) - end} of {proposal.walked.due} bytes"
        names = f" = {', '.join(proposal.names)}" if proposal.names else ""
        made = expression(proposal.format)
        say(f"  {made}{names}: {text}; {proposal.score:.0f} bits, too few")


def _print_json(data: bytes, whole: bool, sure: list[Proposal]) -> None:
    say(
        json.dumps(
            {
                "bytes": len(data),
                "whole": whole,
                "proposals": [_as_json(proposal) for proposal in sure],
            },
            indent=2,
        )
    )


def _as_json(proposal: Proposal) -> dict[str, Any]:
    return {
        "expression": expression(proposal.format),
        "names": proposal.names,
        "frames": proposal.walked.frames,
        "skip": proposal.start,
        "end": proposal.walked.outcome,
        "bits": round(proposal.score, 1),
    }
