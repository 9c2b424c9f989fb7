"""The state numbers in the SQL, held against the table of ``jobs.py`` by what a real file shows."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from whatsable_receiver.inbox.base import Filter, Inbox, NewJob, Run, Want
from whatsable_receiver.jobs import (
    TRANSITIONS,
    Completed,
    Discarded,
    Failed,
    GivenBack,
    Outcome,
    State,
    Step,
)

from .stores import (
    LEASE,
    SQLiteDatabase,
    anyio_backend,  # noqa: F401 - a fixture
    entry,
    finish,
    keep_all,
    opened,
    written,
)

pytestmark = pytest.mark.anyio

BORN = {(None, State.AVAILABLE), (None, State.DISCARDED)}
# In the file, and so of every connection. A state written over itself is seen too.
TRIGGERS = """
CREATE TABLE seen(before INTEGER, after INTEGER);
CREATE TRIGGER seen_born AFTER INSERT ON jobs
BEGIN INSERT INTO seen VALUES (NULL, NEW.state); END;
CREATE TRIGGER seen_moved AFTER UPDATE OF state ON jobs
BEGIN INSERT INTO seen VALUES (OLD.state, NEW.state); END;
"""
SETTLED: dict[Step, Outcome] = {
    Step.SUCCEEDED: Completed(),
    Step.FAILED: Failed("no", after=1),
    Step.FAILED_STRICT: Failed("no", after=1),
    Step.SPENT: Discarded("never"),
    Step.GIVEN_BACK: GivenBack("stopped"),
}


class Witness:
    """Sees each state that a job of the file gets, whichever connection writes it."""

    def __init__(self, file: sqlite3.Connection) -> None:
        self._file = file
        self._told = 0
        file.executescript(TRIGGERS)

    def all_moves(self) -> list[tuple[int | None, int]]:
        """States before and after; None before: the job was made."""
        return self._file.execute("SELECT before, after FROM seen").fetchall()

    def moves(self) -> set[tuple[int | None, int]]:
        """Those since this was last asked."""
        rows = self.all_moves()
        new, self._told = rows[self._told :], len(rows)
        return set(new)


def moves_of(*steps: Step) -> set[tuple[State, State]]:
    """States before and after, as the table has them."""
    return {(before, after) for (before, step), after in TRANSITIONS.items() if step in steps}


@pytest.fixture
def database(tmp_path: Path) -> SQLiteDatabase:
    """An empty folder for a file."""
    return SQLiteDatabase(tmp_path)


@pytest.fixture
async def store(database: SQLiteDatabase) -> AsyncIterator[Inbox]:
    """An open inbox."""
    async with opened(database) as inbox:
        yield inbox


async def claim(store: Inbox, jobs: int) -> list[Run]:
    """So many jobs, several of a lane together."""
    runs: list[Run] = []
    async with asyncio.timeout(10):
        while sum(len(run.jobs) for run in runs) < jobs:
            runs += await store.claim([Want("answer", 8, 32)], 8)
    return runs


async def test_a_file_shows_every_step_of_the_table_and_no_other(
    database: SQLiteDatabase, store: Inbox
) -> None:
    """Each number that the SQL writes is the one that the table has for this step."""
    with closing(sqlite3.connect(database.path)) as file:
        witness = Witness(file)

        lanes = [entry(n, lane=n) for n in range(len(SETTLED))]
        unasked = entry(8, lane=8, jobs=(NewJob("answer", 8, "where= raised KeyError"),))
        await keep_all(store, [*lanes, unasked])
        assert witness.moves() == BORN

        runs = await claim(store, len(SETTLED))
        assert witness.moves() == moves_of(Step.CLAIMED)

        for run, (step, outcome) in zip(runs, SETTLED.items(), strict=True):
            finish(store, run, database.clock.now, outcome, strict=step is Step.FAILED_STRICT)
            await written(store)
            assert witness.moves() == moves_of(step)

        database.clock.forward(2)
        await claim(store, 3)  # one failed, one held its lane, one was given back
        assert witness.moves() == moves_of(Step.DUE, Step.CLAIMED)

        discarded = await store.find(Filter(states=frozenset({State.DISCARDED})))
        await store.resubmit([one.job.id for record in discarded for one in record.jobs])
        assert witness.moves() == moves_of(Step.RESUBMITTED)

        await keep_all(store, [entry(n, lane=9) for n in (9, 10)])
        await claim(store, 4)
        witness.moves()
        database.clock.forward(LEASE + 1)
        async with opened(database) as other:
            assert len(await other.take_back()) == 6
            assert witness.moves() == moves_of(Step.GIVEN_BACK), "who stood behind a lost job"

            database.clock.forward(LEASE + 1)
            async with opened(database, routes=("archive",)) as stranger:
                assert await stranger.take_back() == []
                assert witness.moves() == moves_of(Step.GIVEN_BACK), "lost, and its route is gone"

        assert set(witness.all_moves()) == BORN | moves_of(*Step)
