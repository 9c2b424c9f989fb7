"""How jobs are run: once at a time in a lane, to their end, and given back when we stop."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from whatsable_receiver import Retry, Router
from whatsable_receiver.event import Event, Stored
from whatsable_receiver.handling import Handling
from whatsable_receiver.inbox.base import Inbox, Run, Want
from whatsable_receiver.jobs import (
    Completed,
    Discarded,
    Failed,
    Job,
    Outcome,
    Retries,
    State,
)
from whatsable_receiver.payload import read
from whatsable_receiver.telemetry import Silence
from whatsable_receiver.worker import Worker

from .stores import (
    STORES,
    Database,
    HandClock,
    anyio_backend,  # noqa: F401 - a fixture
    body,
    entry,
    keep,
    keep_all,
    opened,
    until,
)

pytestmark = pytest.mark.anyio
AT_ONCE = Retries(attempts=3, first=0.0)


@dataclass(frozen=True)
class Route:
    """What the worker needs to know of a route."""

    name: str = "answer"
    retries: Retries = AT_ONCE
    concurrency: int | None = None
    strict: bool = False


@dataclass
class Handler:
    """Does what ``act`` says, and remembers what ran, when, and beside what."""

    act: Callable[[Event], Awaitable[Outcome]]
    begun: list[tuple[str, int | None, int]] = field(default_factory=list)
    ended: list[int | None] = field(default_factory=list)
    running: Counter[tuple[str | None, str]] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    overlaps: list[int | None] = field(default_factory=list)

    async def __call__(self, route: Route, job: Job, stored: Stored | None) -> Outcome:
        """One attempt."""
        assert stored is not None
        received_at = datetime.fromtimestamp(stored.received_at / 1000, UTC)
        payload = stored.payload or read(stored.raw)
        event = Event(
            payload, stored.raw, received_at, job.event_id, job.id, route.name, job.attempt
        )
        lane = event.route, event.message.last_message_of_user[:6]
        self.begun.append((route.name, event.id, event.attempt))
        self.running[lane] += 1
        if self.running[lane] > 1:
            self.overlaps.append(event.id)
        here = sum(n for (name, _), n in self.running.items() if name == route.name)
        self.most[route.name] = max(self.most[route.name], here)
        try:
            return await self.act(event)
        finally:
            self.running[lane] -= 1
            self.ended.append(event.id)


async def at_once(route: Route, job: Job, stored: Stored | None) -> Outcome:
    """It goes well, without a turn of the loop."""
    return Completed()


async def well(event: Event) -> Outcome:
    """It goes well, after a turn of the loop."""
    await asyncio.sleep(0)
    return Completed()


def now() -> int:
    """The real time: these workers wait for nothing longer than a moment."""
    return time.time_ns() // 1_000_000


@pytest.fixture(params=sorted(STORES))
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database of each store."""
    return STORES[request.param](tmp_path)


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Inbox]:
    """An open inbox on real time."""
    async with opened(database, clock=now) as inbox:
        yield inbox


def worker(store: Inbox, handler: Any, *routes: Route, **options: Any) -> Worker[Route]:
    """A worker for these routes."""
    given: dict[str, Any] = {"clock": now, "chance": lambda: 0.0, "meter": Silence(), **options}
    return Worker(store, routes or (Route(),), handler, **given)


@asynccontextmanager
async def working(
    store: Inbox, handler: Any, *routes: Route, **options: Any
) -> AsyncIterator[Worker[Route]]:
    """A worker that works, stopped at the end."""
    one = worker(store, handler, *routes, **options)
    one.start()
    try:
        yield one
    finally:
        await one.stop()


async def jobs(store: Inbox, *events: int) -> list[Job]:
    """The jobs of events."""
    records = await store.read(events)
    return [one.job for id_ in events for one in records[id_].jobs]


async def finished(store: Inbox, *events: int) -> bool:
    """Whether all jobs of events are completed or discarded."""
    done = (State.COMPLETED, State.DISCARDED)
    return all(job.state in done for job in await jobs(store, *events))


