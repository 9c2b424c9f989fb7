"""What happened, and what should have happened: facts in, problems out.

Nothing here looks anywhere: whoever calls has read the facts back from the inbox.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from ...inbox.base import EventRecord
from ...jobs import State
from ..printing import counted
from .samples import UNSTEADY, Case

# ---------------------------------------------------------------- what happened


@dataclass(frozen=True, slots=True)
class Post:
    """One post as the sender saw it. ``status`` is 0 where there was no answer."""

    case: Case
    status: int
    answer: str
    event: int | None
    ms: float


@dataclass(frozen=True, slots=True)
class Call:
    """A handler was called."""

    route: str
    event: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the demo knows: the posts, what the handlers saw, and what the inbox says."""

    posts: tuple[Post, ...]
    calls: tuple[Call, ...]
    events: dict[int, EventRecord]


@dataclass(frozen=True, slots=True)
class Check:
    """A thing that should be so, and what speaks against it; nothing does where it is."""

    name: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether it is so."""
        return not self.problems


# ---------------------------------------------------------------- what should have happened


def check(facts: Facts) -> tuple[Check, ...]:
    """Compare what happened with what should have happened. Looks at nothing but ``facts``."""
    return tuple(Check(name, tuple(find(facts))) for name, find in CHECKS)


def _answers(facts: Facts) -> list[str]:
    if not facts.posts:
        return ["nothing was posted"]
    return [
        f"{post.case.title}: {post.status} {post.answer}, not {post.case.status} {post.case.answer}"
        for post in facts.posts
        if (post.status, post.answer) != (post.case.status, post.case.answer)
    ]


def _bytes(facts: Facts) -> list[str]:
    problems = []
    for post in facts.posts:
        if post.status // 100 != 2:
            continue
        record = facts.events.get(post.event or 0)
        if record is None:
            problems.append(f"{post.case.title}: answered {post.status}, and not in the inbox")
        elif post.case.again is None and record.raw != post.case.body:
            problems.append(f"{post.case.title}: event {record.id} has other bytes")
    return problems


def _nothing_else(facts: Facts) -> list[str]:
    posted = {post.event for post in facts.posts if post.status // 100 == 2}
    return [f"event {id_} was never posted" for id_ in facts.events if id_ not in posted]


def _one_event_each(facts: Facts) -> list[str]:
    problems = []
    owners: dict[int, str] = {}
    for post in facts.posts:
        if post.case.again is not None:
            original = facts.posts[post.case.again]
            if post.event != original.event:
                problems.append(f"{post.case.title}: event {post.event}, not {original.event}")
        elif post.event is not None:
            other = owners.setdefault(post.event, post.case.title)
            if other != post.case.title:
                problems.append(f"{post.case.title}: taken for {other}")
    for id_, times in Counter(post.event for post in facts.posts).items():
        record = facts.events.get(id_ or 0)
        if record is not None and record.deliveries != times:
            delivered = counted(record.deliveries, "time")
            problems.append(f"event {id_}: delivered {delivered}, posted {counted(times, 'time')}")
    return problems


def _routes(facts: Facts) -> list[str]:
    problems = []
    for post in facts.posts:
        record = facts.events.get(post.event or 0)
        if record is not None:
            routes = sorted(job.job.route for job in record.jobs)
            if routes != sorted(post.case.routes):
                problems.append(
                    f"{post.case.title}: routes {', '.join(routes) or 'none'}, "
                    f"not {', '.join(post.case.routes) or 'none'}"
                )
    return problems


def _completed(facts: Facts) -> list[str]:
    return [
        f"job {job.job.id} ({job.job.route}) is {job.job.state.name.lower()}"
        for record in facts.events.values()
        for job in record.jobs
        if job.job.state is not State.COMPLETED
    ]


def _called(facts: Facts) -> list[str]:
    recorded = Counter(
        Call(job.job.route, record.id, attempt.number)
        for record in facts.events.values()
        for job in record.jobs
        for attempt in job.attempts
    )
    called = Counter(facts.calls)
    return [
        f"{call.route}, event {call.event}, attempt {call.attempt}: "
        f"called {counted(called[call], 'time')}, recorded {counted(recorded[call], 'time')}"
        for call in sorted(recorded | called, key=lambda call: (call.event, call.attempt))
        if called[call] != recorded[call]
    ]


def _retried(facts: Facts) -> list[str]:
    outcomes = [
        [attempt.outcome for attempt in job.attempts]
        for record in facts.events.values()
        for job in record.jobs
        if job.job.route == UNSTEADY
    ]
    if outcomes == [["failed", "completed"]]:
        return []
    return [f"{UNSTEADY}: {outcomes}, not one job that failed once and then completed"]


CHECKS: tuple[tuple[str, Callable[[Facts], list[str]]], ...] = (
    ("every post got the answer it should get", _answers),
    ("what was answered 2xx is in the inbox, byte for byte", _bytes),
    ("the inbox holds nothing that was not posted", _nothing_else),
    ("a redelivery is its event again, another message is another event", _one_event_each),
    ("each event took the routes it should take, and no other", _routes),
    ("every job completed", _completed),
    ("each handler was called once for each recorded attempt", _called),
    ("the handler that failed was tried again", _retried),
)


def summary(facts: Facts) -> dict[str, Any]:
    """What happened, in numbers."""
    answers = Counter(post.answer for post in facts.posts)
    jobs = [job for record in facts.events.values() for job in record.jobs]
    took = sorted(post.ms for post in facts.posts)
    return {
        "posted": len(facts.posts),
        "accepted": answers["accepted"],
        "duplicates": answers["duplicate"],
        "quarantined": answers["quarantined"],
        "refused": answers["refused"],
        "events_stored": len(facts.events),
        "jobs_completed": sum(job.job.state is State.COMPLETED for job in jobs),
        "attempts": sum(len(job.attempts) for job in jobs),
        "p50_ms": round(median(took), 2) if took else None,
        "slowest_ms": round(took[-1], 2) if took else None,
    }
