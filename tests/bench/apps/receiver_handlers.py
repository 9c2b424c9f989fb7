"""The receiver with one matching route, whose handler does nothing, in the same process."""

from whatsable_receiver import Event, Receiver

app = Receiver()


@app.on("text")
async def handle(event: Event) -> None:
    """Nothing, so that the receiver is what is measured."""
