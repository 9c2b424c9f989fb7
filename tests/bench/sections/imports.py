"""Import time of the package, beside pydantic and starlette. Fresh processes, interleaved."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from statistics import median

from ..load import ROOT
from ..rows import Options, Row, figure

STATEMENTS = {
    "nothing": "pass",
    "import pydantic, starlette": "import pydantic, starlette",
    # Both packages import lazily: the line above loads little of what any user of them needs.
    "what a pydantic model and a Starlette app import": (
        "from pydantic import BaseModel; from starlette.applications import Starlette"
    ),
    "import whatsable_receiver": "import whatsable_receiver",
    "from whatsable_receiver import Receiver": "from whatsable_receiver import Receiver",
}


def run(options: Options) -> list[Row]:
    """Milliseconds from the start of Python to its end; no floor was asked for."""
    took: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    flaws: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        # A checkout may have no compiled files where installed packages have theirs.
        env = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        for number in range(2 if options.quick else 1 + max(7, options.rounds)):
            for name, statement in STATEMENTS.items():
                begin = time.perf_counter()
                ended = subprocess.run(
                    [sys.executable, "-c", statement],
                    cwd=ROOT,
                    env=env,
                    capture_output=True,
                    check=False,
                )
                if number:  # the first one compiles
                    took[name].append((time.perf_counter() - begin) * 1000)
                if ended.returncode:
                    last = ended.stderr.decode().strip().rpartition("\n")[2]
                    flaws[name] = f"void: {last}"
    base = median(took["nothing"])
    return [
        figure(
            name,
            times,
            "ms",
            seen={"above bare Python, ms": median(times) - base},
            void=flaws.get(name),
        )
        for name, times in took.items()
    ]
