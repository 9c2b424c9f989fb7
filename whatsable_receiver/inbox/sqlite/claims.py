"""Jobs under leases: claimed, renewed, settled, taken back.

One owner is one process. Its leases are good until a time in its own row, so that a thousand of
them are renewed at once; each claim has a token of its own.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...jobs import Job, State
from ...telemetry import Meter
from ..base import Lost, Run, Settled, Want
from .cycle import Claimed, Wants
from .statements import (
    ATTEMPTS,
    CLAIM,
    COMPLETE,
    EXPIRED,
    FREE_FOLLOWERS,
    LEASE,
    LEASED,
    MORE_OF_LANES,
    NEXT_DUE,
    RENEW,
    SAVE,
    WAKE,
)

log = logging.getLogger("whatsable_receiver.inbox")

WAKE_STEP = 1000
FEW = 8  # jobs of a lane that are claimed together, unless few lanes have any
LANES = 1 << 48  # of one route, whose number stands in front of them
CLAIMS = 1 << 20  # of one owner, until their tokens come again


@dataclass(slots=True)
class Standing:
    """What a transaction that fails takes back with it."""

    owner: int = 0  # our number; given out anew if its transaction fails
    until: int = 0  # our leases are good until then
    renew_at: float = 0.0  # by the monotonic clock
    leased: int = 0  # jobs that we hold
    suspect: int | None = None  # the job that may be the one that kills its process
    due: int | None = None  # when the next retry falls due


class Claims:
    """The leases of this process in one file. Every verb is a part of a transaction; the caller
    says how that ended: ``committed``, ``undone``, or another file is ``moved_to``.
    """

    def __init__(self, wanted: Sequence[str], *, lease_ms: int, meter: Meter) -> None:
        self.routes: dict[str, int] = {}  # the numbers of the routes that this code has
        self._wanted = set(wanted)
        self._names: dict[int, str] = {}  # of all routes, also those that no code has any more
        self._lease_ms = lease_ms
        self._meter = meter
        self._now = Standing()
        self._sure = Standing()
        self._claims = 0
        self._cursors: dict[str, int] = {}  # the lane of each route that the last claim ended at
        self._epoch = 0  # how often something may have become claimable
        self._swept: dict[str, int] = {}  # the epoch in which a sweep over the lanes began
        self._version: int | None = None  # data_version: changes when another process commits

    @property
    def due(self) -> int | None:
        """When the next retry falls due."""
        return self._now.due

    @property
    def renew_at(self) -> float | None:
        """When the leases are to be renewed, by the monotonic clock; None: there are none."""
        return self._now.renew_at if self._now.leased > 0 else None

    # ------------------------------------------------------------ with the transaction

    def moved_to(self, db: sqlite3.Connection, *, new: bool) -> None:
        """A new connection; what we are called in another file is nothing in a ``new`` one."""
        for name in self._wanted:
            db.execute("INSERT OR IGNORE INTO routes(name) VALUES (?)", (name,))
        self._names = dict(db.execute("SELECT id, name FROM routes").fetchall())
        self.routes = {name: id_ for id_, name in self._names.items() if name in self._wanted}
        if new:
            self._now = Standing()
            self._cursors.clear()
        self._now.due = db.execute(NEXT_DUE).fetchone()[0]
        self.committed()

    def committed(self) -> None:
        """What was done since the last time stays."""
        self._sure = replace(self._now)

    def undone(self) -> None:
        """What was done since the last time is undone: it stands again, and the cursors are past
        it. A name is given out again, to another process."""
        self._now = replace(self._sure)
        self._epoch += 1

    def something_came(self) -> None:
        """There may be more to claim."""
        self._epoch += 1

    # ------------------------------------------------------------ settling

    def save(self, db: sqlite3.Connection, saves: Sequence[Settled]) -> None:
        """Write how attempts ended; those whose lease is lost are dropped."""
        completed = []
        others = []
        attempts = []
        standing = self._now
        for job, lease, started, ended, outcome, detail in saves:
            if job.id == standing.suspect:
                standing.suspect = None
            if job.state is State.COMPLETED:
                completed.append((job.id, lease, started, ended))
                continue
            times = started, ended
            if outcome is not None:
                attempts.append((job.id, lease, job.attempt, *times, outcome, job.reason, detail))
            others.append(
                (job.id, lease, job.state, job.run_at, job.attempt, job.spent, *times, job.reason)
            )
            if job.state in (State.RETRYABLE, State.HELD):
                standing.due = min(standing.due or job.run_at, job.run_at)
        changed = 0
        if completed:
            changed += db.execute(COMPLETE, {"completed": json.dumps(completed)}).rowcount
        if attempts:
            db.execute(ATTEMPTS, {"attempts": json.dumps(attempts)})
        if others:
            changed += db.execute(SAVE, {"saves": json.dumps(others)}).rowcount
        standing.leased -= changed
        if changed < len(saves):
            lost = len(saves) - changed
            self._meter.count("leases_lost", lost)
            log.warning("outcomes dropped, because their leases were lost: %d", lost)

    def wake(self, db: sqlite3.Connection, now: int) -> None:
        """Make available what is due: one step, so that those who wait get a turn. What is still
        due then is due at once."""
        if self._now.due is not None and self._now.due <= now:
            db.execute(WAKE, {"now": now, "step": WAKE_STEP})
            self._now.due = db.execute(NEXT_DUE).fetchone()[0]
            self._epoch += 1

    # ------------------------------------------------------------ claiming

    def claim(self, db: sqlite3.Connection, wants: Wants, now: int) -> Claimed:
        """Lease available jobs of the lanes behind each route's cursor."""
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
            first = end - LANES - 1
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
                taken = _more_of(db, taken, want)
                more = True
            strict = want.jobs <= want.lanes
            for lane, jobs in taken:
                if heads := self._heads(want.route, jobs, strict=strict):
                    chosen.append((want.route, lane, heads))
        if not chosen:
            return Claimed([], more)
        lease = self._lease(db, [job.id for *_, jobs in chosen for job in jobs], now)
        return Claimed([Run(route, lane, lease, jobs, {}) for route, lane, jobs in chosen], more)

    def _range(self, want: Want) -> tuple[int, int, int, int]:
        """Before the first lane to look at, after the last, how many free ones are wanted, and
        how many to look at: busy ones count too."""
        first = self.routes[want.route] * LANES
        start = self._cursors.get(want.route, first - 1)
        return start, first + LANES, want.lanes, 4 * want.lanes + 256

    def _heads(self, route: str, jobs: Sequence[Sequence[int]], *, strict: bool) -> tuple[Job, ...]:
        """The jobs of a lane that may run one after the other under one lease.

        One that was tried before runs alone: outcomes are written in batches, so behind a head
        that is done there might stand the job that kills its process, and never be charged for
        it. One that was lost with its process twice runs alone of its kind: or those that merely
        ran beside the one that kills would die with it until they are spent.
        """
        chosen: list[Job] = []
        for id_, run_at, attempt, spent, lost in jobs[:1] if strict else jobs:
            if lost and self._now.suspect is not None:
                continue
            if attempt and chosen:
                break
            if lost:
                self._now.suspect = id_
            chosen.append(Job(id_, route, State.RUNNING, run_at, attempt + 1, spent + 1))
            if attempt:
                break
        return tuple(chosen)

    def _lease(self, db: sqlite3.Connection, ids: list[int], now: int) -> int:
        lease = self._next_lease(db)
        if self._now.until < now + self._lease_ms * 2 // 3:
            self._renew(db, now)
        db.execute(LEASE, {"lease": lease, "now": now, "ids": json.dumps(ids)})
        self._now.leased = max(0, self._now.leased) + len(ids)
        return lease

    def _next_lease(self, db: sqlite3.Connection) -> int:
        """A new token for every claim, so that who lost a job and got it again cannot settle
        with the old one."""
        if not self._now.owner:
            self._now.owner = db.execute("INSERT INTO owners(until) VALUES (0)").lastrowid or 0
        self._claims += 1
        return self._now.owner * CLAIMS + self._claims % CLAIMS

    def renew(self, db: sqlite3.Connection, now: int) -> None:
        """Make all of our leases good for another while, and count them anew."""
        if not self._now.owner:
            return  # the file is another one by now, and we hold nothing in it
        self._renew(db, now)
        self._now.leased = db.execute(LEASED, {"owner": self._now.owner}).fetchone()[0]

    def _renew(self, db: sqlite3.Connection, now: int) -> None:
        self._now.until = now + self._lease_ms
        self._now.renew_at = time.monotonic() + self._lease_ms / 3000
        db.execute(RENEW, {"owner": self._now.owner, "until": self._now.until})

    # ------------------------------------------------------------ other processes

    def take_back(self, db: sqlite3.Connection, now: int) -> list[Lost]:
        """Lease anew the heads of lanes whose lease ran out; free the jobs behind them."""
        late = {"now": now, "owner": self._now.owner}
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
            route = self._names.get(lane // LANES)
            if route is None or route not in self.routes:
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
        self._now.leased = max(0, self._now.leased) + len(lost)
        return lost

    def changed_elsewhere(self, db: sqlite3.Connection) -> bool:
        """Whether another process wrote to the file since this was last asked."""
        self._epoch += 1
        version = db.execute("PRAGMA data_version").fetchone()[0]
        before, self._version = self._version, version
        if before == version:
            return False
        self._now.due = db.execute(NEXT_DUE).fetchone()[0]
        return True


def _more_of(db: sqlite3.Connection, taken: list[Any], want: Want) -> list[Any]:
    values = {
        "lanes": json.dumps([lane for lane, _ in taken]),
        "run": max(FEW, want.jobs // len(taken)),
    }
    more: list[Any] = json.loads(db.execute(MORE_OF_LANES, values).fetchone()[0])
    return more


def _shares(counts: Sequence[int], lanes: int) -> list[int]:
    """How many lanes each route gets: all it has, or an even part of what others leave."""
    shares = [0] * len(counts)
    for left, n in zip(
        range(len(counts), 0, -1), sorted(range(len(counts)), key=counts.__getitem__), strict=True
    ):
        shares[n] = min(counts[n], -(-lanes // left))
        lanes -= shares[n]
    return shares
