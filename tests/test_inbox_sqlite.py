"""What only the SQLite inbox promises: durability, plans, schema, files and locks."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from whatsable_receiver.errors import ConfigurationError, Unavailable
from whatsable_receiver.inbox.base import Entry, Filter, Inbox, Kept, NewJob, Retention, Run, Want
from whatsable_receiver.inbox.sqlite import SQLiteInbox, claims, locks, retention, statements
from whatsable_receiver.inbox.sqlite import file as sqlite_file
from whatsable_receiver.inbox.sqlite.file import connect, migrate
from whatsable_receiver.inbox.sqlite.locks import FileLock
from whatsable_receiver.inbox.sqlite.statements import ACCEPT, IDENTIFY, LADDER
from whatsable_receiver.jobs import Failed, State

from .stores import (
    ANSWER,
    LEASE,
    NOON,
    ROUTES,
    Commits,
    SQLiteDatabase,
    anyio_backend,  # noqa: F401 - a fixture
    claim_now,
    entry,
    finish,
    keep,
    keep_all,
    keep_each,
    opened,
    states,
    until,
    written,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def database(tmp_path: Path) -> SQLiteDatabase:
    """An empty folder for a file."""
    return SQLiteDatabase(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A file with the newest schema, and the connection that a writer would have."""
    db = connect(tmp_path / "plain.db")
    migrate(db)
    db.execute(statements.ACCEPT_TRIGGER)
    yield db
    db.close()


@pytest.fixture
def commits() -> Commits:
    """How many transactions the writer of ``store`` made."""
    return Commits()


@pytest.fixture
async def store(database: SQLiteDatabase, commits: Commits) -> AsyncIterator[SQLiteInbox]:
    """An open inbox whose transactions are counted."""
    async with opened(database, meter=commits) as inbox:
        assert isinstance(inbox, SQLiteInbox)
        yield inbox


# ---------------------------------------------------------------- durability


async def test_the_file_is_as_durable_as_promised(database: SQLiteDatabase) -> None:
    """Promise 1: a write-ahead log, and each commit synced: FULL, not NORMAL."""
    async with opened(database) as store:
        assert isinstance(store, SQLiteInbox)
        answers: list[dict[str, Any]] = []
        pragmas = ("journal_mode", "synchronous", "wal_autocheckpoint", "automatic_index")
        await store._act(
            lambda db: answers.append(
                {name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas}
            )
        )
    assert answers == [
        {"journal_mode": "wal", "synchronous": 2, "wal_autocheckpoint": 0, "automatic_index": 0}
    ]


@pytest.mark.parametrize("where", ["/proc", "/dev/null", "/nowhere/at/all"])
async def test_a_place_that_cannot_hold_a_file_is_refused_at_start(where: str) -> None:
    """Promise 1: where nothing can be kept the receiver does not start, and says which place."""
    store = SQLiteInbox(f"{where}/x.db", clock=lambda: NOON)
    with pytest.raises(ConfigurationError, match=where):
        await store.open(ROUTES)


async def test_what_is_no_database_is_refused_and_left_alone(database: SQLiteDatabase) -> None:
    """A file of something else is not overwritten."""
    database.path.write_bytes(b"These are my letters." * 1000)
    before = database.path.read_bytes()
    with pytest.raises(ConfigurationError, match="cannot be used: file is not a database"):
        await database.inbox().open(ROUTES)
    assert database.path.read_bytes() == before
    assert [path.name for path in database.path.parent.iterdir()] == [database.path.name]


async def test_a_folder_is_no_database(database: SQLiteDatabase) -> None:
    """It is refused by its name, and nothing is made beside it."""
    database.path.mkdir()
    with pytest.raises(ConfigurationError, match=r"inbox\.db is a folder"):
        await database.inbox().open(ROUTES)
    assert [path.name for path in database.path.parent.iterdir()] == [database.path.name]


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
async def test_a_database_of_another_program_is_left_as_it_is(
    database: SQLiteDatabase, mode: str
) -> None:
    """A file with tables that are not ours is refused by name, and not one byte of it changes."""
    with contextlib.closing(sqlite3.connect(database.path)) as db:
        db.execute(f"PRAGMA journal_mode = {mode}")
        db.execute("CREATE TABLE recipes(id INTEGER PRIMARY KEY, text)")
        db.execute("INSERT INTO recipes(text) VALUES ('salt')")
        db.commit()
    before = database.path.read_bytes()
    for routes in (ROUTES, ()):
        with pytest.raises(ConfigurationError, match=r"inbox\.db is the database of another"):
            await database.inbox().open(routes)
    assert database.path.read_bytes() == before
    assert [path.name for path in database.path.parent.iterdir()] == [database.path.name]


