"""Handlers that say when they begin, then wait for the test to open a gate."""

from __future__ import annotations

import asyncio

from whatsable_receiver import Event, Receiver, Retries

from .effects import GATE, wait_for_gate, write

SOON = Retries(attempts=5, first=0.05, factor=1)

receiver = Receiver()


@receiver.on(label="loop", retries=SOON)
async def looped(event: Event) -> None:
    """Wait on the loop."""
    write(event, "begun")
    while not GATE.exists():  # noqa: ASYNC110 - another process opens it
        await asyncio.sleep(0.005)
    write(event)


@receiver.on(label="thread", retries=SOON)
def threaded(event: Event) -> None:
    """Wait in a thread."""
    write(event, "begun")
    wait_for_gate()
    write(event)
