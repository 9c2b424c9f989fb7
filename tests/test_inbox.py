"""What every inbox promises, whichever store it is. Nothing here knows SQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whatsable_receiver.errors import NotFound, StateError, Unavailable
from whatsable_receiver.inbox.base import (
    Entry,
    Filter,
    Inbox,
    Kept,
    NewJob,
    Retention,
    Settled,
    Want,
)
from whatsable_receiver.jobs import (
    LEASE_LOST,
    Completed,
    Discarded,
    Failed,
    GivenBack,
    Retries,
    State,
    not_begun,
    settle,
)

from .stores import (
    ANSWER,
    LEASE,
    NOON,
    ROUTES,
    STORES,
    Database,
    anyio_backend,  # noqa: F401 - a fixture
    body,
    claim_now,
    entry,
    finish,
    keep,
    keep_all,
    keep_each,
    opened,
    states,
    written,
)

pytestmark = pytest.mark.anyio
DAY = 86_400
NEVER = Retention(age=None, keys=None)


@pytest.fixture(params=sorted(STORES))
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database of each store."""
    return STORES[request.param](tmp_path)


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Inbox]:
    """An open inbox on an empty database."""
    async with opened(database) as inbox:
        yield inbox


# ---------------------------------------------------------------- keep


async def test_what_was_kept_is_there_byte_for_byte(store: Inbox) -> None:
    """Promise 1: the raw bytes of an answered delivery are in the inbox, none of them changed."""
    raw = b'\xef\xbb\xbf {"a": "\xc5\xbe",\t"b" :1e5}\r\n\x00' + bytes(range(256))
    kept = await keep(store, entry(1, raw=raw, labels="a, b", reason="odd", kind="quarantined"))
    record = (await store.read([kept.event]))[kept.event]
    assert (kept.new, record.raw, record.deliveries) == (True, raw, 1)
    assert (record.kind, record.labels, record.reason) == ("quarantined", ("a", "b"), "odd")
    assert (record.account, record.phone, record.message_type) == (
        "account-1",
        "14155550001",
        "text",
    )
    assert record.received_at == datetime.fromtimestamp(NOON / 1000, UTC)


async def test_a_redelivery_is_counted_and_makes_no_job(store: Inbox) -> None:
    """Promise 2: the same event later, in any other form, is a duplicate with no job of its own."""
    first = await keep(store, entry(1, routes=("answer", "archive")))
    again = await keep(store, entry(1, routes=("answer",), labels="edited", raw=body(1, note="x")))
    assert again == Kept(first.event, new=False)
    record = (await store.read([first.event]))[first.event]
    assert (record.deliveries, record.raw, record.labels) == (2, body(1), ())
    assert [one.job.route for one in record.jobs] == ["answer", "archive"]


@pytest.mark.parametrize("routes", [("answer",), ()], ids=["with a job", "without"])
async def test_deliveries_of_one_moment_are_told_apart(
    store: Inbox, routes: tuple[str, ...]
) -> None:
    """Promise 2: among deliveries that are committed together, one of each event is new."""
    await keep(store, entry(1, routes=routes))
    order = (2, 1, 3, 2, 2, 4, 1)
    answers = await keep_all(store, [entry(n, routes=routes) for n in order])
    new = [n for n, kept in zip(order, answers, strict=True) if kept.new]
    assert new == [2, 3, 4]
    by_number = {n: kept.event for n, kept in zip(order, answers, strict=True)}
    assert [kept.event for kept in answers] == [by_number[n] for n in order]
    records = await store.read(by_number.values())
    assert {n: records[id_].deliveries for n, id_ in by_number.items()} == {1: 3, 2: 3, 3: 1, 4: 1}
    assert all(len(record.jobs) == len(routes) for record in records.values())


async def test_a_batch_of_nothing_but_redeliveries(store: Inbox) -> None:
    """Promise 2: sixty-four events delivered again at once are sixty-four duplicates."""
    entries = [entry(n, lane=n) for n in range(1, 65)]
    first = await keep_all(store, entries)
    again = await keep_all(store, entries)
    assert [kept.event for kept in again] == [kept.event for kept in first]
    assert (sum(kept.new for kept in first), sum(kept.new for kept in again)) == (64, 0)


async def test_sixty_four_at_once_are_one_event(store: Inbox) -> None:
    """Promise 2: the same delivery sixty-four times at one moment is one event with one job."""
    answers = await keep_all(store, [entry(1)] * 64)
    assert {kept.event for kept in answers} == {answers[0].event}
    assert sum(kept.new for kept in answers) == 1
    record = (await store.read([answers[0].event]))[answers[0].event]
    assert (record.deliveries, len(record.jobs)) == (64, 1)


async def test_two_processes_keep_one_event(database: Database) -> None:
    """Promise 2: sixty-four deliveries through two inboxes on one database are one event."""
    async with opened(database) as one, opened(database) as other:
        same = [entry(1)] * 32
        halves = await asyncio.gather(keep_all(one, same), keep_all(other, same))
        answers = [*halves[0], *halves[1]]
        assert {kept.event for kept in answers} == {answers[0].event}
        assert sum(kept.new for kept in answers) == 1
        record = (await other.read([answers[0].event]))[answers[0].event]
        assert (record.deliveries, len(record.jobs)) == (64, 1)


async def test_the_key_nominates_and_the_fingerprint_decides(store: Inbox) -> None:
    """Promise 3: one key and two fingerprints are two events; so are two keys and one."""
    answers = await keep_all(
        store,
        [entry(1, fingerprint=1), entry(1, fingerprint=2), entry(2, fingerprint=1), entry(1)],
    )
    assert [kept.new for kept in answers] == [True] * 4
    assert len({kept.event for kept in answers}) == 4


