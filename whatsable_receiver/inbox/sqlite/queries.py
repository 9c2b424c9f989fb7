"""What people ask of the SQLite inbox: lists, numbers, resubmission.

Each is one function of a connection; reading ones run beside the writer, changing ones in it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from ...errors import NotFound, StateError
from ...event import Stored
from ...jobs import JOBS_PER_EVENT, Job, State
from ..base import KINDS, AttemptRecord, EventRecord, Filter, JobRecord, Stats

_LIST = "id, kind, received_at, deliveries, account, phone, type, labels, reason"
UNFINISHED = "state NOT IN (3, 4)"


def when(milliseconds: int) -> datetime:
    """A stored time as an aware datetime."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def stored(moment: datetime) -> int:
    """A datetime as it is stored."""
    return round(moment.timestamp() * 1000)


# One row for all of them: each row that is fetched gives the interpreter lock away, and beside a
# busy event loop it comes back after 5 ms. Lengths stand in front, so a body may have any bytes.
BODIES = """
SELECT group_concat(id || ' ' || received_at || ' ' || length(raw) || ' ' || raw, '')
FROM (SELECT id, received_at, raw FROM events
      WHERE length(raw) <= 65536 AND id IN (SELECT value FROM json_each(?)))
"""
BODIES_STEP = 128


def body(db: sqlite3.Connection, id_: int) -> Stored | None:
    """What one event is made of; None where its body is gone."""
    row = db.execute(
        "SELECT raw, received_at FROM events WHERE id = ? AND raw IS NOT NULL", (id_,)
    ).fetchone()
    return Stored(*row) if row else None


def bodies(db: sqlite3.Connection, ids: Iterable[int]) -> dict[int, Stored]:
    """What the events are made of; large bodies are left out, and those that are gone.

    Large ones are read one by one, when their turn comes: a claim of a thousand of them would
    fill the memory.
    """
    wanted = list(ids)
    found: dict[int, Stored] = {}
    text_factory, db.text_factory = db.text_factory, bytes
    try:
        for first in range(0, len(wanted), BODIES_STEP):
            step = json.dumps(wanted[first : first + BODIES_STEP])
            text: bytes = db.execute(BODIES, (step,)).fetchone()[0] or b""
            at = 0
            while at < len(text):
                id_, received_at, length, _ = text[at : at + 64].split(b" ", 3)
                at += len(id_) + len(received_at) + len(length) + 3
                found[int(id_)] = Stored(text[at : at + int(length)], int(received_at))
                at += int(length)
    finally:
        db.text_factory = text_factory
    return found


# ---------------------------------------------------------------- records


def records(db: sqlite3.Connection, ids: Sequence[int]) -> dict[int, EventRecord]:
    """Events by number, with body, jobs and attempts."""
    rows = db.execute(
        f"SELECT {_LIST}, raw FROM events WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(ids),),
    ).fetchall()
    return {row[0]: _record(row[:9], row[9], _jobs(db, row[0])) for row in rows}


def find(db: sqlite3.Connection, filter: Filter) -> list[EventRecord]:
    """Events by filter, newest first, without bodies."""
    conditions, values = _conditions(filter)
    # SQLite's own lower() knows ASCII only.
    db.create_function("folded", 1, str.casefold, deterministic=True)
    rows = db.execute(
        f"SELECT {_LIST} FROM events WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?",
        (*values, filter.limit),
    ).fetchall()
    return [_record(row, None, _jobs(db, row[0])) for row in rows]


def _conditions(filter: Filter) -> tuple[list[str], list[Any]]:
    asked: list[tuple[bool, str, Any]] = [
        (filter.since is not None, "received_at >= ?", filter.since and stored(filter.since)),
        (filter.until is not None, "received_at < ?", filter.until and stored(filter.until)),
        (filter.message_type is not None, "type = ?", filter.message_type),
        (filter.phone is not None, "phone = ?", filter.phone),
        (filter.before is not None, "id < ?", filter.before),
        (
            bool(filter.kinds),
            "kind IN (SELECT value FROM json_each(?))",
            json.dumps([KINDS.index(kind) for kind in filter.kinds]),
        ),
        (
            # Between commas, so that "support" is not found in "support-billing".
            filter.label is not None,
            "instr(', ' || folded(labels) || ', ', ', ' || ? || ', ') > 0",
            filter.label and filter.label.strip().casefold(),
        ),
    ]
    conditions = ["1"] + [text for given, text, _ in asked if given]
    values = [value for given, _, value in asked if given]
    if filter.states:
        states = sorted(filter.states)
        if states == [State.DISCARDED]:
            # From the index of discarded jobs: there are few of them among many events.
            conditions.append(
                "id IN (SELECT id / 1000 FROM jobs INDEXED BY jobs_discarded WHERE state = 4)"
            )
        else:
            conditions.append(
                "EXISTS (SELECT 1 FROM jobs j WHERE j.id BETWEEN events.id * 1000 AND "
                "events.id * 1000 + 999 AND j.state IN (SELECT value FROM json_each(?)))"
            )
            values.append(json.dumps(states))
    return conditions, values


