"""What a job is, which states it passes through, and how an attempt's outcome settles it.

Nothing here reads a clock or rolls dice: ``now`` and ``chance`` are arguments.

    available ──claimed──► running ──succeeded──► completed
        ▲                  │ │ │ └──spent──────► discarded ──resubmitted──► available
        │                  │ │ └──failed──► retryable ──due──► available
        │                  │ └──failed, strict route──► held ──due──► available
        └────given back────┘
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from math import inf
from typing import NamedTuple

from .errors import StateError


class State(IntEnum):
    """Where a job stands. The numbers are what the stores write."""

    AVAILABLE = 0  # may be claimed when its lane is free
    RETRYABLE = 1  # waits for its next attempt; others of its lane go on
    RUNNING = 2  # claimed under a lease
    COMPLETED = 3
    DISCARDED = 4  # ended without success, for a recorded reason
    HELD = 5  # like retryable, but its lane waits with it


class Step(StrEnum):  # as a key, a plain Enum calls Python for its hash
    """What can happen to a job."""

    CLAIMED = "claimed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    FAILED_STRICT = "failed, and its lane waits with it"
    SPENT = "ended without success"
    GIVEN_BACK = "given back"
    DUE = "due"
    RESUBMITTED = "resubmitted"


TRANSITIONS: dict[tuple[State, Step], State] = {
    (State.AVAILABLE, Step.CLAIMED): State.RUNNING,
    (State.RUNNING, Step.SUCCEEDED): State.COMPLETED,
    (State.RUNNING, Step.FAILED): State.RETRYABLE,
    (State.RUNNING, Step.FAILED_STRICT): State.HELD,
    (State.RUNNING, Step.SPENT): State.DISCARDED,
    (State.RUNNING, Step.GIVEN_BACK): State.AVAILABLE,
    (State.RETRYABLE, Step.DUE): State.AVAILABLE,
    (State.HELD, Step.DUE): State.AVAILABLE,
    (State.DISCARDED, Step.RESUBMITTED): State.AVAILABLE,
}

FINISHED = frozenset({State.COMPLETED, State.DISCARDED})


def advance(state: State, step: Step) -> State:
    """The state that ``step`` leads to; ``StateError`` where the table has no such step."""
    try:
        return TRANSITIONS[state, step]
    except KeyError:
        raise StateError(f"a job that is {state.name.lower()} cannot be {step.value}") from None


# ---------------------------------------------------------------- outcomes of one attempt


class Completed(NamedTuple):
    """The handler returned."""


class Failed(NamedTuple):
    """The attempt did not succeed; ``after`` (seconds) overrides the backoff."""

    reason: str
    detail: str | None = None  # a traceback, bounded
    after: float | None = None


class Discarded(NamedTuple):
    """The handler, or a rule, ended the job for good."""

    reason: str
    detail: str | None = None


class GivenBack(NamedTuple):
    """The attempt was cut off by us, not by the handler: the budget does not pay for it."""

    reason: str


Outcome = Completed | Failed | Discarded | GivenBack

LEASE_LOST = Failed("the lease ran out: the process that ran this attempt died or stood still")


# ---------------------------------------------------------------- policy and backoff


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and how far apart, a job is tried.

    ``attempts`` counts the first one too. Delay ``n`` (1 = before the second attempt) is
    ``first * factor ** (n - 1)`` seconds, at most ``longest``, plus a random part of up to
    the same size: the whole upper half is jitter, the lower half is the promise. With the
    defaults the ten attempts are spread over at least 72 hours.
    """

    attempts: int = 10
    first: float = 1.0
    factor: float = 4.62
    longest: float = 3 * 86_400.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"a job needs at least 1 attempt, not {self.attempts}")
        if not (0 <= self.first < inf and 1 <= self.factor < inf and 0 <= self.longest < inf):
            raise ValueError("delays are 0 seconds or more, and their factor is 1 or more")

    def delay(self, n: int, chance: float) -> float:
        """Seconds to wait after ``n`` attempts; ``chance`` is random in [0, 1)."""
        try:
            floor = min(self.longest, self.first * self.factor ** (n - 1))
        except OverflowError:  # past some n the power is beyond a float
            floor = self.longest if self.first else 0.0
        return floor * (1 + chance)


# ---------------------------------------------------------------- the job


class Job(NamedTuple):
    """One durable piece of work on an event. Times are milliseconds since the epoch, UTC.

    ``attempt`` numbers the tries and only ever grows; ``spent`` counts those that the
    budget of the route pays for, and starts again when the job is resubmitted.
    """

    id: int
    route: str
    state: State
    run_at: int
    attempt: int = 0
    spent: int = 0
    reason: str | None = None

    @property
    def event_id(self) -> int:
        """The number of the job's event: job 17003 is the third job of event 17."""
        return self.id // JOBS_PER_EVENT


JOBS_PER_EVENT = 1000


def settle(
    job: Job,
    outcome: Outcome,
    now: int,
    *,
    retries: Retries,
    chance: float,
    strict: bool = False,
) -> Job:
    """The job as it stands after one attempt. ``now`` is in milliseconds."""
    match outcome:
        case Completed():
            # Spelt out, because this is the way of nearly every job, and _replace is slow.
            state = advance(job.state, Step.SUCCEEDED)
            return Job(job.id, job.route, state, job.run_at, job.attempt, job.spent)
        case GivenBack(reason):
            state = advance(job.state, Step.GIVEN_BACK)
            return job._replace(state=state, run_at=now, spent=job.spent - 1, reason=reason)
        case Discarded(reason):
            return job._replace(state=advance(job.state, Step.SPENT), reason=reason)
        case Failed(reason, _, after):
            if job.spent >= retries.attempts:
                spent = f"all {retries.attempts} attempts spent; the last one: {reason}"
                return job._replace(state=advance(job.state, Step.SPENT), reason=spent)
            step = Step.FAILED_STRICT if strict else Step.FAILED
            seconds = retries.delay(job.spent, chance) if after is None else after
            run_at = now + round(seconds * 1000)
            return job._replace(state=advance(job.state, step), run_at=run_at, reason=reason)


def not_begun(job: Job) -> Job:
    """A claimed job whose attempt never started, as if it had not been claimed."""
    state = advance(job.state, Step.GIVEN_BACK)
    return job._replace(state=state, attempt=job.attempt - 1, spent=job.spent - 1)
