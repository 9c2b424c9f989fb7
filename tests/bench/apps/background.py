"""FastAPI with a pydantic model and BackgroundTasks: handles after the answer, stores nothing."""

from fastapi import BackgroundTasks, FastAPI

from .model import Payload

app = FastAPI()


async def handle(payload: Payload) -> None:
    """A handler that does nothing, as in the receiver under test."""


@app.post("/webhook")
async def webhook(payload: Payload, tasks: BackgroundTasks) -> dict[str, str]:
    """Answer, then handle; what is under way when the process dies is gone."""
    tasks.add_task(handle, payload)
    return {"status": "accepted"}
