"""The event loop's side: whoever waits at that moment commits together.

The loop collects deliveries, outcomes and a wish for work, and hands them to the writer's thread
as one cycle; the answers come back with one call.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from ...errors import Unavailable
from ...event import Stored
from ...jobs import not_begun
from ...telemetry import Meter, Silence
from ..base import (
    Entry,
    EventRecord,
    Filter,
    Kept,
    Lost,
    Retention,
    Run,
    Settled,
    Stats,
    Want,
)
from . import queries
from .accept import Ring
from .cycle import Act, Claimed, Cycle, Waiting, Wants
from .line import Line
from .reader import Reader
from .recent import Recent
from .retention import Sweep, evict
from .writer import LARGEST_CYCLE, Writer

log = logging.getLogger("whatsable_receiver.inbox")
T = TypeVar("T")

PAUSE = 0.25  # seconds after a transaction that failed


class SQLiteInbox:
    """``Inbox`` in one file, for one machine; several processes may share the file.

    ``clock`` gives milliseconds since the epoch. ``lease`` is in seconds. At most
    ``max_waiting`` deliveries (and ``max_waiting_bytes`` bytes) wait for the writer; one more is
    ``Unavailable``, and so is one that waited ``keep_timeout`` seconds.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], int],
        lease: float = 30.0,
        max_waiting: int = 2048,
        max_waiting_bytes: int = 64 << 20,
        keep_timeout: float = 8.0,
        quarantine_rows: int = 10_000,
        quarantine_bytes: int = 64 << 20,
        meter: Meter | None = None,
        create: bool = True,
    ) -> None:
        self.path = Path(path)
        self._clock = clock
        self._lease_ms = round(lease * 1000)
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._keep_timeout = keep_timeout
        self._quarantine = (quarantine_rows, quarantine_bytes)
        self._meter: Meter = meter or Silence()
        self._create = create

        self._waiting: deque[Waiting] = deque()
        self._waiting_bytes = 0
        self._saves: list[Settled] = []
        self._line = Line()
        self._acts: deque[Act] = deque()
        self._acted = False  # the newest transaction was an act
        self._in_flight: Cycle | Act | None = None
        self._flush_due = False
        self._due: int | None = None
        self._sweep = Sweep()
        self._recent = Recent()
        self._claiming = False  # somebody has asked for jobs
        self._due_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._poll_timer: asyncio.TimerHandle | None = None
        self._open = False
        self.last_error: Unavailable | None = None  # of the newest cycle; None: it went well

    # ------------------------------------------------------------ open and close

    async def open(self, routes: Sequence[str]) -> None:
        """Make ready: schema, durability asserted, routes known. ``ConfigurationError`` if not."""
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(
            self.path,
            routes,
            clock=self._clock,
            lease_ms=self._lease_ms,
            meter=self._meter,
            create=self._create,
            ring=Ring(*self._quarantine),
            done=self._tell,
        )
        self._reader = Reader(self.path)
        try:
            await self._reader.run(self._writer.start_up)
        except BaseException:
            self._reader.abandon()
            raise
        self._thread = threading.Thread(
            target=self._writer.run, name="whatsable-inbox-writer", daemon=True
        )
        self._thread.start()
        self._open = True
        self._poll_later()
        self._due_at(self._writer.claims.due)

    async def close(self) -> None:
        """Write what is still to be written, and let go of the file."""
        if not self._open:
            return
        self._open = False
        for timer in (self._poll_timer, self._due_timer):
            if timer:
                timer.cancel()
        self._line.leave()
        deadline = self._loop.time() + self._keep_timeout
        while self._in_flight or self._saves or self._waiting or self._acts:
            self._flush()
            if self._loop.time() > deadline:
                log.error("closing; outcomes not written: %d", len(self._saves))
                break
            await asyncio.sleep(0.001 if self.last_error is None else 0.05)
        if self._deadline_timer:
            self._deadline_timer.cancel()
        stuck = self._in_flight  # what the writer does not come back from in time
        waiting = [*self._waiting, *(stuck.waiting if isinstance(stuck, Cycle) else ())]
        acts = [*self._acts, *([stuck] if isinstance(stuck, Act) else ())]
        gone = Unavailable("the inbox is closed")
        for answer in (*(one.answer for one in waiting), *(act.answer for act in acts)):
            if not answer.done():
                answer.set_exception(gone)
        self._line.leave()  # who was being asked for when the others left
        if isinstance(stuck, Cycle) and stuck.claim:
            stuck.claim.cancel()
        self._writer.tasks.put(None)
        # A daemon: should another process hold the lock for ever, we do not wait for ever.
        await self._reader.run(lambda: self._thread.join(self._keep_timeout))
        await self._reader.close()

    # ------------------------------------------------------------ the verbs of acceptance and work

    def keep(self, entry: Entry) -> Awaitable[Kept]:
        """Store a delivery and its jobs; answers after the commit, ``Unavailable`` if it cannot."""
        size = len(entry.raw)
        if not self._open:
            raise Unavailable("the inbox is not open")
        if (
            len(self._waiting) >= self._max_waiting
            or self._waiting_bytes + size > self._max_waiting_bytes
        ):
            raise Unavailable("too many deliveries wait to be stored")
        answer: asyncio.Future[Kept] = self._loop.create_future()
        self._waiting.append(Waiting(entry, answer, self._loop.time()))
        self._waiting_bytes += size
        self._stir()
        return answer

    async def claim(self, wants: Sequence[Want], lanes: int) -> list[Run]:
        """Lease available jobs, at most one run a lane and ``lanes`` runs; waits for the first."""
        if not self._open:
            raise Unavailable("the inbox is not open")
        answer: asyncio.Future[Claimed] = self._loop.create_future()
        self._line.join((Wants(wants, lanes), answer))
        self._claiming = True
        if self._line.stirs:
            self._stir()
        try:
            claimed = await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and not answer.exception():
                self._give_back(answer.result().runs)
            raise
        try:
            return await self._with_events(claimed.runs)
        except asyncio.CancelledError:
            self._give_back(claimed.runs)
            raise

    def save(self, settled: Settled) -> None:
        """Write how an attempt ended, with the next transaction; dropped if its lease is lost."""
        self._saves.append(settled)
        self._stir()

    async def take_back(self) -> list[Lost]:
        """Lease anew the jobs whose lease ran out while they ran; free those not yet started."""
        return await self._act(self._writer.take_back, shakes=True)

    # ------------------------------------------------------------ the verbs of people

    async def read(self, ids: Iterable[int]) -> dict[int, EventRecord]:
        """Events by number, with body and jobs; those that are not there are left out."""
        wanted = list(ids)
        return await self._reader.read(lambda db: queries.records(db, wanted))

    async def stored(self, id_: int) -> Stored | None:
        """What one event is made of; None where retention has taken the body."""
        return await self._reader.read(lambda db: queries.body(db, id_))

    async def find(self, filter: Filter) -> list[EventRecord]:
        """Events by filter, newest first, without bodies."""
        return await self._reader.read(lambda db: queries.find(db, filter))

    async def stats(self) -> Stats:
        """Numbers for people, health and metrics."""
        return await self._reader.read(queries.stats)

    async def unfinished(self) -> dict[str, int]:
        """How many unfinished jobs each route has, routes that no code has any more included."""
        return await self._reader.read(queries.unfinished)

    async def check(self) -> datetime | None:
        """When the longest-waiting claimable job became so; ``Unavailable`` where nothing could
        be written now.

        It writes an empty transaction, and a real one once something failed: a full disk takes
        the empty.
        """
        wounded = self.last_error is not None
        await self._act(queries.write_nothing if wounded else lambda db: None)
        self.last_error = None
        return await self._reader.read(queries.oldest_available)

    async def resubmit(self, jobs: Iterable[int]) -> int:
        """Make discarded jobs available again with a fresh budget; ``StateError`` names others."""
        wanted = list(jobs)
        now = self._clock()
        return await self._act(lambda db: queries.resubmit(db, wanted, now), shakes=True)

    async def prune(self, retention: Retention) -> int:
        """One small step of retention; how many events it touched."""
        rows, size = self._quarantine
        touched = await self._act(lambda db: evict(db, rows, size))
        if touched:
            self._meter.count("quarantine_evicted", touched)
            log.warning("quarantined bodies that made room for newer ones: %d", touched)
        now = self._clock()
        self._sweep.begin(now)
        while not touched:
            step = await self._act(partial(self._sweep.step, retention=retention, now=now))
            self._sweep.done(step)
            touched = step.bodies + step.events
            if step.ended:
                break
        if touched:
            self._meter.count("pruned", touched)
        return touched

    # ------------------------------------------------------------ the loop's side of a cycle

    def _stir(self) -> None:
        if self._in_flight is None and not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._in_flight is not None:
            return
        while self._acts and self._acts[0].answer.done():
            self._acts.popleft()  # whoever asked has gone
        cycle: Cycle | Act
        # In turns: whoever asks for health a thousand times a second must not stop acceptance.
        if self._acts and not (self._acted and (self._waiting or self._saves)):
            self._acted = True
            cycle = self._acts.popleft()
        else:
            self._acted = False
            waiting = self._next_waiting()
            saves, self._saves = self._saves, []
            self._line.filled(waiting, saves)
            wants, claim = self._line.next() or (None, None)
            if not (waiting or saves or claim):
                return
            cycle = Cycle(waiting, saves, wants, claim, self._line.shaken)
        self._in_flight = cycle
        self._watch()
        self._writer.tasks.put(cycle)

    def _next_waiting(self) -> list[Waiting]:
        waiting: list[Waiting] = []
        while self._waiting and len(waiting) < LARGEST_CYCLE:
            one = self._waiting.popleft()
            self._waiting_bytes -= len(one.entry.raw)
            if not one.answer.done():  # else it was told 503, and must not be kept unclaimed
                waiting.append(one)
        return waiting

    def _shake(self) -> None:
        self._line.shake()
        self._stir()

    def _tell(self, cycle: Cycle | Act, due: int | None, answer: object) -> None:
        """Called on the writer's thread: one hand-over for a whole cycle."""
        with suppress(RuntimeError):  # a loop that was torn down under us
            self._loop.call_soon_threadsafe(self._done, cycle, due, answer)

    def _done(self, cycle: Cycle | Act, due: int | None, answer: object) -> None:
        """Called on the loop, after the commit."""
        self._in_flight = None
        if isinstance(cycle, Cycle):
            self.last_error = cycle.error
        if due != self._due:
            self._due_at(due)
        if isinstance(cycle, Act):
            if not cycle.answer.done():
                if isinstance(answer, Exception):
                    cycle.answer.set_exception(answer)
                else:
                    cycle.answer.set_result(answer)
            if cycle.shakes and answer:
                self._shake()
            self._stir()
            return
        if cycle.error:
            self._line.shake()  # some rows may have been kept one by one
            self._recent.forget()
            # Outcomes are facts: they wait for the next transaction that works.
            self._saves = cycle.saves + self._saves
            if cycle.claim and cycle.wants is not None and not cycle.claim.done():
                self._line.join((cycle.wants, cycle.claim), first=True)
            self._loop.call_later(PAUSE, self._stir)
        else:
            self._line.answered(cycle)
            if self._waiting or self._saves or self._acts or self._line.stirs:
                self._flush()  # the writer goes on while the answers are dealt out
        for one, kept in zip(cycle.waiting, cycle.kept, strict=True):
            if one.answer.done():
                continue
            if isinstance(kept, Kept):
                one.answer.set_result(kept)
                if kept.new and one.entry.jobs and self._claiming:
                    self._recent.add(kept.event, one.entry)
            else:
                one.answer.set_exception(kept)
        if cycle.claimed is not None and cycle.claim is not None:
            if cycle.claim.done():
                self._give_back(cycle.claimed.runs)
            elif cycle.claimed.runs:
                cycle.claim.set_result(cycle.claimed)
            elif cycle.wants is not None:
                self._line.join((cycle.wants, cycle.claim))
                if self._line.stirs:
                    self._stir()

    def _give_back(self, runs: list[Run]) -> None:
        now = self._clock()
        for run in runs:
            for job in run.jobs:
                self.save(Settled(not_begun(job), run.lease, now, now))

    def _watch(self) -> None:
        # One timer for all who wait, and only while somebody does.
        if self._deadline_timer is None:
            self._deadline_timer = self._loop.call_later(1.0, self._expire)

    def _expire(self) -> None:
        self._deadline_timer = None
        limit = self._loop.time() - self._keep_timeout
        in_flight = self._in_flight.waiting if isinstance(self._in_flight, Cycle) else []
        for one in (*in_flight, *self._waiting):
            if one.since < limit and not one.answer.done():
                one.answer.set_exception(Unavailable("storing took too long"))
        if self._in_flight or self._waiting:
            self._watch()

    def _due_at(self, due: int | None) -> None:
        self._due = due
        if self._due_timer:
            self._due_timer.cancel()
            self._due_timer = None
        if due is not None and self._open:
            # A wait is never longer than an hour, so that a clock set forward is noticed.
            # What is due while nothing can be written is not tried without a pause.
            soonest = PAUSE if self.last_error else 0.0
            seconds = min(max(soonest, (due - self._clock()) / 1000), 3600.0)
            self._due_timer = self._loop.call_later(seconds, self._fall_due)

    def _fall_due(self) -> None:
        self._due_timer = self._due = None
        self._shake()

    def _poll_later(self) -> None:
        self._poll_timer = self._loop.call_later(1.0, self._poll)

    def _poll(self) -> None:
        """Once a second: did another process write to the file?"""
        self._poll_later()
        if self._line and not self._acts:
            self._act(self._writer.claims.changed_elsewhere, shakes=True).add_done_callback(
                _look_away
            )

    def _act(
        self, work: Callable[[sqlite3.Connection], T], *, shakes: bool = False
    ) -> asyncio.Future[T]:
        if not self._open:
            raise Unavailable("the inbox is not open")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._acts.append(Act(work, answer, shakes))
        self._stir()
        return answer

    async def _with_events(self, runs: list[Run]) -> list[Run]:
        missing: dict[int, list[Run]] = {}
        for run in runs:
            for job in run.jobs:
                id_ = job.event_id
                if stored := self._recent.get(id_):
                    run.events[id_] = stored
                else:
                    missing.setdefault(id_, []).append(run)
        if missing:
            try:
                rows = await self._reader.read(lambda db: queries.bodies(db, missing))
            except Unavailable as error:  # each lane will ask for its own
                log.warning("claimed jobs are without their events: %s", error)
                return runs
            for id_, stored in rows.items():
                for run in missing[id_]:
                    run.events[id_] = stored
        return runs


def _look_away(answer: asyncio.Future[bool]) -> None:
    """A look that failed is repeated in a second: nobody needs to hear of it."""
    if not answer.cancelled():
        answer.exception()
