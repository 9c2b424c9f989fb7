"""The receiver with one matching route and no worker: accept, tell apart, route, commit."""

import os

from whatsable_receiver import Event, Receiver

app = Receiver(database=os.environ["WHATSABLE_DATABASE"], workers=False)


@app.on("text")
async def handle(event: Event) -> None:
    """Never called: nobody claims."""