async def test_the_files_are_for_their_owner_only(database: SQLiteDatabase) -> None:
    """What people wrote is not for every user of the machine, whatever the usual rights are."""
    usual = os.umask(0o022)
    try:
        async with opened(database) as store:
            await keep(store, entry(1))
            rights = {
                path.name: stat.S_IMODE(path.stat().st_mode)
                for path in database.path.parent.iterdir()
            }
    finally:
        os.umask(usual)
    assert rights.keys() >= {"inbox.db", "inbox.db-wal", "inbox.db-shm"}
    assert set(rights.values()) == {0o600}, rights


async def test_reading_commands_make_no_file(database: SQLiteDatabase) -> None:
    """With ``create=False`` a wrong path is an error, and not a new empty inbox."""
    with pytest.raises(ConfigurationError, match="no database"):
        await database.inbox(create=False).open([])
    assert not database.path.exists()


# ---------------------------------------------------------------- schema


async def test_a_newer_schema_is_refused(database: SQLiteDatabase) -> None:
    """A file written by a newer version is left as it is, and the answer says to upgrade."""
    async with opened(database):
        pass
    with contextlib.closing(sqlite3.connect(database.path)) as db:
        db.execute(f"PRAGMA user_version = {sqlite_file.SCHEMA + 1}")
        db.commit()
    with pytest.raises(ConfigurationError, match="upgrade"):
        await database.inbox().open(ROUTES)


def test_migrations_are_numbered_without_a_gap(tmp_path: Path) -> None:
    """Each number up to the newest has its script, and a second run changes nothing."""
    schema = Path(sqlite_file.__file__).parent / "schema"
    numbers = sorted(int(path.stem) for path in schema.glob("*.sql"))
    assert numbers == list(range(1, sqlite_file.SCHEMA + 1))
    with contextlib.closing(connect(tmp_path / "x.db")) as db:
        for _ in range(2):
            migrate(db)
            assert db.execute("PRAGMA user_version").fetchone()[0] == sqlite_file.SCHEMA
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


async def test_many_processes_may_make_the_file_at_once(database: SQLiteDatabase) -> None:
    """Eight inboxes opened at the same moment on no file at all: one schema, no error."""
    inboxes = [database.inbox() for _ in range(8)]
    await asyncio.gather(*[inbox.open(ROUTES) for inbox in inboxes])
    try:
        kept = [await keep(inbox, entry(1)) for inbox in inboxes]
        assert {one.event for one in kept} == {1}
        assert sum(one.new for one in kept) == 1
    finally:
        await asyncio.gather(*[inbox.close() for inbox in inboxes])


# ---------------------------------------------------------------- the ladder


@pytest.mark.parametrize("size", sorted({n + more for n in LADDER for more in (-1, 0, 1)} - {0}))
async def test_a_batch_of_any_size_is_kept(database: SQLiteDatabase, size: int) -> None:
    """Promise 1: batches are padded to a few sizes, and cut at the largest; no row is lost."""
    async with opened(database) as store:
        entries = [
            entry(n, lane=n, routes=("answer", "archive")[: n % 3]) for n in range(1, size + 1)
        ]
        first, again = await keep_all(store, entries), await keep_all(store, entries)
        assert [one.event for one in first] == list(range(1, size + 1))
        assert again == [Kept(one.event, new=False) for one in first]
        stats = await store.stats()
        assert stats.events["incoming"] == size
        assert sum(stats.jobs.values()) == sum(n % 3 for n in range(1, size + 1))


# ---------------------------------------------------------------- plans

