"""Handlers that raise anything, hang, block or end the process: the rest goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPException
from itertools import count
from pathlib import Path

import pytest

from .crash.bodies import body
from .crash.books import COMPLETED, DISCARDED, AttemptRow, JobRow, effects, opened
from .serving import Server, launch, serving, until

pytest.importorskip("uvicorn")

# What goes wrong, and a part of the reason that has to stand in the inbox.
WAYS = {
    "an error": "ValueError: it went wrong",
    "no Exception": "Odd: odd",
    "SystemExit": "SystemExit",
    "KeyboardInterrupt": "KeyboardInterrupt",
    "CancelledError": "CancelledError",
    "StopIteration": "StopIteration",
    "StopAsyncIteration": "StopAsyncIteration",
    "GeneratorExit": "GeneratorExit",
    "recursion": "RecursionError",
    "MemoryError": "MemoryError",
    "TimeoutError": "somebody else's",
    "a group": "several",
    "a circle": "ValueError: first",
    "unreadable": "Unreadable: (its text cannot be read)",
    "unreadable, and exits": "UnreadableOdd: (its text cannot be read)",
    "no text": "NoText: (its text cannot be read)",
    "a lone surrogate": "ValueError: half ? a face",
    "NUL": "before\ufffdafter",
    "a megabyte": "xxxx",
    "half a Retry": "HalfRetry",
    "Retry, unreadable": "(its text cannot be read)",
    "Discard, unreadable": "(its text cannot be read)",
    "Discard, a lone surrogate": "half ? a face",
    "Retry": "come again",
}
AT_ONCE = {"Discard, unreadable", "Discard, a lone surrogate"}  # no second attempt
RETURNS = (
    "returns a number",
    "returns an error",
    "returns an error's class",
    "returns a lone surrogate",
    "returns a generator",
    "returns an async generator",
    "returns a function",
    "returns a megabyte",
)

number = count(1)


class Place:
    """A server with bad handlers, and its folder."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder

    def post(self, text: str, label: str, phone: int | None = None) -> int:
        """Post a message with a number of its own; the event that it became."""
        n = next(number)
        phone = n if phone is None else phone
        answer = self.server.post(body(n, phone=phone, text=text, labels=label))
        assert answer.status == 200, answer
        return int(answer.body["event"])

    def job(self, event: int) -> JobRow:
        """The event's only job, once it is finished."""

        def ended() -> JobRow | None:
            with opened(self.folder / "inbox.db") as books:
                (job,) = [job for job in books.jobs() if job.event == event]
            return job if job.state in (COMPLETED, DISCARDED) else None

        return until(ended, 20, what=f"the job of event {event} is finished")

    def attempts(self, job: JobRow) -> list[AttemptRow]:
        """What is recorded of the job's attempts that did not complete."""
        with opened(self.folder / "inbox.db") as books:
            return [attempt for attempt in books.attempts() if attempt.job == job.id]

    def goes_on(self, label: str, phone: int) -> None:
        """The same route and conversation handle the next message as if nothing had been."""
        assert self.server.process.poll() is None, self.server.printed()[-2000:]
        assert self.job(self.post("fine", label, phone)).state == COMPLETED
        health = self.server.health()
        assert (health.status, health.body["workers"]) == (200, True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One server for all: what one handler does must not show in the others."""
    folder = tmp_path_factory.mktemp("bad")
    with serving("bad", folder) as server:
        yield Place(server, folder)


@pytest.mark.parametrize("label", ["loop", "thread"])
@pytest.mark.parametrize("way", WAYS)
def test_whatever_a_handler_raises_its_job_ends_with_the_reason(
    place: Place, way: str, label: str
) -> None:
    """Promises 4 and 8: an attempt that raises is recorded with its reason; once the attempts
    are spent the job is discarded with it, and the conversation has long gone on."""
    phone = 50_000 + next(number)
    job = place.job(place.post(way, label, phone))
    assert job.state == DISCARDED
    assert job.reason
    assert WAYS[way] in job.reason
    assert len(job.reason) < 1000
    recorded = place.attempts(job)
    assert [attempt.number for attempt in recorded] == ([1] if way in AT_ONCE else [1, 2, 3])
    assert all(attempt.reason for attempt in recorded)
    place.goes_on(label, phone)


@pytest.mark.parametrize("label", ["loop", "thread", "returns-awaitable"])
@pytest.mark.parametrize("what", RETURNS)
def test_what_a_handler_returns_does_not_matter(place: Place, what: str, label: str) -> None:
    """Promise 4: a handler that returns has completed, whatever it returns."""
    job = place.job(place.post(what, label))
    assert (job.state, job.attempt, job.reason) == (COMPLETED, 1, None)


@pytest.mark.parametrize("way", ["an error", "SystemExit", "KeyboardInterrupt", "CancelledError"])
def test_what_a_plain_handler_returns_is_awaited_and_may_raise(place: Place, way: str) -> None:
    """Promise 4: a plain function may return something to await; how that ends is how it ends."""
    job = place.job(place.post(way, "returns-awaitable"))
    assert job.state == DISCARDED
    assert job.reason
    assert WAYS[way] in job.reason


@pytest.mark.parametrize("way", sorted(set(WAYS) - AT_ONCE))
def test_a_condition_that_raises_makes_a_job_that_says_so(place: Place, way: str) -> None:
    """Promises 1 and 4: the event is kept though ``where=`` could not be asked, and its job is
    discarded with the reason, so that it is shown and can be resubmitted."""
    job = place.job(place.post(way, "where"))
    assert job.state == DISCARDED
    assert job.reason
    assert "where" in job.reason
    assert WAYS[way].partition(": (")[0] in job.reason
    assert place.job(place.post("fine", "where")).state == COMPLETED


@pytest.mark.parametrize("label", ["hang-loop", "hang-thread"])
def test_a_handler_that_hangs_is_given_up(place: Place, label: str) -> None:
    """Promise 4: an attempt that outlasts its timeout has failed; the job ends discarded with
    that reason, and other routes do not wait for it."""
    event = place.post("hang", label)
    place.goes_on("loop", next(number))
    job = place.job(event)
    assert job.state == DISCARDED
    assert job.reason
    assert "longer than 0.2 seconds" in job.reason
    assert [attempt.number for attempt in place.attempts(job)] == [1, 2, 3]


def test_many_threads_that_hang_are_bounded(place: Place) -> None:
    """Promise 9: threads cannot be stopped, so a route that leaves too many behind fails at once
    with that reason; other routes go on."""
    events = [place.post("hang", "hang-thread") for _ in range(12)]
    jobs = [place.job(event) for event in events]
    assert {job.state for job in jobs} == {DISCARDED}
    assert any("still hang in their threads" in (job.reason or "") for job in jobs)
    status = Path(f"/proc/{place.server.pid}/status")
    if status.exists():
        threads = status.read_text().partition("Threads:")[2].split()[0]
        assert int(threads) < 64
    place.goes_on("thread", next(number))


def test_a_handler_that_blocks_the_loop_keeps_its_lease(tmp_path: Path) -> None:
    """Promise 5: a handler stops the loop for three times its lease, beside a second process on
    the same file: leases are renewed from a thread, so nobody runs it a second time."""
    lease = {"WHATSABLE_LEASE": "0.5"}
    with ExitStack() as stack:
        first = Place(stack.enter_context(serving("bad", tmp_path, env=lease)), tmp_path)
        event = first.post("block", "block")
        until(lambda: effects(tmp_path))
        second = Place(stack.enter_context(serving("bad", tmp_path, env=lease)), tmp_path)
        job = first.job(event)
        assert second.job(second.post("fine", "loop")).state == COMPLETED
        assert (job.state, job.attempt) == (COMPLETED, 1)
        assert first.attempts(job) == []
        assert [line.word for line in effects(tmp_path) if line.event == event] == [
            "begun",
            "done",
        ]


@pytest.mark.parametrize("label", ["exit-loop", "exit-thread"])
def test_a_handler_that_ends_the_process_is_discarded_and_the_rest_completes(
    tmp_path: Path, label: str
) -> None:
    """Promise 4: each death counts as an attempt, so a job that kills its process is discarded
    like any other; the jobs around it, started again by whoever starts processes, complete."""
    with serving("bad", tmp_path) as server:
        place = Place(server, tmp_path)
        fine = [place.post("fine", "loop") for _ in range(10)]
        fine += [place.post("fine", "slow") for _ in range(6)]  # these run when it dies
        poison = place.post("exit", label)
        for _ in range(10):
            n = next(number)
            with suppress(OSError, HTTPException):  # it may be dead already
                answer = server.post(body(n, phone=n, text="fine", labels="loop"))
                fine.append(int(answer.body["event"]))
    starts = 0

    def finished() -> bool:
        with opened(tmp_path / "inbox.db") as books:
            return not books.unfinished()

    while True:
        server = launch("bad", tmp_path)
        starts += 1
        try:
            ended = until(
                lambda server=server: finished() or server.process.poll() is not None,  # type: ignore[misc]
                what="it is done, or dead",
            )
            if ended and finished():
                break
        finally:
            server.kill()
        assert starts < 8, "it dies for ever"
    with opened(tmp_path / "inbox.db") as books:
        jobs = {job.event: job for job in books.jobs()}
        attempts = books.attempts()
    assert jobs[poison].state == DISCARDED
    assert "died" in (jobs[poison].reason or "")
    deaths = [attempt for attempt in attempts if attempt.job == jobs[poison].id]
    assert [(death.number, death.outcome) for death in deaths] == [
        (1, "lost"),
        (2, "lost"),
        (3, "lost"),
    ]
    assert Counter(jobs[event].state for event in fine) == {COMPLETED: len(fine)}
