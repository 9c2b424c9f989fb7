"""The demo as a whole. Nothing it prints about the outcome is typed: it is read from the inbox."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from pathlib import Path

from ...inbox.base import EventRecord
from ...settings import PREFIX
from .. import serving
from ..printing import document
from .checks import Call, Post, check
from .handlers import Make, make_receiver
from .printer import Printer, result
from .tour import tour

INTERRUPTED = 130  # the exit code of a demo that Ctrl-C ended before its end


def demo(*, keep: bool, port: int, as_json: bool, make: Make = make_receiver) -> int:
    """Run the demo with the receiver that ``make`` makes; 0 only if every check holds."""
    # It shows the defaults, and must not be refused for a secret that is meant for another.
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        del os.environ[name]
    # What its handlers and its bodies are told to do wrong is shown in the table.
    logging.getLogger("whatsable_receiver").addHandler(logging.NullHandler())
    with (
        serving.listen("127.0.0.1", port) as listener,
        tempfile.TemporaryDirectory(prefix="whatsable-demo-") as folder,
    ):
        database = str(Path(folder) / "demo.db")
        calls: list[Call] = []
        printer = Printer()

        def called(call: Call) -> None:
            calls.append(call)
            if printer.keeps:
                printer.call(call)

        receiver = make(database, called)
        server = serving.server(receiver)
        url = serving.url(listener, receiver.settings.path)

        async def show() -> int:
            if not as_json:
                printer.head(url, database)
            facts = await tour(url, database, calls, _silent if as_json else printer.row)
            if server.should_exit:  # somebody pressed Ctrl-C, and the sender was quicker to end
                return INTERRUPTED
            checks = check(facts)
            if as_json:
                document(result(facts, checks))
            else:
                printer.outcome(facts, checks)
            return 0 if all(one.ok for one in checks) else 1

        async def shown() -> int:
            try:
                return await show()
            except SystemExit:  # rich's, where nobody reads on: demo | head
                server.should_exit = True
                return 1

        async def main() -> int:
            async with receiver.lifespan():
                showing = asyncio.create_task(shown())
                served = asyncio.create_task(server.serve(sockets=[listener]))
                await asyncio.wait([showing, served], return_when=asyncio.FIRST_COMPLETED)
                if not showing.done():  # somebody pressed Ctrl-C
                    showing.cancel()
                    await asyncio.wait([showing])
                    return INTERRUPTED
                if keep and showing.exception() is None and not server.should_exit:
                    printer.keep(url, database)
                else:
                    server.should_exit = True
                await served
            code = showing.result()
            if not as_json and code != INTERRUPTED:
                printer.next_steps()
            return code

        # Its end is near in any case, and a hasty one would leave the folder behind.
        return serving.until_stopped(server, main(), second_ends=False)


def _silent(post: Post, record: EventRecord | None, calls: list[Call]) -> None:
    """Where one document is all that is asked for."""
