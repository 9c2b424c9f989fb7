"""What becomes of a job: the table of its states, and how an outcome settles it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsable_receiver.errors import Discard, Retry, StateError
from whatsable_receiver.jobs import (
    FINISHED,
    JOBS_PER_EVENT,
    LEASE_LOST,
    TRANSITIONS,
    Completed,
    Discarded,
    Failed,
    GivenBack,
    Job,
    Outcome,
    Retries,
    State,
    Step,
    advance,
    not_begun,
    settle,
)

NOW = 1_767_268_800_000
HOUR = 3600
RUNNING = Job(17_003, "answer", State.RUNNING, NOW - 5, attempt=1, spent=1)
CHANCE = st.floats(0, 1, exclude_max=True)

# Written here again, as the drawing on top of jobs.py has it.
DRAWN = {
    State.AVAILABLE: {Step.CLAIMED: State.RUNNING},
    State.RETRYABLE: {Step.DUE: State.AVAILABLE},
    State.HELD: {Step.DUE: State.AVAILABLE},
    State.RUNNING: {
        Step.SUCCEEDED: State.COMPLETED,
        Step.FAILED: State.RETRYABLE,
        Step.FAILED_STRICT: State.HELD,
        Step.SPENT: State.DISCARDED,
        Step.GIVEN_BACK: State.AVAILABLE,
    },
    State.COMPLETED: {},
    State.DISCARDED: {Step.RESUBMITTED: State.AVAILABLE},
}
PAIRS = [(state, step) for state in State for step in Step]


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize(("state", "step"), PAIRS, ids=lambda one: one.name.lower())
def test_every_state_takes_the_steps_that_are_drawn_and_no_other(state: State, step: Step) -> None:
    """Each pair of state and step leads where the drawing says, or is a StateError."""
    if step in DRAWN[state]:
        assert advance(state, step) is DRAWN[state][step]
    else:
        with pytest.raises(StateError, match=f"{state.name.lower()}.*{step.value}"):
            advance(state, step)


def test_no_state_is_a_trap() -> None:
    """From every state a completed one can be reached, but from completed itself."""
    for state in State:
        reached = {state}
        for _ in State:
            reached |= {end for (start, _), end in TRANSITIONS.items() if start in reached}
        assert State.COMPLETED in reached
        assert (reached == {state}) == (state is State.COMPLETED)


def test_finished_is_what_no_outcome_of_an_attempt_follows() -> None:
    """Completed and discarded are finished; a finished job moves only when a person resubmits."""
    steps = {state: {step for start, step in TRANSITIONS if start is state} for state in State}
    assert {state for state in State if steps[state] <= {Step.RESUBMITTED}} == FINISHED


def test_the_numbers_of_the_states_stay() -> None:
    """Stores have written these numbers; another number would rename every old job."""
    assert {state.name: state.value for state in State} == {
        "AVAILABLE": 0,
        "RETRYABLE": 1,
        "RUNNING": 2,
        "COMPLETED": 3,
        "DISCARDED": 4,
        "HELD": 5,
    }


def test_a_job_knows_its_event() -> None:
    """Job 17003 is a job of event 17."""
    assert (RUNNING.event_id, JOBS_PER_EVENT) == (17, 1000)


# ---------------------------------------------------------------- settle

RETRIES = Retries(attempts=3, first=10.0, factor=2.0)
SETTLED: list[tuple[str, Job, Outcome, Job]] = [
    (
        "completed",
        RUNNING,
        Completed(),
        RUNNING._replace(state=State.COMPLETED),
    ),
    (
        "completed forgets the reason of an earlier attempt",
        RUNNING._replace(reason="an earlier one"),
        Completed(),
        RUNNING._replace(state=State.COMPLETED, reason=None),
    ),
    (
        "failed waits for its delay",
        RUNNING,
        Failed("no"),
        RUNNING._replace(state=State.RETRYABLE, run_at=NOW + 10_000, reason="no"),
    ),
    (
        "failed again waits longer",
        RUNNING._replace(attempt=2, spent=2),
        Failed("no"),
        RUNNING._replace(
            state=State.RETRYABLE, run_at=NOW + 20_000, reason="no", attempt=2, spent=2
        ),
    ),
    (
        "failed for the last time",
        RUNNING._replace(attempt=3, spent=3),
        Failed("no"),
        RUNNING._replace(
            state=State.DISCARDED,
            attempt=3,
            spent=3,
            reason="all 3 attempts spent; the last one: no",
        ),
    ),
    (
        "a new budget after a resubmission",
        RUNNING._replace(attempt=4, spent=1),
        Failed("no"),
        RUNNING._replace(state=State.RETRYABLE, run_at=NOW + 10_000, reason="no", attempt=4),
    ),
    (
        "a time of its own",
        RUNNING,
        Failed("later", after=0.25),
        RUNNING._replace(state=State.RETRYABLE, run_at=NOW + 250, reason="later"),
    ),
    (
        "at once",
        RUNNING,
        Failed("now", after=0),
        RUNNING._replace(state=State.RETRYABLE, run_at=NOW, reason="now"),
    ),
    (
        "a time of its own does not buy attempts",
        RUNNING._replace(attempt=3, spent=3),
        Failed("later", after=5),
        RUNNING._replace(
            state=State.DISCARDED,
            attempt=3,
            spent=3,
            reason="all 3 attempts spent; the last one: later",
        ),
    ),
    (
        "discarded at the first attempt",
        RUNNING,
        Discarded("not ours"),
        RUNNING._replace(state=State.DISCARDED, reason="not ours"),
    ),
    (
        "given back is not paid for, and keeps its number",
        RUNNING._replace(attempt=2, spent=2),
        GivenBack("we stop"),
        RUNNING._replace(state=State.AVAILABLE, attempt=2, spent=1, run_at=NOW, reason="we stop"),
    ),
    (
        "a lost lease is an attempt",
        RUNNING,
        LEASE_LOST,
        RUNNING._replace(state=State.RETRYABLE, run_at=NOW + 10_000, reason=LEASE_LOST.reason),
    ),
]


@pytest.mark.parametrize(
    ("job", "outcome", "expected"),
    [case[1:] for case in SETTLED],
    ids=[case[0] for case in SETTLED],
)
def test_each_outcome_settles_a_job(job: Job, outcome: Outcome, expected: Job) -> None:
    """Promise 4: after an attempt a job is done, waits, or is discarded with its reason."""
    assert settle(job, outcome, NOW, retries=RETRIES, chance=0.0) == expected


@pytest.mark.parametrize("after", [None, 0.0, 7.0])
def test_a_strict_route_holds_its_lane(after: float | None) -> None:
    """On a strict route a failed job is held, at the time at which it would be retryable."""
    loose = settle(RUNNING, Failed("no", after=after), NOW, retries=RETRIES, chance=0.3)
    strict = settle(
        RUNNING, Failed("no", after=after), NOW, retries=RETRIES, chance=0.3, strict=True
    )
    assert strict == loose._replace(state=State.HELD)


def test_a_strict_route_does_not_hold_its_lane_for_ever() -> None:
    """Promise 4: the last failure of a strict job is discarded like any other."""
    last = RUNNING._replace(attempt=3, spent=3)
    settled = settle(last, Failed("no"), NOW, retries=RETRIES, chance=0.0, strict=True)
    assert settled.state is State.DISCARDED


@pytest.mark.parametrize("state", [state for state in State if state is not State.RUNNING])
@pytest.mark.parametrize(
    "outcome", [Completed(), Failed("no"), Discarded("no"), GivenBack("no")], ids=repr
)
def test_only_a_running_job_is_settled(state: State, outcome: Outcome) -> None:
    """A job that nobody runs has no outcome: a StateError."""
    with pytest.raises(StateError):
        settle(RUNNING._replace(state=state), outcome, NOW, retries=RETRIES, chance=0.0)


def test_what_never_began_was_never_claimed() -> None:
    """A claimed job that no handler saw is as it was before: no attempt, nothing spent."""
    before = RUNNING._replace(state=State.AVAILABLE, attempt=4, spent=2, reason="an earlier one")
    claimed = before._replace(state=State.RUNNING, attempt=5, spent=3)
    assert not_begun(claimed) == before


@given(attempts=st.integers(1, 60), chance=CHANCE, strict=st.booleans())
def test_a_job_that_always_fails_is_tried_as_often_as_it_was_promised(
    attempts: int, chance: float, strict: bool
) -> None:
    """Promise 4: after exactly its attempts a failing job is discarded, with the last reason."""
    retries = Retries(attempts=attempts)
    job = Job(1001, "answer", State.AVAILABLE, NOW)
    tried = 0
    while job.state is not State.DISCARDED:
        tried += 1
        state = advance(advance(job.state, Step.DUE), Step.CLAIMED) if tried > 1 else State.RUNNING
        job = job._replace(state=state, attempt=job.attempt + 1, spent=job.spent + 1)
        outcome = Failed(f"failure {tried}")
        job = settle(job, outcome, job.run_at, retries=retries, chance=chance, strict=strict)
    assert tried == job.attempt == attempts
    assert job.reason is not None
    assert job.reason.endswith(f"failure {attempts}")


@given(st.lists(st.sampled_from(["fail", "stop", "not begun"]), max_size=60))
def test_only_attempts_of_the_handler_are_paid_for(history: list[str]) -> None:
    """However often a receiver is stopped, the attempts of the route stay what they were."""
    retries = Retries(attempts=1000)
    job = Job(1001, "answer", State.AVAILABLE, NOW)
    for what in history:
        job = job._replace(state=State.RUNNING, attempt=job.attempt + 1, spent=job.spent + 1)
        if what == "not begun":
            job = not_begun(job)
        else:
            outcome: Outcome = Failed("no") if what == "fail" else GivenBack("we stop")
            job = settle(job, outcome, NOW, retries=retries, chance=0.0)
    assert job.spent == history.count("fail")
    assert job.attempt == len(history) - history.count("not begun")


# ---------------------------------------------------------------- backoff


@given(chances=st.lists(CHANCE, min_size=9, max_size=9))
def test_ten_attempts_are_spread_over_three_days_at_least(chances: list[float]) -> None:
    """By default a job outlives a long weekend: 72 hours at least, whatever the dice say."""
    retries = Retries()
    assert retries.attempts == 10
    delays = [retries.delay(n, chance) for n, chance in enumerate(chances, 1)]
    assert 72 * HOUR <= sum(delays) <= 2 * 7 * 24 * HOUR


@given(chance=CHANCE)
def test_the_first_retry_comes_within_seconds(chance: float) -> None:
    """A short hiccup costs a customer no more than five seconds."""
    assert 0 < Retries().delay(1, chance) <= 5


@given(
    n=st.integers(1, 10_000),
    chance=CHANCE,
    first=st.floats(0, 1e6),
    factor=st.floats(1, 1e6),
    longest=st.floats(0, 1e8),
)
def test_a_delay_is_never_longer_than_twice_its_bound(
    n: int, chance: float, first: float, factor: float, longest: float
) -> None:
    """Jitter adds at most as much again, and no number of attempts is too many to compute."""
    retries = Retries(attempts=10_001, first=first, factor=factor, longest=longest)
    assert 0 <= retries.delay(n, chance) <= 2 * longest
    assert retries.delay(n, 0.0) <= retries.delay(n, chance)
    assert retries.delay(n, 0.0) <= retries.delay(n + 1, 0.0)


@pytest.mark.parametrize("n", range(1, 10))
def test_ten_thousand_failures_at_once_do_not_come_back_at_once(n: int) -> None:
    """A helpdesk that comes back is not knocked over: no slot has more than thrice the mean."""
    dice = random.Random(n)
    retries = Retries()
    delays = [retries.delay(n, dice.random()) for _ in range(10_000)]
    slots = [0] * 100
    longest = max(delays)
    for delay in delays:
        slots[min(99, int(100 * delay / longest))] += 1
    assert max(slots) / (sum(slots) / len(slots)) <= 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": -1},
        {"first": -0.1},
        {"first": float("nan")},
        {"first": float("inf")},
        {"factor": 0.9},
        {"factor": float("nan")},
        {"longest": -1.0},
        {"longest": float("nan")},
        {"longest": float("inf")},
    ],
    ids=repr,
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    """A job is tried at least once, and no delay is negative, shrinking, or no number."""
    with pytest.raises(ValueError, match=r"attempt|delay"):
        Retries(**wrong)  # type: ignore[arg-type]


# ---------------------------------------------------------------- what handlers raise


@pytest.mark.parametrize("after", [None, 0, 0.5, 366 * 86_400])
def test_a_handler_says_when_it_wants_to_be_tried_again(after: float | None) -> None:
    """Retry takes seconds from 0 to a leap year, or None for the usual backoff."""
    assert Retry(after=after).after == after


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), 366 * 86_400 + 1])
def test_a_retry_that_never_comes_is_refused(after: float) -> None:
    """A wait that is negative, endless, or no number is an error where it is written."""
    with pytest.raises(ValueError, match="0 seconds to 366 days"):
        Retry(after=after)


def test_a_discard_has_its_reason() -> None:
    """Promise 4: nothing ends without a reason."""
    assert Discard("not a customer").reason == "not a customer"
