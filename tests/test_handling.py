"""What comes of calling a handler, whatever the handler does."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from whatsable_receiver import Event, Retry, Router
from whatsable_receiver.errors import LONGEST_RETRY
from whatsable_receiver.event import Stored
from whatsable_receiver.handling import Handling
from whatsable_receiver.jobs import Completed, Failed, Job, Outcome, State

from .stores import (
    NOON,
    anyio_backend,  # noqa: F401 - a fixture
    body,
)

pytestmark = pytest.mark.anyio
JOB = Job(1001, "r", State.RUNNING, NOON, attempt=1, spent=1)


async def outcome_of(handler: Callable[[Event], Any], **options: Any) -> Outcome:
    """One attempt of a handler."""
    router = Router()
    router.on(name="r", **options)(handler)
    (route,) = router.routes()
    return await asyncio.wait_for(Handling()(route, JOB, Stored(body(), NOON)), 10)


# ---------------------------------------------------------------- Retry


class Limited(Retry):
    """A retry of the user's own that takes its time from a header, as text."""

    def __init__(self, after: Any) -> None:
        self.reason = "limited"
        self.after = after


class Bare(Retry):
    """A retry of the user's own that says nothing."""

    def __init__(self) -> None:
        pass


ODD_TIMES: dict[str, Any] = {
    "text": "5",
    "not a number": float("nan"),
    "negative": -1,
    "beyond every year": 1e300,
    "infinite": float("inf"),
    "a very long number": 10**400,
    "a little too long": LONGEST_RETRY + 1,
    "nothing": None,
    "an object": object(),
}


@pytest.mark.parametrize("after", ODD_TIMES.values(), ids=ODD_TIMES)
async def test_a_retry_with_no_time_comes_at_the_usual_one(after: Any) -> None:
    """Promise 4: a subclass may say anything; what is no time is left to the route's backoff."""

    async def handler(event: Event) -> None:
        raise Limited(after)

    assert await outcome_of(handler) == Failed("limited", after=None)


@pytest.mark.parametrize("after", [0, 0.5, 5, LONGEST_RETRY])
async def test_a_retry_with_a_time_comes_then(after: float) -> None:
    """Promise 4: what is a time is kept to, also when a subclass says it."""

    async def handler(event: Event) -> None:
        raise Limited(after)

    assert await outcome_of(handler) == Failed("limited", after=float(after))


async def test_a_retry_that_says_nothing_is_a_retry() -> None:
    """Promise 4: a subclass that never called our ``__init__`` has its name for a reason."""

    def handler(event: Event) -> None:
        raise Bare

    assert await outcome_of(handler) == Failed("Bare", after=None)


# ---------------------------------------------------------------- plain and async


async def test_a_plain_wrapper_round_an_async_handler_runs_it() -> None:
    """A decorator of the user's that forgets to be async: what it returns is awaited, on the
    loop, once."""
    here: list[bool] = []
    main = threading.get_ident()

    def logged(handler: Callable[[Event], Any]) -> Callable[[Event], Any]:
        @functools.wraps(handler)
        def wrapper(event: Event) -> Any:
            return handler(event)

        return wrapper

    @logged
    async def answer(event: Event) -> None:
        await asyncio.sleep(0)
        here.append(threading.get_ident() == main)

    @logged
    async def fail(event: Event) -> None:
        raise ValueError("in the coroutine")

    assert await outcome_of(answer) == Completed()
    assert here == [True]
    failed = await outcome_of(fail)
    assert isinstance(failed, Failed)
    assert failed.reason == "ValueError: in the coroutine"


async def test_a_plain_wrapper_that_runs_an_async_handler_itself_is_plain() -> None:
    """What a wrapper is round does not count: one that waits by itself runs in a thread."""
    main = threading.get_ident()
    where: list[int] = []

    async def answer(event: Event) -> None:
        where.append(threading.get_ident())

    @functools.wraps(answer)
    def wrapper(event: Event) -> None:
        asyncio.run(answer(event))

    assert await outcome_of(wrapper) == Completed()
    assert len(where) == 1
    assert where != [main]


@pytest.mark.parametrize("wrapped", [False, True])
async def test_what_a_plain_wrapper_returns_has_a_time_limit_too(wrapped: bool) -> None:
    """Promise 8: the timeout of the route counts for the coroutine, however it came about."""

    async def hang(event: Event) -> None:
        await asyncio.Event().wait()

    handler = (lambda event: hang(event)) if wrapped else hang
    assert await outcome_of(handler, timeout=0.05) == Failed("took longer than 0.05 seconds")


class Counting:
    """A handler that is an object."""

    def __init__(self) -> None:
        self.ran = 0

    async def __call__(self, event: Event) -> None:
        """Count."""
        self.ran += 1


async def test_an_object_with_an_async_call_runs() -> None:
    """A handler may be an object, or a partial: it is run on the loop like a function."""
    one = Counting()
    assert await outcome_of(one) == Completed()
    assert await outcome_of(functools.partial(one)) == Completed()
    assert one.ran == 2


# ---------------------------------------------------------------- cancelled


async def test_something_cancelled_that_a_handler_waited_for_is_a_failure() -> None:
    """Promise 4: a ``CancelledError`` that nobody meant for the attempt is like any error."""

    async def handler(event: Event) -> None:
        other: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        other.cancel()
        await other

    failed = await outcome_of(handler)
    assert isinstance(failed, Failed)
    assert failed.reason == "CancelledError"


async def test_an_attempt_that_is_cancelled_from_outside_says_so() -> None:
    """Whoever stops the receiver gets the cancellation back, and not an outcome."""
    begun = asyncio.Event()

    async def handler(event: Event) -> None:
        begun.set()
        await asyncio.Event().wait()

    attempt = asyncio.create_task(outcome_of(handler))
    await asyncio.wait_for(begun.wait(), 10)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt


async def test_a_body_that_is_gone_is_a_failure_with_that_reason() -> None:
    """Promise 4: where retention took the body, the attempt says so and runs nothing."""
    router = Router()
    router.on(name="r")(lambda event: pytest.fail("it ran"))
    (route,) = router.routes()
    assert await Handling()(route, JOB, None) == Failed("the body of this event is gone")
