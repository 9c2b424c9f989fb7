"""``events``: list, show, resubmit, stats. They ask the inbox, and print what it answers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import typer
from rich import box
from rich.table import Table

from ..errors import NotFound, PayloadError, StateError
from ..inbox.base import EventRecord, Filter, Inbox, JobRecord, Stats
from ..jobs import JOBS_PER_EVENT, State
from ..payload import read as read_payload
from ..receiver import open_inbox
from ..settings import Settings
from ..telemetry import Silence, masked
from .printing import (
    cell,
    clock_time,
    console,
    counted,
    document,
    iso,
    say,
    visible,
    visible_lines,
)

T = TypeVar("T")
PAGE = 500  # events read, or jobs resubmitted, at once


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def inbox_at(database: str | None) -> AsyncIterator[Inbox]:
    """The inbox of a database that is there already, beside whoever else has it open."""
    settings = Settings.load(os.environ, database=database)
    inbox = open_inbox(settings, clock=_milliseconds, meter=Silence(), create=False)
    await inbox.open([])
    try:
        yield inbox
    finally:
        await inbox.close()


def ask(database: str | None, question: Callable[[Inbox], Awaitable[T]]) -> T:
    """What the inbox answers to one question."""

    async def asking() -> T:
        async with inbox_at(database) as inbox:
            return await question(inbox)

    return asyncio.run(asking())


# ---------------------------------------------------------------- for programs


def job_document(record: JobRecord, *, attempts: bool = False) -> dict[str, Any]:
    """A job under its stable keys; docs/cli.md lists them."""
    job = record.job
    keys: dict[str, Any] = {
        "id": job.id,
        "route": job.route,
        "state": job.state.name.lower(),
        "run_at": iso(datetime.fromtimestamp(job.run_at / 1000, UTC)),
        "attempt": job.attempt,
        "reason": job.reason,
    }
    if attempts:
        keys["attempts"] = [
            {
                "number": attempt.number,
                "started_at": iso(attempt.started_at),
                "ended_at": iso(attempt.ended_at),
                "outcome": attempt.outcome,
                "reason": attempt.reason,
                "detail": attempt.detail,
            }
            for attempt in record.attempts
        ]
    return keys


def event_document(record: EventRecord, *, attempts: bool = False) -> dict[str, Any]:
    """An event under its stable keys; docs/cli.md lists them."""
    return {
        "id": record.id,
        "kind": record.kind,
        "received_at": iso(record.received_at),
        "deliveries": record.deliveries,
        "account": record.account,
        "phone": record.phone,
        "message_type": record.message_type,
        "labels": list(record.labels),
        "reason": record.reason,
        "jobs": [job_document(job, attempts=attempts) for job in record.jobs],
    }


def payload_of(record: EventRecord) -> tuple[dict[str, Any] | None, str | None]:
    """The payload as handlers see it, or why there is none."""
    if record.raw is None:
        return None, "the body is gone: retention took it"
    try:
        return read_payload(record.raw).model_dump(mode="json"), None
    except PayloadError as error:
        return None, str(error)


# ---------------------------------------------------------------- list


def list_events(database: str | None, filter: Filter, *, phones: bool, as_json: bool) -> None:
    """Print the events that the filter lets through, newest first."""
    found = ask(database, lambda inbox: inbox.find(filter))
    older = found[-1].id if found and len(found) == filter.limit else None
    if as_json:
        document({"events": [event_document(record) for record in found], "next_before": older})
        return
    if not found:
        say("no events")
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("id", justify="right", no_wrap=True)
    for name in ("received", "kind", "type", "phone", "labels", "jobs"):
        short = name in ("received", "kind", "phone")  # the others are as long as they please
        table.add_column(name, no_wrap=short, overflow="fold")
    for record in found:
        table.add_row(
            cell(f"{record.id}" + (f" x{record.deliveries}" if record.deliveries > 1 else "")),
            cell(clock_time(record.received_at)),
            cell(record.kind, "yellow" if record.kind == "quarantined" else ""),
            cell(record.message_type),
            cell(record.phone if phones else masked(record.phone)),
            cell(", ".join(record.labels)),
            cell(_states(record), _style(record)),
        )
    console().print(table)
    if older is not None:
        say(f"older ones: --before {older}")


def _states(record: EventRecord) -> str:
    counts = Counter(job.job.state.name.lower() for job in record.jobs)
    return ", ".join(
        name if n == len(record.jobs) == 1 else f"{n} {name}" for name, n in counts.items()
    )


def _style(record: EventRecord) -> str:
    states = {job.job.state for job in record.jobs}
    if State.DISCARDED in states:
        return "red"
    return "yellow" if states - {State.COMPLETED} else "green"


# ---------------------------------------------------------------- show


def show_event(database: str | None, number: int, *, raw: bool, as_json: bool) -> None:
    """Print one event with its payload, its jobs and their attempts; ``raw``: its bytes only."""
    record = ask(database, lambda inbox: inbox.read([number])).get(number)
    if record is None:
        raise NotFound(f"there is no event {number}")
    if raw:
        if record.raw is None:
            raise StateError(f"the body of event {number} is gone: retention took it")
        sys.stdout.buffer.write(record.raw)
        sys.stdout.buffer.flush()
        return
    payload, problem = payload_of(record)
    if as_json:
        body = None if record.raw is None else base64.b64encode(record.raw).decode()
        event = event_document(record, attempts=True)
        document({**event, "payload": payload, "problem": problem, "body_base64": body})
        return
    for line in _described(record):
        typer.echo(line)
    if payload is not None:
        typer.echo(f"payload\n{_indented(payload)}")
        return
    if problem != record.reason:
        typer.echo(f"payload    none: {visible(problem)}")
    if record.raw is not None:
        typer.echo(_body(record.raw))


def _body(raw: bytes) -> str:
    """A body that is no payload: as JSON where it is that, or what to do to see it."""
    try:
        return f"body\n{_indented(json.loads(raw))}"
    except (ValueError, RecursionError):
        return f"body       {counted(len(raw), 'byte')}, no JSON; --raw prints it"


def _indented(value: object) -> str:
    return visible_lines(json.dumps(value, indent=2, ensure_ascii=False))


def _described(record: EventRecord) -> list[str]:
    facts = [
        ("event", record.id),
        ("kind", record.kind),
        ("received", clock_time(record.received_at)),
        ("deliveries", record.deliveries),
        ("account", record.account),
        ("phone", record.phone),
        ("type", record.message_type),
        ("labels", ", ".join(record.labels)),
        ("reason", record.reason),
    ]
    lines = [f"{name:<10} {visible(value)}" for name, value in facts if value not in (None, "")]
    if not record.jobs and record.kind != "quarantined" and record.raw is not None:
        lines.append("job        none: no route matched when it came")
    for job in record.jobs:
        lines += _job_lines(job)
    return lines


def _job_lines(record: JobRecord) -> list[str]:
    job = record.job
    state = job.state.name.lower()
    if job.state in (State.RETRYABLE, State.HELD):
        state += f", next attempt {clock_time(datetime.fromtimestamp(job.run_at / 1000, UTC))}"
    lines = [f"job        {job.id} {visible(job.route)}: {state}"]
    if job.reason and not any(attempt.reason == job.reason for attempt in record.attempts):
        lines.append(f"             {visible(job.reason)}")
    for attempt in record.attempts:
        took = (attempt.ended_at - attempt.started_at).total_seconds()
        why = f": {visible(attempt.reason)}" if attempt.reason else ""
        lines.append(
            f"  attempt {attempt.number}  {clock_time(attempt.started_at)}  {took:.3f} s  "
            f"{visible(attempt.outcome)}{why}"
        )
        if attempt.detail:
            lines += [f"    {visible(line)}" for line in attempt.detail.rstrip("\n").split("\n")]
    return lines


# ---------------------------------------------------------------- resubmit


async def discarded(inbox: Inbox, filter: Filter) -> list[int]:
    """Every discarded job of the events that the filter lets through, oldest first."""
    jobs: list[int] = []
    page = replace(filter, states=frozenset({State.DISCARDED}), limit=PAGE)
    while found := await inbox.find(page):
        jobs += [
            job.job.id
            for record in found
            for job in record.jobs
            if job.job.state is State.DISCARDED
        ]
        page = replace(page, before=found[-1].id)
    return sorted(jobs)


async def _known_discarded(inbox: Inbox, jobs: Sequence[int]) -> list[int]:
    """The jobs as asked for, if each is there and discarded; otherwise the error that says so."""
    records = await inbox.read({job // JOBS_PER_EVENT for job in jobs})
    states = {job.job.id: job.job.state for record in records.values() for job in record.jobs}
    for job in jobs:
        if job not in states:
            raise NotFound(f"there is no job {job}; `events show ID` lists the jobs of an event")
        if states[job] is not State.DISCARDED:
            raise StateError(
                f"job {job} is {states[job].name.lower()}; only discarded jobs can be resubmitted"
            )
    return list(dict.fromkeys(jobs))


def resubmit_jobs(
    database: str | None,
    jobs: Sequence[int],
    filter: Filter | None,
    *,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make discarded jobs available again: those named, or all that ``filter`` finds."""
    if filter is None:
        chosen = ask(database, lambda inbox: _known_discarded(inbox, jobs))
    else:
        chosen = ask(database, lambda inbox: discarded(inbox, filter))
    if chosen and not (yes or dry_run):
        what = f"job {chosen[0]}" if len(chosen) == 1 else f"{len(chosen)} discarded jobs"
        typer.confirm(f"Run {what} again, with a fresh budget of attempts?", abort=True, err=True)
    refused: dict[int, str] = {}
    if not dry_run:
        refused = ask(database, lambda inbox: _resubmit(inbox, chosen))
    done = [job for job in chosen if job not in refused]
    if as_json:
        document(
            {
                "dry_run": dry_run,
                "resubmitted": [] if dry_run else done,
                "would_resubmit": done if dry_run else [],
                "refused": [{"job": job, "reason": why} for job, why in refused.items()],
            }
        )
    else:
        verb = "would be resubmitted" if dry_run else "resubmitted"
        typer.echo(f"{counted(len(done), 'job')} {verb}")
    if refused:
        for job, why in refused.items():
            say(f"job {job} was not: {why}")
        raise StateError(
            f"{len(refused)} of {counted(len(chosen), 'job')} could not be resubmitted"
        )