WANTS = json.dumps([[0, 1 << 60, 16, 40]])
PLANS: dict[str, tuple[str, Any, set[str]]] = {
    "claim": (statements.CLAIM, {"wants": WANTS, "run": 4}, {"jobs_available", "jobs_busy"}),
    "more of lanes": (
        statements.MORE_OF_LANES,
        {"lanes": "[1]", "run": 4},
        {"jobs_available"},
    ),
    "lease": (
        statements.LEASE,
        {"lease": 1, "now": 1, "ids": "[1]", "until": 1},
        {"INTEGER PRIMARY KEY"},
    ),
    "save": (statements.SAVE, {"saves": "[]"}, {"INTEGER PRIMARY KEY"}),
    "complete": (statements.COMPLETE, {"completed": "[]"}, {"INTEGER PRIMARY KEY"}),
    "attempts": (statements.ATTEMPTS, {"attempts": "[]"}, {"INTEGER PRIMARY KEY"}),
    "wake": (statements.WAKE, {"now": 1, "step": 10}, {"jobs_due", "INTEGER PRIMARY KEY"}),
    "next due": (statements.NEXT_DUE, {}, {"jobs_due"}),
    "expired": (statements.EXPIRED, {"now": 1, "owner": 1}, {"jobs_busy"}),
    "free followers": (
        statements.FREE_FOLLOWERS,
        {"now": 1, "owner": 1, "heads": "[]"},
        {"jobs_busy", "INTEGER PRIMARY KEY"},
    ),
    "leased": (statements.LEASED, {"owner": 1}, {"jobs_busy"}),
    **{f"accept {n}": (ACCEPT[n], [None] * 13 * n, set()) for n in LADDER},
    **{f"identify {n}": (IDENTIFY[n], [None] * 2 * n, {"events_key"}) for n in LADDER},
}


@pytest.mark.parametrize(("statement", "values", "indexes"), PLANS.values(), ids=PLANS)
def test_hot_statements_keep_their_plans(
    file: sqlite3.Connection, statement: str, values: Any, indexes: set[str]
) -> None:
    """Promise 8: no statement of acceptance or work scans a table that grows, or sorts."""
    steps = [row[3] for row in file.execute("EXPLAIN QUERY PLAN " + statement, values)]
    for step in steps:
        scanned = step.startswith("SCAN ") and not any(
            fine in step
            for fine in (
                "json_each",
                "VIRTUAL TABLE",
                "CONSTANT",
                "SCAN l",
                "SCAN (",
                "jobs_busy",
                "owners",
            )
        )
        # Busy jobs are as many as run at once, and owners as many as processes: each is meant.
        assert not scanned, steps
        assert "AUTOMATIC" not in step, steps
        assert "TEMP B-TREE" not in step, steps
    assert {index for index in indexes if any(index in step for step in steps)} == indexes, steps


@pytest.mark.parametrize("rows", [2000])
async def test_the_work_on_one_job_does_not_grow_with_the_inbox(
    database: SQLiteDatabase, rows: int
) -> None:
    """Promise 8: indexes of open work are empty when the work is done, however many events."""
    async with opened(database) as store:
        for start in range(1, rows, 250):
            await keep_all(store, [entry(n, lane=n) for n in range(start, start + 250)])
        done = 0
        while done < rows:
            for run in await store.claim([Want("answer", 500, 500)], 500):
                finish(store, run, NOON)
                done += len(run.jobs)
        await written(store)
        assert (await store.stats()).unfinished == {}
    indexes = {
        "jobs_available": "state = 0",
        "jobs_due": "state IN (1, 5)",
        "jobs_busy": "state IN (2, 5)",
        "jobs_discarded": "state = 4",
    }
    with contextlib.closing(sqlite3.connect(database.path)) as db:
        for name, where in indexes.items():
            sql = f"SELECT count(*) FROM jobs INDEXED BY {name} WHERE {where}"
            assert db.execute(sql).fetchone() == (0,)


async def test_lanes_that_wait_for_their_retry_do_not_keep_the_writer_busy(
    store: SQLiteInbox, commits: Commits
) -> None:
    """Promise 8: more such lanes than one claim looks at, each with a job behind: the sweep over
    them ends, and what comes in a lane that is free is found all the same."""
    lanes = 700
    for n in (0, 1):
        await keep_all(store, [entry(n * lanes + lane, lane=lane) for lane in range(1, lanes + 1)])
    for run in await claim_lanes(store, lanes):
        finish(store, run, NOON, Failed("down", after=600), strict=True)
    await written(store)
    assert (await store.stats()).jobs["held"] == lanes
    asked = asyncio.ensure_future(store.claim([Want("answer", 4, 4)], 4))
    before = commits.seen
    await asyncio.wait({asked}, timeout=0.5)
    assert not asked.done()
    assert commits.seen - before < 20
    kept = await keep(store, entry(5000, lane=lanes + 1))
    (run,) = await asyncio.wait_for(asked, 10)
    assert [job.event_id for job in run.jobs] == [kept.event]


