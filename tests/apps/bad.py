"""Handlers that go wrong in every way there is; the text of the message says in which."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NoReturn

from whatsable_receiver import Discard, Event, Receiver, Retries, Retry

from .effects import write

THRICE = Retries(attempts=3, first=0.05, factor=1)


class Odd(BaseException):
    """No Exception."""


class Unreadable(Exception):
    """Cannot even say what it is."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class UnreadableOdd(Exception):
    """Ends the process when it is asked what it is."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class NoText(Exception):
    """Its text is no text."""

    def __str__(self) -> Any:
        return 17


class HalfRetry(Retry):
    """A Retry whose author forgot ``super().__init__``."""

    def __init__(self) -> None:
        pass


def raises(error: BaseException | type[BaseException]) -> Callable[[Event], NoReturn]:
    """A way to go wrong: raise this."""

    def way(event: Event) -> NoReturn:
        raise error

    return way


def recurses(event: Event) -> None:
    """Never come back."""
    recurses(event)


def chains(event: Event) -> NoReturn:
    """Raise two errors that are each other's cause."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


WAYS: dict[str, Callable[[Event], Any]] = {
    "an error": raises(ValueError("it went wrong")),
    "no Exception": raises(Odd("odd")),
    "SystemExit": raises(SystemExit(5)),
    "KeyboardInterrupt": raises(KeyboardInterrupt),
    "CancelledError": raises(asyncio.CancelledError),
    "StopIteration": raises(StopIteration("over")),
    "StopAsyncIteration": raises(StopAsyncIteration("over")),
    "GeneratorExit": raises(GeneratorExit),
    "recursion": recurses,
    "MemoryError": raises(MemoryError),
    "TimeoutError": raises(TimeoutError("somebody else's")),
    "a group": raises(BaseExceptionGroup("several", [Odd("odd"), ValueError("x")])),
    "a circle": chains,
    "unreadable": raises(Unreadable()),
    "unreadable, and exits": raises(UnreadableOdd()),
    "no text": raises(NoText()),
    "a lone surrogate": raises(ValueError("half \ud83d a face")),
    "NUL": raises(ValueError("before\0after")),
    "a megabyte": raises(ValueError("x" * 1_000_000)),
    "half a Retry": raises(HalfRetry),
    "Retry, unreadable": raises(Retry(Unreadable())),  # type: ignore[arg-type]
    "Discard, unreadable": raises(Discard(Unreadable())),  # type: ignore[arg-type]
    "Discard, a lone surrogate": raises(Discard("half \ud83d a face")),
    "Retry": raises(Retry("come again", after=0.01)),
}


async def _coroutine() -> None:
    """Something to be awaited."""


async def _async_generator() -> AsyncIterator[int]:
    yield 1


def _generator() -> Iterator[int]:
    yield 1


RETURNS: dict[str, Callable[[], Any]] = {
    "returns a number": lambda: 42,
    "returns an error": lambda: ValueError("not raised"),
    "returns an error's class": lambda: SystemExit,
    "returns a lone surrogate": lambda: "\ud83d",
    "returns a generator": _generator,
    "returns an async generator": _async_generator,
    "returns a function": lambda: do,
    "returns a megabyte": lambda: b"x" * 1_000_000,
}

receiver = Receiver()


def do(event: Event) -> Any:
    """What the text says."""
    if event.text in WAYS:
        return WAYS[event.text](event)
    if event.text in RETURNS:
        return RETURNS[event.text]()
    return write(event)


@receiver.on(label="loop", retries=THRICE)
async def bad_loop(event: Event) -> Any:
    """Go wrong on the loop."""
    return do(event)


@receiver.on(label="thread", retries=THRICE)
def bad_thread(event: Event) -> Any:
    """Go wrong in a thread."""
    return do(event)


@receiver.on(label="returns-awaitable", retries=THRICE)
def bad_awaitable(event: Event) -> Any:
    """A plain function that returns something to await."""
    return bad_loop(event)


@receiver.on(label="hang-loop", retries=THRICE, timeout=0.2)
async def hang_loop(event: Event) -> None:
    """Wait for what never comes."""
    await asyncio.Event().wait()


@receiver.on(label="hang-thread", retries=THRICE, timeout=0.2)
def hang_thread(event: Event) -> None:
    """Wait in a thread for what never comes."""
    threading.Event().wait()


@receiver.on(label="block", retries=THRICE)
async def block(event: Event) -> None:
    """Stop the loop itself for a while: a mistake that is easily made."""
    write(event, "begun")
    time.sleep(1.5)  # noqa: ASYNC251 - the very mistake
    write(event)


@receiver.on(label="slow", retries=THRICE)
async def slow(event: Event) -> None:
    """Be at work when somebody else ends the process."""
    await asyncio.sleep(0.3)
    write(event)


@receiver.on(label="exit-loop", retries=THRICE)
async def exit_loop(event: Event) -> None:
    """Take the whole process along."""
    write(event, "begun")
    os._exit(1)


@receiver.on(label="exit-thread", retries=THRICE)
def exit_thread(event: Event) -> None:
    """Take the whole process along, from a thread."""
    write(event, "begun")
    os._exit(1)


def ask(event: Event) -> Any:
    """A ``where=`` that goes wrong as the text says."""
    return WAYS[event.text](event) if event.text in WAYS else True


@receiver.on(label="where", where=ask)
async def asked(event: Event) -> None:
    """Run only where the condition could be asked."""
    write(event)