async def test_events_are_numbered_in_the_order_of_acceptance(store: Inbox) -> None:
    """A later event has a higher number, within a batch and from batch to batch."""
    batches = [await keep_all(store, [entry(n) for n in some]) for some in [(9, 3, 7), (1, 8)]]
    numbers = [kept.event for batch in batches for kept in batch]
    assert numbers == sorted(set(numbers))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 4), st.integers(0, 1), st.integers(0, 2)), max_size=9),
        max_size=6,
    )
)
async def test_any_mix_of_deliveries_is_told_apart_like_in_a_dict(
    store: Inbox, batches: list[list[tuple[int, int, int]]]
) -> None:
    """Promises 2 and 3: batch after batch, new is what a dict of events has not seen."""
    # One store for all examples: a new base for the keys instead of a new database.
    test_mix_base.append(None)
    base = 10 * len(test_mix_base)
    seen: dict[tuple[int, int], int] = {}
    deliveries: dict[int, int] = {}
    jobs: dict[int, int] = {}
    for batch in batches:
        answers = await keep_all(
            store,
            [
                entry(base + key, fingerprint=print_, routes=ROUTES[:routes])
                for key, print_, routes in batch
            ],
        )
        for (key, print_, routes), kept in zip(batch, answers, strict=True):
            assert kept.new == ((key, print_) not in seen)
            assert seen.setdefault((key, print_), kept.event) == kept.event
            deliveries[kept.event] = deliveries.get(kept.event, 0) + 1
            jobs.setdefault(kept.event, routes)
    records = await store.read(deliveries)
    assert {id_: record.deliveries for id_, record in records.items()} == deliveries
    assert {id_: len(record.jobs) for id_, record in records.items()} == jobs


test_mix_base: list[None] = []


async def test_a_job_can_be_born_discarded(store: Inbox) -> None:
    """Promise 4: a route that could not be asked has a discarded job that says why."""
    jobs = (NewJob("answer", 1, "where= raised KeyError"), NewJob("archive", 1))
    kept = await keep(store, entry(1, jobs=jobs))
    first, second = [one.job for one in (await store.read([kept.event]))[kept.event].jobs]
    assert (first.state, first.reason) == (State.DISCARDED, "where= raised KeyError")
    assert (second.state, second.reason) == (State.AVAILABLE, None)
    assert first.event_id == second.event_id == kept.event
    assert [run.route for run in await claim_now(store)] == ["archive"]


async def test_who_asks_for_health_takes_turns_with_deliveries(store: Inbox) -> None:
    """Promise 8: however many ask whether it is well, a delivery waits for one or two of them."""
    checks = [asyncio.ensure_future(store.check()) for _ in range(100)]
    await asyncio.sleep(0)
    answers = []
    for n in range(1, 6):
        answers.append((await keep(store, entry(n))).new)
        assert sum(one.done() for one in checks) <= 3 * n
    assert answers == [True] * 5
    await asyncio.wait_for(asyncio.gather(*checks), 10)


# ---------------------------------------------------------------- keep, when it cannot


async def test_too_many_waiting_is_said_at_once(database: Database) -> None:
    """Promise 8: beyond its bound an inbox says Unavailable, and what it took it keeps."""
    async with opened(database, max_waiting=3) as store:
        answers = await keep_each(store, [entry(n) for n in range(1, 9)])
        assert [type(one) for one in answers] == [Kept] * 3 + [Unavailable] * 5
        assert (await keep(store, entry(4))).new
        assert len(await store.find(Filter())) == 4


async def test_too_many_bytes_waiting_is_said_at_once(database: Database) -> None:
    """Promise 9: the bytes of waiting bodies are bounded; a body of any allowed size gets in."""
    async with opened(database, max_waiting_bytes=1000) as store:
        sizes = (400, 600, 1, 1000)
        entries = [entry(n, raw=b"x" * size) for n, size in enumerate(sizes, 1)]
        answers = await keep_each(store, entries)
        assert [type(one) for one in answers] == [Kept, Kept, Unavailable, Unavailable]
        assert (await keep(store, entries[3])).new


BAD: dict[str, dict[str, Any]] = {
    "text that no database encodes": {"phone": "\ud800"},
    "a route that nobody opened": {"jobs": (NewJob("unheard of", 1),)},
}


@pytest.mark.parametrize("wrong", BAD.values(), ids=BAD)
@pytest.mark.parametrize("place", [0, 2, 4])
async def test_a_delivery_that_cannot_be_stored_takes_no_other_with_it(
    store: Inbox, wrong: dict[str, Any], place: int
) -> None:
    """Promise 1: of deliveries committed together only the impossible one is refused."""
    entries = [entry(n, lane=n) for n in range(1, 6)]
    entries[place] = entries[place]._replace(**wrong)
    answers = await keep_each(store, entries)
    good = [one for n, one in enumerate(answers) if n != place]
    assert isinstance(answers[place], Unavailable)
    assert all(isinstance(one, Kept) and one.new for one in good)
    assert len(await store.find(Filter())) == 4
    assert len(await claim_now(store)) == 4


async def test_an_impossible_delivery_alone_is_refused_and_the_next_one_is_kept(
    store: Inbox,
) -> None:
    """Promise 8: what cannot be kept is Unavailable, and nothing of it stays behind."""
    with pytest.raises(Unavailable):
        await keep(store, entry(1, phone="\ud800"))
    assert (await keep(store, entry(1))).new
    assert len(await store.find(Filter())) == 1


async def test_an_outcome_survives_an_impossible_delivery_beside_it(store: Inbox) -> None:
    """Promise 4: outcomes that were to be written with a refused delivery are written after it."""
    kept = await keep(store, entry(1))
    (run,) = await claim_now(store)
    finish(store, run, NOON)
    answers = await keep_each(store, [entry(2, phone="\ud800")])
    assert isinstance(answers[0], Unavailable)
    assert await states(store, kept.event * 1000 + 1) == [State.COMPLETED]


async def test_before_open_and_after_close_nothing_is_promised(database: Database) -> None:
    """Promise 8: an inbox that is not open says Unavailable to whatever writes."""
    store = database.inbox()
    with pytest.raises(Unavailable):
        await keep(store, entry(1))
    await store.open(ROUTES)
    await store.close()
    with pytest.raises(Unavailable):
        await keep(store, entry(1))
    with pytest.raises(Unavailable):
        await store.claim([ANSWER], 1)
    with pytest.raises(Unavailable):
        await store.check()


async def test_close_writes_what_is_left(database: Database) -> None:
    """Promises 1 and 4: deliveries and outcomes handed over before close are in the database."""
    store = database.inbox()
    await store.open(ROUTES)
    kept = await keep(store, entry(1))
    (run,) = await claim_now(store)
    waiting = [asyncio.ensure_future(store.keep(entry(n))) for n in (2, 3)]
    finish(store, run, NOON)
    await store.close()
    assert [(await one).new for one in waiting] == [True, True]
    async with opened(database) as again:
        assert await states(again, kept.event * 1000 + 1) == [State.COMPLETED]
        assert {(await one).event for one in waiting} <= {e.id for e in await again.find(Filter())}


async def test_close_twice_is_close_once(database: Database) -> None:
    """A second close does nothing, and so does one before open."""
    store = database.inbox()
    await store.close()
    await store.open(ROUTES)
    await store.close()
    await store.close()


