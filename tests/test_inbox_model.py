"""Random histories of two processes on one inbox, beside a model of it made of dicts."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from whatsable_receiver.errors import StateError
from whatsable_receiver.inbox.base import Filter, Inbox, Retention, Settled, Want
from whatsable_receiver.jobs import (
    FINISHED,
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

from .stores import LEASE, ROUTES, STORES, Database, claim_now, entry, keep_all, written

T = TypeVar("T")
LEASE_MS = round(LEASE * 1000)
PROCESSES = st.integers(0, 1)
RETRIES = Retries(attempts=3, first=10.0, factor=2.0)
OUTCOMES: dict[str, Outcome | None] = {
    "completed": Completed(),
    "failed": Failed("no"),
    "failed, at once": Failed("no", after=0),
    "discarded": Discarded("never"),
    "given back": GivenBack("stopped"),
    "not begun": None,
}
DELIVERY = st.tuples(
    st.integers(1, 6),  # the key
    st.integers(0, 1),  # the fingerprint
    st.integers(1, 2),  # the conversation
    st.sampled_from([(), ("answer",), ("archive",), ("answer", "archive")]),
)


@dataclass
class Known:
    """A job as the model has it."""

    job: Job
    lane: tuple[str, int]
    lease: int = 0
    claimed_at: int = 0
    owner: int = 0  # which life of which process


@dataclass
class Held:
    """A claimed job in the hands of a process, which may have lost its lease since."""

    process: int
    job: Job
    lease: int


class Histories(RuleBasedStateMachine):
    """What two processes do to one database, and what must be true after each step.

    Promises 2, 3, 4, 5 and 9, in whatever order things happen.
    """

    store = ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.database: Database = STORES[self.store](Path(self.folder.name))
        self.inboxes: list[Inbox] = []
        self.events: dict[tuple[int, int], int] = {}
        self.deliveries: dict[int, int] = {}
        self.jobs: dict[int, Known] = {}
        self.hands: list[Held] = []
        self.lives = [0, 1]  # of the two processes; a restart is a new one
        self.last_claim: dict[int, int] = {}  # when a life claimed or took something back

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the loop that the inboxes were opened on."""
        return self.runner.run(work)

    async def open_one(self) -> Inbox:
        """One more process on the database."""
        inbox = self.database.inbox()
        await inbox.open(ROUTES)
        return inbox

    @property
    def now(self) -> int:
        """The time of the database's clock."""
        return self.database.clock.now

    @initialize(
        batch=st.lists(DELIVERY, min_size=3, max_size=8, unique_by=lambda one: one[:2]),
        process=PROCESSES,
    )
    def start(self, batch: list[tuple[int, int, int, tuple[str, ...]]], process: int) -> None:
        """Two processes open the database, and one of them has accepted something."""
        self.inboxes = [self.run(self.open_one()) for _ in range(2)]
        self.keep_batch(process, batch)

    def teardown(self) -> None:
        """Both processes end."""
        for inbox in self.inboxes:
            self.run(inbox.close())
        self.runner.close()
        self.folder.cleanup()

    # ------------------------------------------------------------ what happens

    @rule(process=PROCESSES, batch=st.lists(DELIVERY, min_size=1, max_size=6))
    def keep(self, process: int, batch: list[tuple[int, int, int, tuple[str, ...]]]) -> None:
        """Some deliveries at once: new is what the model has not seen."""
        self.keep_batch(process, batch)

    def keep_batch(self, process: int, batch: list[tuple[int, int, int, tuple[str, ...]]]) -> None:
        """The same, for the start too."""
        answers = self.run(
            keep_all(
                self.inboxes[process],
                [
                    entry(key, fingerprint=print_, lane=lane, routes=routes, received_at=self.now)
                    for key, print_, lane, routes in batch
                ],
            )
        )
        for (key, print_, lane, routes), kept in zip(batch, answers, strict=True):
            name = key, print_
            assert kept.new == (name not in self.events)
            if kept.new:
                assert kept.event not in self.deliveries
                self.events[name] = kept.event
                self.deliveries[kept.event] = 0
                for n, route in enumerate(routes, 1):
                    id_ = kept.event * 1000 + n
                    job = Job(id_, route, State.AVAILABLE, self.now)
                    self.jobs[id_] = Known(job, (route, lane))
            assert self.events[name] == kept.event
            self.deliveries[kept.event] += 1

    @rule(process=PROCESSES, lanes=st.integers(1, 4), jobs=st.sampled_from([1, 4, 16]))
    def claim(self, process: int, lanes: int, jobs: int) -> None:
        """Whatever is claimable: only from free lanes, in order, and nothing is forgotten."""
        before = self.run(self.states())
        wants = [Want(route, lanes, jobs) for route in ("answer", "archive")]
        runs = self.run(claim_now(self.inboxes[process], wants, 4))
        self.last_claim[self.lives[process]] = self.now
        for run in runs:
            for n, job in enumerate(run.jobs):
                known = self.jobs[job.id]
                assert known.job.route == job.route == run.route
                assert not self.busy(known.lane, apart_from=run.jobs[:n])
                assert self.may_be_claimed(known.job)
                if job.attempt == 1:
                    assert job.id == min(self.never_tried(known.lane)), "out of order"
                assert n == 0 or job.attempt == 1, "a retried job is claimed alone"
                taken = known.job._replace(
                    state=State.RUNNING, attempt=known.job.attempt + 1, spent=known.job.spent + 1
                )
                assert (job.attempt, job.spent) == (taken.attempt, taken.spent)
                known.job = taken._replace(reason=job.reason)
                known.lease, known.owner = run.lease, self.lives[process]
                known.claimed_at = self.now
                self.hands.append(Held(process, known.job, run.lease))
            assert jobs > lanes or len(run.jobs) == 1
        for id_, state in before.items():
            known = self.jobs[id_]
            if state is State.AVAILABLE and known.job.state is State.AVAILABLE:
                assert self.busy(known.lane, held=True), (
                    f"job {id_} was claimable, and was not claimed"
                )

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), how=st.sampled_from(sorted(OUTCOMES)), strict=st.booleans())
    def save(self, data: st.DataObject, how: str, strict: bool) -> None:
        """A process settles a job: it counts if the lease is still its own, and only then."""
        held = data.draw(st.sampled_from(self.hands))
        self.hands.remove(held)
        outcome = OUTCOMES[how]
        settled = (
            not_begun(held.job)
            if outcome is None
            else settle(held.job, outcome, self.now, retries=RETRIES, chance=0.0, strict=strict)
        )
        inbox = self.inboxes[held.process]
        inbox.save(Settled(settled, held.lease, self.now, self.now))
        self.run(written(inbox))
        known = self.jobs[held.job.id]
        if known.lease == held.lease and known.job.state is State.RUNNING:
            known.job, known.lease = settled, 0

    @rule(seconds=st.sampled_from([10.0, LEASE / 2, 3 * LEASE]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.database.clock.forward(seconds)

    @rule(process=PROCESSES)
    def take_back(self, process: int) -> None:
        """A process looks for the lost jobs of the other: heads are charged, followers freed."""
        lost = self.run(self.inboxes[process].take_back())
        running: dict[tuple[str, int], list[int]] = {}
        for id_, known in sorted(self.jobs.items()):
            if known.job.state is State.RUNNING:
                running.setdefault(known.lane, []).append(id_)
        found = {one.job.id for one in lost}
        assert len(found) == len(lost)
        heads = {ids[0]: ids for ids in running.values()}
        assert found <= set(heads), "only the first of a lane may be charged"
        for head in heads:
            known = self.jobs[head]
            mine = known.owner == self.lives[process]
            # A store may renew the leases of a process one by one or all at once, and need not
            # do so at each claim: two thirds of a lease are good for sure.
            surely = max(known.claimed_at, self.last_claim.get(known.owner, 0)) + LEASE_MS
            if mine or known.claimed_at + LEASE_MS * 2 // 3 >= self.now:
                assert head not in found, "a lease that still runs was taken"
            elif surely < self.now:
                assert head in found, "a lost job was left"
        for one in lost:
            known = self.jobs[one.job.id]
            assert (one.job.attempt, one.job.spent) == (known.job.attempt, known.job.spent)
            known.lease, known.owner = one.lease, self.lives[process]
            known.claimed_at = self.last_claim[self.lives[process]] = self.now
            self.hands.append(Held(process, one.job, one.lease))
            for id_ in heads[one.job.id][1:]:
                follower = self.jobs[id_]
                follower.job, follower.lease = not_begun(follower.job), 0

    @precondition(lambda self: self.jobs)
    @rule(process=PROCESSES, data=st.data())
    def resubmit(self, process: int, data: st.DataObject) -> None:
        """Somebody resubmits a job: it must be a discarded one."""
        known = self.jobs[data.draw(st.sampled_from(sorted(self.jobs)))]
        try:
            self.run(self.inboxes[process].resubmit([known.job.id]))
        except StateError:
            assert known.job.state is not State.DISCARDED
        else:
            assert known.job.state is State.DISCARDED
            known.job = known.job._replace(state=State.AVAILABLE, spent=0, run_at=self.now)

    @rule(process=PROCESSES)
    def prune(self, process: int) -> None:
        """Retention lets everything go that is finished; the invariant says that no more went."""
        self.run(self.inboxes[process].prune(Retention(age=None, keys=None, rows=10_000)))

    @rule(process=PROCESSES, kill=st.booleans())
    def restart(self, process: int, kill: bool) -> None:
        """A process ends and begins anew; what it held is lost, unless it gave it back."""
        mine = [held for held in self.hands if held.process == process]
        self.hands = [held for held in self.hands if held.process != process]
        if not kill:
            for held in mine:
                self.inboxes[process].save(
                    Settled(not_begun(held.job), held.lease, self.now, self.now)
                )
                known = self.jobs[held.job.id]
                if known.lease == held.lease and known.job.state is State.RUNNING:
                    known.job, known.lease = not_begun(held.job), 0
        self.run(self.inboxes[process].close())
        self.lives[process] = max(self.lives) + 1
        self.inboxes[process] = self.run(self.open_one())

    # ------------------------------------------------------------ what is always true

    @invariant()
    def the_database_is_as_the_model(self) -> None:
        """Every event and job is there once, in the state in which the model has it."""
        if not self.inboxes:
            return
        found = self.run(self.records())
        assert {id_: record.deliveries for id_, record in found.items()} == self.deliveries
        jobs = {one.job.id: one.job for record in found.values() for one in record.jobs}
        assert set(jobs) == set(self.jobs)
        for id_, job in jobs.items():
            known = self.jobs[id_].job
            due = known.state in (State.RETRYABLE, State.HELD) and known.run_at <= self.now
            if due and job.state is State.AVAILABLE:
                known = known._replace(state=State.AVAILABLE)  # somebody woke it
                self.jobs[id_].job = known
            assert job._replace(reason=None) == known._replace(reason=None)
            assert job.state is not State.DISCARDED or job.reason
            if job.state not in FINISHED:
                assert found[job.event_id].raw is not None

    @invariant()
    def a_lane_runs_one_at_a_time(self) -> None:
        """Promise 5: the running jobs of a lane are of one lease."""
        leases: dict[tuple[str, int], set[int]] = {}
        for known in self.jobs.values():
            if known.job.state is State.RUNNING:
                leases.setdefault(known.lane, set()).add(known.lease)
        assert all(len(some) == 1 for some in leases.values())

    # ------------------------------------------------------------ questions

    async def records(self) -> dict[int, Any]:
        """The events of the histories, without those that the helpers keep."""
        ids = [one.id for one in await self.inboxes[0].find(Filter(limit=100_000))]
        found = await self.inboxes[0].read(ids)
        return {id_: record for id_, record in found.items() if record.kind == "incoming"}

    async def states(self) -> dict[int, State]:
        """The states of all jobs as the database has them now."""
        return {
            one.job.id: one.job.state
            for record in (await self.records()).values()
            for one in record.jobs
        }

    def may_be_claimed(self, job: Job) -> bool:
        """Whether a job is available, or due; another process may not have woken it yet."""
        waits = job.state in (State.RETRYABLE, State.HELD)
        return job.state is State.AVAILABLE or (waits and job.run_at <= self.now)

    def never_tried(self, lane: tuple[str, int]) -> list[int]:
        """The available jobs of a lane whose first attempt is still to come."""
        return [
            id_
            for id_, known in self.jobs.items()
            if known.lane == lane and known.job.state is State.AVAILABLE and known.job.attempt == 0
        ]

    def busy(
        self, lane: tuple[str, int], apart_from: tuple[Job, ...] = (), *, held: bool = False
    ) -> bool:
        """Whether a job of the lane runs, or holds it; with ``held`` also one that is due."""
        own = {job.id for job in apart_from}
        return any(
            known.lane == lane
            and id_ not in own
            and (
                known.job.state is State.RUNNING
                or (known.job.state is State.HELD and (held or known.job.run_at > self.now))
            )
            for id_, known in self.jobs.items()
        )


@pytest.mark.parametrize("store", sorted(STORES))
def test_histories_of_two_processes(store: str) -> None:
    """Promises 2 to 5: whatever two processes do, the inbox is what its model says."""
    machine = type("Histories", (Histories,), {"store": store})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
            report_multiple_bugs=False,
        ),
    )