async def claim_lanes(store: SQLiteInbox, lanes: int) -> list[Run]:
    """One job of each of so many lanes."""
    runs: list[Run] = []
    while len(runs) < lanes:
        runs += await store.claim([Want("answer", lanes, lanes)], lanes)
    return runs


async def test_retries_that_fall_due_together_are_woken_in_steps(
    database: SQLiteDatabase,
) -> None:
    """Promises 4 and 8: after an outage of hours no transaction wakes more than a step of them,
    and all are woken, although nobody knocks again."""
    retries = 5000
    async with opened(database):
        pass
    with contextlib.closing(sqlite3.connect(database.path)) as db:
        (route,) = db.execute("SELECT id FROM routes WHERE name = 'answer'").fetchone()
        db.executemany(
            "INSERT INTO jobs(id, lane, state, run_at, attempt, spent) VALUES (?, ?, 1, ?, 1, 1)",
            [(n * 1000 + 1, (route << 48) + n, NOON - 1) for n in range(1, retries + 1)],
        )
        db.commit()
    async with opened(database) as store:
        claimed = len(await store.claim([Want("answer", 1, 1)], 1))
        woken = [retries - (await store.stats()).jobs["retryable"]]
        while claimed < retries:
            async with asyncio.timeout(10):
                claimed += len(await store.claim([Want("answer", 500, 500)], 500))
            woken.append(retries - (await store.stats()).jobs["retryable"])
        assert claimed == retries
        assert woken[0] == claims.WAKE_STEP
        assert (await store.stats()).jobs["running"] == retries


async def test_a_claim_does_not_bring_large_bodies(store: SQLiteInbox) -> None:
    """Promise 9: a thousand large bodies are not in memory at once: each is asked for in its
    turn, and is there byte for byte."""
    raws = {1: b"x", 2: b"y" * 65_536, 3: b"z" * 65_537, 4: bytes(range(256)) * 4000}
    kept = {n: (await keep(store, entry(n, lane=n, raw=raw))).event for n, raw in raws.items()}
    brought: dict[int, bytes] = {}
    for run in await claim_now(store):
        brought |= {id_: stored.raw for id_, stored in run.events.items()}
    assert brought == {kept[1]: raws[1], kept[2]: raws[2]}
    for n, raw in raws.items():
        stored = await store.stored(kept[n])
        assert stored is not None
        assert (stored.raw, stored.received_at) == (raw, NOON)
    assert await store.stored(4711) is None


async def test_a_look_whose_asker_has_gone_is_not_taken(
    store: SQLiteInbox, commits: Commits
) -> None:
    """Promise 8: who asks and goes away costs the writer nothing."""
    checks = [asyncio.ensure_future(store.check()) for _ in range(200)]
    await asyncio.sleep(0)
    before = commits.seen
    for one in checks:
        one.cancel()
    await asyncio.gather(*checks, return_exceptions=True)
    for n in (1, 2, 3):
        await keep(store, entry(n))
    assert commits.seen - before <= 5


# ---------------------------------------------------------------- locks and leases in trouble