# ---------------------------------------------------------------- to the end


async def test_every_job_is_run_once(store: Inbox) -> None:
    """Promise 2: a hundred events over ten conversations and two routes: each job once."""
    handler = Handler(well)
    both = ("answer", "archive")
    async with working(store, handler, Route(), Route("archive")):
        kept = await keep_all(store, [entry(n, lane=n % 10, routes=both) for n in range(1, 101)])
        await until(lambda: len(handler.ended) == 200)
        await until(lambda: finished(store, *[one.event for one in kept]))
    assert sorted(handler.begun) == sorted((r, one.event, 1) for r in both for one in kept)


async def test_work_of_before_the_start_is_done(store: Inbox) -> None:
    """Promise 4: what was accepted while nobody worked is run when somebody does."""
    kept = await keep_all(store, [entry(n, lane=n) for n in range(1, 21)])
    handler = Handler(well)
    async with working(store, handler):
        await until(lambda: finished(store, *[one.event for one in kept]))
    assert len(handler.begun) == 20


async def test_a_failed_job_is_tried_until_it_succeeds(store: Inbox) -> None:
    """Promise 4: each try is recorded with its reason, and the last one completes."""
    tries: Iterator[Outcome] = iter([Failed("first", "Traceback 1"), Failed("second"), Completed()])

    async def act(event: Event) -> Outcome:
        return next(tries)

    async with working(store, Handler(act)):
        kept = await keep(store, entry(1))
        await until(lambda: finished(store, kept.event))
    (record,) = (await store.read([kept.event]))[kept.event].jobs
    assert [(a.number, a.outcome, a.reason, a.detail) for a in record.attempts] == [
        (1, "failed", "first", "Traceback 1"),
        (2, "failed", "second", None),
        (3, "completed", None, None),
    ]


async def test_a_job_that_never_succeeds_is_discarded(store: Inbox) -> None:
    """Promise 4: after its attempts it is discarded with the last reason; the others go on."""

    async def act(event: Event) -> Outcome:
        bad = event.message.last_message_of_user == "message 1"
        return Failed(f"try {event.attempt}") if bad else Completed()

    handler = Handler(act)
    async with working(store, handler):
        kept = await keep_all(store, [entry(1), entry(2), entry(3)])
        numbers = [one.event for one in kept]
        await until(lambda: finished(store, *numbers))
    first, *others = await jobs(store, *numbers)
    assert first.state is State.DISCARDED
    assert first.reason == "all 3 attempts spent; the last one: try 3"
    assert [job.state for job in others] == [State.COMPLETED] * 2


async def test_a_discarded_job_is_tried_once(store: Inbox) -> None:
    """Promise 4: a handler that says never is believed."""

    async def act(event: Event) -> Outcome:
        return Discarded("not ours")

    handler = Handler(act)
    async with working(store, handler):
        kept = await keep(store, entry(1))
        await until(lambda: finished(store, kept.event))
    assert [job.reason for job in await jobs(store, kept.event)] == ["not ours"]
    assert len(handler.begun) == 1


async def test_a_resubmitted_job_runs_in_the_running_worker(store: Inbox) -> None:
    """Promise 4: who resubmits need not restart anything; attempts are numbered on."""
    outcomes: Iterator[Outcome] = iter([Discarded("once"), Completed()])

    async def act(event: Event) -> Outcome:
        return next(outcomes)

    handler = Handler(act)
    async with working(store, handler):
        kept = await keep(store, entry(1))
        await until(lambda: finished(store, kept.event))
        await store.resubmit([kept.event * 1000 + 1])
        await until(lambda: len(handler.begun) == 2)
    assert [attempt for *_, attempt in handler.begun] == [1, 2]


