"""Two routes for each message, one on the loop and one in a thread; each writes its effect."""

from __future__ import annotations

import asyncio
import os

from whatsable_receiver import Event, Receiver, Retries

from .effects import write

# As often as it is killed, it runs again.
OFTEN = Retries(attempts=100_000, first=0.02, factor=1)

receiver = Receiver(workers=os.environ.get("WHATSABLE_TEST_WORKERS") != "no")


@receiver.on(retries=OFTEN)
async def looped(event: Event) -> None:
    """Write at once, and end some turns of the loop later: a kill may come in between."""
    write(event)
    await asyncio.sleep(0)


@receiver.on(retries=OFTEN)
def threaded(event: Event) -> None:
    """Write, in a thread."""
    write(event)
