"""The receiver is asked to stop: it finishes what it can, gives the rest back, and ends in time."""

from __future__ import annotations

import random
import signal
from collections import Counter
from pathlib import Path
from threading import Event as Flag

import pytest

from .crash.bodies import body
from .crash.books import COMPLETED, copied, effects, opened, words
from .crash.load import Ledger, Senders
from .crash.verdict import judge
from .serving import Server, serving, until

pytest.importorskip("uvicorn")

AVAILABLE = 0
A_LITTLE = 5.0  # seconds on top of the grace: a machine may be busy


def begin_hundred(server: Server, folder: Path) -> None:
    """100 jobs in flight, half of them on the loop and half in threads."""
    for n in range(100):
        answer = server.post(body(n, phone=n, labels="loop" if n % 2 else "thread"))
        assert answer.status == 200
    until(lambda: len(words(folder, "begun")) == 100, what="100 handlers run")


def ended_by_itself(server: Server) -> None:
    """It came to its own end. Uvicorn sends itself the signal once more, when all is done."""
    assert server.process.returncode in (0, -signal.SIGTERM), server.process.returncode
    assert "Application shutdown complete" in server.printed(), server.printed()[-2000:]


def finish(app: str, folder: Path) -> None:
    """Start a server again and let all work end."""
    with serving(app, folder) as server, opened(folder / "inbox.db") as books:
        until(lambda: not books.unfinished(), what="all jobs are finished")
        server.stop()


def test_what_runs_may_finish_within_the_grace(tmp_path: Path) -> None:
    """Promise 4: SIGTERM with 100 jobs in flight, which end within the grace: all of them are
    completed, in their first attempt, and the process ends with them and not with the grace."""
    with serving("gated", tmp_path, env={"WHATSABLE_GRACE": "25"}) as server:
        begin_hundred(server, tmp_path)
        server.terminate()
        (tmp_path / "gate").touch()
        server.process.wait(20)
        ended_by_itself(server)
    with copied(tmp_path / "inbox.db") as books:
        jobs = books.jobs()
        assert books.attempts() == []
    assert [(job.state, job.attempt) for job in jobs] == [(COMPLETED, 1)] * 100
    assert len(words(tmp_path, "done")) == 100


def test_what_does_not_finish_within_the_grace_is_given_back(tmp_path: Path) -> None:
    """Promise 4: SIGTERM with 100 jobs in flight that outlast the grace: each is given back with
    that recorded and its budget as it was, and completes once, after the next start."""
    with serving("gated", tmp_path, env={"WHATSABLE_GRACE": "0.5"}) as server:
        begin_hundred(server, tmp_path)
        assert server.stop() < 0.5 + A_LITTLE
        ended_by_itself(server)
    with copied(tmp_path / "inbox.db") as books:
        jobs, attempts = books.jobs(), books.attempts()
    assert [(job.state, job.spent) for job in jobs] == [(AVAILABLE, 0)] * 100
    assert Counter((attempt.number, attempt.outcome) for attempt in attempts) == {
        (1, "given back"): 100
    }
    assert all(attempt.reason for attempt in attempts)
    assert words(tmp_path, "done") == []
    (tmp_path / "gate").touch()
    finish("gated", tmp_path)
    with copied(tmp_path / "inbox.db") as books:
        jobs = books.jobs()
    assert [(job.state, job.attempt, job.spent) for job in jobs] == [(COMPLETED, 2, 1)] * 100
    assert Counter(line.event for line in words(tmp_path, "done")) == {job.event: 1 for job in jobs}


@pytest.mark.parametrize("label", ["thread", "swallow"])
def test_a_handler_that_does_not_end_does_not_keep_the_process(tmp_path: Path, label: str) -> None:
    """Promise 4: a handler that hangs in its thread, or swallows its cancellation, does not keep
    the process alive beyond the grace; its job runs again after the next start."""
    with serving("stubborn", tmp_path, env={"WHATSABLE_GRACE": "0.5"}) as server:
        server.post(body(1, labels=label))
        until(lambda: words(tmp_path, "begun"))
        assert server.stop() < 0.5 + A_LITTLE
    with serving("stubborn", tmp_path):
        until(lambda: len(words(tmp_path, "begun")) == 2, what="it runs again")


def test_any_moment_is_a_good_one_to_stop(tmp_path: Path) -> None:
    """Promises 1, 2 and 4: SIGTERM at random moments under load, with a backlog and without:
    each time no job is left under a lease, and in the end no attempt was lost and each effect
    was there once."""
    chance = random.Random(11)
    ledger = Ledger()
    for n in range(8):
        with serving("writing", tmp_path) as server:
            senders = Senders(ledger, [server.port], n)
            Flag().wait(chance.uniform(0, 0.8))  # the moment itself is what is tried
            server.stop()
            senders.stop()
            ended_by_itself(server)
        with copied(tmp_path / "inbox.db") as books:
            assert books.running() == set()
    finish("writing", tmp_path)
    with copied(tmp_path / "inbox.db") as books:
        verdict = judge(books, ledger, effects(tmp_path), Counter())
    assert verdict.wrong == ()
    assert verdict.lost == 0
    assert verdict.again == 0
    assert set(ledger.others()) <= {503}  # who comes while it stops is told to come again
    assert len(ledger.accepted()) > 100


def test_a_backlog_can_be_interrupted_while_it_is_claimed(tmp_path: Path) -> None:
    """Promise 4: SIGTERM at random moments after a start with a backlog of events that have to be
    read again first: no job is left under a lease, and none has lost an attempt."""
    ledger = Ledger()
    with serving("writing", tmp_path, env={"WHATSABLE_TEST_WORKERS": "no"}) as server:
        senders = Senders(ledger, [server.port], 1)
        until(lambda: len(ledger.accepted()) > 600)
        senders.stop()
        server.stop()
    chance = random.Random(12)
    for _ in range(8):
        with serving("writing", tmp_path) as server:
            Flag().wait(chance.uniform(0, 0.05))
            server.stop()
        with copied(tmp_path / "inbox.db") as books:
            assert books.running() == set()
            if not books.unfinished():
                break
    finish("writing", tmp_path)
    with copied(tmp_path / "inbox.db") as books:
        verdict = judge(books, ledger, effects(tmp_path), Counter())
    assert verdict.wrong == ()
    assert (verdict.lost, verdict.again) == (0, 0)
