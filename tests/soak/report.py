"""Writes what became of a soak: JSON, a page, and a chart of what the processes held."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from processes import Sample

BEGIN, END = "<!-- soak: made by `make soak KEEP=1` -->\n", "<!-- soak: end -->\n"
STYLE = {
    "svg.hashsalt": "pysock",
    "svg.fonttype": "path",  # the reader need not have the font
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "figure.facecolor": "white",
    "legend.frameon": False,
}
# Okabe and Ito's colours.
COLOURS = {
    "plain worker": "#d55e00",
    "tls worker": "#0072b2",
    "remote": "#009e73",
    "client": "#888888",
    "plain master": "#e69f00",
    "tls master": "#56b4e9",
    "spawner": "#cc79a7",
}
MARKS = {"worker killed": "x", "client killed": "1", "workers replaced": "^"}

Samples = Mapping[tuple[str, int], Sequence[tuple[float, Sample]]]


def machine() -> dict[str, Any]:
    """Return the date, and the machine's kind."""
    model = platform.processor() or platform.machine()
    cores = 0
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "processor":
            cores += 1
        elif name.strip() == "model name":
            model = value.strip()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": model,
        "cores": cores,
        "system": f"Linux {platform.release()}",
    }


def write(
    summary: Mapping[str, Any],
    samples: Samples,
    events: Sequence[tuple[float, str]],
    folder: Path,
    keep: Path | None,
) -> None:
    """Write soak.json, soak.md and soak.svg into *folder*.

    Args:
        summary: what is told of the run.
        samples: by role and number of the process, at seconds since the beginning.
        events: what befell them, at such moments.
        folder: made where it is missing.
        keep: a page that gets the report too, and the chart beside it; of a run without
            faults only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "soak.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    text = tell(summary)
    (folder / "soak.md").write_text(text, encoding="utf-8")
    with matplotlib.rc_context(STYLE):
        draw(samples, events).savefig(folder / "soak.svg", metadata={"Date": None})
    print(text)
    print(folder / "soak.svg")
    if keep is not None and not summary["faults"]:
        page = keep.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not end:
            raise SystemExit(f"{keep} has no place for the report")
        keep.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
        (keep.parent / "soak.svg").write_bytes((folder / "soak.svg").read_bytes())
        print(keep)


def tell(summary: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""

    def listed(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"

    worst = max(summary["growth"].values(), default=None)
    growth = "too short a run to say" if worst is None else f"{worst:,} KiB a minute at most"
    rows = {
        "when": summary["date"],
        "machine": f"{summary['cpu']}, {summary['cores']} cores, {summary['system']}, "
        f"CPython {summary['python']}",
        "how long": f"{summary['minutes']} minutes, seed {summary['seed']}",
        "messages": f"{summary['messages']:,} of {summary['bytes'] / 1e9:,.1f} GB, each byte "
        f"compared; {summary['commands']:,} commands and files",
        "connections": f"{summary['connections']:,}, and {summary['misbehaved']:,} that were "
        "cut, reset or sent no frame",
        "done to them": listed(summary["trouble"]),
        "errors that clients saw": listed(summary["errors"]),
        "wrong bytes, lost replies, leaks": f"{len(summary['faults'])}",
        "memory at rest, after a minute": growth,
        "processes": f"{summary['processes']}, in {summary['rests']} rests",
    }
    text = "The last run that was kept:\n\n"
    text += "".join(f"- {name}: {value}\n" for name, value in rows.items())
    text += "\n![Memory, descriptors and threads of each process](soak.svg)\n"
    for fault in dict.fromkeys(summary["faults"]):
        text += f"\nFault: {fault}\n"
    return text


def draw(samples: Samples, events: Sequence[tuple[float, str]]) -> Figure:
    """Return the chart: a line for each process in each of three panels."""
    figure = Figure(figsize=(8, 7.5), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(3, 1, sharex=True)
    for axes, title, field in zip(
        panels,
        ("Memory of a process, MiB", "Descriptors of a process", "Threads of a process"),
        range(3),
        strict=True,
    ):
        axes.set_title(title)
        scale = 1024 if field == 0 else 1
        for (role, _), points in sorted(samples.items()):
            axes.plot(
                [at / 60 for at, _ in points],
                [sample[field] / scale for _, sample in points],
                color=COLOURS[role],
                linewidth=0.9,
                label=role,
            )
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    top = panels[0].get_ylim()[1]
    for name, mark in MARKS.items():
        at = [when / 60 for when, what in events if what == name]
        if at:
            look = {"color": "black", "markersize": 4, "clip_on": False}
            panels[0].plot(at, [top] * len(at), mark, label=name, **look)
    panels[0].set_ylim(top=top)
    panels[2].set_xlabel("minutes")
    lines, labels = panels[0].get_legend_handles_labels()
    known = dict(zip(labels, lines, strict=True))
    figure.legend(known.values(), known, loc="outside lower center", ncols=5)
    return figure
