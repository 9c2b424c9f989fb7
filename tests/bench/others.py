"""How much of the machine others used meanwhile: a figure beside a busy neighbour is in doubt."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

TOLERATED = 0.05  # of all cores
STAT = Path("/proc/stat")


def _busy() -> float:
    """Seconds that all cores have spent on processes so far, and those that a hypervisor took."""
    fields = [int(field) for field in STAT.read_text().split(None, 9)[1:9]]
    user, nice, system, _idle, _disk, _irq, _soft_irq, stolen = fields
    return (user + nice + system + stolen) / os.sysconf("SC_CLK_TCK")


def _ours() -> float:
    """Seconds of this process and of its children that have ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


def watch() -> Callable[[], float | None]:
    """Begin to watch; the answer tells the share of others since. Our children must have ended."""
    if not STAT.exists():
        return lambda: None
    begin, busy, ours = time.monotonic(), _busy(), _ours()

    def share() -> float:
        seconds = (time.monotonic() - begin) * (os.cpu_count() or 1)
        return max(0.0, (_busy() - busy) - (_ours() - ours)) / seconds

    return share
