"""The load: a separate process on a core of its own, bounded by seconds and by count.

wrk where it is on the path, as fast as the connections allow (closed loop). The Python
client otherwise, and always where a count is given, which wrk cannot keep, or a pace: it
sends at fixed moments whether or not the answers have come (open loop), so a server that
stalls cannot hide it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import uvloop

from . import bodies

ROOT = Path(__file__).resolve().parents[2]
CORE = 1
GRACE = 5.0  # seconds for the last answers
MOST_CONNECTIONS = 512  # that the open loop opens in all when answers do not come


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to post and for how long. Message numbers are ``first``, ``first + step``, …"""

    port: int
    path: str = "/webhook"
    connections: int = 128
    seconds: int = 3
    count: int = 0  # 0: no bound but the seconds
    rate: float = 0  # requests a second; 0: as fast as the connections allow
    first: int = 1_000  # those before it warm up
    step: int = 1
    generator: str = "auto"  # "python", or else wrk where it is on the path


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the load saw. Times in milliseconds, from the sending to the whole answer."""

    generator: str
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    statuses: dict[str, int]
    broken: int  # connections or answers that failed below HTTP
    late_p99_ms: float = 0  # open loop: how late the client itself was, an error bar

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def flaw(self) -> str | None:
        """Why these figures say nothing, or None: anything but a 2xx answer voids a run."""
        bad = {status: n for status, n in self.statuses.items() if n and not status.startswith("2")}
        if self.broken or bad or not self.requests:
            return f"void: {self.requests} answers, broken {self.broken}, not 2xx {bad}"
        return None


def pin(pid: int) -> None:
    """Keep the load on one core; the servers may use every core."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > CORE:
        os.sched_setaffinity(pid, {CORE})


@contextmanager
def started(load: Load) -> Iterator[subprocess.Popen[str]]:
    """The load, running; its standard output ends in a line for :func:`report_of`."""
    wrk = shutil.which("wrk")
    with tempfile.TemporaryDirectory() as folder:
        if load.generator == "python" or load.count or load.rate or wrk is None:
            command = [sys.executable, "-m", "tests.bench.load", json.dumps(asdict(load))]
        else:
            script = Path(folder, "post.lua")
            script.write_text(
                bodies.lua(port=load.port, path=load.path, first=load.first, step=load.step)
            )
            command = [
                *(wrk, "-t1", f"-c{load.connections}", f"-d{load.seconds}s", "--timeout", "5s"),
                *("-s", str(script), f"http://127.0.0.1:{load.port}{load.path}"),
            ]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            pin(process.pid)
            yield process
        finally:
            process.kill()
            process.wait()


def report_of(process: subprocess.Popen[str], load: Load) -> Report:
    """The report of a load, once it has ended by itself."""
    out, _ = process.communicate(timeout=load.seconds + 30)
    _, found, line = out.rpartition("JSON")
    if not found or process.returncode:
        raise RuntimeError(f"the load ended with {process.returncode} and no report: {out[-500:]}")
    said = json.loads(line)
    if "statuses" in said:
        return Report(**said)
    # wrk counts answers and those of 400 and more; a redirect would hide among the good ones.
    refused = said.pop("refused")
    statuses = {"2xx": said["requests"] - refused, "4xx and 5xx": refused}
    return Report(generator="wrk", statuses=statuses, **said)


def run(load: Load) -> Report:
    """Run the load and wait for its end."""
    with started(load) as process:
        return report_of(process, load)