async def test_an_open_inbox_answers_a_check(store: Inbox) -> None:
    """Health asks whether something could be written now."""
    await store.check()


# ---------------------------------------------------------------- claim


async def test_a_claim_waits_for_the_first_job(store: Inbox) -> None:
    """Who asks before there is work gets the first job, with its event, when it comes."""
    asked = asyncio.ensure_future(store.claim([ANSWER], 4))
    await written(store)
    assert not asked.done()
    kept = await keep(store, entry(1))
    (run,) = await asyncio.wait_for(asked, 10)
    assert [job.event_id for job in run.jobs] == [kept.event]
    assert run.events[kept.event].raw == body(1)
    assert run.events[kept.event].received_at == NOON


async def test_a_claimed_job_says_what_it_is(store: Inbox) -> None:
    """A job comes with its number, its route, its first attempt, and since when it waits."""
    kept = await keep(store, entry(1, lane=7, received_at=NOON - 5))
    (run,) = await claim_now(store)
    assert (run.route, run.lane & 0xFFFF) == ("answer", 7)
    (job,) = run.jobs
    assert (job.event_id, job.route, job.state) == (kept.event, "answer", State.RUNNING)
    assert (job.attempt, job.spent, job.run_at, job.reason) == (1, 1, NOON - 5, None)


async def test_a_lane_is_never_claimed_twice(store: Inbox) -> None:
    """Promise 5: while a job of a lane runs, nobody gets another of that lane."""
    await keep_all(store, [entry(n, lane=1) for n in (1, 2, 3)] + [entry(4, lane=2)])
    one_each = [Want("answer", 64, 1)]
    first = await claim_now(store, one_each)
    assert sorted(len(run.jobs) for run in first) == [1, 1]
    finish(store, next(run for run in first if run.lane & 0xFFFF == 1), NOON)
    second = await claim_now(store, one_each)
    assert [run.lane & 0xFFFF for run in second] == [1]
    assert second[0].jobs[0].id > first[0].jobs[0].id


async def test_two_routes_of_one_conversation_are_two_lanes(store: Inbox) -> None:
    """A lane is of one route: a slow archive does not keep an answer waiting."""
    await keep(store, entry(1, routes=("answer", "archive")))
    assert {run.route for run in await claim_now(store)} == {"answer", "archive"}


async def test_a_lane_is_claimed_in_the_order_of_acceptance(store: Inbox) -> None:
    """Promise 5: first attempts of a lane start in the order in which its events were accepted."""
    order = [9, 2, 7, 1, 8, 3]
    kept = await keep_all(store, [entry(n, lane=1) for n in order])
    claimed: list[int] = []
    while len(claimed) < len(order):
        for run in await store.claim([Want("answer", 1, 4)], 1):
            claimed += [job.event_id for job in run.jobs]
            finish(store, run, NOON)
    assert claimed == [one.event for one in kept]


async def test_a_hot_lane_comes_in_runs_of_several(store: Inbox) -> None:
    """Who asks for many jobs of few lanes gets several of one lane, under one lease, in order."""
    kept = await keep_all(store, [entry(n, lane=1) for n in range(1, 41)])
    (run,) = await store.claim([Want("answer", 4, 32)], 4)
    assert 4 <= len(run.jobs) <= 40
    assert [job.event_id for job in run.jobs] == [one.event for one in kept[: len(run.jobs)]]
    assert set(run.events) == {job.event_id for job in run.jobs}


@pytest.mark.parametrize("jobs", [1, 3])
async def test_one_of_each_lane_when_asked_for_no_more(store: Inbox, jobs: int) -> None:
    """A want of as many jobs as lanes, or fewer, is for one job of each: strict routes ask so."""
    await keep_all(store, [entry(n, lane=n % 3) for n in range(1, 31)])
    runs = await store.claim([Want("answer", 3, jobs)], 3)
    assert [len(run.jobs) for run in runs] == [1, 1, 1]


async def test_a_retried_job_is_claimed_alone(store: Inbox) -> None:
    """A job that was tried before heads its run or ends it: if it kills us, it alone is charged."""
    kept = await keep_all(store, [entry(n, lane=1) for n in range(1, 5)])
    (run,) = await store.claim([Want("answer", 1, 8)], 1)
    assert len(run.jobs) == 4
    # The third of them was cut off once; the others were never begun.
    for n, job in enumerate(run.jobs):
        outcome = GivenBack("stopped")
        cut = settle(job, outcome, NOON, retries=Retries(), chance=0) if n == 2 else not_begun(job)
        store.save(Settled(cut, run.lease, NOON, NOON))
    claimed: list[list[int]] = []
    while sum([len(jobs) for jobs in claimed]) < 4:
        (run,) = await store.claim([Want("answer", 1, 8)], 1)
        claimed.append([job.event_id for job in run.jobs])
        finish(store, run, NOON)
    numbers = [one.event for one in kept]
    assert claimed == [numbers[:2], numbers[2:3], numbers[3:]]


async def test_a_claim_takes_no_more_lanes_than_it_may(store: Inbox) -> None:
    """Neither more lanes of a route than wanted of it, nor more in all than there is room for."""
    await keep_all(store, [entry(n, lane=n, routes=("answer", "archive")) for n in range(1, 31)])
    runs = await store.claim([Want("answer", 3, 3), Want("archive", 20, 20)], 10)
    routes = [run.route for run in runs]
    assert (routes.count("answer"), routes.count("archive")) == (3, 7)
    assert len({(run.route, run.lane) for run in runs}) == 10


async def test_routes_share_the_room_evenly(store: Inbox) -> None:
    """A route with a long backlog leaves half of the room to another one."""
    await keep_all(store, [entry(n, lane=n) for n in range(1, 101)])
    await keep_all(store, [entry(n, lane=n, routes=("archive",)) for n in range(101, 111)])
    runs = await store.claim([Want("answer", 20, 20), Want("archive", 20, 20)], 20)
    routes = [run.route for run in runs]
    assert (routes.count("answer"), routes.count("archive")) == (10, 10)


async def test_no_lane_starves(store: Inbox) -> None:
    """Twenty busy conversations and room for five: each has its turn before one has its fifth."""
    await keep_all(store, [entry(n, lane=1 + n % 20) for n in range(1, 201)])
    turns: dict[int, int] = dict.fromkeys(range(1, 21), 0)
    while not all(turns.values()):
        for run in await store.claim([Want("answer", 5, 5)], 5):
            turns[run.lane & 0xFFFF] += 1
            finish(store, run, NOON)
    assert max(turns.values()) < 5


