"""Two processes on one file, beside one process in the same rounds; no job twice."""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ..load import Load, report_of, started
from ..rounds import EVENTS, count, flaw_of, wait_for
from ..rows import Floor, Options, Row, figure
from ..server import serve
from .latency import starts_in

CONNECTIONS = 128  # in all


@dataclass(frozen=True, slots=True)
class Shared:
    """One run of so many processes on one file."""

    rate: float
    p99_ms: float
    events: int
    twice: int
    flaw: str | None


def once(processes: int, seconds: int) -> Shared:
    """Load them all at once, let the jobs end, and look for one that ran twice."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        database, journal = Path(folder, "bench.db"), Path(folder, "starts")
        env = {"WHATSABLE_DATABASE": str(database), "BENCH_JOURNAL": str(journal)}
        servers = [stack.enter_context(serve("receiver_journal", env)) for _ in range(processes)]
        loads = [
            Load(
                port=server.port,
                connections=CONNECTIONS // processes,
                seconds=seconds,
                first=1_000 + number,
                step=processes,
            )
            for number, server in enumerate(servers)
        ]
        running = [stack.enter_context(started(load)) for load in loads]
        reports = [report_of(one, load) for one, load in zip(running, loads, strict=True)]
        flaw = flaw_of(reports)
        answered = sum(report.requests for report in reports)
        # The load cuts its last requests off: those may be kept without an answer.
        wait_for(lambda: len(starts_in(journal)) >= count(database, EVENTS), 20)
        kept = count(database, EVENTS)
        times = Counter(event for event, _ in starts_in(journal))
        if kept < answered or len(times) < kept:
            flaw = flaw or f"void: {answered} answered, {kept} in the file, {len(times)} handled"
    return Shared(
        rate=sum(report.rate for report in reports),
        p99_ms=max(report.p99_ms for report in reports),
        events=kept,
        twice=sum(1 for n in times.values() if n > 1),
        flaw=flaw,
    )


def run(options: Options) -> list[Row]:
    """The rate against one process's, the worse p99, and the jobs that ran twice."""
    one, two = [], []
    for _ in range(options.rounds):
        one.append(once(1, options.seconds))
        two.append(once(2, options.seconds))
        options.tell(f"two: {one[-1]} {two[-1]}")
    flaw = flaw_of(one, two)
    twice = tuple(float(shared.twice) for shared in two)
    return [
        figure(
            "two processes against one, handlers in both",
            [b.rate / a.rate if a.rate else 0.0 for a, b in zip(one, two, strict=True)],
            "x",
            floor=Floor(at_least=0.8),
            seen={
                "one, req/s": median(shared.rate for shared in one),
                "two, req/s": median(shared.rate for shared in two),
            },
            void=flaw,
        ),
        figure(
            "two processes, p99 of the worse one",
            [shared.p99_ms for shared in two],
            "ms",
            floor=Floor(at_most=40),
            seen={"one, p99 ms": median(shared.p99_ms for shared in one)},
            void=flaw,
        ),
        Row(
            what="jobs that started twice, all rounds",
            value=sum(twice),
            floor=Floor(at_most=0),
            seen={"jobs": float(sum(shared.events for shared in two))},
            void=flaw,
            rounds=twice,
        ),
    ]
