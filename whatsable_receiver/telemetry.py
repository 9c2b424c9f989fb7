"""What the receiver tells about itself: one hook for counters and timings, and masked phones.

A metrics exporter is an object with these two methods; the names below are all that is told.
"""

from __future__ import annotations

import logging
import re
from typing import Protocol

log = logging.getLogger("whatsable_receiver.telemetry")

#: counters: what is counted, and by which labels
COUNTERS = {
    "deliveries": "status",  # accepted, duplicate, quarantined, refused, unavailable, cut off
    "attempts": "route, outcome",
    "leases_lost": "",
    "pruned": "",
    "quarantine_evicted": "",
}
#: timings, in seconds
TIMINGS = {
    "keep": "",  # from the whole body to the commit
    "commit": "",  # one transaction of the writer
    "wait": "route",  # from acceptance to the start of the first attempt
    "attempt": "route, outcome",
}


class Meter(Protocol):
    """Where counters and timings go. Called on the event loop and the writer's thread: be quick."""

    def count(self, name: str, value: int = 1, **labels: str) -> None:
        """Add ``value`` to the counter ``name``."""

    def time(self, name: str, seconds: float, **labels: str) -> None:
        """Note one duration under ``name``."""


class Silence:
    """The meter that nobody reads."""

    def count(self, name: str, value: int = 1, **labels: str) -> None:
        """Count nothing."""

    def time(self, name: str, seconds: float, **labels: str) -> None:
        """Time nothing."""


class Guarded:
    """A meter of the user's: what it raises is logged, and stops neither loop nor writer."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def count(self, name: str, value: int = 1, **labels: str) -> None:
        """Hand on one count."""
        try:
            self._meter.count(name, value, **labels)
        except Exception:  # the user's code: anything may come out
            log.exception("the meter failed to count %r", name)

    def time(self, name: str, seconds: float, **labels: str) -> None:
        """Hand on one duration."""
        try:
            self._meter.time(name, seconds, **labels)
        except Exception:  # the user's code: anything may come out
            log.exception("the meter failed to time %r", name)


def masked(text: str) -> str:
    """A text in which each run of six or more digits shows its last two only.

    Enough to compare with a screen. Errors of handlers quote phones in many ways; a long
    number that is none is masked with them.
    """
    return re.sub(r"\d{4,}(\d\d)", r"…\1", text)


def one_line(text: str, *, phones: bool = False) -> str:
    """A text of somebody else's for a log: nothing in it ends the line or moves the cursor."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)
    return text if phones else masked(text)
