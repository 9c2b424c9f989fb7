"""Jobs drained a second from a backlog, in many conversations and in one.

The clock runs from the first claim, as the file has it, until nothing is left to run, as seen
from another process.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median

from ..backlog import fill_jobs
from ..rows import Floor, Options, Row
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


def once(folder: Path, runnable: int) -> tuple[float, str | None]:
    """Drain a copy; jobs a second, and why that says nothing."""
    database = Path(folder, "run.db")
    shutil.copyfile(Path(folder, "full.db"), database)
    try:
        with (
            serve("receiver_handlers", {"WHATSABLE_DATABASE": str(database)}),
            closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as reader,
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
            return 0.0, f"void: {done} of {runnable} jobs done at their first attempt"
        if not polls:  # it was over before anyone looked
            end = last
        return runnable / max(1.0, end - first) * 1000, None
    finally:
        for file in folder.glob("run.db*"):
            file.unlink()


def run(options: Options) -> list[Row]:
    """Each size in 10,000 conversations and in one, then the worst against the best."""
    sizes = (2_000,) if options.quick else (10_000, 100_000, 1_000_000)
    rows = []
    for size in sizes:
        for conversations in (10_000, 1):
            with backlog(size, conversations) as (folder, runnable):
                rounds = 1 if size >= 1_000_000 and not options.full else options.rounds
                results = [once(folder, runnable) for _ in range(rounds)]
            each = tuple(rate for rate, _ in results)
            shape = f"{size:,} jobs in {conversations:,} conversation{'s'[: conversations - 1]}"
            if options.verbose:
                print(f"drain {shape}: {each}", file=sys.stderr)
            rows.append(
                Row(
                    section="drain",
                    what=f"{shape}, a tenth waiting for a retry",
                    value=median(each),
                    unit="jobs/s",
                    floor=Floor(at_least=30_000),
                    void=next((flaw for _, flaw in results if flaw), None),
                    rounds=each,
                )
            )
    rates = [row.value or 0.0 for row in rows]
    rows.append(
        Row(
            section="drain",
            what="the worst of these against the best",
            value=min(rates) / max(rates) if max(rates) else 0.0,
            unit="x",
            floor=Floor(at_least=0.7),
            void=next((row.void for row in rows if row.void), None),
        )
    )
    return rows
