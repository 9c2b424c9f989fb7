"""What passes between the event loop and the writer's thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...errors import Unavailable
from ..base import Entry, Kept, Run, Settled, Want


class Waiting(NamedTuple):
    """A delivery that waits for the commit, since a moment of the loop's clock."""

    entry: Entry
    answer: asyncio.Future[Kept]
    since: float


class Wants(NamedTuple):
    """A claim: what of each route, and how many lanes in all."""

    routes: Sequence[Want]
    lanes: int


class Claimed(NamedTuple):
    """What came of a claim."""

    runs: list[Run]
    more: bool  # there may be more: ask again at once


@dataclass(slots=True)
class Cycle:
    """One transaction's worth of work, and what became of it."""

    waiting: list[Waiting]
    saves: list[Settled]
    wants: Wants | None
    claim: asyncio.Future[Claimed] | None
    shaken: int
    kept: Sequence[Kept | Unavailable] = ()
    claimed: Claimed | None = None
    error: Unavailable | None = None


@dataclass(slots=True)
class Act:
    """A transaction of its own, and the future of its answer."""

    work: Callable[[sqlite3.Connection], Any]
    answer: asyncio.Future[Any]
    shakes: bool  # when it answers anything but nothing, there may be more to claim
