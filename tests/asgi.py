"""One request to an ASGI app, made by hand, so that a test decides how its body arrives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whatsable_receiver import Receiver

from .stores import body

Headers = Iterable[tuple[bytes, bytes]]
JSON: Headers = ((b"content-type", b"application/json"),)
EVENT = body()


@dataclass(frozen=True)
class Answer:
    """What the app sent back; ``status`` is 0 where it sent nothing."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> dict[str, Any]:
        """The body, read as JSON."""
        answer: dict[str, Any] = json.loads(self.body)
        return answer


def scope_of(
    path: str = "/webhook", headers: Headers = JSON, method: str = "POST"
) -> dict[str, Any]:
    """The scope of one request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 40_000),
        "server": ("127.0.0.1", 8000),
    }


async def request(
    app: Callable[..., Any],
    chunks: bytes | Iterable[bytes] = EVENT,
    *,
    path: str = "/webhook",
    headers: Headers = JSON,
    method: str = "POST",
    ending: str = "whole",
    scope: dict[str, Any] | None = None,
) -> Answer:
    """Send a body in chunks, and then end it: ``whole``, ``cut`` by the sender, or ``never``."""
    scope = scope or scope_of(path, headers, method)
    parts = iter([chunks] if isinstance(chunks, bytes) else chunks)
    sent: list[MutableMapping[str, Any]] = []
    ended = False

    async def receive() -> dict[str, Any]:
        nonlocal ended
        for part in parts:
            return {"type": "http.request", "body": part, "more_body": True}
        if ending == "whole" and not ended:
            ended = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if ending == "never":
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        return Answer(0, {}, b"")
    headers_ = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers_, b"".join(part.get("body", b"") for part in sent[1:]))


def make(folder: Path, **options: Any) -> Receiver:
    """A receiver on a file in that folder, not yet started."""
    return Receiver(**{"database": folder / "inbox.db", **options})


@asynccontextmanager
async def running(folder: Path, **options: Any) -> AsyncIterator[Receiver]:
    """A started receiver without routes, stopped at the end."""
    receiver = make(folder, **options)
    async with receiver.lifespan():
        yield receiver
