"""Keeping deliveries: whoever waits at that moment, in one statement."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from ...jobs import State
from ..base import KINDS, Entry, Kept
from .retention import evict
from .statements import ACCEPT, IDENTIFY, LADDER, PADDING

LARGEST_BATCH = LADDER[-1]
KIND = {kind: number for number, kind in enumerate(KINDS)}

# The deliveries of one event, by (key, fingerprint): their places in the batch.
Folded = dict[tuple[bytes, bytes], list[int]]


def accept(
    db: sqlite3.Connection, entries: Sequence[Entry], routes: Mapping[str, int]
) -> list[Kept]:
    """Keep up to ``LARGEST_BATCH`` deliveries and make their jobs; ``routes`` numbers the routes.

    The answers are in the order of the entries.
    """
    folded: Folded = {}
    for n, entry in enumerate(entries):
        folded.setdefault((entry.key, entry.fingerprint), []).append(n)
    values: list[Any] = []
    jobs = 0
    jobless = False
    for position, places in enumerate(folded.values(), 1):
        entry = entries[places[0]]
        jobs += len(entry.jobs)
        jobless = jobless or not entry.jobs
        values += (
            position,
            # sqlite3 takes a slow way for bytes and for None, and a fast one for these.
            bytearray(entry.key),
            bytearray(entry.fingerprint),
            len(places),
            entry.received_at,
            KIND[entry.kind],
            entry.account,
            entry.phone,
            entry.message_type,
            entry.labels,
            entry.reason or "",
            _jobs(entry, routes) if entry.jobs else "",
            bytearray(entry.raw),
        )
    size = next(step for step in LADDER if step >= len(folded))
    values += PADDING * (size - len(folded))
    before = db.total_changes
    cursor = db.execute(ACCEPT[size], values)
    if not jobless and db.total_changes - before == len(folded) + jobs:
        # The usual case: each row is new, or one of them would have made no job.
        first = (cursor.lastrowid or 0) - len(folded) + 1
        answers = [(first + n, True) for n in range(len(folded))]
    else:
        answers = _identify(db, folded)
    kept = [Kept(0, new=False)] * len(entries)
    for (event, new), places in zip(answers, folded.values(), strict=True):
        for place in places:
            kept[place] = Kept(event, new)
            new = False  # of one event that came several times, the first delivery made it
    return kept


def _jobs(entry: Entry, routes: Mapping[str, int]) -> str:
    """What the trigger makes jobs of: ``[[lane, state, reason], ...]``. Put together by hand
    where it is only numbers, because each delivery pays for it."""
    plain = [
        f"[{routes[route] << 48 | lane},0,null]"
        for route, lane, discarded in entry.jobs
        if discarded is None
    ]
    if len(plain) == len(entry.jobs):
        return f"[{','.join(plain)}]"
    return json.dumps(
        [
            (
                routes[route] << 48 | lane,
                State.AVAILABLE if discarded is None else State.DISCARDED,
                discarded,
            )
            for route, lane, discarded in entry.jobs
        ]
    )


def _identify(db: sqlite3.Connection, folded: Folded) -> list[tuple[int, bool]]:
    """Numbers of events just written. New is who counts as many deliveries as came just now:
    arithmetic on numbers would be wrong for a batch of nothing but redeliveries."""
    size = next(step for step in LADDER if step >= len(folded))
    values: list[bytes | None] = [part for pair in folded for part in pair]
    values += [None] * (2 * (size - len(folded)))
    found = json.loads(db.execute(IDENTIFY[size], values).fetchone()[0])
    return [
        (event, deliveries == len(places))
        for (event, deliveries), places in zip(found, folded.values(), strict=False)
    ]


class Ring:
    """Keeps the quarantine within ``rows`` bodies and ``size`` bytes while a flood of them comes:
    retention looks once a minute, and a flood does not wait."""

    def __init__(self, rows: int, size: int) -> None:
        self._rows = rows
        self._size = size
        self._new_rows = 0  # since the ring was last looked at
        self._new_bytes = 0

    def guard(self, db: sqlite3.Connection, entries: Sequence[Entry]) -> None:
        """Let the oldest go when a sixteenth of the ring is new."""
        for entry in entries:
            if entry.kind == "quarantined":
                self._new_rows += 1
                self._new_bytes += len(entry.raw)
        if self._new_rows * 16 > self._rows or self._new_bytes * 16 > self._size:
            self._new_rows = self._new_bytes = 0
            evict(db, self._rows, self._size, step=LARGEST_BATCH)
