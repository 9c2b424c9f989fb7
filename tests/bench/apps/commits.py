"""FastAPI with one SQLite commit per request: told apart and synced, and handled by nobody.

One connection behind a lock, in the thread pool. It is the kindest of the usual forms: a
connection per thread meets SQLite's busy handler, which sleeps.
"""

import os
import sqlite3
import threading

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from .model import Payload

app = FastAPI()
lock = threading.Lock()
connection = sqlite3.connect(
    os.environ["WHATSABLE_DATABASE"], isolation_level=None, check_same_thread=False
)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("PRAGMA synchronous=FULL")
connection.execute(
    "CREATE TABLE IF NOT EXISTS events(id INTEGER PRIMARY KEY, key TEXT UNIQUE, raw TEXT NOT NULL)"
)


def keep(key: str, raw: str) -> bool:
    """One transaction; False for a redelivery."""
    with lock:
        cursor = connection.execute(
            "INSERT INTO events(key, raw) VALUES (?, ?) ON CONFLICT DO NOTHING", (key, raw)
        )
        return cursor.rowcount == 1


@app.post("/webhook")
async def webhook(payload: Payload) -> dict[str, str]:
    """Answer after the commit."""
    new = await run_in_threadpool(keep, payload.key, payload.model_dump_json())
    return {"status": "accepted" if new else "duplicate"}
