"""The writer's thread: what one transaction of the SQLite inbox does.

The limit of the accept path is the interpreter lock, which every statement gives away once or
twice: so few statements, whole batches in and out as one text, and nothing row by row.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigurationError, Unavailable
from ..jobs import Job, State
from ..telemetry import Meter
from . import sqlite_queries as queries
from .base import KINDS, Entry, Kept, Lost, Run, Settled, Want
from .sqlite_locks import FileLock
from .sqlite_statements import (
    ACCEPT,
    ACCEPT_TRIGGER,
    ATTEMPTS,
    CLAIM,
    COMPLETE,
    EXPIRED,
    FREE_FOLLOWERS,
    IDENTIFY,
    LADDER,
    LEASE,
    LEASED,
    MORE_OF_LANES,
    NEXT_DUE,
    PADDING,
    RENEW,
    SAVE,
    WAKE,
)

log = logging.getLogger("whatsable_receiver.inbox")

LARGEST_CYCLE = LADDER[-1]
CHECKPOINT_BYTES = 4 << 20  # of log, roughly: small steps keep the pause of one short
WAKE_STEP = 1000
FEW = 8  # jobs of a lane that are claimed together, unless few lanes have any
SCHEMA = 1
APPLICATION_ID = 0x57684162  # "WhAb": tells our files from those of other programs

# ---------------------------------------------------------------- what passes between the threads


class Wants(NamedTuple):
    """A claim: what of each route, and how many lanes in all."""

    routes: Sequence[Want]
    lanes: int


class Waiting(NamedTuple):
    entry: Entry
    answer: asyncio.Future[Kept]
    since: float


@dataclass(slots=True)
class Cycle:
    """One transaction's worth of work, and what became of it."""

    waiting: list[Waiting]
    saves: list[Settled]
    wants: Wants | None
    claim: asyncio.Future[Claimed] | None
    shaken: int
    kept: list[Kept | Unavailable] = field(default_factory=list)
    claimed: Claimed | None = None
    error: Unavailable | None = None


class Claimed(NamedTuple):
    runs: list[Run]
    more: bool  # there may be more: ask again at once


@dataclass(slots=True)
class Act:
    """A transaction of its own, and the future of its answer."""

    work: Callable[[sqlite3.Connection], Any]
    answer: asyncio.Future[Any]
    shakes: bool  # when it answers anything but nothing, there may be more to claim


# ---------------------------------------------------------------- opening the file


def connect(path: Path) -> sqlite3.Connection:
    """A connection with the pragmas that the promises need; used by one thread at a time."""
    # SQLite would open such a file for reading, and leave a -shm beside it with the same rights:
    # that one would stay read-only when the file no longer is.
    if path.exists() and not os.access(path, os.W_OK):
        raise sqlite3.OperationalError("attempt to write a readonly database")
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        db.execute("PRAGMA busy_timeout = 5000")
        _refuse_foreign(db, path)
        db.execute("PRAGMA page_size = 8192")
        # Another process may be making the same switch: this one statement does not wait by itself.
        for _ in range(50):
            try:
                mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                time.sleep(0.02)
        else:
            raise sqlite3.OperationalError("database is locked")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("PRAGMA automatic_index = OFF")
        db.execute("PRAGMA cache_size = -65536")
        synchronous = db.execute("PRAGMA synchronous").fetchone()[0]
        if mode != "wal" or synchronous != 2:
            # Promise 1 stands on these two.
            raise ConfigurationError(
                f"{path} cannot be made durable: journal_mode is {mode!r} (not 'wal'), "
                f"synchronous is {synchronous} (not 2, FULL); use a local disk"
            )
    except BaseException:
        db.close()
        raise
    return db


def _refuse_foreign(db: sqlite3.Connection, path: Path) -> None:
    """A database that has tables and is not ours is left exactly as it is."""
    ours = db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    if not ours and db.execute("PRAGMA schema_version").fetchone()[0]:
        raise ConfigurationError(f"{path} is the database of another program")


