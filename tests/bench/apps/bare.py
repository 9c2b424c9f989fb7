"""The ceiling: a Starlette endpoint that reads the body and answers 200. It keeps nothing."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def webhook(request: Request) -> JSONResponse:
    """Read and forget."""
    await request.body()
    return JSONResponse({"status": "accepted"})


app = Starlette(routes=[Route("/webhook", webhook, methods=["POST"])])
