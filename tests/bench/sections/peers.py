"""The receiver beside what users would otherwise write, in the same rounds.

BackgroundTasks handles in its own process, so the receiver with handlers stands beside it.
The commit per request and the queue only keep, with nobody consuming, so the receiver that
only accepts stands beside those; what it does with handlers is shown too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median

from ..rounds import Config, flaw_of, interleaved, ratios
from ..rows import Floor, Options, Row, figure
from ..server import free_port, running
from .accept import ACCEPT, BARE, HANDLERS, WIDTHS, against_bare


@contextmanager
def redis() -> Iterator[Mapping[str, str]]:
    """A Redis of our own on the loopback that writes nothing to disk."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *("redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", folder),
            *("--save", "", "--appendonly", "no", "--daemonize", "no"),
        ]
        with running(command, port):
            yield {"BENCH_REDIS": str(port)}


def _queued() -> Config:
    python = os.environ.get("BENCH_ARQ", sys.executable)
    probe = [python, "-c", "import arq, fastapi, uvicorn, uvloop, httptools"]
    skip = None
    if shutil.which("redis-server") is None:
        skip = "skipped: redis-server is not on the path"
    elif subprocess.run(probe, capture_output=True, check=False).returncode:
        skip = "skipped: arq cannot be imported; BENCH_ARQ may name a Python that can"
    return Config(
        name="FastAPI + Redis SET NX + arq", app="queued", python=python, beside=redis, skip=skip
    )


def run(options: Options) -> list[Row]:
    """How many times as fast as each of them the receiver is."""
    background = Config(name="FastAPI + BackgroundTasks", app="background")
    commits = Config(name="FastAPI + one SQLite commit each", app="commits", stores=True)
    queued = _queued()
    # For the last two no number of connections was asked for; 128 is where they were measured.
    table: tuple[tuple[Config, Config, dict[int, Floor]], ...] = (
        (HANDLERS, background, {128: Floor(at_least=1.3), 32: Floor(at_least=1.0)}),
        (ACCEPT, commits, {128: Floor(at_least=8)}),
        (ACCEPT, queued, {128: Floor(at_least=5)}),
    )
    configs = (BARE, background, commits, queued, ACCEPT, HANDLERS)
    runs = interleaved(configs, WIDTHS, options)
    rows = [
        against_bare(runs, config, width)
        for width in WIDTHS
        for config in configs
        if config.skip is None
    ]
    for width in WIDTHS:
        for ours, theirs, floors in table:
            what = f"@{width} {ours.name}, against {theirs.name}"
            if theirs.skip is not None:
                rows.append(Row(what=what, void=theirs.skip))
                continue
            mine, other = runs[ours.name, width], runs[theirs.name, width]
            full = ratios(runs[HANDLERS.name, width], other)
            rows.append(
                figure(
                    what,
                    ratios(mine, other),
                    "x",
                    floor=floors.get(width),
                    seen={"with handlers, x": median(full)},
                    void=flaw_of(mine, other),
                )
            )
    return rows