async def test_a_busy_lane_does_not_hide_the_others(store: Inbox) -> None:
    """A hundred lanes that are taken stand before a free one: it is found all the same."""
    await keep_all(store, [entry(n, lane=n) for n in range(1, 101)])
    busy = await claim_now(store, [Want("answer", 100, 100)], 100)
    assert len(busy) == 100
    await keep_all(store, [entry(n, lane=n - 200) for n in range(201, 301)])
    await keep(store, entry(500, lane=500))
    (run,) = await asyncio.wait_for(store.claim([Want("answer", 1, 1)], 1), 10)
    assert run.lane & 0xFFFF == 500


async def test_jobs_of_unknown_routes_wait_and_are_shown(database: Database) -> None:
    """A job whose route is gone waits, is named in the numbers, and runs when it is back."""
    async with opened(database) as store:
        await keep_all(store, [entry(n, routes=("answer", "archive")) for n in (1, 2)])
    async with opened(database, routes=("archive", "sentinel")) as store:
        runs = await claim_now(store, [Want("archive", 8, 8)])
        assert {run.route for run in runs} == {"archive"}
        assert await store.unfinished() == {"answer": 2, "archive": 2}
    async with opened(database) as store:
        runs = await claim_now(store, [ANSWER])
        assert [len(run.jobs) for run in runs] == [1]


async def test_a_cancelled_claim_loses_no_job(store: Inbox) -> None:
    """Promise 4: whoever stops asking, at any moment, leaves the jobs for the next one."""
    for n in range(1, 21):
        asked = asyncio.ensure_future(store.claim([ANSWER], 4))
        await asyncio.sleep(0)
        keeping = asyncio.ensure_future(keep(store, entry(n)))
        for _ in range(n):  # give the claim a few turns of the loop, each time one more
            await asyncio.sleep(0)
        asked.cancel()
        kept = await keeping
        try:
            (run,) = await asked
        except asyncio.CancelledError:
            (run,) = await asyncio.wait_for(store.claim([ANSWER], 4), 10)
        assert [(job.event_id, job.attempt) for job in run.jobs] == [(kept.event, 1)]
        finish(store, run, NOON)


# ---------------------------------------------------------------- save


async def test_a_completed_job_has_its_attempt_on_record(database: Database, store: Inbox) -> None:
    """One attempt that completed: when it began, when it ended, and that it did."""
    kept = await keep(store, entry(1))
    (run,) = await claim_now(store)
    done = settle(run.jobs[0], Completed(), NOON, retries=Retries(), chance=0)
    store.save(Settled(done, run.lease, NOON + 10, NOON + 35))
    await written(store)
    (record,) = (await store.read([kept.event]))[kept.event].jobs
    (attempt,) = record.attempts
    assert record.job.state is State.COMPLETED
    assert (attempt.number, attempt.outcome, attempt.reason) == (1, "completed", None)
    assert (attempt.ended_at - attempt.started_at).total_seconds() == 0.025


async def test_a_failed_job_waits_until_it_is_due(database: Database, store: Inbox) -> None:
    """Promise 4: a retry is not claimed before its time, and is claimed after it."""
    kept = await keep(store, entry(1))
    (run,) = await claim_now(store)
    finish(store, run, NOON, Failed("the helpdesk is closed", "Traceback …", after=60))
    assert await states(store, kept.event * 1000 + 1) == [State.RETRYABLE]
    database.clock.forward(59.9)
    assert await claim_now(store) == []
    database.clock.forward(0.2)
    (run,) = await claim_now(store)
    assert (run.jobs[0].attempt, run.jobs[0].spent) == (2, 2)
    finish(store, run, NOON)
    await written(store)
    (record,) = (await store.read([kept.event]))[kept.event].jobs
    assert [attempt.outcome for attempt in record.attempts] == ["failed", "completed"]
    assert record.attempts[0].reason == "the helpdesk is closed"


async def test_a_retry_wakes_whoever_waits_for_work(database: Database) -> None:
    """Promise 4: a claim that is already waiting gets the retry when it falls due by itself."""
    began = NOON - asyncio.get_running_loop().time() * 1000

    def clock() -> int:
        return round(began + asyncio.get_running_loop().time() * 1000)

    # The writer's thread has no loop: time comes from the loop of the test.
    loop = asyncio.get_running_loop()
    async with opened(database, clock=lambda: round(began + loop.time() * 1000)) as store:
        kept = await keep(store, entry(1))
        (run,) = await store.claim([ANSWER], 1)
        finish(store, run, clock(), Failed("once", after=0.15))
        (run,) = await asyncio.wait_for(store.claim([ANSWER], 1), 10)
        assert [(job.event_id, job.attempt) for job in run.jobs] == [(kept.event, 2)]
        assert clock() >= run.jobs[0].run_at


async def test_a_retry_does_not_hold_its_lane(store: Inbox) -> None:
    """One poison message does not stop the conversation."""
    kept = await keep_all(store, [entry(1, lane=1), entry(2, lane=1)])
    (run,) = await claim_now(store, [Want("answer", 8, 1)])
    finish(store, run, NOON, Failed("no", after=60))
    (run,) = await claim_now(store, [Want("answer", 8, 1)])
    assert [job.event_id for job in run.jobs] == [kept[1].event]


async def test_a_held_job_holds_its_lane(database: Database, store: Inbox) -> None:
    """Promise 5: on a strict route the conversation waits for its failed job, and others do not."""
    kept = await keep_all(store, [entry(1, lane=1), entry(2, lane=1), entry(3, lane=2)])
    one_each = [Want("answer", 8, 1)]
    runs = await claim_now(store, one_each)
    finish(
        store, next(r for r in runs if r.lane & 7 == 1), NOON, Failed("no", after=60), strict=True
    )
    finish(store, next(r for r in runs if r.lane & 7 == 2), NOON)
    assert await claim_now(store, one_each) == []
    database.clock.forward(61)
    order = []
    for _ in range(2):
        (run,) = await claim_now(store, one_each)
        order.append(run.jobs[0].event_id)
        finish(store, run, database.clock.now)
    assert order == [kept[0].event, kept[1].event]


async def test_a_job_is_saved_once(store: Inbox) -> None:
    """Promise 4: an outcome that comes after another one of the same attempt changes nothing."""
    kept = await keep(store, entry(1))
    (run,) = await claim_now(store)
    finish(store, run, NOON)
    await written(store)
    finish(store, run, NOON, Discarded("too late"))
    assert await states(store, kept.event * 1000 + 1) == [State.COMPLETED]
    (record,) = (await store.read([kept.event]))[kept.event].jobs
    assert [attempt.outcome for attempt in record.attempts] == ["completed"]


