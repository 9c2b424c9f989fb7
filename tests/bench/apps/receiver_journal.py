"""The receiver with a handler that notes each start in the file that ``BENCH_JOURNAL`` names.

A note is two integers: the event's number, and the nanoseconds since the load sent it (the
text begins with that moment; the monotonic clock of Linux is one for all processes).
"""

import os
import struct
import time

from whatsable_receiver import Event, Receiver

from ..bodies import STAMP

app = Receiver()
# Appending writes of this size are whole, also from two processes.
journal = os.open(os.environ["BENCH_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@app.on("text")
async def handle(event: Event) -> None:
    """Note the start, and nothing else."""
    waited = time.monotonic_ns() - int(event.text[:STAMP])
    os.write(journal, struct.pack("qq", event.id or 0, waited))
