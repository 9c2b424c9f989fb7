"""The receiver with one matching route, whose handler does nothing, in the same process."""

import os

from whatsable_receiver import Event, Receiver

app = Receiver(database=os.environ["WHATSABLE_DATABASE"])


@app.on("text")
async def handle(event: Event) -> None:
    """Nothing, so that the receiver is what is measured."""
