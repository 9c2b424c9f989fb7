"""The one thing that happened, as handlers see it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from .payload import Payload, Status

Kind = Literal["incoming", "outgoing", "status", "quarantined"]


class Conversation(NamedTuple):
    """Whose conversation an event belongs to: the account and the customer's phone."""

    account: str
    phone: str


class Stored(NamedTuple):
    """What an event is made of: its body, and the payload where somebody has read it already."""

    raw: bytes
    received_at: int
    payload: Payload | Status | None = None


def kind_of(payload: Payload | Status) -> Kind:
    """Which of the three decorators a payload is for."""
    if isinstance(payload, Status):
        return "status"
    return "incoming" if payload.incoming_message else "outgoing"


def moment(seconds: int) -> datetime | None:
    """A wire time as an aware datetime; 0 is how the wire says never."""
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


@dataclass(frozen=True, slots=True)
class Event:
    """One event, given to a handler (and, without an id, to ``where=``).

    ``raw`` is the body of the first delivery, byte for byte. Times are aware and in UTC.
    """

    payload: Payload | Status
    raw: bytes
    received_at: datetime
    id: int | None = None  # None while a ``where=`` is asked: nothing is kept yet
    job: int | None = None
    route: str | None = None
    attempt: int = 1  # 1 for the first try of this route on this event

    @property
    def kind(self) -> Kind:
        """``"incoming"``, ``"outgoing"`` or ``"status"``."""
        return kind_of(self.payload)

    @property
    def message(self) -> Payload:
        """The payload of a message; ``TypeError`` for a status, which has none."""
        if isinstance(self.payload, Status):
            raise TypeError("a delivery status has no message; use event.payload.status")
        return self.payload

    @property
    def text(self) -> str:
        """What this side wrote: text, caption, or transcription; "" for a status."""
        if isinstance(self.payload, Status):
            return ""
        if self.payload.incoming_message:
            return self.payload.last_message_of_user
        return self.payload.last_message_of_bot

    @property
    def labels(self) -> tuple[str, ...]:
        """The conversation's labels, in the order of the wire; none for a status."""
        return () if isinstance(self.payload, Status) else self.payload.labels

    @property
    def conversation(self) -> Conversation:
        """The account and the phone; both empty for a status, which names neither."""
        if isinstance(self.payload, Status):
            return Conversation("", "")
        return Conversation(self.payload.user_id, self.payload.phone_number)

    @property
    def sent_at(self) -> datetime | None:
        """When this message was sent, as far as the wire says; None where it does not."""
        if isinstance(self.payload, Status):
            return self.payload.timestamp
        if self.payload.incoming_message:
            return moment(self.payload.user_last_message_time)
        return moment(self.payload.bot_last_message_time)
