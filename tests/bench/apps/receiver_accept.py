"""The receiver with one matching route and no worker: accept, tell apart, route, commit."""

from whatsable_receiver import Event, Receiver

app = Receiver(workers=False)


@app.on("text")
async def handle(event: Event) -> None:
    """Never called: nobody claims."""
