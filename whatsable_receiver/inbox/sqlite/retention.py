"""Retention: bodies of old finished events go, later their keys; the quarantine is a ring."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from ...jobs import JOBS_PER_EVENT
from ..base import Retention
from .queries import UNFINISHED

PRUNE_STEP = 64  # events changed at once: larger steps show in the p99 of acceptance
PRUNE_WINDOW = 512  # events looked at
LATE_FINISHERS_MS = 3_600_000  # how often a pass looks again at events that were passed


class Sweep:
    """Where the passes of retention over the events stand. ``step`` is part of a transaction."""

    def __init__(self) -> None:
        self._after = 0
        self._emptied_until = 0  # no finished event up to this one has a body
        self._emptied_since = 0

    def begin(self, now: int) -> None:
        """Look again at all events, once an hour: those that had not finished may have."""
        if abs(now - self._emptied_since) > LATE_FINISHERS_MS:
            self._emptied_since, self._emptied_until = now, 0

    def step(self, db: sqlite3.Connection, retention: Retention, now: int) -> Pruned:
        """Look at the next few events."""
        return prune(db, retention, now, self._after, self._emptied_until)

    def done(self, step: Pruned) -> None:
        """That step is committed."""
        self._after = step.after
        if step.ended:
            self._emptied_until = max(self._emptied_until, step.after)
            self._after = 0


class Pruned(NamedTuple):
    """What one step of retention did, after which event the next one begins, and whether
    nothing behind that can be due."""

    bodies: int
    events: int
    after: int
    ended: bool


def prune(
    db: sqlite3.Connection, retention: Retention, now: int, after: int, emptied_until: int
) -> Pruned:
    """Look at the next few events: take the bodies, then the keys, that retention lets go.

    A pass goes from old to young and ends at the first finished event that may stay. Behind the
    keys that are due it goes on after ``emptied_until``: up to there no finished event has a body.
    Only finished ones, and never the newest event: its number would be given out again. What
    ``retention.bytes`` bounds is the used part of the file, which does not shrink by itself.
    """
    newest = db.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0]
    used = (
        db.execute("PRAGMA page_count").fetchone()[0]
        - db.execute("PRAGMA freelist_count").fetchone()[0]
    ) * db.execute("PRAGMA page_size").fetchone()[0]
    crowded = retention.bytes is not None and used > retention.bytes
    window = json.loads(
        db.execute(
            "SELECT json_group_array(json_array(id, received_at, body, unfinished)) FROM ("
            " SELECT id, received_at, raw IS NOT NULL AS body, EXISTS ("
            f"  SELECT 1 FROM jobs j WHERE {UNFINISHED} AND j.id BETWEEN"
            "   events.id * 1000 AND events.id * 1000 + 999) AS unfinished"
            " FROM events WHERE id > ? ORDER BY id LIMIT ?)",
            (after, PRUNE_WINDOW),
        ).fetchone()[0]
    )
    bodies: list[int] = []
    events: list[int] = []
    ended = False
    for id_, received_at, body, unfinished in window:
        if len(bodies) + len(events) >= PRUNE_STEP:
            break
        after = id_
        age = (now - received_at) / 1000
        if unfinished or id_ == newest:
            continue
        if retention.keys is not None and age > retention.keys:
            events.append(id_)
        elif body and (
            crowded
            or (retention.age is not None and age > retention.age)
            or (retention.rows is not None and newest - id_ >= retention.rows)
        ):
            bodies.append(id_)
        elif body:
            after = id_ - 1
            ended = True
            break
        elif id_ < emptied_until:
            after = emptied_until
            break
    else:
        ended = len(window) < PRUNE_WINDOW
    _take_bodies(db, bodies)
    _delete(db, events)
    return Pruned(len(bodies), len(events), after, ended)


def evict(db: sqlite3.Connection, rows: int, size: int, step: int = PRUNE_STEP) -> int:
    """Quarantine is a ring: beyond so many bodies or bytes, the oldest bodies go."""
    ids = [
        id_
        for (id_,) in db.execute(
            "SELECT id FROM (SELECT id, row_number() OVER newest AS n, "
            "sum(length(raw)) OVER newest AS total FROM events INDEXED BY events_quarantined "
            "WHERE kind = 3 AND raw IS NOT NULL WINDOW newest AS (ORDER BY id DESC)) "
            "WHERE n > ? OR total > ? LIMIT ?",
            (rows, size, step),
        )
    ]
    _take_bodies(db, ids)
    return len(ids)


def _take_bodies(db: sqlite3.Connection, ids: Sequence[int]) -> None:
    if ids:
        db.execute(
            "UPDATE events SET raw = NULL, routes = NULL "
            "WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(ids),),
        )


def _delete(db: sqlite3.Connection, ids: Sequence[int]) -> None:
    for table, column in (("attempts", "job"), ("jobs", "id")):
        for id_ in ids:
            first = id_ * JOBS_PER_EVENT
            db.execute(
                f"DELETE FROM {table} WHERE {column} BETWEEN ? AND ?",
                (first, first + JOBS_PER_EVENT - 1),
            )
    if ids:
        db.execute(
            "DELETE FROM events WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),)
        )
