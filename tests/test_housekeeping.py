"""Housekeeping goes on whatever happens: leases are looked at, retention is kept."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from whatsable_receiver import housekeeping
from whatsable_receiver.errors import Unavailable
from whatsable_receiver.inbox.base import Inbox, Retention
from whatsable_receiver.jobs import State

from .asgi import EVENT, make, request
from .stores import (
    STORES,
    anyio_backend,  # noqa: F401 - a fixture
    body,
    entry,
    keep,
    keep_all,
    opened,
    until,
)

pytestmark = pytest.mark.anyio
MONTH = 30 * 86_400


class Steps:
    """An inbox of which housekeeping uses one verb; it answers what it is told, then 0."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[Retention | None] = []

    async def prune(self, retention: Retention) -> int:
        """One step."""
        return await self.step(retention)

    async def step(self, retention: Retention | None = None) -> int:
        """The next answer."""
        self.asked.append(retention)
        answer = self.answers.pop(0) if self.answers else 0
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextmanager
def kept_up(work: Coroutine[Any, Any, None]) -> Iterator[asyncio.Task[None]]:
    """A task that goes on until the test is done with it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()


def times(steps: Steps, n: int) -> Callable[[], bool]:
    """Whether it was asked so often."""
    return lambda: len(steps.asked) >= n


async def test_pruning_goes_on_while_there_is_something_to_prune() -> None:
    """Promise 9: step after step with a short pause, and a long rest when there is no more."""
    steps = Steps(64, 64, 0)
    retention = Retention(age=1.0)
    with kept_up(housekeeping.prune(cast(Inbox, steps), retention)) as task:
        await until(times(steps, 3))
        await asyncio.sleep(0)
        assert steps.asked == [retention] * 3
        assert not task.done()
    assert housekeeping.PAUSE < 1 < housekeeping.REST


async def test_an_inbox_that_is_not_well_does_not_end_the_pruning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Promise 9: a full disk passes; who prunes is still there, and said what was wrong."""
    steps = Steps(Unavailable("the disk is full"))
    with kept_up(housekeeping.prune(cast(Inbox, steps), Retention())) as task:
        await until(lambda: "the disk is full" in caplog.text)
        assert not task.done()


async def test_leases_are_looked_at_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    """Promise 4: at once, at each interval, and after a look that failed; finds are said."""
    caplog.set_level(logging.WARNING)
    steps = Steps(0, Unavailable("locked"), 3)
    with kept_up(housekeeping.take_back_leases(steps.step, 0.001)):
        await until(times(steps, 5))
    assert "locked" in caplog.text
    assert "attempts that lost their lease, taken back: 3" in caplog.text


@pytest.mark.parametrize("store", sorted(STORES))
async def test_old_bodies_go_while_deliveries_come(store: str, tmp_path: Path) -> None:
    """Promises 8 and 9: retention works beside acceptance, and takes no unfinished work."""
    database = STORES[store](tmp_path)
    async with opened(database) as inbox:
        old = await keep_all(inbox, [entry(n, routes=()) for n in range(1, 61)])
        waiting = await keep(inbox, entry(100))
        database.clock.forward(2 * MONTH)
        with kept_up(housekeeping.prune(inbox, Retention())):
            for n in range(200, 260):
                await keep(inbox, entry(n, routes=(), received_at=database.clock.now))

            async def gone() -> bool:
                records = await inbox.read([one.event for one in old])
                return all(record.raw is None for record in records.values())

            await until(gone)
        record = (await inbox.read([waiting.event]))[waiting.event]
        assert record.raw is not None
        assert record.jobs[0].job.state is State.AVAILABLE


async def test_a_receiver_keeps_house_by_its_settings(tmp_path: Path) -> None:
    """Promise 9: ``keep_bodies`` is days, and a redelivery after that is still a duplicate."""
    days = 0

    def clock() -> int:
        return 1_767_268_800_000 + days * 86_400_000

    for raw in (EVENT, body(2)):
        receiver = make(tmp_path, keep_bodies=2, keep_keys=9, clock=clock)
        async with receiver.lifespan():
            await request(receiver, raw)
    days = 3
    receiver = make(tmp_path, keep_bodies=2, keep_keys=9, clock=clock)
    async with receiver.lifespan():  # the first step of pruning comes with the start
        await until(lambda: bodies(tmp_path) == [None, body(2)])
        assert (await request(receiver, EVENT)).said["status"] == "duplicate"


def bodies(folder: Path) -> list[bytes | None]:
    """The bodies in the file, in order."""
    with closing(sqlite3.connect(folder / "inbox.db")) as db:
        return [raw for (raw,) in db.execute("SELECT raw FROM events ORDER BY id")]
