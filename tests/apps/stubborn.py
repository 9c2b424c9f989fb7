"""Handlers that do not want to end: one swallows every cancellation, one sits in its thread."""

from __future__ import annotations

import asyncio
import threading

from whatsable_receiver import Event, Receiver

from .effects import write

receiver = Receiver()


@receiver.on(label="swallow")
async def swallows(event: Event) -> None:
    """Take no cancellation for an answer."""
    write(event, "begun")
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


@receiver.on(label="thread")
def sits(event: Event) -> None:
    """Wait in a thread for what never comes."""
    write(event, "begun")
    threading.Event().wait()
