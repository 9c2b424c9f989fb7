"""What an idle receiver costs above an idle bare server, which wakes ten times a second."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ..rounds import Config, flaw_of, fresh, warm_up
from ..rows import Floor, Options, Row, figure
from ..server import TICK, cpu_seconds
from .accept import BARE, HANDLERS

LOOK = 0.01  # seconds


def wakeups(pid: int) -> int:
    """How often the threads of a process have gone to sleep of their own will."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


@dataclass(frozen=True, slots=True)
class Idle:
    """What a server did while nobody asked it anything."""

    cpu: float  # seconds of CPU in 10 s
    moments: float  # a second, in which any thread woke
    switches: float  # a second: one moment may switch between threads several times
    flaw: str | None


def once(config: Config, seconds: float) -> Idle:
    """Look at a server every few milliseconds, after a little work."""
    with fresh(config) as (server, _):
        flaw = warm_up(server)
        time.sleep(2)  # what the load set off has ended
        cpu, first = cpu_seconds(server.pid), wakeups(server.pid)
        begin, before, awake, moments = time.monotonic(), first, False, 0
        while time.monotonic() < begin + seconds:
            time.sleep(LOOK)
            now = wakeups(server.pid)
            woke = now != before
            moments += woke and not awake  # neighbouring looks see one moment
            before, awake = now, woke
        took = time.monotonic() - begin
        return Idle(
            cpu=(cpu_seconds(server.pid) - cpu) * 10 / took,
            moments=moments / took,
            switches=(before - first) / took,
            flaw=flaw,
        )


def run(options: Options) -> list[Row]:
    """CPU time and wake-ups above those of the bare server."""
    if not Path("/proc/self/stat").exists():
        return [Row(what="idle", void="skipped: needs /proc")]
    seconds = 2.0 if options.quick else 10.0
    bare, mine = [], []
    for _ in range(options.rounds):
        bare.append(once(BARE, seconds))
        mine.append(once(HANDLERS, seconds))
    pairs = list(zip(bare, mine, strict=True))
    return [
        figure(
            "CPU seconds in 10 s, above an idle bare server",
            [b.cpu - a.cpu for a, b in pairs],
            "s",
            floor=Floor(at_most=2 * TICK * 10 / seconds),  # what the clock cannot tell apart
            seen={
                "receiver": median(one.cpu for one in mine),
                "bare": median(one.cpu for one in bare),
            },
            void=flaw_of(bare, mine),
        ),
        figure(
            "moments of waking, above an idle bare server",
            [b.moments - a.moments for a, b in pairs],
            "/s",
            floor=Floor(at_most=1.2),  # once a second, and what looking in steps blurs
            seen={
                "receiver": median(one.moments for one in mine),
                "bare": median(one.moments for one in bare),
                "its switches /s": median(one.switches for one in mine),
                "bare switches /s": median(one.switches for one in bare),
            },
            void=flaw_of(bare, mine),
        ),
    ]
