"""Rounds: each configuration once per round, on a fresh server and an empty file.

Ratios are taken within a round, then the median over the rounds: the machine drifts between
rounds more than within one.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Protocol

from .load import Load, Report, run
from .rows import Options
from .server import Server, cpu_seconds, serve

WARM_UP = 300  # requests before the clock starts, the same for each configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One server to measure, and how to see afterwards that it did what it answered."""

    name: str
    app: str
    python: str = sys.executable
    env: Mapping[str, str] = field(default_factory=dict)
    stores: bool = False  # every 2xx must be in the file
    handles: bool = False  # every event's job must be completed
    beside: Callable[[], AbstractContextManager[Mapping[str, str] | None]] = nullcontext
    skip: str | None = None  # why it cannot run here


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One configuration in one round."""

    report: Report
    tail: float = 0.0  # seconds from the end of the load until every job was completed
    cpu: float = 0.0  # seconds of CPU that the server spent on it, handling included
    flaw: str | None = None  # why this run says nothing

    @property
    def rate(self) -> float:
        """Requests a second; a backlog that the load left behind counts with its time."""
        return self.report.requests / (self.report.seconds + self.tail)


Runs = dict[tuple[str, int], list[Run]]  # by configuration and connections, one a round


@contextmanager
def fresh(config: Config) -> Iterator[tuple[Server, Path]]:
    """The configuration's server on an empty file, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, config.beside() as more:
        database = Path(folder, "bench.db")
        env = {"WHATSABLE_DATABASE": str(database), **config.env, **(more or {})}
        with serve(config.app, env, config.python) as server:
            yield server, database


def reading(database: Path) -> closing[sqlite3.Connection]:
    """The file, to be read beside the server."""
    return closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10))


def count(database: Path, question: str) -> int:
    """One number from the file."""
    with reading(database) as connection:
        return int(connection.execute(question).fetchone()[0])


EVENTS = "SELECT count(*) FROM events"
DONE = "SELECT count(*) FROM jobs WHERE state = 3"


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition held before the time was over."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def warm_up(server: Server) -> str | None:
    """Post before the clock starts; why the run that follows says nothing, or None."""
    return run(Load(port=server.port, connections=8, seconds=10, count=WARM_UP, first=0)).flaw


def once(config: Config, load: Load) -> Run:
    """One run: warm up, load, then see that the file holds what was answered."""
    with fresh(config) as (server, database):
        flaw = warm_up(server)
        before = cpu_seconds(server.pid)
        report = run(replace(load, port=server.port))
        flaw = flaw or report.flaw
        good = WARM_UP + sum(n for status, n in report.statuses.items() if status[0] == "2")
        ended = time.monotonic()
        tail = 0.0
        if config.handles:
            if not wait_for(lambda: count(database, DONE) >= good, 20):
                flaw = flaw or f"void: {good} answered 2xx, {count(database, DONE)} handled"
            tail = time.monotonic() - ended
        cpu = cpu_seconds(server.pid) - before
        kept = count(database, EVENTS) if config.stores else 0
        if config.stores and kept < good:
            flaw = flaw or f"void: {good} answered 2xx, {kept} in the file"
    return Run(report=report, tail=tail, cpu=cpu, flaw=flaw)


def interleaved(configs: Sequence[Config], connections: Sequence[int], options: Options) -> Runs:
    """Every configuration at every number of connections, once per round."""
    seen: Runs = {}
    for number in range(options.rounds):
        for width in connections:
            # Another one goes first in each round, so that none always follows the same.
            shift = number % len(configs)
            for config in [*configs[shift:], *configs[:shift]]:
                if config.skip is not None:
                    continue
                result = once(config, Load(port=0, connections=width, seconds=options.seconds))
                seen.setdefault((config.name, width), []).append(result)
                options.tell(
                    f"round {number + 1} @{width} {config.name}: {result.rate:,.0f}/s "
                    f"p99 {result.report.p99_ms:.1f} ms {result.flaw or ''}"
                )
    return seen


def ratios(
    runs: Sequence[Run],
    against: Sequence[Run],
    figure: Callable[[Run], float] = lambda run: run.rate,
) -> tuple[float, ...]:
    """The figure over that of the other configuration, round by round."""
    pairs = zip(runs, against, strict=True)
    return tuple(figure(one) / figure(other) if figure(other) else 0.0 for one, other in pairs)


class Judged(Protocol):
    """A run of any section."""

    @property
    def flaw(self) -> str | None:
        """Why it says nothing."""


def flaw_of(*series: Sequence[Judged]) -> str | None:
    """The first reason why a row made of these runs says nothing."""
    return next((run.flaw for runs in series for run in runs if run.flaw is not None), None)


def seen_of(runs: Sequence[Run]) -> dict[str, float | str]:
    """What a row shows of its runs: medians over the rounds."""
    return {
        "req/s": median(run.rate for run in runs),
        "p50 ms": median(run.report.p50_ms for run in runs),
        "p99 ms": median(run.report.p99_ms for run in runs),
        "max ms": max(run.report.max_ms for run in runs),
        "last job after ms": max(run.tail for run in runs) * 1000,
        # A neighbour spoils this one least.
        "CPU us/req": median(1e6 * run.cpu / max(1, run.report.requests) for run in runs),
        "by": runs[0].report.generator,
    }