async def test_a_body_that_cannot_be_read_any_more_is_not_lost(store: Inbox) -> None:
    """Promise 4: a job whose stored body this version cannot read fails with that reason."""
    ran: list[Event] = []
    router = Router()
    router.on(name="answer", retries=1)(ran.append)
    kept = await keep(store, entry(1, raw=b"[]"))
    one = Worker(store, router.routes(), Handling(), clock=now, chance=lambda: 0.0, meter=Silence())
    one.start()
    await until(lambda: finished(store, kept.event))
    await one.stop()
    (job,) = await jobs(store, kept.event)
    assert job.state is State.DISCARDED
    assert job.reason is not None
    assert "cannot read" in job.reason
    assert ran == []


async def test_an_event_says_which_job_it_is_for(store: Inbox) -> None:
    """A handler is given the event with its number, job, route, attempt and raw bytes."""
    seen: list[Event] = []

    async def act(event: Event) -> Outcome:
        seen.append(event)
        return Completed()

    async with working(store, Handler(act)):
        kept = await keep(store, entry(1))
        await until(lambda: seen)
    (event,) = seen
    assert (event.id, event.job, event.route) == (kept.event, kept.event * 1000 + 1, "answer")
    assert (event.raw, event.kind, event.attempt) == (entry(1).raw, "incoming", 1)


@asynccontextmanager
async def handling(store: Inbox, router: Router) -> AsyncIterator[None]:
    """A worker that calls the handlers of a router as the receiver does."""
    one = Worker(store, router.routes(), Handling(), clock=now, chance=lambda: 0.0, meter=Silence())
    one.start()
    try:
        yield
    finally:
        await one.stop()


@pytest.mark.parametrize("limit", [None, 60.0])
async def test_a_handler_that_cancels_itself_spends_its_attempts(
    store: Inbox, limit: float | None
) -> None:
    """Promise 4: it is tried as often as its route says and then discarded; others complete."""
    begun: list[tuple[int | None, int]] = []
    router = Router()

    @router.on(name="answer", retries=AT_ONCE, timeout=limit)
    async def answer(event: Event) -> None:
        begun.append((event.id, event.attempt))
        task = asyncio.current_task()
        assert task is not None
        if event.text == "message 1":
            task.cancel()
        await asyncio.sleep(0)

    async with handling(store, router):
        kept = await keep_all(store, [entry(n) for n in (1, 2, 3)])
        numbers = [one.event for one in kept]
        await until(lambda: finished(store, *numbers))
    one, two, three = numbers
    assert sorted(begun) == [(one, 1), (one, 2), (one, 3), (two, 1), (three, 1)]
    first, *others = await jobs(store, *numbers)
    assert (first.state, first.spent) == (State.DISCARDED, 3)
    assert "cancelled its own task" in (first.reason or "")
    assert [job.state for job in others] == [State.COMPLETED] * 2
    (record,) = (await store.read([one]))[one].jobs
    assert [each.outcome for each in record.attempts] == ["failed", "failed", "discarded"]


class Limited(Retry):
    """A retry of the user's own that takes its time from a header."""

    def __init__(self, after: Any) -> None:
        self.reason = "limited"
        self.after = after


class Unreadable(Retry):
    """A retry of which nothing can be asked."""

    def __init__(self) -> None:
        self.reason = "limited"

    @property
    def after(self) -> float:  # type: ignore[override]
        """Fail."""
        raise ValueError("no time at all")


ODD_RETRIES: dict[str, Callable[[], Exception]] = {
    "text": lambda: Limited("5"),
    "not a number": lambda: Limited(float("nan")),
    "negative": lambda: Limited(-5),
    "beyond every year": lambda: Limited(1e300),
    "unreadable": Unreadable,
}


@pytest.mark.parametrize("odd", ODD_RETRIES.values(), ids=ODD_RETRIES)
async def test_no_retry_closes_its_lane(store: Inbox, odd: Callable[[], Exception]) -> None:
    """Promise 4: a retry that names no time is tried again at the usual one, and the lane goes
    on meanwhile."""
    router = Router()

    @router.on(name="answer", retries=AT_ONCE)
    async def answer(event: Event) -> None:
        if event.text == "message 1" and event.attempt == 1:
            raise odd()

    async with handling(store, router):
        kept = await keep_all(store, [entry(n) for n in (1, 2, 3)])
        await until(lambda: finished(store, *[one.event for one in kept]))
    found = await jobs(store, *[one.event for one in kept])
    assert [(job.state, job.attempt) for job in found] == [
        (State.COMPLETED, 2),
        (State.COMPLETED, 1),
        (State.COMPLETED, 1),
    ]


