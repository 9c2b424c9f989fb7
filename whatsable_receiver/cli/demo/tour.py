"""The tour: every case is posted by another process, and its event followed to its end."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ...errors import ReceiverError
from ...inbox.base import EventRecord, Filter, Inbox
from ...jobs import FINISHED
from ..events import inbox_at
from .checks import Call, Facts, Post
from .samples import Case, cases

PATIENCE = 15.0  # seconds for all jobs together
LOOK_EVERY = 0.01  # seconds between two looks at the inbox

# ---------------------------------------------------------------- the sender, another process


class Sender:
    """The program in ``sender.py``, and a line to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def post(self, url: str, case: Case) -> Post:
        """Have one body posted, and wait for what came back."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        order = {"url": url, "body": base64.b64encode(case.body).decode()}
        stdin.write(json.dumps(order).encode() + b"\n")
        await stdin.drain()
        line = await stdout.readline()
        if not line:
            raise ReceiverError("the sender ended before its time")
        return post_of(case, json.loads(line))


def post_of(case: Case, told: dict[str, Any]) -> Post:
    """What the sender told about one post."""
    if "error" in told:
        return Post(case, 0, f"no answer: {told['error']}", None, 0.0)
    try:
        answer = json.loads(told["answer"])
        status, event = str(answer["status"]), answer["event"]
    except (ValueError, KeyError, TypeError):
        status, event = "not one of ours", None
    return Post(case, told["status"], status, event, told["ms"])


@asynccontextmanager
async def a_sender() -> AsyncIterator[Sender]:
    """Start the sender, and see to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",  # alone: not even this package's folder is on its path
        str(Path(__file__).with_name("sender.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Sender(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 2.0)
        except TimeoutError:
            process.kill()
            await process.wait()


# ---------------------------------------------------------------- the tour


async def finished(inbox: Inbox, event: int, deadline: float) -> EventRecord | None:
    """The event once its jobs have ended, or as it stands at the deadline."""
    while True:
        record = (await inbox.read([event])).get(event)
        done = record is not None and all(job.job.state in FINISHED for job in record.jobs)
        if done or time.monotonic() > deadline:
            return record
        await asyncio.sleep(LOOK_EVERY)


Show = Callable[[Post, EventRecord | None, list[Call]], None]


async def tour(url: str, database: str, calls: list[Call], show: Show) -> Facts:
    """Post every case, wait for its jobs, show it; what happened in all."""
    posts: list[Post] = []
    deadline = time.monotonic() + PATIENCE
    async with inbox_at(database) as inbox, a_sender() as sender:
        for case in cases(int(time.time())):
            before = len(calls)
            post = await sender.post(url, case)
            record = None if post.event is None else await finished(inbox, post.event, deadline)
            posts.append(post)
            show(post, record, calls[before:])
        ids = [record.id for record in await inbox.find(Filter(limit=1000))]
        return Facts(tuple(posts), tuple(calls), await inbox.read(ids))
