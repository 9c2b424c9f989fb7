"""The Inbox: what every store promises. Each verb is one transaction, or part of one.

A verb that fails with ``Unavailable`` has changed nothing. Times are milliseconds since
the epoch, UTC, and are handed in: a store reads no clock of its own but the one it is given.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol, get_args

from ..errors import Unavailable
from ..event import Kind, Stored
from ..jobs import Job, State
from ..payload import Payload, Status

KINDS: tuple[Kind, ...] = get_args(Kind)  # a store writes their places in this list

# ---------------------------------------------------------------- what goes in


class NewJob(NamedTuple):
    """A job to be made with its event. ``lane`` orders the jobs of one route."""

    route: str
    lane: int  # 48 bits; the store puts the route's number in front
    discarded: str | None = None  # a reason: the job is born discarded (a ``where`` that raised)


class Entry(NamedTuple):
    """One delivery, told apart and routed, ready to be kept."""

    key: bytes  # 16 bytes, the first 4 of them the payload's own time, big-endian
    fingerprint: bytes
    received_at: int
    kind: Kind
    account: str
    phone: str
    message_type: str
    labels: str  # ", "-joined, for lists and filters
    raw: bytes
    jobs: tuple[NewJob, ...] = ()
    reason: str | None = None  # why it is quarantined
    payload: Payload | Status | None = None  # already read, so that nobody reads it twice


class Kept(NamedTuple):
    """The answer to ``keep``: the event's number, and whether this delivery made it."""

    event: int
    new: bool


# ---------------------------------------------------------------- what comes out


class Want(NamedTuple):
    """How much of one route a worker can take: so many lanes, about so many jobs in all.

    Several jobs of one lane come as one run, to be done one after the other; ``jobs`` equal to
    ``lanes`` or less asks for one of each.
    """

    route: str
    lanes: int
    jobs: int


class Run(NamedTuple):
    """Jobs of one lane, claimed together under one lease, to be run in this order."""

    route: str
    lane: int
    lease: int
    jobs: tuple[Job, ...]
    events: dict[int, Stored]  # of these nobody needs to read the body again


class Lost(NamedTuple):
    """A job whose attempt was cut off, leased anew to whoever settles that."""

    job: Job
    lease: int
    started_at: int


class Settled(NamedTuple):
    """A job after an attempt, to be written if ``lease`` is still its lease."""

    job: Job
    lease: int
    started_at: int
    ended_at: int
    outcome: str | None = None  # one word for the list of attempts; None: completed, or not begun
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try at a job, as ``events show`` prints it."""

    number: int
    started_at: datetime
    ended_at: datetime
    outcome: str
    reason: str | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job with its attempts, oldest first."""

    job: Job
    attempts: tuple[AttemptRecord, ...]


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An event as the store knows it. ``raw`` is None once retention has taken the body."""

    id: int
    kind: Kind
    received_at: datetime
    deliveries: int
    account: str
    phone: str
    message_type: str
    labels: tuple[str, ...]
    reason: str | None
    raw: bytes | None
    jobs: tuple[JobRecord, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events ``find`` answers with, newest first. Every condition given must hold."""

    since: datetime | None = None
    until: datetime | None = None
    states: frozenset[State] = frozenset()  # of at least one of the event's jobs
    kinds: frozenset[Kind] = frozenset()
    message_type: str | None = None
    label: str | None = None  # compared without case
    phone: str | None = None
    before: int | None = None  # events with a smaller number than this, for paging
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Stats:
    """The inbox in numbers."""

    events: dict[str, int]  # by kind
    jobs: dict[str, int]  # by state
    oldest_available_at: datetime | None  # when the longest-waiting claimable job became so
    unfinished: dict[str, int]  # jobs by route, those of routes that no code has any more too
    bytes: int


@dataclass(frozen=True, slots=True)
class Retention:
    """How long finished events stay. None: without this bound. Seconds, rows and bytes.

    Bodies go first: by ``age``, or the oldest once there are more than ``rows`` events or
    ``bytes`` bytes. The key stays until ``keys`` seconds, so that a late redelivery is still
    recognised. Unfinished work is never pruned.
    """

    age: float | None = 30 * 86_400.0
    rows: int | None = None
    bytes: int | None = None
    keys: float | None = 90 * 86_400.0


class Inbox(Protocol):
    """About ten verbs of work, and a few of looking. ``open`` first, ``close`` last."""

    last_error: Unavailable | None  # why the newest transaction failed; None: it went well

    async def open(self, routes: Sequence[str]) -> None:
        """Make ready: schema, durability asserted, the routes of this code made known."""

    def keep(self, entry: Entry) -> Awaitable[Kept]:
        """Store a delivery and its jobs; answers after the commit, ``Unavailable`` if it cannot."""

    async def claim(self, wants: Sequence[Want], lanes: int) -> list[Run]:
        """Lease available jobs, at most one run a lane and ``lanes`` runs; waits for the first."""

    def save(self, settled: Settled) -> None:
        """Write how an attempt ended, with the next transaction; dropped if its lease is lost."""

    async def read(self, ids: Iterable[int]) -> dict[int, EventRecord]:
        """Events by number, with body and jobs; those that are not there are left out."""

    async def take_back(self) -> list[Lost]:
        """Lease anew the jobs whose lease ran out while they ran; free those not yet started."""

    async def stored(self, id_: int) -> Stored | None:
        """What one event is made of; None where retention has taken the body."""

    async def find(self, filter: Filter) -> list[EventRecord]:
        """Events by filter, newest first, without bodies."""

    async def resubmit(self, jobs: Iterable[int]) -> int:
        """Make discarded jobs available again with a fresh budget; ``StateError`` names others."""

    async def stats(self) -> Stats:
        """Numbers for people, health and metrics."""

    async def unfinished(self) -> dict[str, int]:
        """How many unfinished jobs each route has, routes that no code has any more included."""

    async def check(self) -> datetime | None:
        """When the longest-waiting claimable job became so, or None where nothing waits;
        ``Unavailable`` where nothing could be written now."""

    async def prune(self, retention: Retention) -> int:
        """One small step of retention; how many events it touched, 0 when nothing more is due."""

    async def close(self) -> None:
        """Write what is still to be written, and let go of the store."""
