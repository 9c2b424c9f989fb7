"""Time limits for many tasks with one timer: in time, for the right task, and for no other."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from whatsable_receiver.patience import OutOfPatience, Patience

from .stores import (
    anyio_backend,  # noqa: F401 - a fixture
    until,
)

pytestmark = pytest.mark.anyio
SHORT = 0.05  # seconds


async def forever() -> None:
    """What nobody ends, until the deadline of the test."""
    await asyncio.wait_for(asyncio.Event().wait(), 10)


async def limited(patience: Patience, ready: asyncio.Event) -> str:
    """Wait for an event under the limit; what came of it."""
    try:
        with patience:
            await asyncio.wait_for(ready.wait(), 10)
    except OutOfPatience:
        return "out of patience"
    return "in time"


async def test_a_block_that_takes_too_long_is_ended_in_time() -> None:
    """It is ended after its seconds, not before, and the task is cancelled no more."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(OutOfPatience), Patience(SHORT):
        await forever()
    assert SHORT * 0.9 < loop.time() - began < SHORT + 5
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_only_who_takes_too_long_is_ended() -> None:
    """Of many tasks on one object those that finish do, in whatever order they came."""
    patience = Patience(0.2)
    never, soon = asyncio.Event(), asyncio.Event()
    slow = [n % 3 == 0 for n in range(60)]
    tasks = [asyncio.create_task(limited(patience, never if one else soon)) for one in slow]
    await asyncio.sleep(0)
    soon.set()
    answers = await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert answers == ["out of patience" if one else "in time" for one in slow]


async def test_who_came_later_has_the_same_time() -> None:
    """A second task has its own seconds, although the timer was set for the first."""
    loop = asyncio.get_running_loop()
    patience = Patience(0.2)
    first = asyncio.create_task(limited(patience, asyncio.Event()))
    await asyncio.wait({first}, timeout=0.1)
    began = loop.time()
    assert not first.done()
    assert await limited(patience, asyncio.Event()) == "out of patience"
    assert 0.18 < loop.time() - began < 5
    assert first.done()


async def test_who_finished_is_not_cancelled_later() -> None:
    """The time of a block that ended in time passes without harm to its task."""
    patience = Patience(SHORT)
    other = Patience(SHORT)
    assert await limited(patience, set_already()) == "in time"
    assert await limited(other, asyncio.Event()) == "out of patience"  # and so both times are up
    await until(lambda: patience._timer is None)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


def set_already() -> asyncio.Event:
    """An event that nobody waits for."""
    event = asyncio.Event()
    event.set()
    return event


async def test_one_task_may_use_it_again_and_again() -> None:
    """After a block that ran out, and after one that did not, the next one has all its time."""
    patience = Patience(SHORT)
    answers = [
        await limited(patience, event)
        for event in (asyncio.Event(), set_already(), asyncio.Event(), set_already())
    ]
    assert answers == ["out of patience", "in time"] * 2


async def test_a_cancellation_from_outside_stays_one() -> None:
    """Whoever is cancelled by somebody else is cancelled, before the time is up and after."""
    patience = Patience(SHORT)
    early = asyncio.create_task(limited(patience, asyncio.Event()))
    await asyncio.sleep(0)
    early.cancel()
    with pytest.raises(asyncio.CancelledError):
        await early

    async def cleaning_up() -> None:
        with patience:
            try:
                await forever()
            finally:  # the time is up, and now somebody cancels too
                cleaning.set()
                await forever()

    cleaning = asyncio.Event()
    late = asyncio.create_task(cleaning_up())
    await asyncio.wait_for(cleaning.wait(), 10)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late


async def test_a_limit_of_the_block_itself_stays_its_own() -> None:
    """A ``TimeoutError`` that the block met is not taken for ours."""
    with pytest.raises(TimeoutError, match="the block's") as caught, Patience(10.0):
        raise TimeoutError("the block's")
    assert not isinstance(caught.value, OutOfPatience)
    with pytest.raises(TimeoutError) as caught, Patience(10.0):
        await asyncio.wait_for(asyncio.Event().wait(), 0.001)
    assert not isinstance(caught.value, OutOfPatience)


async def test_a_block_that_will_not_stop_ends_by_itself() -> None:
    """Who ignores being out of time is not cancelled again, and may finish."""
    patience = Patience(SHORT)
    reached = asyncio.Event()
    with patience:
        with pytest.raises(asyncio.CancelledError):
            await forever()
        assert await limited_elsewhere(patience) == "out of patience"
        reached.set()
    task = asyncio.current_task()
    assert task is not None
    assert (reached.is_set(), task.cancelling()) == (True, 0)


async def limited_elsewhere(patience: Patience) -> str:
    """Another task that runs out, on the same object."""
    return await asyncio.create_task(limited(patience, asyncio.Event()))


def test_a_second_loop_has_a_timer_too() -> None:
    """An app that outlives its event loop, as under a test client, still has its limits."""
    patience = Patience(SHORT)
    assert asyncio.run(limited(patience, set_already())) == "in time"  # its timer dies unrung
    waiting = asyncio.wait_for(limited(patience, asyncio.Event()), 5)
    assert asyncio.run(waiting) == "out of patience"


async def test_without_a_task_there_is_nothing_to_limit() -> None:
    """Used where no task runs it says so."""
    loop = asyncio.get_running_loop()
    said: asyncio.Future[str] = loop.create_future()

    def bare() -> None:
        try:
            with Patience(1.0):
                pass
        except RuntimeError as error:
            said.set_result(str(error))

    loop.call_soon(bare)
    assert "needs a task" in await asyncio.wait_for(said, 10)


async def test_who_swallows_its_cancellation_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A handler that goes on past its limit keeps its lane closed: somebody has to know."""
    patience = Patience(SHORT, "route 'stubborn'", told=SHORT)
    with contextlib.suppress(OutOfPatience), patience:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        await until(lambda: caplog.messages)
    assert caplog.messages == [
        "route 'stubborn' goes on after its limit of 0.05 seconds: it swallows its cancellation"
    ]


async def test_who_ends_when_told_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that ends at its limit is no news: its attempt says it."""
    patience = Patience(SHORT, told=SHORT)
    with pytest.raises(OutOfPatience), patience:
        await forever()
    await asyncio.sleep(SHORT * 4)
    assert caplog.messages == []
