"""What must be true after any number of kills, each broken promise as one sentence."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .bodies import body
from .books import COMPLETED, Books, Effect
from .load import Ledger

ROUTES = {"looped", "threaded"}  # of tests.apps.writing
FEW = 5  # of one kind of complaint are enough to see it


@dataclass(frozen=True, slots=True)
class Verdict:
    """The numbers of a campaign, and what is wrong with them: empty when nothing is."""

    events: int
    jobs: int
    effects: int
    again: int  # effects beyond the first of their job
    lost: int  # attempts recorded as lost
    wrong: tuple[str, ...]


def judge(books: Books, ledger: Ledger, lines: Sequence[Effect], caught: Counter[int]) -> Verdict:
    """Compare what was answered, what is stored and what was done.

    ``caught`` says at how many kills a job was under lease: only then may its effect come again.
    """
    jobs = books.jobs()
    done = Counter(line.job for line in lines)
    wrong: list[str] = []
    for complaints in (
        _kept(books, ledger),
        _completed(books),
        _worked(books, lines, done, caught),
        _ordered(lines),
    ):
        some = list(complaints)
        wrong += some[:FEW] + ([f"… and {len(some) - FEW} more"] if len(some) > FEW else [])
    return Verdict(
        events=len(books.events()),
        jobs=len(jobs),
        effects=len(lines),
        again=sum(count - 1 for count in done.values()),
        lost=sum(attempt.outcome == "lost" for attempt in books.attempts()),
        wrong=tuple(wrong),
    )


def _kept(books: Books, ledger: Ledger) -> Iterator[str]:
    """Promises 1 to 3: every 2xx is there, byte for byte, once; nothing else is."""
    if not books.sound():
        yield "the file is corrupt"
    if not ledger.accepted():
        yield "nothing was accepted, so nothing is shown"
    events = books.events()
    by_id = {event.id: event for event in events}
    posted = {body(n): n for n in ledger.sent}
    seen = Counter(event.raw for event in events)
    for event in events:
        n = posted.get(event.raw)
        if n is None:
            yield f"event {event.id} was never sent"
        elif seen[event.raw] > 1:
            yield f"message {n} is {seen[event.raw]} events"
        elif event.deliveries > ledger.sent[n]:
            yield f"message {n}: {event.deliveries} deliveries of {ledger.sent[n]} posts"
    for n, answers in ledger.accepted().items():
        for answer in answers:
            kept = by_id.get(answer.body["event"])
            if kept is None:
                yield f"message {n} was answered {answer.body} and is not there"
            elif kept.raw != body(n):
                yield f"message {n} was answered {answer.body}, where other bytes are"
            elif kept.deliveries < len(answers):
                yield f"message {n}: {kept.deliveries} deliveries, {len(answers)} answers"
        if sum(answer.body["status"] == "accepted" for answer in answers) > 1:
            yield f"message {n} was accepted as new more than once"


def _completed(books: Books) -> Iterator[str]:
    """Promises 2 and 4: one job for each route, completed, its lost attempts recorded."""
    routes: dict[int, list[str]] = defaultdict(list)
    lost = Counter(a.job for a in books.attempts() if a.outcome == "lost")
    other = [a for a in books.attempts() if a.outcome not in ("lost", "given back")]
    for job in books.jobs():
        routes[job.event].append(job.route)
        if job.state != COMPLETED:
            yield f"job {job.id} ended as {job.state}: {job.reason}"
        elif job.spent != 1 + lost[job.id]:
            yield f"job {job.id}: attempts spent {job.spent}, recorded as lost {lost[job.id]}"
    for event in books.events():
        if sorted(routes[event.id]) != sorted(ROUTES):
            yield f"event {event.id} has jobs for {routes[event.id]}"
    for attempt in other:
        yield f"job {attempt.job}, attempt {attempt.number}: {attempt.outcome}: {attempt.reason}"


def _worked(
    books: Books, lines: Sequence[Effect], done: Counter[int], caught: Counter[int]
) -> Iterator[str]:
    """Promise 4: every job had its effect, and again only where a kill caught it."""
    jobs = {job.id: job for job in books.jobs()}
    for job in jobs.values():
        if not done[job.id]:
            yield f"job {job.id} completed without its effect"
        elif done[job.id] > 1 + caught[job.id]:
            yield f"job {job.id} ran {done[job.id]} times, caught {caught[job.id]} times"
    for line in lines:
        job_row = jobs.get(line.job)
        if job_row is None or job_row.event != line.event:
            yield f"an effect of job {line.job}, event {line.event}: no such job"
        elif line.attempt > job_row.attempt:
            yield f"job {line.job} ran attempt {line.attempt} of {job_row.attempt}"


def _ordered(lines: Sequence[Effect]) -> Iterator[str]:
    """Promise 5: within a lane, first attempts in the order of acceptance."""
    newest: dict[tuple[str, str], int] = {}
    begun: set[int] = set()
    for line in lines:
        # A job that followed another under one lease and was cut off begins its first anew.
        if line.attempt != 1 or line.job in begun:
            continue
        begun.add(line.job)
        lane = (line.route, line.phone)
        if line.event < newest.get(lane, 0):
            yield f"lane {lane}: event {line.event} after {newest[lane]}"
        newest[lane] = max(line.event, newest.get(lane, 0))
