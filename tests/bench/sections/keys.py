"""Accepting, and recognising duplicates, with ten million known keys, beside an empty inbox.

The store alone, without HTTP: 128 deliveries wait at a time.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from whatsable_receiver.inbox.base import Entry, NewJob
from whatsable_receiver.inbox.sqlite import SQLiteInbox

from ..backlog import fill_keys, now_ms
from ..bodies import ACCOUNT, FIRST_PHONE, FIRST_SECOND, PER_SECOND, PHONES, body
from ..rounds import flaw_of
from ..rows import Floor, Options, Row, figure

TOGETHER = 128
ROUTE = "answer"


def entry(n: int, key: bytes, fingerprint: bytes) -> Entry:
    """Delivery ``n`` with one matching route."""
    return Entry(
        key=key,
        fingerprint=fingerprint,
        received_at=now_ms(),
        kind="incoming",
        account=ACCOUNT,
        phone=str(FIRST_PHONE + n % PHONES),
        message_type="text",
        labels="orders, returns",
        raw=body(n),
        jobs=(NewJob(route=ROUTE, lane=n % PHONES),),
    )


def new_keys(first: int, count: int, rng: random.Random) -> Iterator[tuple[bytes, bytes]]:
    """Keys that no file has, their times growing with their numbers."""
    for n in range(first, first + count):
        second = FIRST_SECOND + n // PER_SECOND
        yield second.to_bytes(4, "big") + rng.randbytes(12), rng.randbytes(16)


@dataclass(frozen=True, slots=True)
class Measured:
    """Deliveries a second: new ones, redeliveries of those, and of much older ones."""

    new: float
    recent: float
    old: float
    flaw: str | None


async def _keep(inbox: SQLiteInbox, entries: Sequence[Entry]) -> tuple[float, int]:
    """Deliveries a second, and how many of them were new."""
    new = 0
    begin = time.perf_counter()
    for start in range(0, len(entries), TOGETHER):
        waiting = [inbox.keep(one) for one in entries[start : start + TOGETHER]]
        new += sum(kept.new for kept in await asyncio.gather(*waiting))
    return len(entries) / (time.perf_counter() - begin), new


async def once(
    database: Path, first: int, count: int, sample: Sequence[tuple[bytes, bytes]]
) -> Measured:
    """Keep new events, deliver them again, then old ones: of the sample, if there is one."""
    rng = random.Random(first)
    inbox = SQLiteInbox(database, clock=now_ms)
    await inbox.open([ROUTE])
    try:
        fresh = [entry(n, *key) for n, key in enumerate(new_keys(first, count, rng), first)]
        rate, new = await _keep(inbox, fresh)
        recent, recent_new = await _keep(inbox, rng.sample(fresh, count))
        chosen = rng.sample(sample, min(count, len(sample)))
        known = [entry(n, *key) for n, key in enumerate(chosen)] or rng.sample(fresh, count)
        old, old_new = await _keep(inbox, known)
    finally:
        await inbox.close()
    flaw = None
    if new != count or recent_new or old_new:
        flaw = f"void: {new} of {count} new, {recent_new + old_new} redeliveries taken for new"
    return Measured(rate, recent, old, flaw)


async def _schema(database: Path) -> None:
    inbox = SQLiteInbox(database, clock=now_ms)
    await inbox.open([ROUTE])
    await inbox.close()


def run(options: Options) -> list[Row]:
    """How many times slower than an empty inbox, for new events and for redeliveries."""
    keys = 100_000 if options.quick else 10_000_000
    count = 2_000 if options.quick else 30_000
    empty: list[Measured] = []
    full: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        known = Path(folder, "known.db")
        asyncio.run(_schema(known))
        sample = fill_keys(known, keys)
        for number in range(options.rounds):
            fresh = Path(folder, f"empty-{number}.db")
            empty.append(asyncio.run(once(fresh, number * count, count, ())))
            full.append(asyncio.run(once(known, number * count, count, sample)))
            options.tell(f"keys: {empty[-1]} {full[-1]}")
    kinds: tuple[tuple[str, Callable[[Measured], float]], ...] = (
        ("keeping new events", lambda one: one.new),
        ("recognising recent redeliveries", lambda one: one.recent),
        # Spread over all the keys: each touches a page that nobody else does.
        ("recognising old redeliveries", lambda one: one.old),
    )
    return [
        figure(
            f"{what}, times slower with {keys:,} known keys",
            [rate(a) / rate(b) for a, b in zip(empty, full, strict=True)],
            "x",
            floor=Floor(at_most=1.3),
            seen={"empty, /s": median(map(rate, empty)), "full, /s": median(map(rate, full))},
            void=flaw_of(empty, full),
        )
        for what, rate in kinds
    ]
