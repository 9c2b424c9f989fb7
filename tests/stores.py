"""What the inbox tests share: a clock moved by hand, deliveries to keep, and the stores.

A second store joins by one entry in ``STORES``; every contract test then runs on it too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from whatsable_receiver.event import Kind
from whatsable_receiver.inbox.base import Entry, Inbox, Kept, NewJob, Run, Settled, Want
from whatsable_receiver.inbox.sqlite import SQLiteInbox
from whatsable_receiver.jobs import Completed, Outcome, Retries, State, settle

NOON = 1_767_268_800_000  # 1 January 2026, 12:00 UTC, in milliseconds
LEASE = 30.0  # seconds
ROUTES = ("answer", "archive", "sentinel")
ANSWER = Want("answer", 64, 64)
BOTH = (ANSWER, Want("archive", 64, 64))


@pytest.fixture
def anyio_backend() -> str:
    """The receiver runs on asyncio only."""
    return "asyncio"


class HandClock:
    """Milliseconds since the epoch, moved by the test."""

    def __init__(self, now: int = NOON) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def forward(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now += round(seconds * 1000)


# ---------------------------------------------------------------- the stores


class Database(Protocol):
    """One database under a clock; each ``inbox`` is what another process would have on it."""

    clock: HandClock

    def inbox(self, **options: Any) -> Inbox:
        """An inbox on this database, not yet opened."""


class SQLiteDatabase:
    """A file in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.clock = HandClock()
        self.path = folder / "inbox.db"

    def inbox(self, **options: Any) -> SQLiteInbox:
        """An inbox on this file, not yet opened."""
        options = {"lease": LEASE, **options}
        return SQLiteInbox(self.path, clock=options.pop("clock", self.clock), **options)


STORES: dict[str, Callable[[Path], Database]] = {"sqlite": SQLiteDatabase}


@asynccontextmanager
async def opened(
    database: Database, routes: Sequence[str] = ROUTES, **options: Any
) -> AsyncIterator[Inbox]:
    """An open inbox on the database, closed at the end."""
    inbox = database.inbox(**options)
    await inbox.open(routes)
    try:
        yield inbox
    finally:
        await inbox.close()


class Commits:
    """A meter that counts the writer's transactions."""

    def __init__(self) -> None:
        self.seen = 0

    def count(self, name: str, value: int = 1, **labels: str) -> None:
        """Not counted."""

    def time(self, name: str, seconds: float, **labels: str) -> None:
        """One more."""
        self.seen += name == "commit"


# ---------------------------------------------------------------- what is kept


def body(n: int = 1, *, phone: str = "14155550100", **fields: Any) -> bytes:
    """A body that the model reads; ``n`` makes it one of many."""
    message = {
        "phone_number": phone,
        "user_id": "account-1",
        "message_type": "text",
        "last_message_of_user": f"message {n}",
        "user_last_message_time": 1_767_225_600 + n,
        **fields,
    }
    return json.dumps(message).encode()


def entry(
    n: int,
    *,
    fingerprint: int = 0,
    lane: int = 1,
    routes: Iterable[str] = ("answer",),
    received_at: int = NOON,
    kind: Kind = "incoming",
    **fields: Any,
) -> Entry:
    """Delivery ``n``: its key; ``lane`` is the conversation that its jobs belong to."""
    given: dict[str, Any] = {
        "account": "account-1",
        "phone": f"1415555{lane:04}",
        "message_type": "text",
        "labels": "",
        "raw": body(n),
        "jobs": tuple(NewJob(route, lane) for route in routes),
        **fields,
    }
    return Entry(
        key=(1_767_225_600 + n).to_bytes(4, "big") + n.to_bytes(12, "big"),
        fingerprint=fingerprint.to_bytes(16, "big"),
        received_at=received_at,
        kind=kind,
        **given,
    )


MARKER = entry(0, routes=(), kind="status", phone="", raw=b"{}")


async def keep(inbox: Inbox, one: Entry) -> Kept:
    """Keep it; a refusal is raised when this is awaited, whichever way the store gives it."""
    return await inbox.keep(one)


async def keep_all(inbox: Inbox, entries: Iterable[Entry]) -> list[Kept]:
    """Keep these at the same moment, so that they are committed together where they can be."""
    return list(await asyncio.gather(*[keep(inbox, one) for one in entries]))


async def keep_each(inbox: Inbox, entries: Iterable[Entry]) -> list[Kept | BaseException]:
    """Like ``keep_all``, with refusals among the answers."""
    return await asyncio.gather(*[keep(inbox, one) for one in entries], return_exceptions=True)


async def written(inbox: Inbox) -> None:
    """Wait until every save of before is written: it goes with the next transaction, this one."""
    await inbox.keep(MARKER)


# ---------------------------------------------------------------- work


async def claim_now(inbox: Inbox, wants: Sequence[Want] = BOTH, lanes: int = 64) -> list[Run]:
    """What can be claimed at this moment, or nothing, without waiting for it.

    ``claim`` waits for the first job; so a job of the route ``sentinel`` is put beside, and two
    claims that find only that one say that there is no other.
    """
    found: list[Run] = []
    empty = 0
    while empty < 2:
        claim_now.count += 1  # type: ignore[attr-defined]
        number = 1_000_000 + claim_now.count  # type: ignore[attr-defined]
        await inbox.keep(entry(number, routes=("sentinel",), lane=9_999, kind="status"))
        runs = await inbox.claim([*wants, Want("sentinel", 1, 1)], lanes + 1)
        for run in runs:
            if run.route == "sentinel":
                finish(inbox, run, NOON)
        others = [run for run in runs if run.route != "sentinel"]
        found += others
        empty = 0 if others else empty + 1
    await written(inbox)
    return found


claim_now.count = 0  # type: ignore[attr-defined]


def finish(
    inbox: Inbox,
    run: Run,
    now: int,
    outcome: Outcome | None = None,
    *,
    retries: Retries | None = None,
    strict: bool = False,
) -> None:
    """Settle and save every job of a run: completed, or as the outcome says."""
    outcome = outcome or Completed()
    for job in run.jobs:
        settled = settle(job, outcome, now, retries=retries or Retries(), chance=0.0, strict=strict)
        word = None if isinstance(outcome, Completed) else type(outcome).__name__.lower()
        inbox.save(Settled(settled, run.lease, now, now, word))


async def states(inbox: Inbox, *jobs: int) -> list[State]:
    """The states of jobs, by number, after all saves of before."""
    await written(inbox)
    records = await inbox.read({job // 1000 for job in jobs})
    found = {one.job.id: one.job.state for record in records.values() for one in record.jobs}
    return [found[job] for job in jobs]


async def until(condition: Callable[[], Any | Awaitable[Any]], seconds: float = 10.0) -> None:
    """Wait for a condition, and fail where it does not come true in so many seconds."""
    async with asyncio.timeout(seconds):
        while True:
            answer = condition()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.002)
