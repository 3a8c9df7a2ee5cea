"""Draws the charts of bench/results: SVG files beside the JSON that they are drawn from.

    python bench/charts.py [FOLDER]

The same JSON gives the same bytes.  A file that is not there has no chart, and a work or
a rival that was not run is left out.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from goals import IDLE
from results import FOLDER
from wakeup import in_words

STYLE = {
    "svg.hashsalt": "pysock",
    "svg.fonttype": "path",  # the reader need not have the font
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "legend.frameon": False,
}

# Okabe and Ito's colours; who shares one has another marker and a broken line.
LOOKS: dict[str, tuple[str, str, str, str]] = {
    "pysock": ("pysock", "#d55e00", "o", "-"),
    "c": ("C", "#000000", "s", "-"),
    "redis": ("redis-server", "#cc79a7", "D", "-"),
    "uvloop": ("uvloop Protocol", "#0072b2", "^", "-"),
    "asyncio": ("asyncio Protocol", "#56b4e9", "v", "-"),
    "streams": ("asyncio streams", "#56b4e9", "x", "--"),
    "twisted": ("Twisted", "#009e73", "P", "-"),
    "threads": ("socketserver", "#e69f00", "*", "-"),
    "multiprocessing": ("multiprocessing", "#e69f00", "<", "-"),
    "pyzmq": ("pyzmq", "#cc79a7", ">", "-"),
    "pynng": ("pynng", "#cc79a7", "X", "--"),
    "thriftpy2": ("thriftpy2", "#009e73", "p", "--"),
    "python": ("pure Python", "#888888", "d", "-"),
}
PERCENTILES = {"p50": "50 %", "p90": "90 %", "p99": "99 %", "p999": "99.9 %"}
SIZES = tuple(f"libraries_{size}" for size in ("64", "1k", "16k", "256k", "4m"))
LATENCY = "connections_50"

Document = Mapping[str, Any]
Line = list[tuple[float, float, float, float]]  # x; the median, the quartiles of the rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    draw_all(parser.parse_args().folder)


def draw_all(folder: Path) -> None:
    """Draw each chart for which *folder* has the JSON."""
    for source, draw in CHARTS:
        path = folder / f"{source}.json"
        if not path.exists():
            continue
        document = json.loads(path.read_text(encoding="utf-8"))
        with matplotlib.rc_context(STYLE):
            for name, figure in draw(document):
                figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
                print(folder / f"{name}.svg")


def draw_libraries(document: Document) -> list[tuple[str, Figure]]:
    works = [name for name in SIZES if name in document["works"]]
    if not works:
        return []
    figure, axes = _new("Messages per second by size", "one connection, one way, TCP loopback")
    lines = _lines(document, works, _by("size"), _rate)
    _plot(axes, lines)
    _scale(axes, "size of a message", "messages per second", _bytes, base=2)
    return [("sizes", _captioned(figure, document, works))]


def draw_connections(document: Document) -> list[tuple[str, Figure]]:
    charts = []
    busy = [name for name in document["works"] if name.startswith("connections_")]
    if busy:
        figure, axes = _new(
            "Requests per second by connections", "64 B echo, 1 under way each"
        )
        _plot(axes, _lines(document, busy, _by("connections"), _rate))
        _scale(axes, "connections, all busy", "requests per second", _plain)
        axes.set_yscale("linear")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(_plain))
        charts.append(("connections", _captioned(figure, document, busy)))
    idle = [name for name in IDLE.values() if name in document["works"]]
    if idle:
        told = "user memory of the server's process, no sockets' buffers; no point: no growth"
        figure, axes = _new("Memory by connections", told)
        _plot(axes, _lines(document, idle, _by("idle"), _memory))
        _scale(axes, "idle connections", "memory of all connections", _plain, _bytes)
        charts.append(("memory", _captioned(figure, document, idle)))
    if LATENCY in document["works"]:
        charts.append(("latency", _latency(document)))
    return charts


def _latency(document: Document) -> Figure:
    rivals = document["works"][LATENCY]["rivals"]
    count = document["works"][LATENCY]["work"]["connections"]
    title = f"64 B echo, {count} connections, the next request after the reply"
    figure, axes = _new("How long a request takes", title)
    lines: dict[str, Line] = {}
    for rival, one in rivals.items():
        rounds = one["rounds"]
        lines[rival] = [
            (at, *_middle([1e3 * value for value in rounds[name]]))
            for at, name in enumerate(PERCENTILES)
            if name in rounds
        ]
    _plot(axes, lines)
    axes.set_yscale("log")
    axes.set_xticks(range(len(PERCENTILES)), PERCENTILES.values())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("share of the requests that were answered in this time or less")
    axes.set_ylabel("milliseconds")
    return _captioned(figure, document, [LATENCY])


def draw_growth(document: Document) -> list[tuple[str, Figure]]:
    charts = []
    for axis, title, told, label, form in (
        ("size", "Time by size", "one message there and back", "size of a message", _bytes),
        ("depth", "Time by depth", "32 B, one connection", "requests under way", _plain),
        (
            "connections",
            "Time by connections",
            "64 B, 1 under way each",
            "connections",
            _plain,
        ),
    ):
        works = [n for n, w in document["works"].items() if w["work"]["axis"] == axis]
        if not works:
            continue
        figure, axes = _new(title, told)
        _plot(axes, _lines(document, works, _by("x"), _microseconds))
        base = 2 if axis != "connections" else 10
        _scale(axes, label, "microseconds for a message", form, base=base)
        charts.append((f"growth-{axis}", _captioned(figure, document, works)))
    works = [n for n, w in document["works"].items() if w["work"]["axis"] == "processes"]
    if works:
        charts.append(("growth-processes", _processes(document, works)))
    return charts


def _processes(document: Document, works: Sequence[str]) -> Figure:
    """Bars: one and two processes of each server."""
    figure, axes = _new("Requests per second by processes", "50 connections")
    labels = []
    for at, name in enumerate(works):
        one = document["works"][name]
        labels.append(one["work"]["title"])
        for side, (rival, color) in enumerate(
            zip(one["rivals"], ("#56b4e9", "#0072b2"), strict=False)
        ):
            middle, low, high = _rate(one["rivals"][rival])
            axes.bar(at + 0.4 * (side - 0.5), middle, 0.36, color=color, label=f"{side + 1}")
            axes.errorbar(
                at + 0.4 * (side - 0.5),
                middle,
                [[middle - low], [high - middle]],
                color="black",
            )
    axes.set_xticks(range(len(labels)), labels)
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.set_ylabel("requests per second")
    handles, names = axes.get_legend_handles_labels()
    seen = dict(zip(names, handles, strict=True))
    axes.legend(
        seen.values(),
        seen.keys(),
        title="processes",
        loc="center left",
        bbox_to_anchor=(1, 0.5),
    )
    return _captioned(figure, document, works)


CHARTS: tuple[tuple[str, Callable[[Document], list[tuple[str, Figure]]]], ...] = (
    ("libraries", draw_libraries),
    ("connections", draw_connections),
    ("growth", draw_growth),
)


# ---- figures out of rounds ----


def _middle(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return median(values), low, high


def _rate(one: Mapping[str, Any]) -> tuple[float, float, float]:
    return _middle([1 / seconds for seconds in one["rounds"]["seconds"]])


def _microseconds(one: Mapping[str, Any]) -> tuple[float, float, float]:
    return _middle([seconds * 1e6 for seconds in one["rounds"]["seconds"]])


def _memory(one: Mapping[str, Any]) -> tuple[float, float, float]:
    return _middle(one["rounds"]["memory"])


def _by(name: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda work: float(work[name])


def _lines(
    document: Document,
    works: Sequence[str],
    at: Callable[[Mapping[str, Any]], float],
    figure: Callable[[Mapping[str, Any]], tuple[float, float, float]],
) -> dict[str, Line]:
    lines: dict[str, Line] = {}
    for name in works:
        one = document["works"][name]
        times = one["work"]["idle"] if figure is _memory else 1
        for rival, rounds in one["rivals"].items():
            values = [times * value for value in figure(rounds)]
            if values[0] > 0:  # a few idle connections may fit into what is there
                lines.setdefault(rival, []).append((at(one["work"]), *values))
    return lines


def _control(document: Document, works: Sequence[str]) -> str:
    """The range, over *works*, of C against itself."""
    ratios = []
    for name in works:
        rivals = document["works"][name]["rivals"]
        if "c" in rivals and "c_again" in rivals:
            first, again = (
                median(rivals[who]["rounds"]["seconds"]) for who in ("c", "c_again")
            )
            ratios.append(first / again)
    if not ratios:
        return "no control in this run"
    return f"control (C against itself): {min(ratios):.2f} to {max(ratios):.2f}"


# ---- drawing ----


def _new(title: str, told: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.6, 4.6))
    axes = figure.subplots()
    axes.set_title(f"{title}\n", fontsize=12, fontweight="bold")
    axes.text(0, 1.02, told, transform=axes.transAxes, color="#444444")
    return figure, axes


def _plot(axes: Axes, lines: Mapping[str, Line]) -> None:
    """Plot *lines* in the order of `LOOKS`, pysock on top; whiskers are the middle half."""
    for rival, (label, color, marker, dashes) in LOOKS.items():
        if not (line := sorted(lines.get(rival, []))):
            continue
        x, y, low, high = zip(*line, strict=True)
        first = rival == "pysock"
        axes.errorbar(
            x,
            y,
            [
                [middle - end for middle, end in zip(y, low, strict=True)],
                [end - middle for middle, end in zip(y, high, strict=True)],
            ],
            label=label,
            color=color,
            marker=marker,
            linestyle=dashes,
            markersize=5,
            linewidth=2.4 if first else 1.2,
            elinewidth=0.8,
            capsize=2,
            zorder=3 if first else 2,
        )
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def _scale(
    axes: Axes,
    xlabel: str,
    ylabel: str,
    xform: Callable[[float, Any], str],
    yform: Callable[[float, Any], str] | None = None,
    base: int = 10,
) -> None:
    """Make both axes logarithmic, with words at the places where something was measured."""
    places = sorted({float(x) for line in axes.lines for x in line.get_xdata()})
    axes.set_xscale("log", base=base)
    axes.set_yscale("log", base=4 if yform else 10)
    step = 1 + (len(places) - 1) // 10
    axes.xaxis.set_major_locator(FixedLocator(places[::step]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(xform))
    axes.yaxis.set_major_formatter(FuncFormatter(yform or _plain))
    short = max(axes.get_ylim()) < 30 * min(axes.get_ylim())
    axes.yaxis.set_minor_formatter(
        FuncFormatter(yform or _plain) if short else NullFormatter()
    )
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)


def _captioned(figure: Figure, document: Document, works: Sequence[str]) -> Figure:
    machine = document["machine"]
    quick = "; a quick run, which decides nothing" if document["quick"] else ""
    wakes = in_words(machine.get("wakeup"), machine.get("polls"))
    caption = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}; {document['date']}{wakes and f'; {wakes}'}\n"
        f"medians of rounds run by turns, whiskers: their middle half; "
        f"{_control(document, works)}{quick}"
    )
    figure.text(0.01, 0.01, caption, fontsize=7, color="#444444")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    return figure


def _bytes(size: float, _: Any = None) -> str:
    for unit, of in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= of:
            return f"{size / of:g} {unit}"
    return f"{size:g} B"


def _plain(value: float, _: Any = None) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


if __name__ == "__main__":
    main()