def percentile(ordered: list[float], share: float) -> float:
    """The value below which ``share`` of the ordered values lie; 0 for none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


# ---------------------------------------------------------------- the Python client


class _Client:
    """The numbers of one run, and what its connections still have to send."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.head = (
            f"POST {load.path} HTTP/1.1\r\nHost: 127.0.0.1:{load.port}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self.next = load.first
        self.sent = 0
        self.took: list[float] = []
        self.late: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.broken = 0
        self.stopped = False  # nothing new is sent
        self.over = False  # nothing more is counted
        self.opened = 0
        self.open: set[_Connection] = set()
        self.idle: deque[_Connection] = deque()
        self.waiting: deque[tuple[int, bytes]] = deque()

    def message(self, stamp: bool) -> tuple[int, bytes]:
        """The moment of now and the next request, which carries it if asked to."""
        now = time.monotonic_ns()
        body = bodies.body(self.next, now if stamp else 0)
        self.next += self.load.step
        self.sent += 1
        return now, self.head + b"%d\r\n\r\n" % len(body) + body

    @property
    def done(self) -> bool:
        """Whether nothing more may be sent."""
        return self.stopped or bool(self.load.count and self.sent >= self.load.count)

    @property
    def unanswered(self) -> int:
        """Requests that still have no answer."""
        return self.sent - len(self.took)

    def free(self, connection: _Connection) -> None:
        """A connection has its answer: give it what waits, or the next request."""
        if self.load.rate:
            if self.waiting:
                connection.post(*self.waiting.popleft())
            else:
                self.idle.append(connection)
        elif not self.done:
            connection.post(*self.message(stamp=False))

    async def connect(self) -> None:
        """One more connection, which asks for work by itself."""
        self.opened += 1
        await asyncio.get_running_loop().create_connection(
            lambda: _Connection(self), "127.0.0.1", self.load.port
        )

    async def pace(self) -> None:
        """Send at fixed moments; a request's clock starts when it is due, not when it can go."""
        begin = time.monotonic()
        while not self.done:
            due = begin + self.sent / self.load.rate
            delay = due - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
                continue  # the timer may be early as well as late
            self.late.append(-delay * 1000)
            request = self.message(stamp=True)
            if self.idle:
                self.idle.popleft().post(*request)
            else:
                self.waiting.append(request)
                if self.opened < MOST_CONNECTIONS:
                    await self.connect()


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, client: _Client) -> None:
        self.client = client
        self.buffer = b""
        self.sent_at: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.client.open.add(self)
        self.client.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.client.open.discard(self)
        if self.sent_at is not None and not self.client.over:
            self.client.broken += 1

    def post(self, sent_at: int, request: bytes) -> None:
        """Send one request; the answer's time counts from ``sent_at``."""
        self.sent_at = sent_at
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lowered = head.lower()
        at = lowered.find(b"content-length:")
        length = int(lowered[at + 15 :].partition(b"\r\n")[0]) if at >= 0 else 0
        if len(rest) < length or self.sent_at is None:
            return
        self.buffer = rest[length:]
        if not self.client.over:
            self.client.took.append((time.monotonic_ns() - self.sent_at) / 1e6)
            self.client.statuses[head[9:12].decode()] += 1
        self.sent_at = None
        self.client.free(self)


async def _drive(load: Load) -> Report:
    client = _Client(load)
    for _ in range(load.connections):
        await client.connect()
    begin = time.monotonic()
    pacing = asyncio.create_task(client.pace()) if load.rate else None
    while time.monotonic() < begin + load.seconds and not client.done:  # noqa: ASYNC110  # a clock too
        await asyncio.sleep(0.005)
    seconds = time.monotonic() - begin
    client.stopped = True
    if load.rate or load.count:  # each of these is counted; let the last answers come
        until = time.monotonic() + GRACE
        while client.unanswered and time.monotonic() < until:  # noqa: ASYNC110  # a clock too
            await asyncio.sleep(0.005)
        client.broken = max(client.broken, client.unanswered)
    client.over = True
    if pacing is not None:
        pacing.cancel()
    for connection in list(client.open):
        connection.transport.abort()
    took, late = sorted(client.took), sorted(client.late)
    return Report(
        generator="python",
        requests=len(took),
        seconds=seconds,
        p50_ms=percentile(took, 0.5),
        p99_ms=percentile(took, 0.99),
        max_ms=took[-1] if took else 0.0,
        statuses=dict(client.statuses),
        broken=client.broken,
        late_p99_ms=percentile(late, 0.99),
    )


def main() -> None:
    """The separate process: a load as JSON in, its report as JSON out."""
    load = Load(**json.loads(sys.argv[1]))
    report = uvloop.run(_drive(load))
    print("JSON" + json.dumps(asdict(report)))


if __name__ == "__main__":
    main()
