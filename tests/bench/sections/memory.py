"""Memory of the receiver while payloads pass through it: flat after the first 50,000."""

from __future__ import annotations

from pathlib import Path

from ..load import Load
from ..load import run as run_load
from ..rounds import DONE, EVENTS, count, fresh, wait_for
from ..rows import Floor, Options, Row
from .accept import HANDLERS

STEP = 50_000
FLAT = 1.1  # of what it was after the first step: the allocator and the page cache breathe


def resident(pid: int) -> float:
    """MB of memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def run(options: Options) -> list[Row]:
    """One long run in steps; the most memory after any later step, against the first's."""
    if not Path("/proc/self/status").exists():
        return [Row(what="memory", void="skipped: needs /proc")]
    step = 2_000 if options.quick else STEP
    steps = 3 if options.quick else 20 if options.full else 4
    flaw = None
    after: list[float] = []
    with fresh(HANDLERS) as (server, database):
        start = resident(server.pid)
        for number in range(steps):
            load = Load(
                port=server.port,
                connections=64,
                seconds=120,
                count=step,
                first=1_000 + number * step,
            )
            flaw = flaw or run_load(load).flaw
            after.append(resident(server.pid))
            options.tell(f"memory: {after[-1]:.0f} MB after {(number + 1) * step:,}")
        passed = step * steps
        if not wait_for(lambda: count(database, DONE) >= passed, 30):
            flaw = flaw or f"void: {passed} posted, {count(database, DONE)} handled"
        if count(database, EVENTS) != passed:
            flaw = flaw or f"void: {passed} posted, {count(database, EVENTS)} in the file"
    return [
        Row(
            what=f"most memory in {passed:,} payloads, against after {step:,}",
            value=max(after[1:]) / after[0],
            unit="x",
            floor=Floor(at_most=FLAT),
            seen={
                "at start, MB": start,
                f"after {step:,}, MB": after[0],
                "most later, MB": max(after[1:]),
                "at the end, MB": after[-1],
            },
            void=flaw,
            rounds=tuple(after),
        )
    ]