def _record(row: Sequence[Any], raw: bytes | None, jobs: tuple[JobRecord, ...]) -> EventRecord:
    id_, kind, received_at, deliveries, account, phone, type_, labels, reason = row
    return EventRecord(
        id=id_,
        kind=KINDS[kind],
        received_at=when(received_at),
        deliveries=deliveries,
        account=account,
        phone=phone,
        message_type=type_,
        labels=tuple(label for label in labels.split(", ") if label),
        reason=reason,
        raw=raw,
        jobs=jobs,
    )


def _jobs(db: sqlite3.Connection, event_id: int) -> tuple[JobRecord, ...]:
    first, last = event_id * JOBS_PER_EVENT, event_id * JOBS_PER_EVENT + JOBS_PER_EVENT - 1
    attempts: dict[int, list[AttemptRecord]] = {}
    for job, number, started, ended, outcome, reason, detail in db.execute(
        "SELECT * FROM attempts WHERE job BETWEEN ? AND ? ORDER BY job, number", (first, last)
    ):
        attempts.setdefault(job, []).append(
            AttemptRecord(number, when(started), when(ended), outcome, reason, detail)
        )
    found = []
    for id_, name, state, run_at, attempt, spent, started, ended, reason in db.execute(
        "SELECT j.id, coalesce(r.name, '?'), state, run_at, attempt, spent, started_at, ended_at, "
        "reason FROM jobs j LEFT JOIN routes r ON r.id = j.lane >> 48 "
        "WHERE j.id BETWEEN ? AND ? ORDER BY j.id",
        (first, last),
    ):
        tried = attempts.get(id_, [])
        if state == State.COMPLETED and started is not None:
            # The attempt that completed is on the job itself: most jobs need no second row.
            tried.append(
                AttemptRecord(attempt, when(started), when(ended), "completed", None, None)
            )
        job = Job(id_, name, State(state), run_at, attempt, spent, reason)
        found.append(JobRecord(job, tuple(tried)))
    return tuple(found)


# ---------------------------------------------------------------- numbers


def oldest_available(db: sqlite3.Connection) -> datetime | None:
    """When the longest-waiting claimable job became so. Jobs of one lane are in order, so the
    first of each lane is enough; with very many lanes this is a scan of a small index."""
    row = db.execute(
        "SELECT min(run_at) FROM jobs WHERE id IN "
        "(SELECT min(id) FROM jobs INDEXED BY jobs_available WHERE state = 0)"
    ).fetchone()
    return when(row[0]) if row[0] is not None else None


def unfinished(db: sqlite3.Connection) -> dict[str, int]:
    """Unfinished jobs by route: read from indexes that have nothing else in them."""
    rows = db.execute(
        "SELECT coalesce(r.name, '?'), sum(n) FROM ("
        " SELECT lane >> 48 AS route, count(*) AS n FROM jobs INDEXED BY jobs_available"
        "  WHERE state = 0 GROUP BY 1"
        " UNION ALL SELECT lane >> 48, count(*) FROM jobs INDEXED BY jobs_busy"
        "  WHERE state IN (2, 5) GROUP BY 1"
        " UNION ALL SELECT lane >> 48, count(*) FROM jobs INDEXED BY jobs_due"
        "  WHERE state IN (1, 5) AND state = 1 GROUP BY 1"
        ") LEFT JOIN routes r ON r.id = route GROUP BY 1 ORDER BY 1"
    )
    return dict(rows.fetchall())


def stats(db: sqlite3.Connection) -> Stats:
    """The inbox in numbers."""
    kinds = dict(db.execute("SELECT kind, count(*) FROM events GROUP BY kind").fetchall())
    states = dict(db.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    size = db.execute("PRAGMA page_size").fetchone()[0]
    return Stats(
        events={name: kinds.get(n, 0) for n, name in enumerate(KINDS)},
        jobs={state.name.lower(): states.get(state, 0) for state in State},
        oldest_available_at=oldest_available(db),
        unfinished=unfinished(db),
        bytes=pages * size,
    )


# ---------------------------------------------------------------- changes


def write_nothing(db: sqlite3.Connection) -> None:
    """A write that changes nothing, and needs room on the disk all the same."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    db.execute(f"PRAGMA user_version = {version}")


def resubmit(db: sqlite3.Connection, jobs: Sequence[int], now: int) -> int:
    """Discarded jobs become available again, with a fresh budget: all of them or none."""
    found = dict(
        db.execute(
            "SELECT id, state FROM jobs WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(jobs),),
        ).fetchall()
    )
    for job in jobs:
        if job not in found:
            raise NotFound(f"there is no job {job}")
        if found[job] != State.DISCARDED:
            raise StateError(
                f"job {job} is {State(found[job]).name.lower()}; only discarded jobs can be "
                "resubmitted"
            )
    gone = db.execute(
        "SELECT id FROM events WHERE raw IS NULL AND id IN (SELECT value FROM json_each(?))",
        (json.dumps([job // JOBS_PER_EVENT for job in jobs]),),
    ).fetchone()
    if gone:
        raise StateError(f"the body of event {gone[0]} is gone (retention); it cannot run again")
    return db.execute(
        "UPDATE jobs SET state = 0, run_at = ?, spent = 0 "
        "WHERE id IN (SELECT value FROM json_each(?))",
        (now, json.dumps(jobs)),
    ).rowcount