async def _resubmit(inbox: Inbox, jobs: Sequence[int]) -> dict[int, str]:
    """Resubmit page by page; which jobs were refused, and why."""
    refused: dict[int, str] = {}
    for first in range(0, len(jobs), PAGE):
        page = jobs[first : first + PAGE]
        try:
            await inbox.resubmit(page)
        except (StateError, NotFound):  # all or none: find out which one it was
            for job in page:
                try:
                    await inbox.resubmit([job])
                except (StateError, NotFound) as error:
                    refused[job] = str(error)
    return refused


# ---------------------------------------------------------------- stats


def stats_document(stats: Stats, now: datetime) -> dict[str, Any]:
    """The numbers of an inbox under their stable keys; docs/cli.md lists them."""
    oldest = stats.oldest_available_at
    waits = None if oldest is None else max(0.0, round((now - oldest).total_seconds(), 3))
    return {
        "events": stats.events,
        "jobs": stats.jobs,
        "unfinished": stats.unfinished,
        "oldest_available_at": iso(oldest),
        "oldest_waiting_seconds": waits,
        "bytes": stats.bytes,
    }


def show_stats(database: str | None, *, as_json: bool) -> None:
    """Print the inbox in numbers."""
    stats = ask(database, lambda inbox: inbox.stats())
    numbers = stats_document(stats, datetime.now(UTC))
    if as_json:
        document(numbers)
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column()
    table.add_column(justify="right")
    for key, what in (("events", "events"), ("jobs", "jobs"), ("unfinished", "unfinished jobs")):
        for n, (name, count) in enumerate(numbers[key].items()):
            table.add_row(what if n == 0 else "", cell(name), f"{count:,}")
        table.add_section()
    waits = numbers["oldest_waiting_seconds"]
    table.add_row("oldest waiting job", "", "none" if waits is None else f"{waits:,.1f} s")
    table.add_row("size of the database", "", f"{stats.bytes / 1_048_576:,.1f} MiB")
    console().print(table)
