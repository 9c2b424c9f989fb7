"""Files that are full already, written straight through SQL: a backlog of jobs, known keys.

This knows the schema of the SQLite inbox. It is the one place in the benchmark that does,
besides the questions of ``rounds.py``.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whatsable_receiver.jobs import State

from .bodies import ACCOUNT, FIRST_PHONE, FIRST_SECOND, PHONES, body

LATER = 6 * 3600 * 1000  # milliseconds until the waiting tenth is due: not in this run

EVENT = (
    "INSERT INTO events(id, key, fingerprint, received_at, kind, account, phone, type, labels, raw)"
    " VALUES (?, ?, ?, ?, 0, ?, ?, 'text', 'orders, returns', ?)"
)
JOB = "INSERT INTO jobs(id, lane, state, run_at, attempt, spent) VALUES (?, ?, ?, ?, ?, ?)"


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@contextmanager
def _bulk(database: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    with database.open("rb+") as file:  # so that the run pays only for its own writes
        os.fsync(file.fileno())


def fill_jobs(database: Path, jobs: int, conversations: int) -> int:
    """A backlog in a file that has its schema and its one route; how many jobs may run now.

    Every tenth job has failed once and waits for its next attempt.
    """
    rng = random.Random(11)
    now = now_ms()
    lanes = [rng.getrandbits(48) for _ in range(conversations)]
    numbers = range(1, jobs + 1)
    with _bulk(database) as connection:
        ((route,),) = connection.execute("SELECT id FROM routes").fetchall()
        connection.executemany(
            EVENT,
            (
                (
                    n,
                    (FIRST_SECOND + n // 1000).to_bytes(4, "big") + rng.randbytes(12),
                    rng.randbytes(16),
                    now,
                    ACCOUNT,
                    str(FIRST_PHONE + n % conversations),
                    body(n, phones=conversations),
                )
                for n in numbers
            ),
        )
        connection.executemany(
            JOB,
            (
                (n * 1000, (route << 48) | lanes[n % conversations], *_standing(n, now))
                for n in numbers
            ),
        )
    return sum(1 for n in numbers if n % 10)


def _standing(n: int, now: int) -> tuple[int, int, int, int]:
    """State, run_at, attempt and spent."""
    return (State.AVAILABLE, now, 0, 0) if n % 10 else (State.RETRYABLE, now + LATER, 1, 1)


def fill_keys(database: Path, keys: int) -> list[tuple[bytes, bytes]]:
    """Known keys whose bodies retention has taken; a random sample of them, at most 100,000."""
    with _bulk(database) as connection:
        connection.create_function("prefix", 1, lambda second: second.to_bytes(4, "big"))
        # Four a second, up to the moment where the load begins. Pasting a blob to a blob makes
        # text of the same bytes; the cast makes them a blob again.
        connection.execute(
            """
            INSERT INTO events(id, key, fingerprint, received_at, kind, account, phone, type,
                               labels)
            WITH RECURSIVE k(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k WHERE n < :keys)
            SELECT n, CAST(prefix(:last - (:keys - n) / 4) || randomblob(12) AS BLOB),
                   randomblob(16), :now, 0, :account, :phone + n % :phones, 'text',
                   'orders, returns'
            FROM k
            """,
            {
                "keys": keys,
                "last": FIRST_SECOND - 1,
                "now": now_ms(),
                "account": ACCOUNT,
                "phone": FIRST_PHONE,
                "phones": PHONES,
            },
        )
        sample: list[tuple[bytes, bytes]] = connection.execute(
            "SELECT key, fingerprint FROM events WHERE id % :every = 0",
            {"every": max(1, keys // 100_000)},
        ).fetchall()
    if any(len(key) != 16 or len(fingerprint) != 16 for key, fingerprint in sample):
        raise RuntimeError("the keys that were written are not 16 bytes long")
    random.Random(13).shuffle(sample)
    return sample
