"""What handlers under test do: one line in a file that is only ever appended to."""

from __future__ import annotations

import os
import time
from pathlib import Path

from whatsable_receiver import Event

FOLDER = Path(os.environ["WHATSABLE_TEST_FOLDER"])
GATE = FOLDER / "gate"
_file = os.open(FOLDER / "effects", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def write(event: Event, word: str = "done") -> None:
    """Append event, job, route, attempt, phone and a word, in one write."""
    phone = event.conversation.phone or "-"
    line = f"{event.id} {event.job} {event.route} {event.attempt} {phone} {word}\n"
    os.write(_file, line.encode())


def wait_for_gate() -> None:
    """Block this thread until the test opens the gate; it gives up after a minute."""
    deadline = time.monotonic() + 60
    while not GATE.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
