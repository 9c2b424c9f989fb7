"""The door: a POST is verified, read, told apart, routed, kept, and only then answered."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any
from zlib import crc32

from .errors import NotJSON, Refused, Unavailable, Unfit
from .event import Event, kind_of
from .idempotency import Identity, of_body
from .inbox.base import Entry, Inbox, NewJob
from .patience import OutOfPatience, Patience
from .payload import Payload, Status
from .payload import read as read_payload
from .routing import Router
from .telemetry import Meter
from .verification import Verifier

log = logging.getLogger("whatsable_receiver.web")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Headers = Sequence[tuple[bytes, bytes]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

RETRY_AFTER = b"2"  # seconds; the sender's own schedule is not published
JSON_TYPES = (b"application/json", b"text/json")


class Door:
    """Answers the POSTs of one webhook path.

    ``inbox`` is None until the receiver is started: a delivery that comes before that is
    answered 503, because nothing could keep it.
    """

    def __init__(
        self,
        *,
        router: Router,
        verifier: Verifier,
        identify: Callable[[Payload | Status, bytes], Identity],
        clock: Callable[[], int],
        meter: Meter,
        max_body: int,
        body_timeout: float,
    ) -> None:
        self.inbox: Inbox | None = None
        self._router = router
        self._verifier = verifier
        self._identify = identify
        self._clock = clock
        self._meter = meter
        self._max_body = max_body
        self._patience = Patience(body_timeout, "the body of a delivery")

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, secret: str | None
    ) -> None:
        """One request to the webhook's path; ``secret`` is the path segment behind it, if any."""
        status = 200
        event: int | None = None
        reason: str | None = None
        try:
            self._verifier.check_path(secret)
            if scope["method"] != "POST":
                raise Refused(405, "only POST is received here")
            headers: Headers = scope["headers"]
            self._check_headers(headers)
            body = await self._body(receive)
            if self._verifier.signed:
                self._verifier.check_signature(headers, body)
            inbox = self.inbox
            if inbox is None:
                raise Unavailable(
                    "the receiver is not started; give the app that it is mounted in "
                    "lifespan=receiver.lifespan"
                )
            now = self._clock()
            entry = self._entry(body, now)
            event, new = await inbox.keep(entry)
            self._meter.time("keep", (self._clock() - now) / 1000)
            if not new:
                said = "duplicate"
            elif entry.kind == "quarantined":
                status, said, reason = 202, "quarantined", entry.reason
                log.warning("event %d is quarantined: %s", event, reason, extra={"event": event})
            else:
                said = "accepted"
        except Refused as refusal:
            status, said, reason = refusal.status, "refused", refusal.reason
            log.warning("refused a delivery: %s", reason, extra={"status": status})
        except Unavailable as error:
            status, said, reason = 503, "unavailable", "not stored in time: send it again"
            log.error("a delivery could not be stored: %s", error)
        except _Gone:
            self._meter.count("deliveries", status="cut off")
            return
        self._meter.count("deliveries", status=said)
        await _answer(send, status, said, event, reason)

    # ------------------------------------------------------------ what comes in

    def _check_headers(self, headers: Headers) -> None:
        content_type = b""
        for name, value in headers:
            if name == b"content-type":
                content_type = value
            elif name == b"content-length":
                if value.isdigit() and int(value[:20]) > self._max_body:
                    raise Refused(413, f"a body may have {self._max_body} bytes")
            elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                raise Refused(415, "a body may not be encoded; send it as it is")
        if content_type not in JSON_TYPES:
            media_type = content_type.partition(b";")[0].strip().lower()
            if media_type not in JSON_TYPES and not (
                media_type.startswith(b"application/") and media_type.endswith(b"+json")
            ):
                raise Refused(415, "a body has to be application/json")

    async def _body(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size = 0
        try:
            with self._patience:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size > self._max_body:
                        raise Refused(413, f"a body may have {self._max_body} bytes")
                    if chunk:
                        chunks.append(chunk)
                    if not message.get("more_body", False):
                        break
                    if len(chunks) > 1024:  # a million chunks of a byte each
                        chunks = [b"".join(chunks)]
        except OutOfPatience:
            raise Refused(
                408, f"the body did not arrive within {self._patience.seconds:g} seconds"
            ) from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    # ------------------------------------------------------------ what is kept

    def _entry(self, body: bytes, now: int) -> Entry:
        """What is kept of a body; ``Refused`` if nothing may be."""
        try:
            payload = read_payload(body)
        except NotJSON as error:
            raise Refused(400, str(error)) from None
        except Unfit as error:
            self._verifier.check_account(None)
            identity = of_body(body)
            return Entry(*identity, now, "quarantined", "", "", "", "", body, reason=str(error))
        if isinstance(payload, Status):
            # One customer's status names no conversation: each message is a lane of its own.
            account = phone = labels = ""
            lane_of, message_type = payload.message_id, payload.status
        else:
            account, phone = payload.user_id, payload.phone_number
            lane_of, message_type = phone, payload.message_type
            labels = ", ".join(payload.labels)
        if self._verifier.accounts:
            self._verifier.check_account(None if isinstance(payload, Status) else account)
        try:
            key, fingerprint = self._identify(payload, body)
        except Exception:  # a rule of the user's own: anything may come out
            # By its bytes it is kept, and at worst runs twice; refused, it would be lost.
            log.exception("the idempotency function failed; the body itself names the event")
            key, fingerprint = of_body(body)

        def event() -> Event:
            return Event(payload, body, datetime.fromtimestamp(now / 1000, UTC))

        if matches := self._router.match(payload, event):
            lane = _lane(account, lane_of)
            jobs = tuple([NewJob(route.name, lane, problem) for route, problem in matches])
        else:
            jobs = ()
        kind = kind_of(payload)
        return Entry(
            key, fingerprint, now, kind, account, phone, message_type, labels, body, jobs,
            None, payload,
        )  # fmt: skip


class _Gone(Exception):
    """The sender cut the connection before its body was whole."""


def _lane(account: str, phone: str) -> int:
    # 48 bits of checksums, not of a hash: two conversations of one route that share a number wait
    # for each other, and no more happens to them.
    return (crc32(phone.encode()) << 16) | (crc32(account.encode()) & 0xFFFF)


async def _answer(
    send: Send, status: int, said: str, event: int | None, reason: str | None
) -> None:
    number = "null" if event is None else str(event)
    why = "null" if reason is None else json.dumps(reason)
    body = f'{{"status":"{said}","event":{number},"reason":{why}}}'.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append((b"retry-after", RETRY_AFTER))
    elif status == 405:
        headers.append((b"allow", b"POST"))
    elif status in (408, 413):
        headers.append((b"connection", b"close"))  # the rest of the body is not waited for
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
