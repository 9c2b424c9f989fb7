"""FastAPI with Redis ``SET NX`` and arq: told apart and queued, and handled by nobody here.

Runs in an environment of its own where need be, since arq pins an old redis client:
``BENCH_ARQ`` names its Python. No consumer runs, and Redis writes nothing to disk: both
flatter it.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from arq import create_pool  # type: ignore[import-not-found,unused-ignore]
from arq.connections import RedisSettings  # type: ignore[import-not-found,unused-ignore]
from fastapi import FastAPI

from .model import Payload


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The pool, from start to stop."""
    settings = RedisSettings(host="127.0.0.1", port=int(os.environ["BENCH_REDIS"]))
    app.state.redis = await create_pool(settings)
    yield
    await app.state.redis.aclose()


app = FastAPI(lifespan=lifespan)


@app.post("/webhook")
async def webhook(payload: Payload) -> dict[str, str]:
    """Remember the key, then enqueue; dying between the two loses the message."""
    if not await app.state.redis.set(f"seen:{payload.key}", 1, nx=True, ex=86_400):
        return {"status": "duplicate"}
    await app.state.redis.enqueue_job("handle", payload.model_dump())
    return {"status": "accepted"}
