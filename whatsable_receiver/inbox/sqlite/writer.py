"""The writer's thread: what waits at that moment is one transaction.

The limit of the accept path is the interpreter lock, which every statement gives away once or
twice: so few statements, whole batches in and out as one text, and nothing row by row.
"""

from __future__ import annotations

import logging
import math
import queue
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import Unavailable
from ...telemetry import Meter
from ..base import Kept
from .accept import LARGEST_BATCH, Ring, accept
from .claims import Claims
from .cycle import Act, Cycle, Waiting
from .file import DatabaseFile
from .statements import ACCEPT_TRIGGER

log = logging.getLogger("whatsable_receiver.inbox")

LARGEST_CYCLE = LARGEST_BATCH  # deliveries
IDLE = 0.5  # seconds, then the log goes into the file; the loop looks in once a second
# What is written to the log, as measured: whole pages of 8 KiB, so mostly by the batch.
LOG_ACCEPT, LOG_DELIVERY = 32_000, 2_000  # bytes; a delivery's body comes on top
LOG_WORK, LOG_JOB = 12_000, 100


class Writer:
    """Owns the one writing connection, from ``start_up`` on; ``run`` is its thread.

    ``done`` is called on that thread, with each task, when the next retry falls due, and the
    answer to an act.
    """

    def __init__(
        self,
        path: Path,
        routes: Sequence[str],
        *,
        clock: Callable[[], int],
        lease_ms: int,
        meter: Meter,
        create: bool,
        ring: Ring,
        done: Callable[[Cycle | Act, int | None, Any], None],
    ) -> None:
        self.tasks: queue.SimpleQueue[Cycle | Act | None] = queue.SimpleQueue()
        self.claims = Claims(routes, lease_ms=lease_ms, meter=meter)
        self._works = bool(routes)
        self._pause = lease_ms / 30_000  # seconds; between renewals that fail
        self._clock = clock
        self._meter = meter
        self._ring = ring
        self._done = done
        self._file = DatabaseFile(path, create=create, prepare=self._prepare)

    def start_up(self) -> None:
        """Open or make the file. Raises ConfigurationError."""
        self._file.start(alone=_end_leases if self._works else None)

    def _prepare(self, db: sqlite3.Connection, new: bool) -> None:
        db.execute(ACCEPT_TRIGGER)
        self.claims.moved_to(db, new=new)

    # ------------------------------------------------------------ the thread itself

    def run(self) -> None:
        """Do what comes until told to stop; renew leases meanwhile, whatever the loop does."""
        while True:
            try:
                task = self.tasks.get(timeout=self._patience())
            except queue.Empty:
                self._renew_if_due()
                self._file.checkpoint(at=1)
                continue
            if task is None:
                break
            began = time.perf_counter()
            answer: Any = None
            if isinstance(task, Act):
                answer = self._act(task)
            else:
                self._cycle(task)
            self._meter.time("commit", time.perf_counter() - began)
            self._renew_if_due()
            self._done(task, self.claims.due, answer)
            self._file.checkpoint()
        self._file.close()

    def _patience(self) -> float | None:
        idle = IDLE if self._file.logged else None
        if self.claims.renew_at is None:
            return idle
        renewal = max(self._pause, self.claims.renew_at - time.monotonic())
        return min(idle or math.inf, renewal)

    def _renew_if_due(self) -> None:
        if self.claims.renew_at is None or time.monotonic() < self.claims.renew_at:
            return
        try:
            with self._transaction() as db:
                self.claims.renew(db, self._clock())
        except Unavailable as error:
            log.warning("leases could not be renewed: %s", error)

    # ------------------------------------------------------------ transactions

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._file.transaction() as db:
                yield db
        except BaseException:
            self.claims.undone()
            raise
        self.claims.committed()

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
        if len(cycle.waiting) > 1 and self._file.db is not None:
            cycle.kept = self._one_by_one(cycle.waiting)

    def _fill(self, db: sqlite3.Connection, cycle: Cycle) -> None:
        now = self._clock()
        if cycle.saves or cycle.waiting:
            self.claims.something_came()
        if cycle.saves:
            self.claims.save(db, cycle.saves)
        if cycle.waiting:
            entries = [one.entry for one in cycle.waiting]
            cycle.kept = accept(db, entries, self.claims.routes)
            self._ring.guard(db, entries)
            bodies = sum([len(entry.raw) for entry in entries])
            self._file.logged += LOG_ACCEPT + LOG_DELIVERY * len(entries) + bodies
        jobs = len(cycle.saves)
        if cycle.wants is not None:
            self.claims.wake(db, now)
            cycle.claimed = self.claims.claim(db, cycle.wants, now)
            jobs += sum([len(run.jobs) for run in cycle.claimed.runs])
        if jobs:
            self._file.logged += LOG_WORK + LOG_JOB * jobs

    def _one_by_one(self, waiting: Sequence[Waiting]) -> list[Kept | Unavailable]:
        """Each in a transaction of its own: some row among them cannot be stored."""
        answers: list[Kept | Unavailable] = []
        for one in waiting:
            try:
                with self._transaction() as db:
                    kept = accept(db, [one.entry], self.claims.routes)
                answers += kept  # now that it is committed
            except Unavailable as error:
                if not isinstance(error.__cause__, sqlite3.IntegrityError | sqlite3.DataError):
                    return answers + [error] * (len(waiting) - len(answers))
                answers.append(error)  # this is the row
            except Exception as error:  # and so is this
                answers.append(Unavailable(f"this delivery cannot be stored: {error}"))
        return answers

    # ------------------------------------------------------------ acts of the store's own

    def take_back(self, db: sqlite3.Connection) -> list[Any]:
        """Lease anew what ran out while it ran: see ``Claims``."""
        return self.claims.take_back(db, self._clock())


def _end_leases(db: sqlite3.Connection) -> None:
    """Nobody else is alive: whoever held these leases is dead."""
    db.execute("UPDATE owners SET until = 0")