async def test_a_large_body_is_read_when_its_turn_comes(store: Inbox) -> None:
    """Promises 1 and 4: a handler gets a body of any size, byte for byte, small ones beside it."""
    seen: dict[int | None, bytes] = {}

    async def act(event: Event) -> Outcome:
        seen[event.id] = event.raw
        return Completed()

    raws = [body(n, note="x" * size) for n, size in enumerate((1, 65_300, 70_000, 900_000), 1)]
    kept = await keep_all(store, [entry(n, raw=raw) for n, raw in enumerate(raws, 1)])
    async with working(store, Handler(act)):
        await until(lambda: finished(store, *[one.event for one in kept]))
    assert seen == {one.event: raw for one, raw in zip(kept, raws, strict=True)}


# ---------------------------------------------------------------- lanes


async def test_a_lane_whose_handlers_never_wait_lets_others_run(store: Inbox) -> None:
    """Promise 8: after each millisecond of work the loop is somebody else's for a turn."""
    clock = HandClock()
    turns = 0
    at: list[int] = []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def busy(route: Route, job: Job, stored: Stored | None) -> Outcome:
        clock.forward(0.001)
        at.append(turns)
        return Completed()

    kept = await keep_all(store, [entry(n, lane=1) for n in range(1, 31)])
    beside = asyncio.create_task(others())
    async with working(store, busy, clock=clock):
        await until(lambda: finished(store, *[one.event for one in kept]))
    beside.cancel()
    assert len(at) == 30
    assert at == sorted(set(at))


async def test_a_lane_is_run_in_order_and_never_twice_at_once(store: Inbox) -> None:
    """Promise 5: in each conversation one after the other, as accepted; conversations beside."""

    async def act(event: Event) -> Outcome:
        for _ in range(3):
            await asyncio.sleep(0)
        return Completed()

    handler = Handler(act)
    async with working(store, handler):
        kept = await keep_all(
            store,
            [
                entry(n, lane=n % 5, raw=body(n, last_message_of_user=f"lane-{n % 5}"))
                for n in range(1, 101)
            ],
        )
        await until(lambda: len(handler.ended) == 100)
    assert handler.overlaps == []
    lanes: dict[int, list[int | None]] = {}
    place = {one.event: n % 5 for n, one in enumerate(kept, 1)}
    for _, id_, _ in handler.begun:
        assert id_ is not None
        lanes.setdefault(place[id_], []).append(id_)
    assert all(order == sorted(order, key=lambda id_: id_ or 0) for order in lanes.values())
    assert handler.most["answer"] > 1


@pytest.mark.parametrize("strict", [False, True])
async def test_a_strict_lane_waits_for_its_retry(store: Inbox, strict: bool) -> None:
    """Promise 5: on a strict route nothing overtakes a failed job; else the rest goes on."""

    async def act(event: Event) -> Outcome:
        first = event.message.last_message_of_user == "message 1" and event.attempt == 1
        return Failed("once", after=0.1) if first else Completed()

    handler = Handler(act)
    async with working(store, handler, Route(strict=strict)):
        kept = await keep_all(store, [entry(n) for n in (1, 2, 3)])
        await until(lambda: len(handler.ended) == 4)
    one, two, three = [each.event for each in kept]
    expected = [one, one, two, three] if strict else [one, two, three, one]
    assert [id_ for _, id_, _ in handler.begun] == expected


