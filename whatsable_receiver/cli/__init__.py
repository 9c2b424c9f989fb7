"""The command ``whatsable-receiver``: ``main`` is its entry, and says so when the extra is missing.

app.py       the commands
options.py   what they take, each option written once
run.py       ``run``: from ``module:receiver`` to a served receiver
serving.py   the server: a socket, signals, a graceful end
logs.py      what ``run`` logs, as text or as JSON
events.py    ``events``: list, show, resubmit, stats
printing.py  text that is safe for a terminal, tables, JSON documents, exit codes
demo/        ``demo``: what is posted, by whom, what came of it, and whether it should have
"""

from __future__ import annotations

import importlib.util
import sys

NEEDED = ("typer", "rich", "structlog", "uvicorn", "httptools")  # what the extra [cli] brings
WITHOUT = 'The command needs more than the library: pip install "whatsable-receiver[cli]"'


def main() -> None:
    """Run the command. Exits 0 when well; docs/cli.md has the other exit codes."""
    if not all(_there(name) for name in NEEDED):
        print(WITHOUT, file=sys.stderr)
        raise SystemExit(2)
    from .app import app

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without UTF-8 gets \u2713, not an error
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="whatsable-receiver")


def _there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False