async def test_a_lock_that_fails_while_leases_are_renewed_stops_nothing(
    database: SQLiteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 8: some file systems run out of locks; the writer goes on, and tries again."""
    failed = threading.Event()

    def flock(handle: int, how: int) -> None:
        if threading.current_thread().name == "whatsable-inbox-writer" and not failed.is_set():
            failed.set()
            raise OSError(errno.ENOLCK, "No locks available")
        fcntl.flock(handle, how)

    async with opened(database, lease=0.3) as store:
        await keep(store, entry(1))
        assert len(await claim_now(store)) == 1
        monkeypatch.setattr(locks, "fcntl", SimpleNamespace(**{**vars(fcntl), "flock": flock}))
        await until(failed.is_set)
        assert [one.new for one in await keep_all(store, [entry(2), entry(3)])] == [True, True]


async def test_a_lock_that_fails_is_a_503(
    database: SQLiteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 8: without its turn nothing is written; with it again, everything is."""
    working = threading.Event()

    def flock(handle: int, how: int) -> None:
        if threading.current_thread().name == "whatsable-inbox-writer" and not working.is_set():
            raise OSError(errno.ENOLCK, "No locks available")
        fcntl.flock(handle, how)

    async with opened(database) as store:
        monkeypatch.setattr(locks, "fcntl", SimpleNamespace(**{**vars(fcntl), "flock": flock}))
        said = await keep_each(store, [entry(1), entry(2)])
        assert [str(one) for one in said if isinstance(one, Unavailable)] == [
            "the inbox cannot be written: [Errno 37] No locks available"
        ] * 2
        working.set()
        await until(lambda: store.last_error is not None)
        assert [one.new for one in await keep_all(store, [entry(1), entry(2)])] == [True, True]


async def test_leases_of_a_file_that_is_gone_are_not_renewed_in_another(
    database: SQLiteDatabase,
) -> None:
    """Promise 5: in a new file this process is nobody yet: what it claims there is its own, and
    no other process finds it under a lease that ran out."""
    clock = lambda: time.time_ns() // 1_000_000  # noqa: E731
    async with opened(database, clock=clock, lease=1.5) as store:
        await keep(store, entry(1))
        assert len(await claim_now(store)) == 1
        for name in ("inbox.db", "inbox.db-wal", "inbox.db-shm"):
            database.path.with_name(name).unlink(missing_ok=True)
        await until(database.path.exists)  # by the renewal, or by a look for other processes
        async with opened(database, clock=clock, lease=1.5) as other:
            await until(lambda: _kept(store, entry(2)))
            assert len(await claim_now(store)) == 1
            assert await other.take_back() == []


async def _kept(store: Inbox, one: Entry) -> bool:
    return isinstance((await keep_each(store, [one]))[0], Kept)


async def test_a_second_inbox_of_one_process_takes_no_lock_from_the_first(
    database: SQLiteDatabase,
) -> None:
    """Promise 1: to close any handle on a file drops all locks that a process has on it; another
    process would then take itself for the last one, and delete the log under the first."""
    wal = database.path.with_name("inbox.db-wal")
    look = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('SELECT * FROM jobs')"
    )
    async with opened(database) as store:
        await keep(store, entry(1))
        async with opened(database):
            pass
        await keep(store, entry(2))
        other = [sys.executable, "-c", look + "; db.close()", str(database.path)]
        await asyncio.to_thread(lambda: subprocess.run(other, check=True))
        assert wal.exists()


async def test_who_gives_up_opening_is_not_kept_waiting(database: SQLiteDatabase) -> None:
    """Promise 8: another process may hold the lock for ever."""
    lock = FileLock(database.path.with_name("inbox.db-lock"))
    lock.take()
    opening = asyncio.ensure_future(database.inbox().open(ROUTES))
    await asyncio.wait({opening}, timeout=0.1)
    opening.cancel()
    try:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(opening), 5)
    finally:
        lock.close()


# ---------------------------------------------------------------- retention


async def test_retention_ends_at_what_may_stay(store: SQLiteInbox, commits: Commits) -> None:
    """Promise 8: where nothing is due, a long history costs a look at its beginning."""
    await fill(store, 2000)
    before = commits.seen
    assert await store.prune(Retention()) == 0
    assert commits.seen - before <= 2  # the ring of quarantine, and one window


async def test_retention_jumps_over_what_it_has_taken(
    database: SQLiteDatabase, store: SQLiteInbox, commits: Commits
) -> None:
    """Promise 8: a history whose bodies went long ago is not walked through again."""
    await fill(store, 5000)
    database.clock.forward(31 * 86_400)
    await keep(store, entry(9001, routes=(), received_at=database.clock.now))
    await keep(store, entry(9002, routes=(), received_at=database.clock.now))
    for _ in range(2):  # the second time after the look at all of it that is due each hour
        while await store.prune(Retention()):
            pass
        before = commits.seen
        database.clock.forward(60)
        assert await store.prune(Retention()) == 0
        assert commits.seen - before <= 4  # the ring, a window before the jump, one behind it
        database.clock.forward(2 * 3600)


async def fill(store: SQLiteInbox, events: int) -> None:
    """So many finished events."""
    for start in range(1, events, 250):
        await keep_all(store, [entry(n, routes=()) for n in range(start, start + 250)])


# ---------------------------------------------------------------- several on one file