@pytest.mark.parametrize(("concurrency", "route"), [(4, None), (100, 3), (2, 3), (1, None)])
async def test_no_more_run_at_once_than_allowed(
    store: Inbox, concurrency: int, route: int | None
) -> None:
    """Neither more lanes in all than the receiver may, nor more of a route than it says."""
    most = min(concurrency, route or concurrency)
    gate = asyncio.Event()

    async def act(event: Event) -> Outcome:
        await gate.wait()
        return Completed()

    handler = Handler(act)
    async with working(store, handler, Route(concurrency=route), concurrency=concurrency):
        await keep_all(store, [entry(n, lane=n) for n in range(1, 31)])
        await until(lambda: len(handler.begun) >= most)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(handler.begun) == most
        gate.set()
        await until(lambda: len(handler.ended) == 30)
    assert handler.most["answer"] == most


async def test_a_full_route_does_not_stop_another(store: Inbox) -> None:
    """Promise 8: a helpdesk that hangs leaves the answers alone."""
    gate = asyncio.Event()

    async def act(event: Event) -> Outcome:
        if event.route == "archive":
            await gate.wait()
        return Completed()

    handler = Handler(act)
    async with working(store, handler, Route(), Route("archive", concurrency=2), concurrency=8):
        both = ("answer", "archive")
        await keep_all(store, [entry(n, lane=n, routes=both) for n in range(1, 41)])
        await until(lambda: sum(name == "answer" for name, *_ in handler.begun) == 40)
        assert sum(name == "archive" for name, *_ in handler.begun) == 2
        gate.set()
        await until(lambda: len(handler.ended) == 80)


# ---------------------------------------------------------------- stop


async def test_stop_waits_for_what_runs(store: Inbox) -> None:
    """Within the grace a running handler may finish, and its outcome is written."""
    gate = asyncio.Event()

    async def act(event: Event) -> Outcome:
        await gate.wait()
        return Completed()

    handler = Handler(act)
    one = worker(store, handler, grace=10.0)
    one.start()
    kept = await keep(store, entry(1))
    await until(lambda: handler.begun)
    stopping = asyncio.create_task(one.stop())
    await asyncio.sleep(0)
    gate.set()
    await stopping
    await until(lambda: finished(store, kept.event))
    assert (one.running, len(handler.begun)) == (False, 1)


async def test_stop_gives_back_what_does_not_finish(store: Inbox) -> None:
    """Promise 4: cut off by us, an attempt is on record and costs nothing; the rest never began."""

    async def act(event: Event) -> Outcome:
        await asyncio.Event().wait()
        return Completed()

    handler = Handler(act)
    async with working(store, handler, grace=0.0):
        kept = await keep_all(store, [entry(n, lane=1) for n in range(1, 6)])
        await until(lambda: handler.begun)
    numbers = [one.event for one in kept]

    async def all_given_back() -> bool:
        return all(job.state is State.AVAILABLE for job in await jobs(store, *numbers))

    await until(all_given_back)
    first, *others = await jobs(store, *numbers)
    assert (first.attempt, first.spent) == (1, 0)
    assert {(job.attempt, job.spent) for job in others} == {(0, 0)}
    (record,) = (await store.read([numbers[0]]))[numbers[0]].jobs
    assert [attempt.outcome for attempt in record.attempts] == ["given back"]


async def test_stopped_with_a_hundred_in_flight_none_is_lost_or_run_twice(
    database: Database,
) -> None:
    """Promises 4 and 5: what one worker gave back the next one runs; what completed stays so."""
    completed: list[int | None] = []

    async def act(event: Event) -> Outcome:
        if event.id is not None and event.id % 2 and event.attempt == 1:
            await asyncio.Event().wait()
        completed.append(event.id)
        return Completed()

    async with opened(database, clock=now) as store:
        handler = Handler(act)
        async with working(store, handler, grace=0.05):
            kept = await keep_all(store, [entry(n, lane=n) for n in range(1, 101)])
            await until(lambda: len(handler.begun) == 100)
    async with opened(database, clock=now) as store, working(store, Handler(act)):
        await until(lambda: finished(store, *[one.event for one in kept]))
    assert sorted(id_ or 0 for id_ in completed) == [one.event for one in kept]


