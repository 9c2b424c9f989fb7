"""The composition root: the only module that knows everyone."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route as Path

from . import housekeeping, idempotency
from .errors import ConfigurationError, ReceiverError, Unavailable
from .handling import Handling
from .inbox.base import Inbox, Retention
from .inbox.sqlite import SQLiteInbox
from .routing import Route, Router
from .settings import Settings
from .telemetry import Guarded, Meter, Silence
from .verification import Verifier, Verify
from .web import Door, Receive, Scope, Send
from .worker import Worker

log = logging.getLogger("whatsable_receiver")

HEALTH_TIMEOUT = 2.0  # seconds
HEALTH_AGE = 1.0  # seconds; a health check costs a transaction, and anybody may ask for one


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000


class Receiver(Router):
    """An ASGI app that receives WhatsAble's webhooks, and the workers that run your handlers.

    Settings come as arguments (``database="inbox.db"``) or from ``WHATSABLE_*``; every one is
    listed in the docs and in ``Settings``. ``idempotency`` is ``"fingerprint"``,
    ``"documented"`` or a function of ``(payload, body)``; ``verify`` a function of
    ``(headers, body)`` that says True for what it trusts; ``meter`` takes counters and timings.
    ``workers=False`` accepts and runs nothing: another process on the same file does.

    Raises ``ConfigurationError`` where a setting or a route is wrong.
    """

    def __init__(
        self,
        *,
        first_match: bool = False,
        idempotency: idempotency.Rule = "fingerprint",
        verify: Verify | None = None,
        workers: bool = True,
        meter: Meter | None = None,
        clock: Callable[[], int] = _milliseconds,
        chance: Callable[[], float] = random.random,
        **settings: Any,
    ) -> None:
        super().__init__(first_match=first_match)
        self._rule = idempotency
        self._verify = verify
        self._workers = workers
        self._meter: Meter = Silence() if meter is None else Guarded(meter)
        self._clock = clock
        self._chance = chance
        self._arguments: dict[str, Any] = {}
        self._inbox: Inbox | None = None
        self._worker: Worker[Route] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._look: asyncio.Future[dict[str, Any]] | None = None
        self._looked_at = 0.0
        self._trouble: Unavailable | None = None  # the newest when health was looked at
        self.configure(**settings)

    def configure(self, **settings: Any) -> None:
        """Change settings before the start; those given here win over what was given before."""
        if self._inbox is not None:
            raise ConfigurationError("the receiver is running; configure it before it starts")
        arguments = {
            **self._arguments,
            **{name: value for name, value in settings.items() if value is not None},
        }
        self.settings = Settings.load(os.environ, **arguments)
        self._arguments = arguments
        self.verifier = Verifier(
            signing_secrets=tuple(
                secret.get_secret_value() for secret in self.settings.signing_secret
            ),
            scheme=self.settings.signature,
            path_secret=(
                self.settings.path_secret.get_secret_value() if self.settings.path_secret else None
            ),
            accounts=self.settings.accounts,
            function=self._verify,
        )
        self._door = Door(
            router=self,
            verifier=self.verifier,
            identify=idempotency.rule(self._rule),
            clock=self._clock,
            meter=self._meter,
            max_body=self.settings.max_body,
            body_timeout=self.settings.body_timeout,
        )
        self._rest = Starlette(
            routes=[Path("/health", self._health, methods=["GET"])], lifespan=self.lifespan
        )

    # ------------------------------------------------------------ start and stop

    async def start(self) -> None:
        """Open the inbox and start the workers. ``lifespan`` calls this, and ``stop``."""
        if self._inbox is not None:
            raise ReceiverError("the receiver is running already")
        routes = self.routes()
        settings = self.settings
        inbox = self._inbox = open_inbox(settings, clock=self._clock, meter=self._meter)
        try:
            await inbox.open([route.name for route in routes])
            gone = set(await inbox.unfinished()) - {route.name for route in routes}
        except BaseException:
            self._inbox = None
            await inbox.close()
            raise
        for name in sorted(gone):
            log.warning("unfinished jobs wait for route %r, which this code does not have", name)
        self.freeze()
        self._door.inbox = inbox
        self._look = None
        if self._workers:
            self._worker = Worker(
                inbox,
                routes,
                Handling(),
                clock=self._clock,
                chance=self._chance,
                meter=self._meter,
                concurrency=settings.concurrency,
                grace=settings.grace,
                log_phones=settings.log_phones,
            )
            self._worker.start()
            self._tasks = [
                asyncio.create_task(
                    housekeeping.take_back_leases(self._worker.take_back, settings.lease / 3)
                ),
                asyncio.create_task(housekeeping.prune(inbox, _retention(settings))),
            ]
        log.info(
            "receiving at %s into %s, %d route%s",
            settings.path + ("/…" if settings.path_secret else ""),
            settings.database if settings.sqlite_file else "PostgreSQL",
            len(routes),
            "" if len(routes) == 1 else "s",
        )

    async def stop(self) -> None:
        """Accept nothing more, let handlers finish within the grace, write their outcomes."""
        if self._inbox is None:
            return
        inbox, self._inbox = self._inbox, None
        self._door.inbox = None
        self._look = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._worker is not None:
            await self._worker.stop()
            self._worker = None
        await inbox.close()
        log.info("stopped")

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Start and stop with an app: ``Starlette(lifespan=receiver.lifespan, ...)``."""
        await self.start()
        try:
            yield
        finally:
            await self.stop()

    # ------------------------------------------------------------ the app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. The webhook's path is answered at once; Starlette has every other path."""
        if scope["type"] == "http":
            path = scope["path"]
            root = scope.get("root_path", "")
            if root and path.startswith(root + "/"):
                path = path[len(root) :]
            ours = self.settings.path
            if path == ours:
                await self._door(scope, receive, send, None)
                return
            if path.startswith(ours) and path[len(ours)] == "/":
                # The server's own access log prints this scope: the secret must not be in it.
                scope["path"] = scope["path"][: -len(path) + len(ours)] + "/…"
                scope["raw_path"] = scope["path"].encode()
                await self._door(scope, receive, send, path[len(ours) + 1 :])
                return
        await self._rest(scope, receive, send)

    async def health(self) -> dict[str, Any]:
        """How the receiver is: live, ready, and why not. ``GET /health`` prints this.

        One look serves everybody who asks within a second, unless something failed meanwhile.
        """
        now = asyncio.get_running_loop().time()
        trouble = self._inbox.last_error if self._inbox else None
        fresh = now - self._looked_at <= HEALTH_AGE and trouble is self._trouble
        if self._look is None or not fresh:
            self._look = asyncio.ensure_future(self._look_at_health())
            self._looked_at, self._trouble = now, trouble
        return await asyncio.shield(self._look)

    async def _look_at_health(self) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "status": "unwell",
            "live": True,
            "ready": False,
            "workers": self._worker is not None and self._worker.running,
            "writable": False,
            "oldest_waiting_seconds": None,
        }
        if self._inbox is None:
            return answer
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT):
                oldest = await self._inbox.check()
        except (TimeoutError, Unavailable) as error:
            log.warning("the inbox is not well: %s", error or "it does not answer")
            return answer
        answer["writable"] = True
        if oldest is not None:
            age = self._clock() / 1000 - oldest.timestamp()
            answer["oldest_waiting_seconds"] = max(0.0, round(age, 3))
        if answer["workers"] or not (self._workers and self.routes()):
            answer.update(status="ok", ready=True)
        return answer

    async def _health(self, request: Request) -> JSONResponse:
        answer = await self.health()
        return JSONResponse(answer, status_code=200 if answer["ready"] else 503)


def open_inbox(
    settings: Settings, *, clock: Callable[[], int], meter: Meter, create: bool = True
) -> SQLiteInbox:
    """The inbox that the settings name, not yet opened."""
    if settings.sqlite_file is None:
        raise ConfigurationError(
            "database: PostgreSQL is not supported yet; give a path, for SQLite"
        )
    return SQLiteInbox(
        settings.sqlite_file,
        clock=clock,
        lease=settings.lease,
        max_waiting=settings.max_waiting,
        max_waiting_bytes=settings.max_waiting_bytes,
        keep_timeout=settings.keep_timeout,
        quarantine_rows=settings.quarantine_rows,
        quarantine_bytes=settings.quarantine_bytes,
        meter=meter,
        create=create,
    )


def _retention(settings: Settings) -> Retention:
    def seconds(days: float | None) -> float | None:
        return None if days is None else days * 86_400

    return Retention(
        age=seconds(settings.keep_bodies),
        rows=settings.max_rows,
        bytes=settings.max_bytes,
        keys=seconds(settings.keep_keys),
    )
