"""The receiver of the demo: a few handlers, each of which says that it was called."""

from __future__ import annotations

from collections.abc import Callable

from ...event import Event
from ...jobs import Retries
from ...receiver import Receiver
from .checks import Call

Make = Callable[[str, Callable[[Call], None]], Receiver]


def make_receiver(database: str, called: Callable[[Call], None]) -> Receiver:
    """A receiver with a few handlers, each of which says that it was called."""
    receiver = Receiver(database=database)

    def note(event: Event) -> None:
        called(Call(event.route or "", event.id or 0, event.attempt))

    @receiver.on("document", label="contracts")
    async def file_contract(event: Event) -> None:
        note(event)

    @receiver.on(label="support", retries=Retries(attempts=3, first=0.2))
    def call_helpdesk(event: Event) -> None:
        note(event)
        if event.attempt == 1:
            raise ConnectionError("the helpdesk did not answer (the demo wants it so)")

    @receiver.on(label="vip")
    def tell_owner(event: Event) -> None:
        note(event)

    @receiver.on("text", unless_label="support")
    async def answer(event: Event) -> None:
        note(event)

    @receiver.on_outgoing()
    async def keep_record(event: Event) -> None:
        note(event)

    @receiver.on_status()
    async def mark(event: Event) -> None:
        note(event)

    @receiver.otherwise()
    async def look_at(event: Event) -> None:
        note(event)

    return receiver
