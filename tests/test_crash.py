"""The receiver is killed, stopped in its tracks and doubled: nothing is lost, nothing is twice."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Barrier
from threading import Event as Flag

import pytest

from .crash.bodies import body
from .crash.books import COMPLETED, JobRow, copied, effects, opened, words
from .crash.campaign import Campaign
from .serving import Answer, Server, serving, until

pytest.importorskip("uvicorn")

SHORT_LEASE = {"WHATSABLE_LEASE": "1"}


def finished(folder: Path, seconds: float = 30) -> list[JobRow]:
    """The jobs of a live inbox, once all of them are finished."""
    with opened(folder / "inbox.db") as books:
        until(lambda: not books.unfinished(), seconds, what="all jobs are finished")
        return books.jobs()


# ---------------------------------------------------------------- SIGKILL


@pytest.mark.parametrize(("processes", "rounds"), [(1, 25), (2, 8)])
def test_what_was_answered_survives_being_killed_at_any_moment(
    tmp_path: Path, processes: int, rounds: int
) -> None:
    """Promises 1 to 5: SIGKILL under load, again and again, to the only process or to one of two:
    each 2xx is in the inbox byte for byte, as one event; each of its jobs completes, and runs
    again only if a kill caught it; first attempts of a conversation keep their order."""
    campaign = Campaign(tmp_path, seed=20_251 + processes, processes=processes)
    kills = list(campaign.rounds(rounds))
    verdict = campaign.reckon()
    assert verdict.wrong == ()
    assert not campaign.ledger.others()
    # The load was one: the kills met a server at work.
    assert len(campaign.ledger.accepted()) > 10 * rounds
    assert sum(kill.running for kill in kills) > 0


@pytest.mark.parametrize("kind", ["loop", "thread"])
def test_a_handler_that_is_killed_runs_again_and_the_attempt_counts(
    tmp_path: Path, kind: str
) -> None:
    """Promise 4: a process that is killed while a handler runs has lost that attempt: it is
    recorded with its reason, and the job runs again as attempt 2."""
    with serving("gated", tmp_path) as server:
        event = server.post(body(1, labels=kind)).body["event"]
        until(lambda: words(tmp_path, "begun"))
        server.kill()
    (tmp_path / "gate").touch()
    with serving("gated", tmp_path):
        (job,) = finished(tmp_path)
        with opened(tmp_path / "inbox.db") as books:
            (lost,) = books.attempts()
    assert (job.event, job.state, job.attempt) == (event, COMPLETED, 2)
    assert (lost.job, lost.number, lost.outcome) == (job.id, 1, "lost")
    assert lost.reason
    assert "died" in lost.reason
    assert [(line.attempt, line.word) for line in effects(tmp_path)] == [
        (1, "begun"),
        (2, "begun"),
        (2, "done"),
    ]


def test_a_process_takes_over_the_work_of_another_that_was_killed(tmp_path: Path) -> None:
    """Promise 4: of two processes on one file one is killed with handlers running; the other,
    which nobody restarts, runs them again once their leases are over."""
    with ExitStack() as stack:
        first = stack.enter_context(serving("gated", tmp_path, env=SHORT_LEASE))
        for n in range(6):
            first.post(body(n, labels="loop", phone=n))
        until(lambda: len(words(tmp_path, "begun")) == 6)
        stack.enter_context(serving("gated", tmp_path, env=SHORT_LEASE))
        first.kill()
        (tmp_path / "gate").touch()
        jobs = finished(tmp_path)
    assert [(job.state, job.attempt) for job in jobs] == [(COMPLETED, 2)] * 6
    assert Counter(line.event for line in words(tmp_path, "done")) == {job.event: 1 for job in jobs}


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_a_claim_that_was_undone_is_nobodys(tmp_path: Path) -> None:
    """Promises 4 and 5: the first claim of a process fails with its transaction; the one beside it
    is somebody else all the same, and takes its work over when it is killed."""
    import resource

    with ExitStack() as stack:
        unlucky = stack.enter_context(serving("gated", tmp_path, env=SHORT_LEASE))
        other = stack.enter_context(serving("gated", tmp_path, env=SHORT_LEASE))
        _, hard = resource.prlimit(unlucky.pid, resource.RLIMIT_FSIZE)
        log = (tmp_path / "inbox.db-wal").stat().st_size
        resource.prlimit(unlucky.pid, resource.RLIMIT_FSIZE, (log + 100, hard))
        assert unlucky.post(body(1, labels="loop", phone=1)).status == 503
        resource.prlimit(unlucky.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert other.post(body(2, labels="loop", phone=2)).status == 200
        until(lambda: len(words(tmp_path, "begun")) == 1)
        until(lambda: unlucky.post(body(3, labels="loop", phone=3)).status == 200)
        until(lambda: len(words(tmp_path, "begun")) == 2)
        unlucky.kill()
        until(lambda: len(words(tmp_path, "begun")) == 3, 10, what="the other takes over")
        (tmp_path / "gate").touch()
        jobs = finished(tmp_path)
    assert sorted((job.state, job.attempt) for job in jobs) == [(COMPLETED, 1), (COMPLETED, 2)]


# ---------------------------------------------------------------- the same bytes at once


def together(posts: Sequence[Callable[[], Answer]]) -> list[Answer]:
    """The answers to posts that all start at the same moment."""
    barrier = Barrier(len(posts))

    def one(post: Callable[[], Answer]) -> Answer:
        barrier.wait(30)
        return post()

    with ThreadPoolExecutor(len(posts)) as pool:
        return list(pool.map(one, posts))


@pytest.mark.parametrize("processes", [1, 2])
def test_the_same_bytes_64_times_at_once_are_one_event(tmp_path: Path, processes: int) -> None:
    """Promise 2: however many deliveries meet, in however many processes, there is one event,
    one of them was told that it is new, and each route runs once."""
    with ExitStack() as stack:
        servers = [stack.enter_context(serving("writing", tmp_path)) for _ in range(processes)]
        for n in range(4):
            same = body(n)

            def post(server: Server, same: bytes = same) -> Answer:
                return server.post(same)

            answers = together([partial(post, servers[k % processes]) for k in range(64)])
            assert {answer.status for answer in answers} == {200}
            assert Counter(answer.body["status"] for answer in answers) == {
                "accepted": 1,
                "duplicate": 63,
            }
            assert len({answer.body["event"] for answer in answers}) == 1
        jobs = finished(tmp_path)
        with opened(tmp_path / "inbox.db") as books:
            events = books.events()
    assert [(event.raw, event.deliveries) for event in events] == [(body(n), 64) for n in range(4)]
    assert [job.state for job in jobs] == [COMPLETED] * 8
    assert sorted(line.job for line in effects(tmp_path)) == [job.id for job in jobs]


# ---------------------------------------------------------------- a process that stands still


def freeze(server: Server, lock: Path) -> None:
    """SIGSTOP at a moment when the process does not write: a frozen writer stops everybody, as
    with any lock, and that is not what is tried here."""
    handle = os.open(lock, os.O_RDWR)

    def frozen_outside() -> bool:
        server.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, server.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            server.signal(signal.SIGCONT)
            return False
        fcntl.flock(handle, fcntl.LOCK_UN)
        return True

    try:
        until(frozen_outside, 10)
    finally:
        os.close(handle)


def test_who_lost_its_lease_cannot_write_an_outcome(tmp_path: Path) -> None:
    """Promises 4 and 5: a process stands still for longer than its lease, and another one takes
    its work over; when it wakes, what it says about the job is not written."""
    with ExitStack() as stack:
        sleeper = stack.enter_context(serving("gated", tmp_path, env=SHORT_LEASE))
        sleeper.post(body(1, labels="loop"))
        until(lambda: len(words(tmp_path, "begun")) == 1)
        freeze(sleeper, tmp_path / "inbox.db-lock")
        stack.enter_context(serving("gated", tmp_path, env=SHORT_LEASE))
        until(lambda: len(words(tmp_path, "begun")) == 2, what="the other takes over")
        (tmp_path / "gate").touch()
        (before,) = finished(tmp_path)
        sleeper.signal(signal.SIGCONT)
        until(lambda: "leases were lost" in sleeper.printed(), what="the sleeper is fenced off")
        (after,) = finished(tmp_path)
        with opened(tmp_path / "inbox.db") as books:
            attempts = books.attempts()
    assert before == after
    assert (after.state, after.attempt) == (COMPLETED, 2)
    assert [(attempt.number, attempt.outcome) for attempt in attempts] == [(1, "lost")]


def test_a_process_that_stood_still_alone_goes_on_with_its_own_work(tmp_path: Path) -> None:
    """Promise 5: nobody took over while a process stood still for twice its lease: its handlers
    go on where they were, and no second attempt starts beside them."""
    with serving("gated", tmp_path, env=SHORT_LEASE) as server:
        for n in range(20):
            server.post(body(n, labels="loop", phone=n))
        until(lambda: len(words(tmp_path, "begun")) == 20)
        freeze(server, tmp_path / "inbox.db-lock")
        Flag().wait(2.5)  # more than twice the lease: the time itself is what is tried
        server.signal(signal.SIGCONT)
        server.health()
        (tmp_path / "gate").touch()
        jobs = finished(tmp_path)
    assert [(job.state, job.attempt) for job in jobs] == [(COMPLETED, 1)] * 20
    assert len(words(tmp_path, "begun")) == 20


def test_the_books_are_copied_whole(tmp_path: Path) -> None:
    """What the tests above read after a kill is what the next process finds, log included."""
    with serving("writing", tmp_path) as server:
        server.post(body(7))
        server.kill()
    with copied(tmp_path / "inbox.db") as books:
        assert [event.raw for event in books.events()] == [body(7)]