async def test_two_inboxes_share_the_work_and_no_job_runs_twice(database: SQLiteDatabase) -> None:
    """Promise 5: two processes drain one backlog: each job once, each lane in order."""
    async with opened(database) as one, opened(database) as other:
        await keep_all(one, [entry(n, lane=1 + n % 7) for n in range(1, 141)])
        done: list[tuple[int, int]] = []

        async def drain(inbox: SQLiteInbox) -> None:
            while len(done) < 140:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.5):
                        for run in await inbox.claim([Want("answer", 2, 6)], 2):
                            done.extend((run.lane, job.event_id) for job in run.jobs)
                            await asyncio.sleep(0)
                            finish(inbox, run, NOON)

        assert isinstance(one, SQLiteInbox)
        assert isinstance(other, SQLiteInbox)
        await asyncio.gather(drain(one), drain(other))
        assert len({job for _, job in done}) == len(done) == 140
        for lane in {lane for lane, _ in done}:
            jobs = [job for lane_, job in done if lane_ == lane]
            assert jobs == sorted(jobs)


async def test_work_kept_by_another_process_is_found(database: SQLiteDatabase) -> None:
    """A waiting claim notices within about a second what another process accepted."""
    async with opened(database) as worker, opened(database) as door:
        asked = asyncio.ensure_future(worker.claim([ANSWER], 4))
        await written(worker)
        kept = await keep(door, entry(1))
        (run,) = await asyncio.wait_for(asked, 10)
        assert run.jobs[0].event_id == kept.event


DYING = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[2])
from tests.stores import NOON, ROUTES, claim_now, entry, keep_all
from whatsable_receiver.inbox.sqlite import SQLiteInbox