async def test_another_lease_saves_nothing(store: Inbox) -> None:
    """Only the holder of the current lease may settle."""
    kept = await keep(store, entry(1))
    (run,) = await claim_now(store)
    finish(store, run._replace(lease=run.lease + 1), NOON)
    assert await states(store, kept.event * 1000 + 1) == [State.RUNNING]


async def test_errors_of_any_text_are_kept(store: Inbox) -> None:
    """A reason and a traceback may hold quotes, emoji, and what looks like JSON or SQL."""
    kept = await keep(store, entry(1))
    (run,) = await claim_now(store)
    reason, detail = "'; DROP TABLE jobs; -- \U0001f4a5 \\u0000", '["]\n{"a": null}\t' * 400
    failed = settle(run.jobs[0], Failed(reason), NOON, retries=Retries(), chance=0)
    store.save(Settled(failed, run.lease, NOON, NOON, "failed", detail))
    await written(store)
    (record,) = (await store.read([kept.event]))[kept.event].jobs
    assert (record.job.reason, record.attempts[0].detail) == (reason, detail)


# ---------------------------------------------------------------- leases that run out


@pytest.fixture
async def other(database: Database, store: Inbox) -> AsyncIterator[Inbox]:
    """Another process on the same database; ``store`` is the one that dies or stands still."""
    async with opened(database) as inbox:
        yield inbox


async def test_a_process_that_lives_keeps_its_jobs(database: Database, store: Inbox) -> None:
    """Promise 5: nobody doubts himself, however far the clock was set forward meanwhile."""
    await keep(store, entry(1))
    (run,) = await claim_now(store)
    database.clock.forward(DAY)
    assert await store.take_back() == []
    finish(store, run, NOON)
    assert await states(store, run.jobs[0].id) == [State.COMPLETED]


async def test_a_lost_lease_is_an_attempt_of_the_first_job_only(
    database: Database, store: Inbox, other: Inbox
) -> None:
    """Promise 4: of jobs claimed together the head pays for a crash, the others do not."""
    kept = await keep_all(store, [entry(n, lane=1) for n in (1, 2, 3)] + [entry(4, lane=2)])
    runs = await claim_now(store, [Want("answer", 8, 32)])
    store = other
    assert sorted(len(run.jobs) for run in runs) == [1, 3]
    database.clock.forward(LEASE + 1)
    lost = await store.take_back()
    heads = {kept[0].event, kept[3].event}
    assert {one.job.event_id for one in lost} == heads
    assert all((one.job.attempt, one.job.spent) == (1, 1) for one in lost)
    records = await store.read([one.event for one in kept])
    after = {id_: record.jobs[0].job for id_, record in records.items()}
    assert [after[one.event].state for one in kept[1:3]] == [State.AVAILABLE] * 2
    assert [(after[one.event].attempt, after[one.event].spent) for one in kept[1:3]] == [(0, 0)] * 2
    for one in lost:
        settled = settle(one.job, LEASE_LOST, NOON, retries=Retries(), chance=0)
        store.save(Settled(settled, one.lease, one.started_at, NOON, "lost"))
    assert await states(store, *[id_ * 1000 + 1 for id_ in heads]) == [State.RETRYABLE] * 2
    (record,) = (await store.read([kept[0].event]))[kept[0].event].jobs
    assert [attempt.outcome for attempt in record.attempts] == ["lost"]


async def test_a_lease_that_still_runs_is_left_alone(
    database: Database, store: Inbox, other: Inbox
) -> None:
    """Who is merely slow keeps the job until the lease ran out."""
    await keep(store, entry(1))
    (run,) = await claim_now(store)
    database.clock.forward(LEASE - 1)
    assert await other.take_back() == []
    finish(store, run, NOON)
    assert await states(store, run.jobs[0].id) == [State.COMPLETED]


@pytest.mark.parametrize("saved_first", [False, True])
async def test_who_lost_the_lease_saves_nothing(
    database: Database, store: Inbox, other: Inbox, saved_first: bool
) -> None:
    """Promise 5: an outcome that comes after the lease went to another is dropped."""
    kept = await keep(store, entry(1))
    (run,) = await claim_now(store)
    database.clock.forward(LEASE + 1)
    (lost,) = await other.take_back()
    if saved_first:
        settled = settle(lost.job, LEASE_LOST, NOON, retries=Retries(), chance=0)
        other.save(Settled(settled, lost.lease, NOON, NOON, "lost"))
        await written(other)
    finish(store, run, NOON)
    await written(store)
    expected = State.RETRYABLE if saved_first else State.RUNNING
    assert await states(other, kept.event * 1000 + 1) == [expected]


async def test_a_lost_job_is_lost_once(database: Database, store: Inbox, other: Inbox) -> None:
    """A lost lease is charged by one process, whoever looks first."""
    await keep_all(store, [entry(n, lane=n) for n in range(1, 9)])
    await claim_now(store)
    database.clock.forward(LEASE + 1)
    async with opened(database) as third:
        lost = await asyncio.gather(third.take_back(), other.take_back())
    jobs = [each.job.id for some in lost for each in some]
    assert len(jobs) == len(set(jobs)) == 8


async def test_a_lost_job_of_an_unknown_route_waits(database: Database) -> None:
    """A job whose process died and whose route is gone waits for its route, and is shown."""
    store = database.inbox()
    await store.open(ROUTES)
    kept = await keep(store, entry(1))
    await claim_now(store)
    await store.close()
    database.clock.forward(LEASE + 1)
    async with opened(database, routes=("archive", "sentinel")) as other:
        assert await other.take_back() == []
        assert await other.unfinished() == {"answer": 1}
    async with opened(database) as again:
        assert await states(again, kept.event * 1000 + 1) == [State.AVAILABLE]


async def test_a_job_that_kills_its_process_runs_out_of_attempts(
    database: Database, store: Inbox
) -> None:
    """Promise 4: lost leases are attempts, so a deadly job is discarded like any other."""
    kept = await keep_all(store, [entry(1, lane=1), entry(2, lane=1)])
    retries = Retries(attempts=3, first=0)
    starts = []
    for _ in range(3):
        async with opened(database) as dying:
            runs = await claim_now(dying, [Want("answer", 8, 32)])
        starts += [run.jobs[0].event_id for run in runs]
        database.clock.forward(LEASE + 1)
        for one in await store.take_back():
            now = database.clock.now
            outcome = settle(one.job, LEASE_LOST, now, retries=retries, chance=0)
            store.save(Settled(outcome, one.lease, one.started_at, now, "lost"))
        await written(store)
    assert starts == [kept[0].event] * 3
    assert await states(store, kept[0].event * 1000 + 1) == [State.DISCARDED]
    (record,) = (await store.read([kept[0].event]))[kept[0].event].jobs
    assert record.job.reason is not None
    assert "3 attempts" in record.job.reason
    (run,) = await claim_now(store)
    assert (run.jobs[0].event_id, run.jobs[0].attempt) == (kept[1].event, 1)


