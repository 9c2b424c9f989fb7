"""A helpdesk router: labelled conversations become tickets, posted over HTTP.

    python helpdesk.py        (needs the [cli] extra; then POST payloads to port 8000)

The helpdesk here is a stand-in of twenty lines in the same app, which also shows how a receiver
is mounted beside your own routes. Point ``HELPDESK`` at a real one.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from whatsable_receiver import Discard, Event, Receiver, Retry, Router

HELPDESK = os.environ.get("HELPDESK", "http://127.0.0.1:8000/stand-in/tickets")

# ---------------------------------------------------------------- the routing

desk = Router(first_match=True)  # a conversation labelled "billing, support" goes to billing


@desk.on(label="billing", retries=20)
async def billing(event: Event) -> None:
    """Money first."""
    await open_ticket("billing", event)


@desk.on(label=["support", "vip"], retries=20)
async def support(event: Event) -> None:
    """Everybody else who has a label we know."""
    await open_ticket("support", event)


@desk.otherwise()
async def unlabelled(event: Event) -> None:
    """Nothing is lost: what nobody asked for is a ticket too."""
    await open_ticket("inbox", event)


async def open_ticket(queue: str, event: Event) -> None:
    """Post one ticket. The key makes a second run of this job open no second ticket."""
    ticket = {
        "queue": queue,
        "customer": event.conversation.phone,
        "text": event.text,
        "labels": list(event.labels),
    }
    key = {"Idempotency-Key": f"whatsable-{event.job}"}
    async with httpx2.AsyncClient(timeout=10) as client:
        response = await client.post(HELPDESK, json=ticket, headers=key)
    if response.status_code == 429:
        raise Retry("the helpdesk is busy", after=float(response.headers.get("Retry-After", 60)))
    if response.status_code in (400, 422):
        raise Discard(f"the helpdesk does not take this ticket: {response.status_code}")
    response.raise_for_status()  # anything else: tried again, later and later


receiver = Receiver()
receiver.include(desk)

# ---------------------------------------------------------------- the stand-in

tickets: dict[str, dict[str, object]] = {}


async def take_ticket(request: Request) -> JSONResponse:
    """Keep a ticket under its idempotency key, once."""
    tickets.setdefault(request.headers["Idempotency-Key"], await request.json())
    return JSONResponse({"tickets": len(tickets)})


async def list_tickets(request: Request) -> JSONResponse:
    """All tickets."""
    return JSONResponse(list(tickets.values()))


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Start and stop the receiver's workers with the app: a mounted app is not told by itself."""
    async with receiver.lifespan():
        yield


app = Starlette(
    routes=[
        Route("/stand-in/tickets", take_ticket, methods=["POST"]),
        Route("/stand-in/tickets", list_tickets, methods=["GET"]),
        Mount("/", receiver),
    ],
    lifespan=lifespan,
)

if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, host="127.0.0.1", port=8000, access_log=False)
