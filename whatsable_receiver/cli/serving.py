"""The server: a bound socket, a receiver that starts before it and stops after it, a sure end."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from types import FrameType
from typing import Any

import uvicorn

from ..errors import ReceiverError
from ..receiver import Receiver

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LEFTOVERS = 3.0  # seconds that threads of handlers may keep the process after its end


class CannotListen(ReceiverError):
    """The address cannot be listened at."""


def loopback(host: str) -> bool:
    """Whether only this machine can connect there. Names other than localhost may be anything."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, before anything else is started; ``CannotListen`` says why not."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise CannotListen(
                f"{where} is in use already: stop what listens there, or choose another --port"
            ) from None
        why = str(getattr(error, "strerror", None) or error)
        why = why.partition(" (while attempting")[0]  # create_server repeats the address
        raise CannotListen(f"{where} cannot be listened at: {why}") from None


def url(listener: socket.socket, path: str = "") -> str:
    """The URL of a path there, as somebody on this machine writes it."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - names, not binds
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"


class Server(uvicorn.Server):
    """uvicorn without its own signal handlers, which would end the process before we are done."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to ``until_stopped``."""
        yield


def server(receiver: Receiver) -> Server:
    """The server of a receiver, whose start and stop are not uvicorn's business."""
    settings = receiver.settings
    return Server(
        uvicorn.Config(
            receiver,
            interface="asgi3",
            lifespan="off",
            http="httptools",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,  # its paths may hold the secret
            proxy_headers=False,
            server_header=False,
            # As long as an honest delivery can take; then it was not answered, and comes again.
            timeout_graceful_shutdown=math.ceil(settings.body_timeout + settings.keep_timeout),
        )
    )


async def serve(
    receiver: Receiver, serving: Server, listener: socket.socket, ready: Callable[[], None]
) -> None:
    """Start the receiver, serve until told to stop, and stop it."""
    async with receiver.lifespan():
        ready()
        await serving.serve(sockets=[listener])


def until_stopped(
    serving: Server, main: Coroutine[Any, Any, int], *, second_ends: bool = True
) -> int:
    """Run ``main`` on the server's event loop; its answer is the exit code.

    The first SIGINT or SIGTERM stops gracefully. A second one ends the process at once, unless
    ``second_ends`` is False: what it had in hand is taken up at the next start, as after a crash.
    """
    asked = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and second_ends:
            os._exit(128 + number)
        asked = serving.should_exit = True

    for number in SIGNALS:
        signal.signal(number, stop)
    runner = asyncio.Runner(loop_factory=serving.config.get_loop_factory())
    code = 1
    try:
        code = runner.run(main)
    finally:
        with suppress(OSError):  # nobody reads it any more
            sys.stdout.flush()  # what handlers printed: the sure end below does not
        end_soon(code)
        runner.close()
    return code


def end_soon(code: int) -> None:
    """End this process in ``LEFTOVERS`` seconds, should a handler's thread or task hold it."""

    def end() -> None:
        time.sleep(LEFTOVERS)
        os._exit(code)

    threading.Thread(target=end, name="whatsable-end", daemon=True).start()
