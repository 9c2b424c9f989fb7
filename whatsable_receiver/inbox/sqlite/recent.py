"""Events that came just now, so that the jobs on them need not read them."""

from __future__ import annotations

from ...event import Stored
from ..base import Entry

EVENTS = 1024
BYTES = 8 << 20


class Recent:
    """The newest events, bounded by count and bytes of their bodies."""

    def __init__(self) -> None:
        self._events: dict[int, Stored] = {}  # oldest first
        self._bytes = 0

    def get(self, id_: int) -> Stored | None:
        """What this event is made of, if it came just now."""
        return self._events.get(id_)

    def add(self, id_: int, entry: Entry) -> None:
        """An event that was kept just now; the oldest make room for it."""
        self._events[id_] = Stored(entry.raw, entry.received_at, entry.payload)
        self._bytes += len(entry.raw)
        while len(self._events) > EVENTS or self._bytes > BYTES:
            oldest = self._events.pop(next(iter(self._events)))
            self._bytes -= len(oldest.raw)

    def forget(self) -> None:
        """Another file may stand there, in which these numbers are other events."""
        self._events.clear()
        self._bytes = 0
