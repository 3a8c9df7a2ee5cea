"""What `pysock bench` shows: progress while it measures, then the report."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import shutil
import sys
from bisect import bisect_right
from typing import Any

from .bench_histogram import Histogram
from .demo import Screen

__all__ = ["Progress", "show"]

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
ROWS = 16  # of the picture, at most
BUSY = 0.9  # share of a core from which on a load process may be what is measured

# Where the rows of the picture begin within one power of ten, the finest choice first.
_STEPS = (
    (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.3, 8.0),
    (1.0, 1.6, 2.5, 4.0, 6.3),
    (1.0, 2.0, 5.0),
    (1.0,),
)

# How each kind of error is told, and the same for several.
_ERRORS = {
    "lost": ("connection lost", "connections lost"),
    "timeout": ("connection given up", "connections given up"),
    "connect": ("connection not opened", "connections not opened"),
    "framing": ("reply out of format", "replies out of format"),
    "unasked": ("reply too many", "replies too many"),
}


def show(screen: Screen, result: dict[str, Any], histogram: Histogram) -> None:
    """Print the report.

    Args:
        screen: where to.
        result: what `--json` would print.
        histogram: the latencies.
    """
    screen.begin(f"{_headline(result)}\n")
    late = "" if not result["interrupted"] else ", when it was interrupted"
    screen.row("replies", f"{result['replies']:,} in {result['seconds']:.2f} s{late}")
    screen.row("requests/s", f"{result['requests_per_second']:,.0f}", good=True)
    out, back = (result[f"bytes_{way}_per_second"] / 1e6 for way in ("out", "in"))
    screen.row("MB/s", f"{_short(out)} out, {_short(back)} in")
    screen.row("connections", f"{result['connections_opened']:,} opened")
    for kind, (one, several) in _ERRORS.items():
        if count := result["errors"][kind]:
            name = one if count == 1 else several
            example = result["error_examples"][kind]
            screen.row("errors", f"{count:,} {name}: {example}", bad=True)
    if count := result["unanswered"]:
        screen.row("unanswered", f"{count:,} of {result['requests']:,} requests", bad=True)
    if count := result["unsent"]:
        text = f"{count:,} requests were due and could not be sent"
        screen.row("unsent", f"{text}: the latencies leave them out", bad=True)
    if result["busy"] > BUSY:
        text = "the load processes were at their limit: try more (-p)"
        screen.row("busy", text, bad=True)
    if histogram.total:
        _latencies(screen, histogram)


def _headline(result: dict[str, Any]) -> str:
    connections, depth = result["connections"], result["depth"]
    text = f"{connections:,} connections" if connections > 1 else "1 connection"
    if depth > 1:
        text += f" with {depth:,} requests under way"
    if result["rate"]:
        text += f", {result['rate']:,g} requests/s asked for"
    return f"{result['address']}: {text}, {result['message_bytes']:,} bytes each"


def _latencies(screen: Screen, histogram: Histogram) -> None:
    names = [f"p{percent:g}" for percent in PERCENTILES]
    values = [histogram.percentile(percent) for percent in PERCENTILES]
    cells = zip([*names, "max"], [*values, histogram.largest], strict=True)
    shown = [(name, duration(value)) for name, value in cells]
    widths = [max(len(name), len(value)) + 3 for name, value in shown]
    lines = [
        "".join(f"{pair[line]:<{width}}" for pair, width in zip(shown, widths, strict=True))
        for line in (0, 1)
    ]
    screen.title("latency")
    for line in lines:
        screen.say(f"  {line.rstrip()}")
    screen.title("replies by latency")
    for line in picture(histogram, _width(), screen.can_show("█▏")):
        screen.say(f"  {line}")


def _width() -> int:
    return shutil.get_terminal_size().columns


def picture(histogram: Histogram, width: int, blocks: bool) -> list[str]:
    """Return lines that draw the histogram, on a logarithmic axis.

    Args:
        histogram: not an empty one.
        width: columns of the screen.
        blocks: whether it can show block elements.
    """
    edges = _edges(histogram.smallest, histogram.largest)
    counts = [0] * (len(edges) - 1)
    for latency, count in histogram:
        counts[max(0, bisect_right(edges, latency, hi=len(counts)) - 1)] += count
    total, most = sum(counts), max(counts)
    lines = []
    number = len(f"{most:,}")
    room = max(8, width - 35 - number)  # what the rest of a row and its indent leave
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        span = f"{duration(low):>7} - {duration(high):<7}"
        percent = 100 * count / total
        share = "<0.1" if percent < 0.05 else f"{percent:.1f}"
        figures = f"{share:>5} % {count:>{number},}" if count else ""
        lines.append(f"{span} {_bar(count / most, room, blocks)} {figures}".rstrip())
    return lines


def _edges(smallest: float, largest: float) -> list[float]:
    """Return where rows begin, in nanoseconds, and the last ends; not too many of them."""
    for steps in _STEPS:
        low = _step_below(smallest, steps)
        high = _step_below(largest, steps)
        if high - low < ROWS:
            break
    return [
        10.0 ** (index // len(steps)) * steps[index % len(steps)]
        for index in range(low, high + 2)
    ]


def _step_below(value: float, steps: tuple[float, ...]) -> int:
    """Return the number of the last step, counted from 1 ns, that is not above *value*."""
    value = max(1.0, value)
    power = math.floor(math.log10(value) + 1e-12)
    return power * len(steps) + bisect_right(steps, value / 10.0**power) - 1


def _bar(share: float, room: int, blocks: bool) -> str:
    """Return a bar over *share* of the room; a share above 0 can be seen."""
    eighths = max(1 if share else 0, round(share * room * 8))
    if not blocks:
        return ("#" * max(1 if share else 0, eighths // 8)).ljust(room)
    return ("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()).ljust(room)


def duration(nanoseconds: float) -> str:
    """Return a time with three digits and its unit, as in "1.25 ms"."""
    for unit, size in (("ns", 1.0), ("us", 1e3), ("ms", 1e6)):
        if nanoseconds < 999.5 * size:
            return f"{_short(nanoseconds / size)} {unit}"
    return f"{_short(nanoseconds / 1e9)} s"


def _short(number: float) -> str:
    """Three digits are as much as a measurement of this kind can say."""
    if number >= 99.95:
        return f"{number:,.0f}"
    text = f"{number:.{1 if number >= 9.995 else 2}f}"
    return text.rstrip("0").rstrip(".")


class Progress:
    """A bar on standard error, where that is a terminal; else nothing."""

    def __init__(self) -> None:
        err = sys.stderr
        self._shown = err is not None and err.isatty() and os.environ.get("TERM") != "dumb"
        self._plain = 0  # columns of the line that stands there
        self._rich: Any = None
        if self._shown:
            with contextlib.suppress(ImportError):  # then the plain one will do
                self._rich = _rich_bar()

    def update(self, share: float, text: str) -> None:
        """Show that *share* of the work is done, and *text*."""
        if not self._shown:
            return
        share = min(max(share, 0.0), 1.0)
        if self._rich is not None:
            self._rich.update(self._rich.task_ids[0], completed=share, description=text)
            self._rich.refresh()
            return
        room = min(30, _width() - len(text) - 10)
        bar = f"[{'#' * round(share * room):<{room}}] " if room >= 8 else ""
        line = f"{bar}{share:4.0%} {text}"[: _width() - 1]
        print(f"\r{line:<{self._plain}}", end="", file=sys.stderr, flush=True)
        self._plain = len(line)

    def close(self) -> None:
        """Take the bar away."""
        if self._rich is not None:
            self._rich.stop()
        elif self._plain:
            print("\r" + " " * self._plain + "\r", end="", file=sys.stderr, flush=True)
        self._shown = False


def _rich_bar() -> Any:
    """Return a started progress bar of rich, with its one task.

    Raises:
        ImportError: rich is not installed.
    """
    progress = importlib.import_module("rich.progress")
    console = importlib.import_module("rich.console").Console(stderr=True)
    bar = progress.Progress(
        progress.BarColumn(),
        progress.TextColumn("{task.percentage:3.0f}% {task.description}", markup=False),
        console=console,
        transient=True,
        auto_refresh=False,
    )
    bar.add_task("", total=1.0)
    bar.start()
    return bar
