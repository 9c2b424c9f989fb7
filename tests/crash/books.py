"""What stands in the books: rows of the inbox and lines of the effects, read from outside.

With plain SQL and not through the package: evidence should not come from who is examined.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

UNFINISHED = "state NOT IN (3, 4)"
RUNNING, COMPLETED, DISCARDED = 2, 3, 4


class EventRow(NamedTuple):
    """One stored event."""

    id: int
    deliveries: int
    kind: int
    raw: bytes


class JobRow(NamedTuple):
    """One stored job."""

    id: int
    route: str
    state: int
    attempt: int
    spent: int
    reason: str | None

    @property
    def event(self) -> int:
        """The number of its event."""
        return self.id // 1000


class AttemptRow(NamedTuple):
    """One attempt that did not complete."""

    job: int
    number: int
    outcome: str
    reason: str | None


class Effect(NamedTuple):
    """One line that a handler wrote."""

    event: int
    job: int
    route: str
    attempt: int
    phone: str
    word: str


class Books:
    """The rows of one inbox, as a connection sees them."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def events(self) -> list[EventRow]:
        """Every event, in the order of acceptance."""
        rows = self._db.execute("SELECT id, deliveries, kind, raw FROM events ORDER BY id")
        return [EventRow(*row) for row in rows]

    def jobs(self) -> list[JobRow]:
        """Every job, in the order of its event."""
        rows = self._db.execute(
            "SELECT j.id, r.name, state, attempt, spent, reason FROM jobs j "
            "JOIN routes r ON r.id = j.lane >> 48 ORDER BY j.id"
        )
        return [JobRow(*row) for row in rows]

    def attempts(self) -> list[AttemptRow]:
        """Every recorded attempt that did not complete."""
        rows = self._db.execute(
            "SELECT job, number, outcome, reason FROM attempts ORDER BY job, number"
        )
        return [AttemptRow(*row) for row in rows]

    def made(self) -> bool:
        """Whether the schema is there: a kill may have come before."""
        return bool(self._db.execute("PRAGMA user_version").fetchone()[0])

    def stored(self) -> int:
        """How many events there are."""
        return int(self._db.execute("SELECT count(*) FROM events").fetchone()[0])

    def unfinished(self) -> int:
        """How many jobs are neither completed nor discarded."""
        return int(self._db.execute(f"SELECT count(*) FROM jobs WHERE {UNFINISHED}").fetchone()[0])

    def running(self) -> set[int]:
        """The jobs that somebody holds a lease on."""
        rows = self._db.execute("SELECT id FROM jobs WHERE state = ?", (RUNNING,))
        return {job for (job,) in rows}

    def sound(self) -> bool:
        """Whether SQLite finds the file whole."""
        return bool(self._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok")


@contextmanager
def opened(path: Path) -> Iterator[Books]:
    """The books of an inbox that a server has open at the moment."""
    with closing(sqlite3.connect(path, timeout=10)) as db:
        db.execute("PRAGMA query_only = ON")
        yield Books(db)


@contextmanager
def copied(path: Path) -> Iterator[Books]:
    """The books of an inbox whose server is dead, read from a copy.

    Opening the file itself would repair its log, and that is the next server's task.
    """
    with tempfile.TemporaryDirectory(prefix="whatsable-books-") as folder:
        for end in ("", "-wal"):
            source = path.with_name(path.name + end)
            if source.exists():
                shutil.copyfile(source, Path(folder) / source.name)
        with closing(sqlite3.connect(Path(folder) / path.name)) as db:
            yield Books(db)


def effects(folder: Path) -> list[Effect]:
    """Every whole line of the effects, in the order in which they were written."""
    try:
        text = (folder / "effects").read_text("ascii")
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        event, job, route, attempt, phone, word = line.split(" ")
        found.append(Effect(int(event), int(job), route, int(attempt), phone, word))
    return found


def words(folder: Path, word: str) -> list[Effect]:
    """The effects with this word."""
    return [line for line in effects(folder) if line.word == word]
