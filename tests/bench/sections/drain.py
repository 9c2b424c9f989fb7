"""Jobs drained a second from a backlog, in many conversations and in one.

The clock runs from the first claim, as the file has it, until nothing is left to run, as seen
from another process.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ..backlog import fill_jobs
from ..rounds import flaw_of, reading
from ..rows import Floor, Options, Row, figure
from ..server import serve

PATIENCE = 300.0  # seconds for one backlog
LEFT = (
    "SELECT EXISTS(SELECT 1 FROM jobs WHERE state = 0)"
    " OR EXISTS(SELECT 1 FROM jobs WHERE state IN (2, 5) AND state = 2)"
)
FIRST = "SELECT min(started_at) FROM jobs WHERE state = 3"
LAST = "SELECT max(ended_at) FROM jobs WHERE state = 3"
DONE_AT_ONCE = "SELECT count(*) FROM jobs WHERE state = 3 AND attempt = 1"


@contextmanager
def backlog(jobs: int, conversations: int) -> Iterator[tuple[Path, int]]:
    """A folder whose ``full.db`` holds the backlog, and how many of its jobs may run."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        database = Path(folder, "full.db")
        with serve("receiver_handlers", {"WHATSABLE_DATABASE": str(database)}):
            pass  # it makes the schema and its route
        yield Path(folder), fill_jobs(database, jobs, conversations)


class Drained(NamedTuple):
    """One backlog in one round."""

    rate: float  # jobs a second
    flaw: str | None = None


def once(folder: Path, runnable: int) -> Drained:
    """Drain a copy."""
    database = Path(folder, "run.db")
    shutil.copyfile(Path(folder, "full.db"), database)
    try:
        with (
            serve("receiver_handlers", {"WHATSABLE_DATABASE": str(database)}),
            reading(database) as reader,
        ):
            until = time.monotonic() + PATIENCE
            polls = 0
            while reader.execute(LEFT).fetchone()[0] and time.monotonic() < until:
                time.sleep(0.005)
                polls += 1
            end = time.time() * 1000
            (first,) = reader.execute(FIRST).fetchone()
            (last,) = reader.execute(LAST).fetchone()
            (done,) = reader.execute(DONE_AT_ONCE).fetchone()
        if done != runnable:
            return Drained(0.0, f"void: {done} of {runnable} jobs done at their first attempt")
        if not polls:  # it was over before anyone looked
            end = last
        return Drained(runnable / max(1.0, end - first) * 1000)
    finally:
        for file in folder.glob("run.db*"):
            file.unlink()


def run(options: Options) -> list[Row]:
    """Each size in 10,000 conversations and in one, then the worst against the best."""
    sizes = (2_000,) if options.quick else (10_000, 100_000, 1_000_000)
    rows = []
    for size in sizes:
        for conversations, named in ((10_000, "10,000 conversations"), (1, "1 conversation")):
            with backlog(size, conversations) as (folder, runnable):
                rounds = 1 if size >= 1_000_000 and not options.full else options.rounds
                drained = [once(folder, runnable) for _ in range(rounds)]
            options.tell(f"drain {size:,} jobs in {named}: {drained}")
            rows.append(
                figure(
                    f"{size:,} jobs in {named}, a tenth waiting for a retry",
                    [one.rate for one in drained],
                    "jobs/s",
                    floor=Floor(at_least=30_000),
                    void=flaw_of(drained),
                )
            )
    rates = [row.value or 0.0 for row in rows]
    rows.append(
        Row(
            what="the worst of these against the best",
            value=min(rates) / max(rates) if max(rates) else 0.0,
            unit="x",
            floor=Floor(at_least=0.7),
            void=next((row.void for row in rows if row.void), None),
        )
    )
    return rows
