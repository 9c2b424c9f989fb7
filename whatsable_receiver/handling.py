"""Runs handle jobs: calls the user's function, and turns whatever comes of it into an outcome."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from .errors import LONGEST_RETRY, Discard, PayloadError, Retry, told
from .event import Event, Stored
from .jobs import Completed, Discarded, Failed, Job, Outcome
from .patience import OutOfPatience, Patience
from .payload import read as read_payload
from .routing import Handler, Route

log = logging.getLogger("whatsable_receiver.handling")

LONGEST_DETAIL = 8_000  # characters of a traceback: its end, where the error is
HANGING_THREADS = 16  # of one route: plain functions that outlived their timeout

COMPLETED = Completed()


class _Way(NamedTuple):
    """How a handler is called, and how long it may take."""

    call: Callable[[Event], Awaitable[object]]
    patience: AbstractContextManager[None]


class Handling:
    """An attempt at a handle job: ``await handling(route, job, stored)`` is its outcome.

    ``async def`` handlers run on the event loop, plain ones in a thread of their own. A thread
    cannot be stopped: one that outlives its timeout is abandoned and runs on, so at most
    ``HANGING_THREADS`` of one route may do that before its next attempts fail at once.
    """

    def __init__(self) -> None:
        self._hanging: Counter[str] = Counter()
        self._ways: dict[str, _Way] = {}

    async def __call__(self, route: Route, job: Job, stored: Stored | None) -> Outcome:
        """Run one attempt; raises only ``CancelledError``, when it is cancelled from outside."""
        if stored is None:
            return Failed("the body of this event is gone")
        try:
            payload = stored.payload or read_payload(stored.raw)
        except PayloadError as error:
            return Failed(f"this version cannot read the stored body: {error}")
        received_at = datetime.fromtimestamp(stored.received_at / 1000, UTC)
        event = Event(
            payload, stored.raw, received_at, job.event_id, job.id, route.name, job.attempt
        )
        way = self._ways.get(route.name) or self._way(route)
        try:
            with way.patience:
                await way.call(event)
        except Retry as error:
            return Failed(_reason(error), after=_seconds(getattr(error, "after", None)))
        except Discard as error:
            return Discarded(_reason(error))
        except OutOfPatience:
            return Failed(f"took longer than {route.timeout:g} seconds")
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return _failed(error)  # the handler cancelled itself, or awaited something cancelled
        except BaseException as error:  # the user's code: anything may come out, sys.exit() too
            return _failed(error)
        return COMPLETED

    def _way(self, route: Route) -> _Way:
        """How this route's handler is called, found out once."""
        call = route.handler if _is_async(route.handler) else partial(self._call_plain, route)
        patience = (
            nullcontext()
            if route.timeout is None
            else Patience(route.timeout, f"route {route.name!r}")
        )
        way = self._ways[route.name] = _Way(call, patience)
        return way

    async def _call_plain(self, route: Route, event: Event) -> None:
        if self._hanging[route.name] >= HANGING_THREADS:
            raise RuntimeError(
                f"{HANGING_THREADS} earlier attempts of this handler still hang in their threads"
            )
        answer = await self._in_thread(route, event)
        if inspect.isawaitable(answer):  # a plain function that returns a coroutine
            await answer

    async def _in_thread(self, route: Route, event: Event) -> Any:
        # Not anyio's pool: its threads keep a process from exiting, and one that hangs would
        # keep it for ever.
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def run() -> None:
            try:
                answer = context.run(route.handler, event)
            except BaseException as error:
                how = partial(_fail, future, error)
            else:
                how = partial(future.set_result, answer)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(ended, how)

        def ended(how: Callable[[], None]) -> None:
            if future.done():
                self._hanging[route.name] -= 1
            else:
                how()

        threading.Thread(target=run, name=f"whatsable-{route.name}", daemon=True).start()
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._hanging[route.name] += 1
                log.warning(
                    "a thread of route %r runs on after its attempt was given up",
                    route.name,
                    extra={"route": route.name, "event": event.id},
                )
            raise


def _is_async(handler: Handler) -> bool:
    # No unwrapping: a plain wrapper round a coroutine function is plain, and what it returns is
    # awaited.
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - asks for the method, not whether it can be called
    )


def _seconds(after: object) -> float | None:
    """What a Retry says, if it is a time at all; a subclass may say anything."""
    if isinstance(after, int | float) and 0 <= after <= LONGEST_RETRY:
        return float(after)
    return None


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    # A future takes no StopIteration, nor what would end the loop itself; a GeneratorExit would
    # close the coroutine that waits for it, and those around it.
    if isinstance(error, StopIteration | SystemExit | KeyboardInterrupt | GeneratorExit):
        wrapped = RuntimeError(f"the handler raised {type(error).__name__}: {told(error)}")
        wrapped.__cause__ = error
        error = wrapped
    future.set_exception(error)


def _reason(error: Retry | Discard) -> str:
    # A subclass of the user's may not have called our __init__.
    return told(getattr(error, "reason", error)) or type(error).__name__


def _failed(error: BaseException) -> Failed:
    text = told(error)
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return Failed(told(reason), _detail(error))


def _detail(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(error, limit=-20)
    except BaseException as problem:  # it asks errors for their text, too
        return f"(no traceback: {type(problem).__name__})"
    return told("".join(lines)[-LONGEST_DETAIL:], LONGEST_DETAIL)
