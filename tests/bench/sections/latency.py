"""From a POST to the start of its handler, at a pace that does not wait for answers."""

from __future__ import annotations

import os
import struct
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from ..load import Load, Report, percentile
from ..load import run as run_load
from ..rounds import WARM_UP, Config, flaw_of, fresh, wait_for, warm_up
from ..rows import Floor, Options, Row, figure
from .accept import BARE

RATES = (200, 1_800)
P50 = {200: Floor(at_most=2.0)}
P99 = {200: Floor(at_most=8.0), 1_800: Floor(at_most=10.0)}
RECEIVER = Config(name="receiver, with handlers", app="receiver_journal")


@dataclass(frozen=True, slots=True)
class Paced:
    """One run: what the client saw, and the handlers' starts in milliseconds, sorted."""

    report: Report
    starts: list[float]
    flaw: str | None


def starts_in(journal: Path) -> list[tuple[int, float]]:
    """The notes of ``receiver_journal``: event, milliseconds since its sending."""
    written = journal.read_bytes() if journal.exists() else b""
    return [(event, waited / 1e6) for event, waited in struct.iter_unpack("qq", written)]


def sync_ms() -> float:
    """What one small synced write costs on this disk: no durable answer comes sooner."""
    took = []
    with tempfile.TemporaryFile() as file:
        for _ in range(50):
            begin = time.perf_counter()
            file.write(b"x" * 8192)
            file.flush()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - begin) * 1000)
    return median(took)


def once(config: Config, load: Load) -> Paced:
    """Warm up, send at the pace, and wait for the last handler."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        journal = Path(folder, "starts")
        noted = replace(config, env={"BENCH_JOURNAL": str(journal)})
        with fresh(noted) as (server, _):
            flaw = warm_up(server)
            expected = WARM_UP if config is RECEIVER else 0
            wait_for(lambda: len(starts_in(journal)) >= expected, 10)
            report = run_load(replace(load, port=server.port))
            flaw = flaw or report.flaw
            expected += report.requests if config is RECEIVER else 0
            if not wait_for(lambda: len(starts_in(journal)) >= expected, 10):
                flaw = flaw or f"void: {expected} answered, {len(starts_in(journal))} handled"
        # The warm-up carries no moment of sending; its notes are the first ones.
        starts = sorted(waited for _, waited in starts_in(journal)[WARM_UP:])
    return Paced(report, starts, flaw)


def run(options: Options) -> list[Row]:
    """p50 and p99 at each pace; the bare endpoint's answer beside the receiver's."""
    seconds = options.seconds if options.quick else max(5, options.seconds)
    runs: dict[tuple[str, int], list[Paced]] = {}
    for number in range(options.rounds):
        for rate in RATES:
            load = Load(port=0, connections=32, seconds=seconds, rate=rate)
            for config in (BARE, RECEIVER)[:: 1 if number % 2 else -1]:
                paced = once(config, load)
                runs.setdefault((config.name, rate), []).append(paced)
                p99 = percentile(paced.starts, 0.99)
                options.tell(f"latency {rate}/s {config.name}: handler p99 {p99:.2f}")
    return [row for rate in RATES for row in _rows(rate, runs)]


def _rows(rate: int, runs: dict[tuple[str, int], list[Paced]]) -> list[Row]:
    mine, bare = runs[RECEIVER.name, rate], runs[BARE.name, rate]
    seen: dict[str, float | str] = {
        "answer p50/p99 ms": _pair(mine),
        "bare answer p50/p99 ms": _pair(bare),
        "one sync of this disk ms": sync_ms(),
        # How late the client itself was: no figure here is finer than that.
        "client late p99 ms": median(paced.report.late_p99_ms for paced in mine),
    }
    return [
        figure(
            f"POST to handler at {rate:,}/s, p{share * 100:.0f}",
            [percentile(paced.starts, share) for paced in mine],
            "ms",
            floor=floors.get(rate),
            seen=seen,
            void=flaw_of(mine, bare),
        )
        for share, floors in ((0.5, P50), (0.99, P99))
    ]


def _pair(runs: Sequence[Paced]) -> str:
    p50 = median(paced.report.p50_ms for paced in runs)
    p99 = median(paced.report.p99_ms for paced in runs)
    return f"{p50:.2f}/{p99:.2f}"
