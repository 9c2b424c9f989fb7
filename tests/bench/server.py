"""A server under test: uvicorn with uvloop and httptools in a process of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .load import ROOT

TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds: no CPU time is known more finely
WAIT = 20.0  # seconds to come up, and to go


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, ready to be posted to."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def pid(self) -> int:
        """The process to look at in /proc."""
        return self.process.pid


def free_port() -> int:
    """A port of the loopback that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def die_with_parent() -> None:
    """Ask Linux to kill this process when the benchmark dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def accepts(port: int) -> bool:
    """Whether something listens on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), 0.2).close()
    except OSError:
        return False
    return True


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far; 0 where there is no /proc."""
    if not Path("/proc/self/stat").exists():
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process politely, then not."""
    process.terminate()
    try:
        process.wait(WAIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running(
    command: list[str], port: int, env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A process that listens on ``port``, from its first accepted connection to its end."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdout=said,
            stderr=said,
            preexec_fn=die_with_parent,  # one thread here
        )
        try:
            until = time.monotonic() + WAIT
            while not accepts(port):
                if process.poll() is not None or time.monotonic() > until:
                    said.seek(0)
                    raise RuntimeError(f"{command[:4]} did not start: {said.read()[-2000:]!r}")
                time.sleep(0.01)
            yield Server(process, port)
        finally:
            stop(process)


def serve(
    app: str, env: Mapping[str, str] | None = None, python: str = sys.executable
) -> AbstractContextManager[Server]:
    """An ASGI app of ``tests.bench.apps`` under uvicorn, the same flags for each.

    The receiver is served by its own command, as its users are told to; that is uvicorn too, with
    a collector that looks less often and without the headers of proxies.
    """
    port = free_port()
    place = f"tests.bench.apps.{app}:app"
    if app.startswith("receiver_"):
        command = ["whatsable_receiver", "run", place]
    else:
        command = ["uvicorn", place, "--host", "127.0.0.1", "--no-access-log"]
        command += ["--loop", "uvloop", "--http", "httptools", "--ws", "none"]
    command += ["--port", str(port), "--log-level", "warning"]
    return running([python, "-m", *command], port, env)
