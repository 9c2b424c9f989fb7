"""What the demo prints: for people a table while it happens, then numbers, checks, and what next;
for programs one document.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.text import Text

from ...inbox.base import EventRecord
from ...jobs import State
from ..printing import cell, console, visible
from .checks import Call, Check, Facts, Post, summary

WIDTHS = (31, 15, 8)  # of the table's columns, but the last one: all fit into 80

# ---------------------------------------------------------------- for people


class Printer:
    """The table while it happens, and what there is to say at its end."""

    def __init__(self) -> None:
        self.keeps = False
        self._console = console(piped_width=80)

    def line(self, text: str = "", style: str = "") -> None:
        """One line of ours, safe to print, wrapped where it is too long."""
        self._console.print(cell(text, style))

    def head(self, url: str, database: str) -> None:
        """Who takes part, and the names of the columns."""
        self.line(f"receiver  {url}")
        self.line(f"inbox     {database}")
        self.line("sender    another process, over HTTP")
        self.line()
        self._row(("what is posted", "answer", "ms", "routes that ran"), style="bold")

    def row(self, post: Post, record: EventRecord | None, calls: list[Call]) -> None:
        """One post, its answer, and the handlers that were called since."""
        expected = (post.status, post.answer) == (post.case.status, post.case.answer)
        answer = f"{post.status} {post.answer}" if post.status else post.answer
        self._row(
            (post.case.title, answer, f"{post.ms:.1f}", _ran(record, calls)),
            answer_style="green" if expected else "red",
        )

    def _row(
        self, cells: tuple[str, str, str, str], style: str = "", answer_style: str = ""
    ) -> None:
        title, answer, ms, routes = cells
        text = Text(style=style)
        text.append(f"{visible(title):<{WIDTHS[0]}.{WIDTHS[0]}} ")
        text.append(f"{visible(answer):<{WIDTHS[1]}} ", answer_style)
        text.append(f"{ms:>{WIDTHS[2] - 2}}  ")
        indent = sum(WIDTHS) + 2
        room = max(self._console.width - indent, 20)
        lines = Text(visible(routes)).wrap(self._console, room)
        text.append(f"\n{' ' * indent}".join(line.plain.rstrip() for line in lines))
        self._console.print(text, soft_wrap=True)

    def outcome(self, facts: Facts, checks: tuple[Check, ...]) -> None:
        """The numbers and the checks."""
        self.line()
        for name, number in summary(facts).items():
            self.line(f"{name.replace('_', ' '):<16}{number}")
        self.line()
        for one in checks:
            self.line(f"{'✓' if one.ok else '✗'} {one.name}", "green" if one.ok else "red")
            for problem in one.problems:
                self.line(f"    {problem}", "red")
        right = sum(one.ok for one in checks)
        self.line()
        self.line(
            f"{right} of {len(checks)} checks hold"
            + (": what happened is what should have happened." if right == len(checks) else "."),
            "bold",
        )

    def call(self, call: Call) -> None:
        """A handler was called, while ``--keep`` goes on."""
        self.line(f"event {call.event}: {call.route}, attempt {call.attempt}")

    def next_steps(self) -> None:
        """What to type next."""
        self.line()
        self.line("Next:")
        me = _this_command()
        for words, what in (
            ("demo --keep", "stay, and be posted to"),
            ("run app:receiver", "yours: docs/quickstart.md"),
            ("events list", "then: what yours received"),
        ):
            self.line(f"  {me} {words:16}  {what}")

    def keep(self, url: str, database: str) -> None:
        """Where to post, where to look, how to stop; from now on calls are shown too."""
        self.keeps = True
        body = '{"phone_number": "14155550119", "message_type": "text", '
        body += '"last_message_of_user": "Hello!"}'
        self.line()
        self.line(f"Still serving at {url} until Ctrl-C. In another terminal:")
        self.line()
        for command in (
            f"curl -s {url} -H 'content-type: application/json' -d '{body}'",
            f"{_this_command()} events list --database {database}",
            f"{_this_command()} events show 3 --database {database}",
        ):
            # Whole, however long: it is there to be copied.
            self._console.print(Text(f"  {command}"), soft_wrap=True)
        self.line()


def _ran(record: EventRecord | None, calls: list[Call]) -> str:
    """The routes whose handlers were called, how often, and which job has not completed."""
    times = Counter(call.route for call in calls)
    words = [route + (f" ({n} tries)" if n > 1 else "") for route, n in times.items()]
    words += [
        f"{job.job.route} {job.job.state.name.lower()}!"
        for job in (record.jobs if record else ())
        if job.job.state is not State.COMPLETED
    ]
    return ", ".join(words) or "-"


def _this_command() -> str:
    """How this command can be called again from here: it may not be on the PATH."""
    name = "whatsable-receiver"
    if shutil.which(name):
        return name
    script = Path(sys.argv[0])
    if script.name == name:
        with suppress(ValueError):
            return str(script.absolute().relative_to(Path.cwd()))
        return str(script)
    return "python -m whatsable_receiver"


# ---------------------------------------------------------------- for programs


def result(facts: Facts, checks: tuple[Check, ...]) -> dict[str, Any]:
    """What ``--json`` prints; docs/cli.md lists the keys."""
    return {
        "ok": all(one.ok for one in checks),
        "posts": [
            {
                "title": post.case.title,
                "status": post.status,
                "answer": post.answer,
                "event": post.event,
                "ms": post.ms,
                "routes": sorted(
                    job.job.route
                    for job in (facts.events[post.event].jobs if post.event in facts.events else ())
                ),
            }
            for post in facts.posts
        ],
        "summary": summary(facts),
        "checks": [
            {"name": one.name, "ok": one.ok, "problems": list(one.problems)} for one in checks
        ],
    }