class Watched:
    """An inbox that tells the moment at which a claim is answered."""

    def __init__(self, store: Inbox) -> None:
        self._store = store
        self.answered = asyncio.Event()
        self.runs: list[Run] = []

    async def claim(self, wants: list[Want], lanes: int) -> list[Run]:
        """What the inbox answers."""
        runs = await self._store.claim(wants, lanes)
        self.runs += runs
        self.answered.set()
        return runs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("freed", [False, True])
async def test_stopped_at_the_moment_of_a_claim_no_job_stays_behind(
    store: Inbox, turns: int, freed: bool
) -> None:
    """Promise 4: however near to its answer a claim is given up, its jobs are given back: while
    a route is full, and at the moment at which it has room again."""
    gate = asyncio.Event()

    async def act(event: Event) -> Outcome:
        if event.route == "answer":
            await gate.wait()
        return Completed()

    handler = Handler(act)
    watched = Watched(store)
    one = worker(cast(Inbox, watched), handler, Route(concurrency=1), Route("archive"), grace=0.0)
    one.start()
    kept = [await keep(store, entry(1))]
    await until(lambda: handler.begun)
    watched.answered.clear()
    kept.append(await keep(store, entry(2, lane=2, routes=("archive",))))
    async with asyncio.timeout(10):  # and no wait_for: that one would be turns too late
        await watched.answered.wait()
    assert len(watched.runs) == 2
    if freed:
        gate.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    await one.stop()

    async def nothing_runs() -> bool:
        return (await store.stats()).jobs["running"] == 0

    await until(nothing_runs)
    found = await jobs(store, *[each.event for each in kept])
    assert {job.state for job in found} <= {State.AVAILABLE, State.COMPLETED}
    assert {job.spent for job in found if job.state is State.AVAILABLE} <= {0}


async def test_a_worker_without_routes_does_nothing(store: Inbox) -> None:
    """A receiver that has no handlers only keeps."""
    one: Worker[Route] = Worker(
        store, (), Handler(well), clock=now, chance=lambda: 0.0, meter=Silence()
    )
    one.start()
    assert not one.running
    await one.stop()


async def test_running_is_what_it_says(store: Inbox) -> None:
    """Health asks the worker whether it asks for jobs."""
    one = worker(store, Handler(well))
    seen = [one.running]
    one.start()
    seen.append(one.running)
    await one.stop()
    assert [*seen, one.running] == [False, True, False]


# ---------------------------------------------------------------- lost leases


async def test_a_lost_lease_is_settled_as_an_attempt(database: Database) -> None:
    """Promise 4: the attempt of a process that died is recorded as lost, and the job runs again."""
    async with opened(database) as dead, opened(database) as store:
        kept = await keep(dead, entry(1))
        await dead.claim([Want("answer", 1, 1)], 1)
        database.clock.forward(3600)
        handler = Handler(well)
        one = worker(store, handler, Route(retries=AT_ONCE), clock=database.clock)
        assert await one.take_back() == 1
        assert await one.take_back() == 0
        one.start()
        await until(lambda: finished(store, kept.event))
        await one.stop()
        (record,) = (await store.read([kept.event]))[kept.event].jobs
    assert [attempt.outcome for attempt in record.attempts] == ["lost", "completed"]
    assert "lease ran out" in (record.attempts[0].reason or "")
    assert handler.begun == [("answer", kept.event, 2)]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs eager tasks: Python 3.12")
async def test_tasks_that_start_eagerly_give_their_room_back(store: Inbox) -> None:
    """Promise 4: a lane that ends within the call that starts it makes room for the next."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - not in 3.11
    try:
        jobs = worker(store, at_once, Route(), concurrency=4)
        jobs.start()
        await keep_all(store, [entry(n, lane=n) for n in range(1, 41)])

        async def done() -> bool:
            return (await store.stats()).jobs["completed"] == 40

        await until(done)
        await jobs.stop()
    finally:
        loop.set_task_factory(None)
