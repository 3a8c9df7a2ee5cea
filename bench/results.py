"""Keeps the rounds of a run, a JSON file for each table, and reads them.

    {"date", "machine", "quick", "works": {WORK: {"work": {...}, "rivals": {RIVAL:
        {"version", "count", "rounds": {"seconds": [...], ...}}}}}}

"machine" has with its kind what a wake-up costs there, and for how long an idle processor
polls (`wakeup.py`); nothing in it names the machine beyond that.  "work" is what the rivals
were told, "rounds" has a list for each field of a `Round` that was measured.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import wakeup
from interleave import Round, Work

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Outcome:
    """The rounds of one rival at one work, which stands in the file *table*."""

    table: str
    work: Work
    version: str
    count: int
    rounds: Sequence[Round]


def save(folder: Path, outcomes: Mapping[tuple[str, str], Outcome], *, quick: bool) -> None:
    """Write the files of all tables that *outcomes* (by work and rival) has."""
    tables: dict[str, dict[str, Any]] = {}
    for (name, rival), outcome in outcomes.items():
        works = tables.setdefault(outcome.table, {})
        work = works.setdefault(name, {"work": described(outcome.work), "rivals": {}})
        work["rivals"][rival] = {
            "version": outcome.version,
            "count": outcome.count,
            "rounds": {"seconds": [one.seconds for one in outcome.rounds]}
            | by_field(outcome.rounds),
        }
    for table, works in tables.items():
        write(folder / f"{table}.json", works, quick=quick)


def write(path: Path, works: Mapping[str, Any], *, quick: bool) -> None:
    """Write one file; an older one is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "quick": quick,
        "works": works,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def rounds_in(document: Mapping[str, Any]) -> dict[str, dict[str, list[Round]]]:
    """Return the rounds of a file's *document* by work and rival."""
    return {
        name: {rival: rounds_from(one["rounds"]) for rival, one in work["rivals"].items()}
        for name, work in document["works"].items()
    }


def rounds_from(data: Mapping[str, Sequence[float]]) -> list[Round]:
    """Return the rounds of which *data* has each field."""
    turns = zip(*data.values(), strict=True)
    return [Round(**dict(zip(data, one, strict=True))) for one in turns]


def by_field(rounds: Sequence[Round]) -> dict[str, list[float]]:
    """Return what *rounds* have besides `seconds`, as `rounds_from` reads it."""
    names = [field.name for field in fields(Round) if field.name != "seconds"]
    values = {name: [getattr(one, name) for one in rounds] for name in names}
    return {name: list_ for name, list_ in values.items() if None not in list_}


def described(work: Work) -> dict[str, Any]:
    """Return the plain facts of *work*, without its rivals."""
    left_out = ("rivals", "fewer", "spin", "rounds")
    return {name: fact for name, fact in asdict(work).items() if name not in left_out}


def machine() -> dict[str, str | int | float | None]:
    """Return what kind of machine this is; not which."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "wakeup": wakeup.seconds(),
        "polls": wakeup.polling(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
