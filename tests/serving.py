"""Servers under test: real uvicorn processes on loopback, started, waited for and ended."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

ROOT = Path(__file__).parent.parent
T = TypeVar("T")

START = 30.0  # seconds for a process to answer; a busy machine is slow
TURN = 0.01  # seconds between two looks at a condition


def until(condition: Callable[[], T | None], seconds: float = START, *, what: str = "") -> T:
    """The first truthy answer of ``condition``; ``AssertionError`` when time runs out."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} seconds: {what or condition}")
        time.sleep(TURN)
    return answer


class Answer(NamedTuple):
    """What a server said; ``body`` is its JSON."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


class Line:
    """One keep-alive connection to a server. Used by one thread at a time."""

    def __init__(self, port: int, *, timeout: float = 30.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def post(self, body: bytes) -> Answer:
        """POST a body to the webhook; ``OSError`` or ``HTTPException`` when it is cut off."""
        return self._ask("POST", "/webhook", body, {"content-type": "application/json"})

    def get(self, path: str) -> Answer:
        """GET a path."""
        return self._ask("GET", path, None, {})

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        try:
            self._connection.request(method, path, body, dict(headers))
            response = self._connection.getresponse()
            text = response.read()
        except BaseException:
            self._connection.close()
            raise
        return Answer(
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            json.loads(text),
        )


@dataclass(frozen=True, slots=True)
class Server:
    """A server process. ``log`` is the file of what it printed."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def pid(self) -> int:
        """The process to send signals to."""
        return self.process.pid

    def post(self, body: bytes, *, timeout: float = 30.0) -> Answer:
        """One POST on a connection of its own."""
        return self._once(lambda line: line.post(body), timeout)

    def health(self, *, timeout: float = 30.0) -> Answer:
        """What ``GET /health`` says."""
        return self._once(lambda line: line.get("/health"), timeout)

    def wait_ready(self) -> Server:
        """Wait until it answers; ``AssertionError`` with its log when it does not."""

        def answers() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended at start: {self.printed()[-2000:]}")
            with suppress(OSError, http.client.HTTPException):
                return self.health(timeout=5).status in (200, 503)
            return False

        until(answers, what="the server answers")
        return self

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.process.wait(START)

    def stop(self, within: float = START) -> float:
        """SIGTERM; the seconds that it took to end. ``TimeoutExpired`` if it does not."""
        began = time.monotonic()
        self.terminate()
        self.process.wait(within)
        return time.monotonic() - began

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        """Send a signal; a process that has ended gets none."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def printed(self) -> str:
        """All that it printed so far."""
        return self.log.read_text("utf-8", "replace")

    def _once(self, ask: Callable[[Line], Answer], timeout: float) -> Answer:
        line = Line(self.port, timeout=timeout)
        try:
            return ask(line)
        finally:
            line.close()


def launch(
    app: str, folder: Path, *, within: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> Server:
    """Start ``tests.apps.<app>:receiver`` on ``folder``; answers at once, perhaps before it does.

    The inbox is ``folder/inbox.db``; handlers write to ``folder/effects``. ``within`` is a command
    that runs the server. Call it from the main thread: the server dies with the thread that
    started it.
    """
    # Bound here and listened on there: no port that somebody else takes in between.
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        log = folder / f"server-{port}-{time.monotonic_ns()}.log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                [
                    *within,
                    *(sys.executable, "-m", "uvicorn", f"tests.apps.{app}:receiver"),
                    *("--fd", str(listener.fileno()), "--no-access-log", "--log-level", "info"),
                ],
                cwd=ROOT,
                env={
                    **{k: v for k, v in os.environ.items() if not k.startswith("WHATSABLE_")},
                    "WHATSABLE_DATABASE": str(folder / "inbox.db"),
                    "WHATSABLE_TEST_FOLDER": str(folder),
                    "WHATSABLE_TEST_PARENT": str(os.getpid()),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    **(env or {}),
                },
                stdout=said,
                stderr=said,
                pass_fds=[listener.fileno()],
            )
    return Server(process, port, log)


@contextmanager
def serving(
    app: str, folder: Path, *, within: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A server that answers, and is gone afterwards, whatever happens."""
    server = launch(app, folder, within=within, env=env)
    try:
        yield server.wait_ready()
    finally:
        server.signal(signal.SIGCONT)
        server.kill()