# ---------------------------------------------------------------- resubmit


async def discarded(store: Inbox, entries: list[Entry]) -> list[int]:
    """Keep these, discard their jobs, and answer with the numbers of the jobs."""
    kept = await keep_all(store, entries)
    for run in await claim_now(store):
        finish(store, run, NOON, Discarded("not today"))
    await written(store)
    records = await store.read([one.event for one in kept])
    return [job.job.id for one in kept for job in records[one.event].jobs]


async def test_a_discarded_job_can_be_resubmitted(database: Database, store: Inbox) -> None:
    """Promise 4: it runs again with a whole budget, and its attempts are numbered on."""
    (job,) = await discarded(store, [entry(1)])
    database.clock.forward(5)
    assert await store.resubmit([job]) == 1
    (run,) = await claim_now(store)
    (again,) = run.jobs
    assert (again.id, again.attempt, again.spent) == (job, 2, 1)
    assert again.run_at == NOON + 5000
    finish(store, run, database.clock.now)
    await written(store)
    record = (await store.read([job // 1000]))[job // 1000].jobs[0]
    assert [one.outcome for one in record.attempts] == ["discarded", "completed"]


async def test_only_discarded_jobs_are_resubmitted(store: Inbox) -> None:
    """A job in any other state is named, and then none of those asked for is changed."""
    job, other = await discarded(store, [entry(1, lane=1), entry(2, lane=2)])
    kept = await keep(store, entry(3))
    with pytest.raises(StateError, match=f"{kept.event * 1000 + 1} is available"):
        await store.resubmit([job, kept.event * 1000 + 1])
    with pytest.raises(NotFound, match="17001"):
        await store.resubmit([job, 17_001])
    assert await states(store, job, other) == [State.DISCARDED] * 2
    assert await store.resubmit([job, other]) == 2
    with pytest.raises(StateError, match="available"):
        await store.resubmit([job])
    assert await store.resubmit([]) == 0


async def test_a_job_without_its_body_is_not_resubmitted(database: Database, store: Inbox) -> None:
    """Once retention took the body there is nothing to run; that is said, and then none of those
    asked for is changed."""
    (job,) = await discarded(store, [entry(1)])
    database.clock.forward(DAY)
    (young,) = await discarded(store, [entry(2, received_at=database.clock.now)])
    await prune_all(store, Retention(age=1.0))
    for wanted in ([job], [young, job]):
        with pytest.raises(StateError, match=f"event {job // 1000} is gone"):
            await store.resubmit(wanted)
    assert await states(store, job, young) == [State.DISCARDED] * 2
    assert await store.resubmit([young]) == 1


# ---------------------------------------------------------------- find, stats

FOUND: dict[str, tuple[Filter, str]] = {
    "everything, newest first": (Filter(), "fedcba"),
    "since": (Filter(since=datetime.fromtimestamp(NOON / 1000 + 3, UTC)), "fed"),
    "until": (Filter(until=datetime.fromtimestamp(NOON / 1000 + 3, UTC)), "cba"),
    "both": (
        Filter(
            since=datetime.fromtimestamp(NOON / 1000 + 2, UTC),
            until=datetime.fromtimestamp(NOON / 1000 + 3, UTC),
        ),
        "c",
    ),
    "type": (Filter(message_type="image"), "ec"),
    "no such type": (Filter(message_type="imag%"), ""),
    "phone": (Filter(phone="14155550002"), "fb"),
    "a part of a phone": (Filter(phone="1415555"), ""),
    "label": (Filter(label="support"), "ba"),
    "label without case": (Filter(label=" SUPPORT "), "ba"),
    "label within a label": (Filter(label="billing"), ""),
    "label with a dash": (Filter(label="support-billing"), "c"),
    "label that looks like a pattern": (Filter(label="%"), "d"),
    "label beyond ASCII, without case": (Filter(label="éTé"), "e"),
    "kind": (Filter(kinds=frozenset({"outgoing"})), "d"),
    "kinds": (Filter(kinds=frozenset({"outgoing", "quarantined"})), "fd"),
    "available": (Filter(states=frozenset({State.AVAILABLE})), "dc"),
    "completed": (Filter(states=frozenset({State.COMPLETED})), "ba"),
    "discarded": (Filter(states=frozenset({State.DISCARDED})), "ea"),
    "of several": (Filter(states=frozenset({State.DISCARDED, State.AVAILABLE})), "edca"),
    "states and more": (
        Filter(states=frozenset({State.DISCARDED}), message_type="image", phone="14155550001"),
        "e",
    ),
    "limit": (Filter(limit=2), "fe"),
    "limit of none": (Filter(limit=0), ""),
}


@pytest.mark.parametrize(("filter_", "expected"), FOUND.values(), ids=FOUND)
async def test_events_are_found_by_each_condition(
    store: Inbox, filter_: Filter, expected: str
) -> None:
    """Every condition given must hold; labels are compared whole and without case."""
    letters = await six_events(store)
    found = await store.find(filter_)
    assert "".join(letters[record.id] for record in found) == expected
    assert all(record.raw is None for record in found)


async def six_events(store: Inbox) -> dict[int, str]:
    """Six events, a to f: two done, two waiting, one and a half discarded, one in quarantine."""
    gone = "where= raised"
    kept = [
        await keep(store, one)
        for one in (
            entry(
                1,
                labels="Support, vip",
                jobs=(NewJob("answer", 1), NewJob("archive", 1, gone)),
            ),
            entry(2, labels="vip, support", lane=2, received_at=NOON + 1000),
        )
    ]
    for run in await store.claim([ANSWER], 8):
        finish(store, run, NOON)
    kept += [
        await keep(store, one)
        for one in (
            entry(
                3, labels="support-billing", message_type="image", lane=3, received_at=NOON + 2000
            ),
            entry(4, labels="%", kind="outgoing", lane=4, received_at=NOON + 3000),
            entry(
                5,
                labels="Été",
                message_type="image",
                received_at=NOON + 4000,
                jobs=(NewJob("answer", 1, gone),),
            ),
            entry(6, kind="quarantined", routes=(), lane=2, received_at=NOON + 5000),
        )
    ]
    return dict(zip([one.event for one in kept], "abcdef", strict=True))


async def test_pages_of_events_meet_without_gap_or_overlap(store: Inbox) -> None:
    """``before`` goes on where the last page ended, also when new events came in between."""
    kept = await keep_all(store, [entry(n) for n in range(1, 8)])
    seen: list[int] = []
    before: int | None = None
    while page := await store.find(Filter(before=before, limit=3)):
        seen += [record.id for record in page]
        before = seen[-1]
        await keep(store, entry(100 + len(seen)))
    assert seen == [one.event for one in reversed(kept)]


async def test_what_is_not_there_is_left_out(store: Inbox) -> None:
    """Reading unknown numbers gives nothing, and no error."""
    kept = await keep(store, entry(1))
    assert set(await store.read([kept.event, 4711, -1, 2**62])) == {kept.event}
    assert await store.read([]) == {}


async def test_the_numbers_are_right(database: Database, store: Inbox) -> None:
    """Stats count events by kind and jobs by state, and know since when the oldest job waits."""
    await six_events(store)
    stats = await store.stats()
    assert stats.events == {"incoming": 4, "outgoing": 1, "status": 0, "quarantined": 1}
    assert stats.jobs == {
        "available": 2,
        "retryable": 0,
        "running": 0,
        "completed": 2,
        "discarded": 2,
        "held": 0,
    }
    assert stats.oldest_available_at == datetime.fromtimestamp(NOON / 1000 + 2, UTC)
    assert await store.check() == stats.oldest_available_at
    assert stats.unfinished == await store.unfinished() == {"answer": 2}
    assert stats.bytes > 0


async def test_an_empty_inbox_has_numbers_too(store: Inbox) -> None:
    """Nothing kept: every kind and state is there with 0, and nothing waits."""
    stats = await store.stats()
    assert set(stats.events.values()) == set(stats.jobs.values()) == {0}
    assert stats.oldest_available_at is None
    assert await store.check() is None


# ---------------------------------------------------------------- retention


async def prune_all(store: Inbox, retention: Retention) -> int:
    """Prune until two steps in a row find nothing, as housekeeping does over time."""
    touched = 0
    idle = 0
    while idle < 2:
        step = await store.prune(retention)
        touched += step
        idle = 0 if step else idle + 1
    return touched


async def bodies(store: Inbox) -> dict[int, bool]:
    """The events that are left, and whether each has its body."""
    ids = [record.id for record in await store.find(Filter(limit=10_000))]
    return {id_: one.raw is not None for id_, one in sorted((await store.read(ids)).items())}


async def test_retention_by_age_takes_the_body_and_keeps_the_key(
    database: Database, store: Inbox
) -> None:
    """Promise 3: a redelivery after its body was pruned is a duplicate, until its key goes too."""
    old = await keep(store, entry(1, routes=()))
    database.clock.forward(31 * DAY)
    young = await keep(store, entry(2, routes=(), received_at=database.clock.now))
    assert await prune_all(store, Retention()) == 1
    assert await bodies(store) == {old.event: False, young.event: True}
    assert await keep(store, entry(1)) == Kept(old.event, new=False)
    assert (await store.read([old.event]))[old.event].deliveries == 2
    database.clock.forward(60 * DAY)
    newest = await keep(store, entry(3, routes=(), received_at=database.clock.now))
    await prune_all(store, Retention())
    assert await bodies(store) == {young.event: False, newest.event: True}
    assert (await keep(store, entry(1, routes=()))).new


async def test_unfinished_work_is_never_pruned(database: Database, store: Inbox) -> None:
    """Promise 9: whatever the retention, an event with a job to do keeps its body and its key."""
    available = await keep(store, entry(1, lane=1, routes=("archive",)))
    retryable = await keep(store, entry(2, lane=2))
    (run,) = await store.claim([ANSWER], 1)
    finish(store, run, NOON, Failed("no", after=400 * DAY))
    held = await keep(store, entry(3, lane=3))
    (run,) = await store.claim([ANSWER], 1)
    finish(store, run, NOON, Failed("no", after=400 * DAY), strict=True)
    running = await keep(store, entry(4, lane=4))
    await store.claim([ANSWER], 1)
    half = await keep(store, entry(5, lane=5, routes=("answer", "archive")))
    (run,) = await store.claim([ANSWER], 1)
    finish(store, run, NOON)
    done = await keep(store, entry(6, lane=6))
    (run,) = await store.claim([ANSWER], 1)
    finish(store, run, NOON)
    newest = await keep(store, entry(7, routes=()))
    database.clock.forward(300 * DAY)
    assert await prune_all(store, Retention(age=0.0, rows=1, bytes=1, keys=0.0)) == 1
    left = [available, retryable, held, running, half, newest]
    assert await bodies(store) == {one.event: True for one in left}
    assert done.event not in await bodies(store)


async def test_the_newest_event_is_never_pruned(database: Database, store: Inbox) -> None:
    """The number of an event is never given out again."""
    kept = [await keep(store, entry(n, routes=())) for n in (1, 2, 3)]
    database.clock.forward(DAY)
    await prune_all(store, Retention(age=0.0, keys=0.0))
    assert list(await bodies(store)) == [kept[2].event]
    assert (await keep(store, entry(4))).event > kept[2].event


@pytest.mark.parametrize("rows", [1, 3, 10])
async def test_retention_by_rows_takes_the_oldest_bodies(store: Inbox, rows: int) -> None:
    """Promise 9: beyond so many events the oldest finished ones lose their bodies."""
    kept = [await keep(store, entry(n, routes=())) for n in range(1, 8)]
    await prune_all(store, replace(NEVER, rows=rows))
    with_body = [id_ for id_, there in (await bodies(store)).items() if there]
    assert with_body == [one.event for one in kept[-rows:]]


async def test_retention_by_bytes_takes_the_oldest_bodies(store: Inbox) -> None:
    """Promise 9: the bytes of finished events are bounded, and as many as fit are kept."""
    kept = [await keep(store, entry(n, routes=(), raw=b"x" * 100_000)) for n in range(1, 41)]
    full = (await store.stats()).bytes
    assert await prune_all(store, replace(NEVER, bytes=full * 2)) == 0
    await prune_all(store, replace(NEVER, bytes=full // 2))
    with_body = [id_ for id_, there in (await bodies(store)).items() if there]
    assert with_body == [one.event for one in kept[-len(with_body) :]]
    assert 1 <= len(with_body) <= 20


async def test_retention_by_bytes_stops_where_it_fits(store: Inbox) -> None:
    """Bodies go until the rest fits, and at most one small step more."""
    for n in range(1, 201):
        await keep(store, entry(n, routes=(), raw=b"x" * 100_000))
    full = (await store.stats()).bytes
    await prune_all(store, replace(NEVER, bytes=full - 200_000))
    left = sum((await bodies(store)).values())
    assert 200 - 128 <= left < 200


async def test_without_bounds_nothing_is_pruned(database: Database, store: Inbox) -> None:
    """Who sets no bound keeps everything."""
    await keep_all(store, [entry(n, routes=()) for n in range(1, 6)])
    database.clock.forward(10_000 * DAY)
    assert await prune_all(store, NEVER) == 0
    assert all((await bodies(store)).values())


async def test_a_long_history_is_pruned_in_small_steps(database: Database, store: Inbox) -> None:
    """No step touches more than a few events, and the steps come to an end."""
    for start in range(1, 1201, 200):
        await keep_all(store, [entry(n, routes=()) for n in range(start, start + 200)])
    database.clock.forward(31 * DAY)
    steps = []
    while step := await store.prune(Retention(keys=None)):
        steps.append(step)
    assert sum(steps) == 1199
    assert max(steps) <= 128
    assert sum((await bodies(store)).values()) == 1


async def test_a_step_that_touches_nothing_means_that_nothing_is_due(
    database: Database, store: Inbox
) -> None:
    """Promise 9: who rests after a 0 rests rightly, however much unfinished work stands before
    what is due."""
    for start in (0, 600):
        await keep_all(store, [entry(n, lane=n) for n in range(start + 1, start + 601)])
    due = await keep(store, entry(2000, routes=()))
    database.clock.forward(31 * DAY)
    await keep(store, entry(2001, routes=(), received_at=database.clock.now))
    assert await store.prune(Retention()) == 1
    assert (await store.read([due.event]))[due.event].raw is None
    assert await store.prune(Retention()) == 0


async def test_what_finishes_late_is_pruned_within_an_hour_or_two(
    database: Database, store: Inbox
) -> None:
    """Promise 9: an event that was not finished when retention passed it is looked at again."""
    before = await keep(store, entry(1, routes=()))
    late = await keep(store, entry(2))
    (run,) = await claim_now(store)
    after = await keep(store, entry(3, routes=()))
    database.clock.forward(31 * DAY)
    young = await keep(store, entry(4, routes=(), received_at=database.clock.now))
    await prune_all(store, Retention())
    there = await bodies(store)
    assert [there[one.event] for one in (before, late, after, young)] == [False, True, False, True]
    finish(store, run, database.clock.now)
    await written(store)
    database.clock.forward(2 * 3600)
    assert await store.prune(Retention()) == 1
    assert not (await bodies(store))[late.event]


@pytest.mark.parametrize(
    ("options", "left"),
    [({"quarantine_rows": 3}, 3), ({"quarantine_bytes": 2500}, 2)],
    ids=["by count", "by bytes"],
)
async def test_quarantine_is_a_ring(database: Database, options: dict[str, Any], left: int) -> None:
    """Promise 9: quarantine keeps the newest bodies within its bounds; a redelivery is known."""
    async with opened(database, **options) as store:
        many = [entry(n, kind="quarantined", routes=(), raw=bytes([n]) * 1000) for n in range(1, 8)]
        kept = [await keep(store, one) for one in many]
        other = await keep(store, entry(99, routes=()))
        await prune_all(store, NEVER)
        there = await bodies(store)
        with_body = [one.event for one in kept if there[one.event]]
        assert with_body == [one.event for one in kept[-left:]]
        assert there[other.event]
        assert await keep(store, many[0]) == Kept(kept[0].event, new=False)


async def lose_twice(
    database: Database, store: Inbox, wants: Sequence[Want] = (ANSWER,)
) -> list[int]:
    """Two processes claim all there is, one after the other, and die with it; how much it was."""
    claimed = []
    for _ in range(2):
        async with opened(database) as dying:
            claimed.append(len(await claim_now(dying, wants)))
        database.clock.forward(LEASE + 1)
        for one in await store.take_back():
            now = database.clock.now
            outcome = settle(one.job, LEASE_LOST, now, retries=Retries(first=0), chance=0)
            store.save(Settled(outcome, one.lease, one.started_at, now, "lost"))
        await written(store)
    return claimed


async def test_jobs_that_were_lost_twice_with_their_process_run_one_at_a_time(
    database: Database, store: Inbox
) -> None:
    """Promise 4: who merely ran beside a deadly job does not die with it until it is spent."""
    kept = await keep_all(store, [entry(n, lane=n) for n in range(1, 6)])
    assert await lose_twice(database, store) == [5, 5]
    await keep_all(store, [entry(6, lane=6), entry(7, lane=1)])
    events = []
    for turn in range(5):
        runs = await claim_now(store)
        suspects = [run for run in runs if run.jobs[0].attempt == 3]
        assert len(suspects) == 1, turn
        events += [run.jobs[0].event_id for run in suspects]
        finish(store, suspects[0], database.clock.now)
    assert sorted(events) == [one.event for one in kept]


@pytest.mark.parametrize("strict", [False, True])
async def test_a_lane_behind_a_job_that_was_lost_twice_goes_on_unless_it_is_strict(
    database: Database, store: Inbox, strict: bool
) -> None:
    """Promises 4 and 5: while such a job waits until it may run alone, those of its lane that
    came later overtake it, and on a strict route they wait with it."""
    wants = [Want("answer", 64, 64 if strict else 512)]
    await keep_all(store, [entry(n, lane=n) for n in (1, 2)])
    await lose_twice(database, store, wants)
    later = [await keep(store, entry(10 + n, lane=n)) for n in (1, 2)]
    first = await claim_now(store, wants)
    (suspect,) = [run for run in first if run.jobs[0].attempt == 3]
    others = [job.event_id for run in first if run is not suspect for job in run.jobs]
    behind_the_other = later[2 - (suspect.lane & 0xFFFF)].event
    assert others == ([] if strict else [behind_the_other])
    for run in first:
        finish(store, run, database.clock.now)
    second = await claim_now(store, wants)
    (suspect,) = [run for run in second if run.jobs[0].attempt == 3]
    for run in second:
        finish(store, run, database.clock.now)
    for run in await claim_now(store, wants):
        finish(store, run, database.clock.now)
    await written(store)
    assert "answer" not in await store.unfinished()
