"""Claim, run, settle, save. Knows nothing about messages or media."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from .errors import Unavailable, told
from .event import Stored
from .inbox.base import Inbox, Lost, Run, Settled, Want
from .jobs import (
    LEASE_LOST,
    Completed,
    Discarded,
    Failed,
    GivenBack,
    Job,
    Outcome,
    Retries,
    State,
    not_begun,
    settle,
)
from .telemetry import Meter, one_line

log = logging.getLogger("whatsable_receiver.worker")

JOBS_PER_LANE = 8  # claimed together, on average: fewer transactions, and lanes stay short
ASKERS = 2  # while the jobs of one claim are dealt out, the next claim is being written
PAUSE = 0.5  # seconds after a claim that failed
LAST_WORDS = 3.0  # seconds for a handler that was cancelled because the receiver stops

CANCELLED_ITSELF = Failed("the handler cancelled its own task")
STOPPED = GivenBack("the receiver stopped before the handler did")


class Work(Protocol):
    """What the worker needs to know of a route."""

    @property
    def name(self) -> str:
        """Under which its jobs are stored."""

    @property
    def retries(self) -> Retries:
        """How often its jobs are tried."""

    @property
    def concurrency(self) -> int | None:
        """How many lanes of it may run at once; None: as many as there is room for."""

    @property
    def strict(self) -> bool:
        """Whether its lanes wait for their retries."""


R = TypeVar("R", bound=Work)


class Worker(Generic[R]):
    """Runs the jobs of ``routes`` with ``run``, at most ``concurrency`` lanes at once.

    ``clock`` gives milliseconds, ``chance`` a random number in [0, 1); ``grace`` is the seconds
    that running handlers get when the worker stops.
    """

    def __init__(
        self,
        inbox: Inbox,
        routes: Sequence[R],
        run: Callable[[R, Job, Stored | None], Awaitable[Outcome]],
        *,
        clock: Callable[[], int],
        chance: Callable[[], float],
        meter: Meter,
        concurrency: int = 256,
        grace: float = 10.0,
        log_phones: bool = False,
    ) -> None:
        self._inbox = inbox
        self._routes = {route.name: route for route in routes}
        self._run = run
        self._clock = clock
        self._chance = chance
        self._meter = meter
        self._concurrency = concurrency
        self._grace = grace
        self._log_phones = log_phones
        self._lanes: dict[int, asyncio.Task[None]] = {}
        self._started = 0  # lanes, so that each has a number
        self._askers: list[asyncio.Task[None]] = []
        self._taken: Counter[str] = Counter()  # lanes that run or are asked for, by route
        self._free = concurrency
        self._room = asyncio.Event()
        self._freed = asyncio.Event()  # a lane ended of a route that has a bound of its own
        self._stopping = False

    @property
    def running(self) -> bool:
        """Whether it asks for jobs."""
        return bool(self._askers) and not any(asker.done() for asker in self._askers)

    def start(self) -> None:
        """Begin to ask for jobs."""
        self._loop = asyncio.get_running_loop()
        if self._routes:
            self._askers = [asyncio.create_task(self._ask()) for _ in range(ASKERS)]

    async def stop(self) -> None:
        """Ask no more; wait ``grace`` seconds for what runs; give the rest back."""
        self._stopping = True
        await _cancelled(self._askers)
        self._askers = []
        if self._lanes:
            await asyncio.wait(self._lanes.values(), timeout=self._grace)
        # A handler may shield itself from being cancelled; the process ends all the same.
        if late := await _cancelled(self._lanes.values(), within=LAST_WORDS):
            log.warning("handlers that do not stop: %d; their leases will run out", late)

    # ------------------------------------------------------------ asking

    async def _ask(self) -> None:
        while True:
            wants, lanes, full = self._wants()
            if not lanes:
                self._room.clear()
                await self._room.wait()
                continue
            self._free -= lanes
            self._taken.update({want.route: want.lanes for want in wants})
            try:
                claim = self._inbox.claim(wants, lanes)
                for run in await (self._until_room(claim) if full else claim):
                    self._start(run)
            except Unavailable as error:
                log.warning("no jobs can be claimed: %s", error)
                await asyncio.sleep(PAUSE)
            except Exception:  # whatever it is, the other jobs go on
                log.exception("jobs could not be claimed")
                await asyncio.sleep(PAUSE)
            finally:
                self._free += lanes
                self._taken.subtract({want.route: want.lanes for want in wants})
                self._room.set()

    def _wants(self) -> tuple[list[Want], int, bool]:
        """What this asker asks for: half of the room that is left, or all of a small one; and
        whether a route was left out because as many of its lanes run as may."""
        lanes = self._free if self._free < 4 else (self._free + 1) // ASKERS
        wants = []
        full = False
        for route in self._routes.values():
            room = lanes
            if route.concurrency is not None:
                room = min(room, route.concurrency - self._taken[route.name])
                full = full or room <= 0
            if room > 0:
                wants.append(Want(route.name, room, room * (1 if route.strict else JOBS_PER_LANE)))
        return wants, lanes if wants else 0, full

    async def _until_room(self, claim: Coroutine[Any, Any, list[Run]]) -> list[Run]:
        """What is claimed; nothing, if a route that was left out has room before that: its jobs
        may be all that there is."""
        self._freed.clear()
        claiming = asyncio.create_task(claim)
        freed = asyncio.create_task(self._freed.wait())
        try:
            await asyncio.wait((claiming, freed), return_when=asyncio.FIRST_COMPLETED)
            if claiming.done():
                return claiming.result()
        except asyncio.CancelledError:
            if claiming.done() and not claiming.cancelled() and not claiming.exception():
                for run in claiming.result():
                    self._leave(run, run.jobs)
            raise
        finally:
            # Not awaited where it is answered: a cancellation at that moment would lose the runs.
            freed.cancel()
            claiming.cancel()
        await asyncio.wait((claiming,))  # a cancelled claim gives back what it was given
        if not claiming.cancelled() and (error := claiming.exception()):
            raise error
        return []

    def _start(self, run: Run) -> None:
        self._free -= 1
        self._taken[run.route] += 1
        self._started = number = self._started + 1
        # Each lane in a task of its own: what a handler leaves in its context, or does to its
        # task, is gone with it.
        task = self._loop.create_task(self._lane(number, run))
        if not task.done():  # it may be, where the loop's tasks start eagerly
            self._lanes[number] = task

    # ------------------------------------------------------------ one lane

    async def _lane(self, number: int, run: Run) -> None:
        route = self._routes[run.route]
        left = iter(run.jobs)
        since = 0
        try:
            for job in left:
                if self._stopping:
                    self._leave(run, (job, *left))
                    return
                ended = await self._attempt(route, job, run)
                if ended != since and job is not run.jobs[-1]:
                    # A millisecond: let others have the loop, should no handler ever wait.
                    await asyncio.sleep(0)
                    since = ended
        except asyncio.CancelledError:
            self._leave(run, left)
            raise
        finally:
            self._lanes.pop(number, None)
            self._free += 1
            self._taken[run.route] -= 1
            self._room.set()
            if route.concurrency is not None:
                self._freed.set()

    async def _attempt(self, route: R, job: Job, run: Run) -> int:
        """Run one job and settle it; when it ended, in milliseconds."""
        started = self._clock()
        if job.attempt == 1:
            self._meter.time("wait", (started - job.run_at) / 1000, route=route.name)
        try:
            stored = run.events.get(job.event_id) or await self._inbox.stored(job.event_id)
            outcome = await self._run(route, job, stored)
        except Exception as error:  # a fault of ours or the store's: no lane may stay closed for it
            log.exception("job %d could not be run", job.id)
            outcome = Failed(f"the job could not be run: {told(error)}")
        except asyncio.CancelledError:
            outcome = STOPPED if self._stopping else CANCELLED_ITSELF
            self._settle(route, job, run.lease, outcome, started)
            raise
        return self._settle(route, job, run.lease, outcome, started)

    def _settle(self, route: R, job: Job, lease: int, outcome: Outcome, started: int) -> int:
        now = self._clock()
        settled = settle(
            job, outcome, now, retries=route.retries, chance=self._chance(), strict=route.strict
        )
        word, detail = _described(outcome, settled)
        self._inbox.save(Settled(settled, lease, started, now, word, detail))
        self._meter.time(
            "attempt", (now - started) / 1000, route=route.name, outcome=word or "completed"
        )
        self._meter.count("attempts", route=route.name, outcome=word or "completed")
        if word is not None:
            extra = {
                "event": job.event_id,
                "job": job.id,
                "route": route.name,
                "attempt": job.attempt,
                "outcome": word,
            }
            reason = one_line(settled.reason or "", phones=self._log_phones)
            if settled.state is State.DISCARDED:
                log.error("job %d is discarded: %s", job.id, reason, extra=extra)
            else:
                log.warning("job %d %s: %s", job.id, word, reason, extra=extra)
        return now

    def _leave(self, run: Run, jobs: Iterable[Job]) -> None:
        now = self._clock()
        for job in jobs:
            self._inbox.save(Settled(not_begun(job), run.lease, now, now))

    # ------------------------------------------------------------ leases that ran out

    async def take_back(self) -> int:
        """Settle the attempts whose lease ran out: each was an attempt, and counts."""
        lost: list[Lost] = await self._inbox.take_back()
        for job, lease, started in lost:
            self._settle(self._routes[job.route], job, lease, LEASE_LOST, started)
        return len(lost)


def _described(outcome: Outcome, settled: Job) -> tuple[str | None, str | None]:
    """One word for the list of attempts, and the traceback if there is one."""
    match outcome:
        case Completed():
            return None, None
        case GivenBack():
            return "given back", None
        case Discarded(_, detail):
            return "discarded", detail
        case Failed(_, detail):
            lost = outcome is LEASE_LOST
            spent = settled.state is State.DISCARDED
            return "lost" if lost else "discarded" if spent else "failed", detail


async def _cancelled(tasks: Iterable[asyncio.Task[Any]], within: float | None = None) -> int:
    """Cancel tasks and wait for their end; how many did not end in time."""
    waiting = [task for task in tasks if not task.done()]
    for task in waiting:
        task.cancel()
    if not waiting:
        return 0
    _, late = await asyncio.wait(waiting, timeout=within)
    return len(late)