async def main():
    inbox = SQLiteInbox(sys.argv[1], clock=lambda: NOON)
    await inbox.open(ROUTES)
    await keep_all(inbox, [entry(n, lane=n) for n in (1, 2, 3)])
    print(sum(len(run.jobs) for run in await claim_now(inbox)), flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def die_with_three_jobs(database: SQLiteDatabase) -> None:
    """Another process keeps three events, claims their jobs, and is killed."""
    root = Path(__file__).parent.parent
    died = subprocess.run(
        [sys.executable, "-c", DYING, str(database.path), str(root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (died.stdout.strip(), died.returncode) == ("3", -9), died.stderr


async def test_after_a_crash_nobody_waits_for_leases(database: SQLiteDatabase) -> None:
    """Promise 4: who starts alone knows that all others are dead, and takes their jobs at once."""
    await asyncio.to_thread(die_with_three_jobs, database)
    async with opened(database) as again:
        lost = await again.take_back()
        assert [(one.job.event_id, one.job.attempt) for one in lost] == [(1, 1), (2, 1), (3, 1)]


async def test_while_somebody_lives_a_newcomer_waits_for_leases(database: SQLiteDatabase) -> None:
    """Promise 5: who does not start alone cannot know who died, and waits for the lease."""
    async with opened(database) as living:
        await asyncio.to_thread(die_with_three_jobs, database)
        async with opened(database) as newcomer:
            assert await newcomer.take_back() == []
            database.clock.forward(LEASE + 1)
            assert len(await newcomer.take_back()) == 3
        assert await living.take_back() == []


async def test_a_reader_does_not_declare_the_workers_dead(database: SQLiteDatabase) -> None:
    """An inbox opened without routes, as ``events list`` does, disturbs no lease."""
    async with opened(database) as worker:
        await keep(worker, entry(1))
        (run,) = await claim_now(worker)
        async with opened(database, routes=()) as reader:
            assert len(await reader.find(Filter(kinds=frozenset({"incoming"})))) == 1
            assert await reader.take_back() == []
        finish(worker, run, NOON)
        assert await states(worker, run.jobs[0].id) == [State.COMPLETED]


async def test_a_lease_is_renewed_while_the_loop_is_blocked(database: SQLiteDatabase) -> None:
    """Promise 5: a handler that blocks the loop for three leases loses none."""

    def real() -> int:
        return time.time_ns() // 1_000_000

    async with (
        opened(database, clock=real, lease=0.3) as busy,
        opened(database, clock=real, lease=0.3) as other,
    ):
        await keep(busy, entry(1))
        (run,) = await claim_now(busy)
        time.sleep(0.9)  # noqa: ASYNC251 - the loop is blocked on purpose: this is the test
        assert await other.take_back() == []
        finish(busy, run, NOON)
        assert await states(busy, run.jobs[0].id) == [State.COMPLETED]


# ---------------------------------------------------------------- trouble with the file


async def test_a_full_file_is_unavailable_and_then_goes_on(database: SQLiteDatabase) -> None:
    """Promise 8: no room is Unavailable, without half an event; with room again it is kept."""
    async with opened(database) as store:
        await keep(store, entry(1))
        assert isinstance(store, SQLiteInbox)
        await store._act(lambda db: db.execute("PRAGMA max_page_count = 1").fetchone())
        big = entry(2, raw=b"x" * 200_000)
        with pytest.raises(Unavailable, match="full"):
            await keep(store, big)
        assert len(await store.find(Filter())) == 1
        await store._act(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
        assert (await keep(store, big)).new


async def test_outcomes_wait_for_a_lock(database: SQLiteDatabase) -> None:
    """Promise 4: an outcome handed over while another holds the file is written after that."""
    async with opened(database) as store:
        await keep(store, entry(1))
        (run,) = await claim_now(store)
        with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            finish(store, run, NOON)
            await asyncio.sleep(0)
            other.execute("ROLLBACK")
        assert await states(store, run.jobs[0].id) == [State.COMPLETED]


@contextlib.asynccontextmanager
async def no_job_can_be_leased(store: SQLiteInbox) -> AsyncIterator[None]:
    """A fault in the middle of a claim's transaction, as a full disk is one."""
    refuse = (
        "CREATE TEMP TRIGGER fault BEFORE UPDATE ON main.jobs WHEN NEW.state = 2 "
        "BEGIN SELECT RAISE(ABORT, 'no room'); END"
    )
    await store._act(lambda db: db.execute(refuse).fetchone())
    yield
    await store._act(lambda db: db.execute("DROP TRIGGER fault").fetchone())


async def test_a_failed_transaction_forgets_no_retry(
    database: SQLiteDatabase, store: SQLiteInbox, commits: Commits
) -> None:
    """Promise 4: a retry that fell due in a transaction that failed is due all the same, and the
    writer is not busy with it while that lasts."""
    await keep(store, entry(1))
    (run,) = await claim_now(store)
    finish(store, run, NOON, Failed("once", after=1.5))
    await written(store)
    asked = asyncio.ensure_future(store.claim([ANSWER], 1))
    # The first look at what others write finds something, and would hide that it was forgotten.
    await until(lambda: store._writer.claims._version is not None)
    async with no_job_can_be_leased(store):
        database.clock.forward(2)
        await until(lambda: store.last_error is not None)
        before = commits.seen
        await asyncio.wait({asked}, timeout=0.5)
        assert commits.seen - before < 20
        assert not asked.done()
    (again,) = await asyncio.wait_for(asked, 10)
    assert [job.attempt for job in again.jobs] == [2]


async def test_a_failed_claim_leaves_no_job_unseen(store: SQLiteInbox) -> None:
    """Promise 4: what a claim had reached when its transaction failed is claimed by the next."""
    asked = asyncio.ensure_future(store.claim([Want("answer", 4, 4)], 4))
    # As above: the first look would hide that nobody claimed again.
    await until(lambda: store._writer.claims._version is not None)
    async with no_job_can_be_leased(store):
        answers = asyncio.ensure_future(keep_all(store, [entry(n, lane=n) for n in range(1, 5)]))
        await until(lambda: store.last_error is not None)
    assert all(one.new for one in await answers)
    assert len(await asyncio.wait_for(asked, 10)) == 4


@pytest.mark.parametrize("first", ["a delivery", "a look", "a claim"])
async def test_close_ends_while_another_holds_the_file_for_ever(
    database: SQLiteDatabase, first: str
) -> None:
    """Promise 8: whatever the writer is stuck in, close ends, and whoever waits is told."""
    store = database.inbox(keep_timeout=0.2)
    await store.open(ROUTES)
    lock = FileLock(database.path.with_name("inbox.db-lock"))
    lock.take()
    try:
        ask: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "a delivery": lambda: keep(store, entry(1, jobs=(NewJob("answer", 1),))),
            "a look": store.check,
            "a claim": lambda: store.claim([ANSWER], 1),
        }
        asked = {first: asyncio.ensure_future(ask[first]())}
        await until(lambda: store._in_flight is not None)
        asked |= {
            what: asyncio.ensure_future(asking()) for what, asking in ask.items() if what != first
        }
        await asyncio.sleep(0)
        await asyncio.wait_for(store.close(), 10)
        await asyncio.wait_for(asyncio.gather(*asked.values(), return_exceptions=True), 10)
        assert isinstance(asked["a delivery"].exception(), Unavailable)
        assert isinstance(asked["a look"].exception(), Unavailable)
        assert asked["a claim"].cancelled()
    finally:
        lock.release()
        lock.close()
    await until(lambda: store._thread not in threading.enumerate())


async def test_a_claim_that_was_just_made_ends_with_close(database: SQLiteDatabase) -> None:
    """Whoever asked in the moment of the close does not wait for ever."""
    store = database.inbox()
    await store.open(ROUTES)
    asked = asyncio.ensure_future(store.claim([ANSWER], 1))
    for _ in range(2):  # it asks, and the writer is told
        await asyncio.sleep(0)
    assert store._in_flight is not None
    await store.close()
    await asyncio.wait_for(asyncio.wait({asked}), 10)
    assert asked.cancelled()


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_file_that_goes_away_is_noticed(database: SQLiteDatabase, how: str) -> None:
    """Promise 1: what went into a file that is gone is not called kept; then it goes on."""
    async with opened(database) as store:
        await keep(store, entry(1))
        for name in ("inbox.db", "inbox.db-wal", "inbox.db-shm"):
            (database.path.parent / name).unlink(missing_ok=True)
        if how == "replaced":
            with contextlib.closing(connect(database.path)) as db:
                migrate(db)
        with pytest.raises(Unavailable):
            await keep(store, entry(2))
        kept = await keep(store, entry(2))
        assert kept.new
        with contextlib.closing(sqlite3.connect(database.path)) as db:
            assert db.execute("SELECT count(*) FROM events").fetchone() == (1,)


@pytest.mark.parametrize(("many", "size"), [(400, 100_000), (1000, 100)])
async def test_the_log_of_the_file_stays_small(
    database: SQLiteDatabase, many: int, size: int
) -> None:
    """Promise 9: the writer checkpoints as it goes: the log does not grow with the traffic, be it
    of large bodies or of small ones that come one at a time and cost whole pages each."""
    wal = database.path.with_name("inbox.db-wal")
    async with opened(database) as store:
        for n in range(1, many + 1):
            await keep(store, entry(n, raw=b"x" * size))
        log = wal.stat().st_size
    assert log < 20_000_000
    assert database.path.stat().st_size > many * size
    assert not wal.exists() or wal.stat().st_size == 0


async def test_when_nothing_comes_the_log_goes_into_the_file(
    database: SQLiteDatabase, store: SQLiteInbox, commits: Commits
) -> None:
    """Promise 9: that the loop looks in once a second does not put it off."""
    asked = asyncio.ensure_future(store.claim([Want("archive", 1, 1)], 1))
    before = commits.seen
    await keep_all(store, [entry(n, routes=("answer",)) for n in range(1, 50)])
    small = database.path.stat().st_size
    await until(lambda: database.path.stat().st_size > small)
    assert commits.seen - before <= 4
    asked.cancel()


async def test_a_slow_reader_does_not_stop_acceptance(database: SQLiteDatabase) -> None:
    """Promise 8: somebody who reads for long blocks neither acceptance nor retention."""
    async with opened(database) as store:
        await keep_all(store, [entry(n, routes=()) for n in range(1, 50)])
        with contextlib.closing(sqlite3.connect(database.path)) as reader:
            rows = reader.execute("SELECT id FROM events")
            rows.fetchone()
            assert (await keep(store, entry(100))).new
            database.clock.forward(86_400)
            assert await store.prune(Retention(age=1.0)) == 49
            assert len(rows.fetchall()) == 48


def test_the_steps_of_pruning_are_small() -> None:
    """Larger steps show in the p99 of acceptance."""
    assert retention.PRUNE_STEP <= 64


async def test_close_waits_for_no_claim(database: SQLiteDatabase) -> None:
    """Whoever waits for work when the inbox closes is told so by cancellation."""
    store = database.inbox()
    await store.open(ROUTES)
    asked = asyncio.ensure_future(store.claim([ANSWER], 1))
    await written(store)
    await store.close()
    await until(asked.done)
    assert asked.cancelled()