def migrate(db: sqlite3.Connection) -> None:
    """Bring the schema to the newest number, each step in a transaction of its own."""
    while (version := db.execute("PRAGMA user_version").fetchone()[0]) < SCHEMA:
        name = f"sqlite_{version + 1:04}.sql"
        script = Path(__file__).with_name("schema").joinpath(name).read_text("utf-8")
        db.execute("BEGIN IMMEDIATE")
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] == version:
                for statement in script.split(";\n"):
                    if statement.strip():
                        db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {version + 1}")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
    if version > SCHEMA:
        raise ConfigurationError(
            f"the database has schema {version}, and this version knows {SCHEMA}: "
            "it was written by a newer whatsable-receiver; upgrade this one"
        )


# ---------------------------------------------------------------- the thread


class Writer:
    """Owns the one writing connection, from ``start_up`` on; ``run`` is its thread."""

    def __init__(
        self,
        path: Path,
        routes: Sequence[str],
        *,
        clock: Callable[[], int],
        lease_ms: int,
        meter: Meter,
        create: bool,
        quarantine: tuple[int, int],
        done: Callable[[Cycle | Act, int | None, Any], None],
    ) -> None:
        self.path = path
        self.clock = clock
        self.lease_ms = lease_ms
        self.meter = meter
        self.create = create
        self.quarantine = quarantine  # rows and bytes
        self.done = done
        self.tasks: queue.SimpleQueue[Cycle | Act | None] = queue.SimpleQueue()
        self.wanted_routes = routes
        self.route_ids: dict[str, int] = {}
        self.due: int | None = None  # when the next retry falls due
        self._route_names: dict[int, str] = {}
        self._db: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._lock: FileLock | None = None
        self._alive: FileLock | None = None
        self._cursors: dict[str, int] = {}
        self._owner = 0
        self._until = 0  # our leases are good until then
        self._claims = 0
        self._epoch = 0  # how often something may have become claimable
        self._swept: dict[str, int] = {}  # the epoch in which a sweep over the lanes began
        self._unlooked_rows = 0  # quarantined since the ring was last looked at
        self._unlooked_bytes = 0
        self._suspect: int | None = None  # the job that may be the one that kills its process
        self._leased = 0
        self._renew_at = 0.0
        self._logged = 0  # bytes since the last checkpoint, roughly
        self._version: int | None = None  # data_version: changes when another process commits

    # ------------------------------------------------------------ start and stop

    def start_up(self) -> None:
        """Open or make the file, and learn the routes' numbers. Raises ConfigurationError."""
        if not self.path.parent.is_dir():
            raise ConfigurationError(f"the folder of the database {self.path} does not exist")
        if not self.create and not self.path.exists():
            raise ConfigurationError(f"there is no database {self.path}")
        try:
            self._lock = FileLock(self.path.with_name(self.path.name + "-lock"))
            self._alive = FileLock(self.path.with_name(self.path.name + "-alive"))
            with self._locked():
                first = bool(self.wanted_routes) and self._alive.take(wait=False)
                db = self._database()
                if first:
                    # Nobody else is alive: whoever held these leases is dead.
                    db.execute("UPDATE owners SET until = 0")
            self._alive.take(shared=True)
        except sqlite3.Error as error:
            self.shut_down()
            raise ConfigurationError(f"the database {self.path} cannot be used: {error}") from error
        except OSError as error:
            self.shut_down()
            raise ConfigurationError(
                f"the database {self.path} cannot be used: {error.strerror}"
            ) from error
        except BaseException:
            self.shut_down()
            raise

    def _database(self) -> sqlite3.Connection:
        if self._db is not None:
            return self._db
        fresh = not self.path.exists()
        if fresh and self._inode is not None and not self.create:
            raise sqlite3.OperationalError("the file is gone")
        if fresh:  # other people's messages: for the owner's eyes, and so are -wal and -shm
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        db = connect(self.path)
        try:
            migrate(db)
            db.execute(ACCEPT_TRIGGER)
            for name in self.wanted_routes:
                db.execute("INSERT OR IGNORE INTO routes(name) VALUES (?)", (name,))
            known = db.execute("SELECT id, name FROM routes").fetchall()
            self.due = db.execute(NEXT_DUE).fetchone()[0]
        except BaseException:
            db.close()
            raise
        self._route_names = dict(known)
        self.route_ids = {name: number for number, name in known if name in set(self.wanted_routes)}
        if fresh:
            # The file's name is stable only once its folder is synced.
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._db = db
        before, self._inode = self._inode, self._identity()
        if fresh or before != self._inode:
            # New to us (inodes come again): what we are called in another file is nothing here.
            self._owner = self._until = self._leased = 0
            self._cursors.clear()
        return db

    def _identity(self) -> tuple[int, int]:
        stat = os.stat(self.path)
        return stat.st_dev, stat.st_ino

    def shut_down(self) -> None:
        """Let go of the file and the locks."""
        if self._db is not None:
            with suppress(sqlite3.Error), self._locked():
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.close()
            self._db = None
        for lock in (self._lock, self._alive):
            if lock is not None:
                lock.close()
        self._lock = self._alive = None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        assert self._lock is not None
        self._lock.take()
        try:
            yield
        finally:
            self._lock.release()

    # ------------------------------------------------------------ the thread itself

    def run(self) -> None:
        """Do what comes until told to stop; renew leases meanwhile, whatever the loop does."""
        while True:
            try:
                task = self.tasks.get(timeout=self._patience())
            except queue.Empty:
                self._idle()
                continue
            if task is None:
                break
            began = time.perf_counter()
            answer: Any = None
            if isinstance(task, Act):
                answer = self._act(task)
            else:
                self._cycle(task)
            self.meter.time("commit", time.perf_counter() - began)
            self._renew_if_due()
            self.done(task, self.due, answer)
            if self._logged >= CHECKPOINT_BYTES:
                self._checkpoint()
        self.shut_down()

    def _patience(self) -> float | None:
        if self._leased > 0:
            return max(0.01, min(1.0, self._renew_at - time.monotonic()))
        return 1.0 if self._logged else None

    def _idle(self) -> None:
        self._renew_if_due()
        if self._logged:
            self._checkpoint()

    def _checkpoint(self) -> None:
        # Under the lock of the turn: versions of SQLite before 3.51.3 can corrupt a log that two
        # connections reset at once.
        self._logged = 0
        if self._db is None:
            return
        try:
            with self._locked():
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except (sqlite3.Error, OSError) as error:
            log.warning("a checkpoint has to wait: %s", error)

    def _renew_if_due(self) -> None:
        if self._leased <= 0 or time.monotonic() < self._renew_at or self._db is None:
            return
        try:
            with self._locked():
                self._renew(self._db, self.clock())
                self._leased = self._db.execute(LEASED, {"owner": self._owner}).fetchone()[0]
        except (sqlite3.Error, OSError) as error:
            log.warning("leases could not be renewed: %s", error)

    def _renew(self, db: sqlite3.Connection, now: int) -> None:
        until = now + self.lease_ms
        db.execute(RENEW, {"owner": self._owner, "until": until})
        self._renew_at = time.monotonic() + self.lease_ms / 3000
        self._until = until

    # ------------------------------------------------------------ transactions

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction in the file that stands at the path now, or ``Unavailable``."""
        with self._locked():
            db = None
            ours = None
            try:
                db = self._database()
                ours = self._owner, self._until, self._leased, self._suspect, self.due
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
                if self._identity() != self._inode:
                    raise sqlite3.OperationalError("the file was replaced")
            except (sqlite3.Error, OSError, ConfigurationError) as error:
                self._undo(ours)
                self._after(error)
                raise Unavailable(f"the inbox cannot be written: {error}") from error
            except BaseException:
                self._undo(ours)
                if db is not None and db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def _undo(self, ours: tuple[int, int, int, int | None, int | None] | None) -> None:
        # A name that was undone with its transaction is given out again, to another process.
        self._epoch += 1  # what it claimed stands again, and the cursors are past it
        if ours is not None:
            (self._owner, self._until, self._leased, self._suspect, self.due) = ours

    def _after(self, error: Exception) -> None:
        """Leave no transaction behind; a connection that is not merely busy is opened anew."""
        if self._db is None:
            return
        with suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CONSTRAINT):
            self._db.close()
            self._db = None

    def _act(self, act: Act) -> Any:
        try:
            with self._transaction() as db:
                return act.work(db)
        except Exception as error:  # handed to whoever asked, whatever it is
            return error

    def _cycle(self, cycle: Cycle) -> None:
        try:
            with self._transaction() as db:
                self._fill(db, cycle)
            return
        except Unavailable as error:
            cycle.error = error
        except Exception as error:  # a row that cannot be bound must not take 255 others with it
            log.exception("a cycle failed")
            cycle.error = Unavailable(f"the inbox cannot be written: {error}")
        cycle.claimed = None
        cycle.kept = [cycle.error] * len(cycle.waiting)
        if len(cycle.waiting) > 1 and self._db is not None:
            self._one_by_one(cycle)

    def _one_by_one(self, cycle: Cycle) -> None:
        for n, one in enumerate(cycle.waiting):
            try:
                with self._transaction() as db:
                    cycle.kept[n] = self._accept(db, [one])[0]
            except Unavailable as error:
                if not isinstance(error.__cause__, sqlite3.IntegrityError | sqlite3.DataError):
                    cycle.kept[n:] = [error] * (len(cycle.waiting) - n)
                    return
                cycle.kept[n] = error  # this is the row
            except Exception as error:  # and so is this
                cycle.kept[n] = Unavailable(f"this delivery cannot be stored: {error}")

    def _fill(self, db: sqlite3.Connection, cycle: Cycle) -> None:
        now = self.clock()
        if cycle.saves or cycle.waiting:
            self._epoch += 1
        if cycle.saves:
            self._save(db, cycle.saves)
        if cycle.waiting:
            cycle.kept = list(self._accept(db, cycle.waiting))
            self._guard_quarantine(db, cycle.waiting)
        if cycle.wants is not None:
            if self.due is not None and self.due <= now:
                self._wake(db, now)
            cycle.claimed = self._claim(db, cycle.wants, now)

    def _guard_quarantine(self, db: sqlite3.Connection, waiting: Sequence[Waiting]) -> None:
        """Let the ring go round in time: retention looks once a minute, a flood does not wait."""
        for one in waiting:
            if one.entry.kind == "quarantined":
                self._unlooked_rows += 1
                self._unlooked_bytes += len(one.entry.raw)
        rows, size = self.quarantine
        if self._unlooked_rows * 16 > rows or self._unlooked_bytes * 16 > size:
            self._unlooked_rows = self._unlooked_bytes = 0
            queries.evict(db, rows, size, step=LARGEST_CYCLE)

    def _accept(self, db: sqlite3.Connection, waiting: Sequence[Waiting]) -> list[Kept]:
        folded: dict[tuple[bytes, bytes], list[int]] = {}
        for n, one in enumerate(waiting):
            folded.setdefault((one.entry.key, one.entry.fingerprint), []).append(n)
        size = next(step for step in LADDER if step >= len(folded))
        values: list[Any] = []
        jobs = 0
        jobless = False
        for position, places in enumerate(folded.values(), 1):
            entry = waiting[places[0]].entry
            jobs += len(entry.jobs)
            jobless = jobless or not entry.jobs
            values += self._row(position, len(places), entry)
        for _ in range(size - len(folded)):
            values += PADDING
        before = db.total_changes
        cursor = db.execute(ACCEPT[size], values)
        if not jobless and db.total_changes - before == len(folded) + jobs:
            # The usual case: each row is new, or one of them would have made no job.
            first = (cursor.lastrowid or 0) - len(folded)
            answers = [(first + position, True) for position in range(1, len(folded) + 1)]
        else:
            answers = self._identify(db, folded)
        kept: list[Any] = [None] * len(waiting)
        for (event, new), places in zip(answers, folded.values(), strict=True):
            kept[places[0]] = Kept(event, new)
            for place in places[1:]:
                kept[place] = Kept(event, False)
        self._logged += 600 + sum(200 + len(one.entry.raw) for one in waiting)
        return kept

    def _row(self, position: int, deliveries: int, entry: Entry) -> tuple[Any, ...]:
        return (
            position,
            entry.key,
            entry.fingerprint,
            deliveries,
            entry.received_at,
            KINDS.index(entry.kind),
            entry.account,
            entry.phone,
            entry.message_type,
            entry.labels,
            entry.reason,
            self._routes(entry) if entry.jobs else None,
            entry.raw,
        )

    def _routes(self, entry: Entry) -> str:
        """What the trigger makes jobs of: ``[[lane, state, reason], ...]``. Put together by hand
        where it is only numbers, because each delivery pays for it."""
        lanes = [(self.route_ids[job.route] << 48) | job.lane for job in entry.jobs]
        if not any(job.discarded for job in entry.jobs):
            return f"[{','.join([f'[{lane},0,null]' for lane in lanes])}]"
        states = [State.DISCARDED if job.discarded else State.AVAILABLE for job in entry.jobs]
        reasons = [job.discarded for job in entry.jobs]
        return json.dumps(list(zip(lanes, states, reasons, strict=True)))

    def _identify(
        self, db: sqlite3.Connection, folded: dict[tuple[bytes, bytes], list[int]]
    ) -> list[tuple[int, bool]]:
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

    def _save(self, db: sqlite3.Connection, saves: Sequence[Settled]) -> None:
        completed = []
        others = []
        attempts = []
        for job, lease, started, ended, outcome, detail in saves:
            if job.id == self._suspect:
                self._suspect = None
            if job.state is State.COMPLETED:
                completed.append((job.id, lease, started, ended))
                continue
            if outcome is not None:
                attempts.append(
                    (job.id, lease, job.attempt, started, ended, outcome, job.reason, detail)
                )
            others.append(
                (
                    job.id,
                    lease,
                    job.state,
                    job.run_at,
                    job.attempt,
                    job.spent,
                    started,
                    ended,
                    job.reason,
                )
            )
            if job.state in (State.RETRYABLE, State.HELD):
                self.due = job.run_at if self.due is None else min(self.due, job.run_at)
        changed = 0
        if completed:
            changed += db.execute(COMPLETE, {"completed": json.dumps(completed)}).rowcount
        if attempts:
            db.execute(ATTEMPTS, {"attempts": json.dumps(attempts)})
        if others:
            changed += db.execute(SAVE, {"saves": json.dumps(others)}).rowcount
        self._leased -= changed
        self._logged += 100 * len(saves)
        if changed < len(saves):
            lost = len(saves) - changed
            self.meter.count("leases_lost", lost)
            log.warning("%d outcomes were dropped: their leases were lost", lost)

    def _wake(self, db: sqlite3.Connection, now: int) -> None:
        # One step a cycle: what is still due is due at once, and those who wait get a turn.
        db.execute(WAKE, {"now": now, "step": WAKE_STEP})
        self.due = db.execute(NEXT_DUE).fetchone()[0]
        self._epoch += 1

    # ------------------------------------------------------------ claims

    def _claim(self, db: sqlite3.Connection, wants: Wants, now: int) -> Claimed:
        ranges = [self._range(want) for want in wants.routes]
        found = json.loads(
            db.execute(CLAIM, {"wants": json.dumps(ranges), "run": FEW}).fetchone()[0]
        )
        shares = _shares(
            [
                min(want.lanes, len(lanes))
                for want, (_, _, lanes) in zip(wants.routes, found, strict=True)
            ],
            wants.lanes,
        )
        chosen: list[tuple[str, int, tuple[Job, ...]]] = []
        more = False
        for want, limits, (looked, last, lanes), share in zip(
            wants.routes, ranges, found, shares, strict=True
        ):
            start, end, _, limit = limits
            taken = lanes[:share]
            filled = len(lanes) >= want.lanes or share < len(lanes) or (looked or 0) >= limit
            # Begin again at the lowest lane, unless lanes were left over: without this wrap
            # every second claim would find almost nothing.
            first = end - (1 << 48) - 1
            if start <= first:
                self._swept[want.route] = self._epoch
            # Or the lanes before the cursor may have something since the sweep began.
            more = more or filled or self._swept.get(want.route) != self._epoch
            if not filled:
                self._cursors[want.route] = first
            elif share < len(lanes):
                self._cursors[want.route] = taken[-1][0] if taken else start
            else:
                self._cursors[want.route] = last
            if (
                want.jobs > want.lanes
                and len(taken) * FEW < want.jobs
                and any(len(jobs) == FEW for _, jobs in taken)
            ):
                taken = self._more_of(db, taken, want)
                more = True
            strict = want.jobs <= want.lanes
            for lane, jobs in taken:
                if heads := self._heads(want.route, jobs, strict=strict):
                    chosen.append((want.route, lane, heads))
        if not chosen:
            return Claimed([], more)
        lease = self._lease(db, [job.id for *_, jobs in chosen for job in jobs], now)
        return Claimed([Run(route, lane, lease, jobs, {}) for route, lane, jobs in chosen], more)

    def _heads(self, route: str, jobs: Sequence[Sequence[int]], *, strict: bool) -> tuple[Job, ...]:
        """The jobs of a lane that may run one after the other under one lease.

        One that was tried before runs alone: outcomes are written in batches, so behind a head
        that is done there might stand the job that kills its process, and never be charged for
        it. One that was lost with its process twice runs alone of its kind: or those that merely
        ran beside the one that kills would die with it until they are spent.
        """
        chosen: list[Job] = []
        for id_, run_at, attempt, spent, lost in jobs[:1] if strict else jobs:
            if lost and self._suspect is not None:
                continue
            if attempt and chosen:
                break
            if lost:
                self._suspect = id_
            chosen.append(Job(id_, route, State.RUNNING, run_at, attempt + 1, spent + 1))
            if attempt:
                break
        return tuple(chosen)

    def _range(self, want: Want) -> tuple[int, int, int, int]:
        """Before the first lane to look at, after the last, how many free ones are wanted, and
        how many to look at: busy ones count too."""
        first = self.route_ids[want.route] << 48
        start = self._cursors.get(want.route, first - 1)
        return start, first + (1 << 48), want.lanes, 4 * want.lanes + 256

    def _next_lease(self, db: sqlite3.Connection) -> int:
        """A new token for every claim, so that who lost a job and got it again cannot settle
        with the old one."""
        if not self._owner:
            self._owner = db.execute("INSERT INTO owners(until) VALUES (0)").lastrowid or 0
        self._claims += 1
        return (self._owner << 20) | (self._claims & 0xFFFFF)

    def _lease(self, db: sqlite3.Connection, ids: list[int], now: int) -> int:
        lease = self._next_lease(db)
        if self._until < now + self.lease_ms * 2 // 3:
            self._renew(db, now)
        db.execute(LEASE, {"lease": lease, "now": now, "ids": json.dumps(ids)})
        self._leased = max(0, self._leased) + len(ids)
        self._logged += 100 * len(ids)
        return lease

    def _more_of(self, db: sqlite3.Connection, taken: list[Any], want: Want) -> list[Any]:
        values = {
            "lanes": json.dumps([lane for lane, _ in taken]),
            "run": max(FEW, want.jobs // len(taken)),
        }
        more: list[Any] = json.loads(db.execute(MORE_OF_LANES, values).fetchone()[0])
        return more

    def take_back(self, db: sqlite3.Connection) -> list[Lost]:
        """Lease anew the heads of lanes whose lease ran out; free the jobs behind them."""
        now = self.clock()
        late = {"now": now, "owner": self._owner}
        heads = json.loads(db.execute(EXPIRED, late).fetchone()[0])
        db.execute("DELETE FROM owners WHERE until < :now AND id <> :owner", late)
        if not heads:
            return []
        ids = json.dumps([head[0] for head in heads])
        db.execute(FREE_FOLLOWERS, {**late, "heads": ids})
        lease = self._next_lease(db)
        lost = []
        unknown = []
        for job, lane, run_at, attempt, spent, started in heads:
            route = self._route_names.get(lane >> 48)
            if route not in self.route_ids or route is None:
                unknown.append(job)
                continue
            head = Job(job, route, State.RUNNING, run_at, attempt, spent)
            lost.append(Lost(head, lease, started or now))
        self._renew(db, now)
        db.execute(
            "UPDATE jobs SET lease = ? WHERE id IN (SELECT value FROM json_each(?))", (lease, ids)
        )
        if unknown:
            # Their code is gone: they wait, and are shown, until it is back.
            db.execute(
                "UPDATE jobs SET state = 0 WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(unknown),),
            )
        self._leased = max(0, self._leased) + len(lost)
        return lost

    def changed_elsewhere(self, db: sqlite3.Connection) -> bool:
        """Whether another process wrote to the file since this was last asked."""
        self._epoch += 1
        version = db.execute("PRAGMA data_version").fetchone()[0]
        before, self._version = self._version, version
        if before == version:
            return False
        self.due = db.execute(NEXT_DUE).fetchone()[0]
        return True


def _shares(counts: Sequence[int], lanes: int) -> list[int]:
    """How many lanes each route gets: all it has, or an even part of what others leave."""
    shares = [0] * len(counts)
    for left, n in zip(
        range(len(counts), 0, -1), sorted(range(len(counts)), key=counts.__getitem__), strict=True
    ):
        shares[n] = min(counts[n], -(-lanes // left))
        lanes -= shares[n]
    return shares
