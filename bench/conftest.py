"""Feeds the interleaved rounds to pytest-benchmark and prints the table at the end.

pytest-benchmark runs one test after another; a noisy machine wants the rivals by
turns.  So all rounds are run before the first test, and each test plays its own
back: the timer is the clock of the rival's client process, and a "round" in
pytest-benchmark's figures is seconds per message.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode adds no folder

from interleave import (
    Contender,
    Pair,
    PeerError,
    Rival,
    Round,
    Start,
    Unavailable,
    Work,
    interleave,
)
from loaded import ServerPair, ServerWork
from pace import Pace
from report import Results, table
from results import Outcome, by_field, save
from rivals import BENCH, STATEMENTS, all_rivals, build, server_rivals

ROUNDS, QUICK_ROUNDS = 18, 3
SITTINGS = 3  # for each of which all peers are started again


outcomes_key = pytest.StashKey[dict[tuple[str, str], Outcome | PeerError]]()


class Clock:
    """The timer of every test here: it moves on by what a peer has measured."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


clock = Clock()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pysock's benchmarks")
    group.addoption(
        "--quick", action="store_true", help=f"{QUICK_ROUNDS} short rounds, not {ROUNDS}"
    )
    group.addoption("--rivals", help="only these, with commas between: c,c_again,pysock")
    group.addoption("--works", help="only these, with commas between: pingpong,stream_many")
    group.addoption(
        "--results", metavar="FOLDER", help="keep the rounds there, a JSON file for each table"
    )
    group.addoption(
        "--before",
        metavar="PYTHON",
        help="an interpreter that has another pysock, measured by turns with this one",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[outcomes_key] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that takes a work and a rival each pair that was asked for."""
    if not {"work", "rival"} <= set(metafunc.fixturenames):
        return
    wanted, works = (metafunc.config.getoption(name) for name in ("rivals", "works"))
    before = ("before",) if metafunc.config.getoption("before") else ()
    cases = [
        pytest.param(
            work,
            rival,
            id=f"{work.name}-{rival}",
            marks=pytest.mark.benchmark(group=work.name, timer=clock),
        )
        for work in metafunc.module.WORKS
        if works is None or work.name in works.split(",")
        for rival in work.rivals + before
        if wanted is None or rival in wanted.split(",")
    ]
    metafunc.parametrize(("work", "rival"), cases)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Drop what pytest leaves, to be skipped, of a module of which no work was asked for."""
    items[:] = [item for item in items if isinstance(_params(item).get("work"), Work)]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    outcomes = {
        key: outcome
        for key, outcome in config.stash[outcomes_key].items()
        if isinstance(outcome, Outcome)
    }
    results: Results = {}
    for (work, rival), outcome in outcomes.items():
        results.setdefault(work, {})[rival] = list(outcome.rounds)
    if results:
        terminalreporter.section("pysock and its rivals")
        terminalreporter.write_line(table(results))
    if folder := config.getoption("results"):
        save(Path(folder), outcomes, quick=config.getoption("quick"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Run the rounds before the tests: a time limit for one test is not for them."""
    if session.config.option.collectonly:
        return
    works: dict[str, Work] = {}
    tables: dict[str, str] = {}
    selected: dict[str, list[str]] = {}
    for item in session.items:
        params = _params(item)
        if {"work", "rival"} <= params.keys():
            works[params["work"].name] = params["work"]
            tables[params["work"].name] = item.path.stem.removeprefix("test_")
            selected.setdefault(params["work"].name, []).append(params["rival"])
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(session.config, Path(folder))
        for name, work in works.items():
            runner.run(work, selected[name], tables[name].replace("_", "-"))


def _params(item: pytest.Item) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}


class Runner:
    """Runs works and keeps the figures, or why there are none, for the tests."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        self._outcomes = config.stash[outcomes_key]
        self._terminal = config.pluginmanager.get_plugin("terminalreporter")
        self._quick = config.getoption("quick")
        self._pace = Pace()
        self._folder = folder
        before = config.getoption("before")
        self._rivals = all_rivals(folder, before)
        self._servers = server_rivals(folder, before)
        self._load = build(BENCH / "load.c", folder, linux=True)
        self._versions: dict[tuple[str, ...], str | PeerError] = {}

    def run(self, work: Work, rivals: list[str], table: str) -> None:
        """Run all the rounds of *work*, which is in *table*, by turns."""
        if self._quick:
            work = work.shorter()
        started = time.monotonic()
        versions = {name: self._version(self._rival(work, name)) for name in rivals}
        failed = {name: said for name, said in versions.items() if isinstance(said, PeerError)}
        turns = min(work.rounds or ROUNDS, QUICK_ROUNDS if self._quick else ROUNDS)
        sittings = 1 if self._quick or turns < SITTINGS else SITTINGS
        rounds: dict[str, list[Round]] = {name: [] for name in rivals}
        for sitting in range(sittings):
            names = [name for name in rivals if name not in failed]
            sockets = self._folder / f"{work.name}-{sitting}"
            seen, fallen = self._sit(work, names, -(-turns // sittings), sockets)
            failed |= fallen
            for name in names:
                rounds[name] += seen.get(name, [])
        for name in rivals:
            self._outcomes[work.name, name] = failed.get(name) or Outcome(
                table, work, str(versions[name]), work.count_for(name), rounds[name]
            )
        if self._terminal:
            took = time.monotonic() - started
            names = [name for name in rivals if name not in failed]
            spoilt = sum(one.disturbed for name in names for one in rounds[name])
            self._terminal.write_line(
                f"{work.name}: {', '.join(names)} in {took:.0f} s"
                + (f", {spoilt} rounds disturbed" if spoilt else "")
            )

    def _sit(
        self, work: Work, names: list[str], turns: int, sockets: Path
    ) -> tuple[dict[str, list[Round]], dict[str, PeerError]]:
        """Run *turns* rounds of each of *names*, with peers started for them.

        Where a process comes to lie in memory makes it faster or slower for all its life.
        """
        contenders: dict[str, Contender] = {}
        failed: dict[str, PeerError] = {}
        try:
            # All at once, only because ten interpreters take their time to start.
            with ThreadPoolExecutor() as pool:
                starting = {
                    name: pool.submit(self._contender, work, name, sockets) for name in names
                }
            for name, future in starting.items():
                try:
                    contenders[name] = future.result()
                except PeerError as error:
                    failed[name] = error
            rounds, fallen = interleave(contenders, turns, self._pace)
        finally:
            for contender in contenders.values():
                contender.close()
        return rounds, failed | fallen

    def _rival(self, work: Work, name: str) -> Rival:
        return (self._servers if isinstance(work, ServerWork) else self._rivals)[name]

    def _version(self, rival: Rival) -> str | PeerError:
        if rival.command not in self._versions:
            try:
                self._versions[rival.command] = rival.version()
            except PeerError as error:
                self._versions[rival.command] = error
        return self._versions[rival.command]

    def _contender(self, work: Work, name: str, sockets: Path) -> Contender:
        rival = self._rival(work, name)
        if isinstance(work, ServerWork):
            return ServerPair(rival, work, self._load, sockets)
        if work.kind == "import":
            return Start(rival.command[0], STATEMENTS[name], work.count)
        return Pair(rival, work, sockets)


@pytest.fixture
def measure(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config
) -> Callable[[Work, str], None]:
    """A function that hands the rounds of one rival at one work to pytest-benchmark."""

    def measure(work: Work, rival: str) -> None:
        outcome = pytestconfig.stash[outcomes_key][work.name, rival]
        if isinstance(outcome, Unavailable):
            pytest.skip(str(outcome))
        if isinstance(outcome, PeerError):
            raise outcome
        # Not before: pytest-benchmark warns of a fixture that was not used.
        benchmark: BenchmarkFixture = request.getfixturevalue("benchmark")
        benchmark.extra_info |= {"work": work.name, "rival": rival, "size": work.size}
        benchmark.extra_info |= {"version": outcome.version, "count": outcome.count}
        benchmark.extra_info["rounds"] = by_field(outcome.rounds)
        left = iter([one.seconds for one in outcome.rounds])

        def play_back() -> None:
            clock.now += next(left, 0.0)

        benchmark.pedantic(play_back, rounds=len(outcome.rounds))  # type: ignore[no-untyped-call]

    return measure
