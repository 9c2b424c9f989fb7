"""``demo``: a receiver on a temporary file, a sender in another process, and what came of it.

Nothing it prints about the outcome is typed: it is read back from the inbox, as ``events`` does,
and compared with what ``samples`` says should happen.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.text import Text

from ..errors import ReceiverError
from ..event import Event
from ..inbox.base import EventRecord, Filter, Inbox
from ..jobs import FINISHED, Retries, State
from ..receiver import Receiver
from ..settings import PREFIX
from . import serving
from .events import inbox_at
from .printing import cell, console, document, visible
from .samples import Case, cases

PATIENCE = 15.0  # seconds for all jobs together
LOOK_EVERY = 0.01  # seconds between two looks at the inbox
INTERRUPTED = 130  # the exit code of a demo that Ctrl-C ended before its end
UNSTEADY = "call_helpdesk"  # the route whose first attempt fails
WIDTHS = (31, 15, 8)  # of the table's columns, but the last one: all fit into 80


# ---------------------------------------------------------------- what happened


@dataclass(frozen=True, slots=True)
class Post:
    """One post as the sender saw it. ``status`` is 0 where there was no answer."""

    case: Case
    status: int
    answer: str
    event: int | None
    ms: float


@dataclass(frozen=True, slots=True)
class Call:
    """A handler was called."""

    route: str
    event: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the demo knows: the posts, what the handlers saw, and what the inbox says."""

    posts: tuple[Post, ...]
    calls: tuple[Call, ...]
    events: dict[int, EventRecord]


@dataclass(frozen=True, slots=True)
class Check:
    """A thing that should be so, and what speaks against it; nothing does where it is."""

    name: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether it is so."""
        return not self.problems


# ---------------------------------------------------------------- what should have happened


def check(facts: Facts) -> tuple[Check, ...]:
    """Compare what happened with what should have happened. Looks at nothing but ``facts``."""
    return tuple(Check(name, tuple(find(facts))) for name, find in CHECKS)


def _answers(facts: Facts) -> list[str]:
    if not facts.posts:
        return ["nothing was posted"]
    return [
        f"{post.case.title}: {post.status} {post.answer}, not {post.case.status} {post.case.answer}"
        for post in facts.posts
        if (post.status, post.answer) != (post.case.status, post.case.answer)
    ]


def _bytes(facts: Facts) -> list[str]:
    problems = []
    for post in facts.posts:
        if post.status // 100 != 2:
            continue
        record = facts.events.get(post.event or 0)
        if record is None:
            problems.append(f"{post.case.title}: answered {post.status}, and not in the inbox")
        elif post.case.again is None and record.raw != post.case.body:
            problems.append(f"{post.case.title}: event {record.id} has other bytes")
    return problems


def _nothing_else(facts: Facts) -> list[str]:
    posted = {post.event for post in facts.posts if post.status // 100 == 2}
    return [f"event {id_} was never posted" for id_ in facts.events if id_ not in posted]


def _one_event_each(facts: Facts) -> list[str]:
    problems = []
    owners: dict[int, str] = {}
    for post in facts.posts:
        if post.case.again is not None:
            original = facts.posts[post.case.again]
            if post.event != original.event:
                problems.append(f"{post.case.title}: event {post.event}, not {original.event}")
        elif post.event is not None:
            other = owners.setdefault(post.event, post.case.title)
            if other != post.case.title:
                problems.append(f"{post.case.title}: taken for {other}")
    for id_, times in Counter(post.event for post in facts.posts).items():
        record = facts.events.get(id_ or 0)
        if record is not None and record.deliveries != times:
            problems.append(f"event {id_}: {record.deliveries} deliveries, posted {times} times")
    return problems


def _routes(facts: Facts) -> list[str]:
    problems = []
    for post in facts.posts:
        record = facts.events.get(post.event or 0)
        if record is not None:
            routes = sorted(job.job.route for job in record.jobs)
            if routes != sorted(post.case.routes):
                problems.append(
                    f"{post.case.title}: routes {', '.join(routes) or 'none'}, "
                    f"not {', '.join(post.case.routes) or 'none'}"
                )
    return problems


def _completed(facts: Facts) -> list[str]:
    return [
        f"job {job.job.id} ({job.job.route}) is {job.job.state.name.lower()}"
        for record in facts.events.values()
        for job in record.jobs
        if job.job.state is not State.COMPLETED
    ]


def _called(facts: Facts) -> list[str]:
    recorded = Counter(
        Call(job.job.route, record.id, attempt.number)
        for record in facts.events.values()
        for job in record.jobs
        for attempt in job.attempts
    )
    called = Counter(facts.calls)
    return [
        f"{call.route}, event {call.event}, attempt {call.attempt}: called {called[call]} times, "
        f"recorded {recorded[call]} times"
        for call in sorted(recorded | called, key=lambda call: (call.event, call.attempt))
        if called[call] != recorded[call]
    ]


def _retried(facts: Facts) -> list[str]:
    outcomes = [
        [attempt.outcome for attempt in job.attempts]
        for record in facts.events.values()
        for job in record.jobs
        if job.job.route == UNSTEADY
    ]
    if outcomes == [["failed", "completed"]]:
        return []
    return [f"{UNSTEADY}: {outcomes}, not one job that failed once and then completed"]


CHECKS: tuple[tuple[str, Callable[[Facts], list[str]]], ...] = (
    ("every post got the answer it should get", _answers),
    ("what was answered 2xx is in the inbox, byte for byte", _bytes),
    ("the inbox holds nothing that was not posted", _nothing_else),
    ("a redelivery is its event again, another message is another event", _one_event_each),
    ("each event took the routes it should take, and no other", _routes),
    ("every job completed", _completed),
    ("each handler was called once for each recorded attempt", _called),
    ("the handler that failed was tried again", _retried),
)


def summary(facts: Facts) -> dict[str, Any]:
    """What happened, in numbers."""
    answers = Counter(post.answer for post in facts.posts)
    jobs = [job for record in facts.events.values() for job in record.jobs]
    took = sorted(post.ms for post in facts.posts)
    return {
        "posted": len(facts.posts),
        "accepted": answers["accepted"],
        "duplicates": answers["duplicate"],
        "quarantined": answers["quarantined"],
        "refused": answers["refused"],
        "events_stored": len(facts.events),
        "jobs_completed": sum(job.job.state is State.COMPLETED for job in jobs),
        "attempts": sum(len(job.attempts) for job in jobs),
        "p50_ms": round(median(took), 2) if took else None,
        "slowest_ms": round(took[-1], 2) if took else None,
    }


# ---------------------------------------------------------------- the receiver of the demo


Make = Callable[[str, Callable[[Call], None]], Receiver]


def make_receiver(database: str, called: Callable[[Call], None]) -> Receiver:
    """A receiver with a few handlers, each of which says that it was called."""
    receiver = Receiver(database=database)

    def note(event: Event) -> None:
        called(Call(event.route or "", event.id or 0, event.attempt))

    @receiver.on("document", label="contracts")
    async def file_contract(event: Event) -> None:
        note(event)

    @receiver.on(label="support", retries=Retries(attempts=3, first=0.2))
    def call_helpdesk(event: Event) -> None:
        note(event)
        if event.attempt == 1:
            raise ConnectionError("the helpdesk did not answer (the demo wants it so)")

    @receiver.on(label="vip")
    def tell_owner(event: Event) -> None:
        note(event)

    @receiver.on("text", unless_label="support")
    async def answer(event: Event) -> None:
        note(event)

    @receiver.on_outgoing()
    async def keep_record(event: Event) -> None:
        note(event)

    @receiver.on_status()
    async def mark(event: Event) -> None:
        note(event)

    @receiver.otherwise()
    async def look_at(event: Event) -> None:
        note(event)

    return receiver


# ---------------------------------------------------------------- the sender, another process


class Sender:
    """The program in ``sender.py``, and a line to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def post(self, url: str, case: Case) -> Post:
        """Have one body posted, and wait for what came back."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        order = {"url": url, "body": base64.b64encode(case.body).decode()}
        stdin.write(json.dumps(order).encode() + b"\n")
        await stdin.drain()
        line = await stdout.readline()
        if not line:
            raise ReceiverError("the sender ended before its time")
        return post_of(case, json.loads(line))


def post_of(case: Case, told: dict[str, Any]) -> Post:
    """What the sender told about one post."""
    if "error" in told:
        return Post(case, 0, f"no answer: {told['error']}", None, 0.0)
    try:
        answer = json.loads(told["answer"])
        status, event = str(answer["status"]), answer["event"]
    except (ValueError, KeyError, TypeError):
        status, event = "not one of ours", None
    return Post(case, told["status"], status, event, told["ms"])


@asynccontextmanager
async def a_sender() -> AsyncIterator[Sender]:
    """Start the sender, and see to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",  # alone: not even this package's folder is on its path
        str(Path(__file__).with_name("sender.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Sender(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 2.0)
        except TimeoutError:
            process.kill()
            await process.wait()


# ---------------------------------------------------------------- the tour


async def finished(inbox: Inbox, event: int, deadline: float) -> EventRecord | None:
    """The event once its jobs have ended, or as it stands at the deadline."""
    while True:
        record = (await inbox.read([event])).get(event)
        done = record is not None and all(job.job.state in FINISHED for job in record.jobs)
        if done or time.monotonic() > deadline:
            return record
        await asyncio.sleep(LOOK_EVERY)


Show = Callable[[Post, EventRecord | None, list[Call]], None]


async def tour(url: str, database: str, calls: list[Call], show: Show) -> Facts:
    """Post every case, wait for its jobs, show it; what happened in all."""
    posts: list[Post] = []
    deadline = time.monotonic() + PATIENCE
    async with inbox_at(database) as inbox, a_sender() as sender:
        for case in cases(int(time.time())):
            before = len(calls)
            post = await sender.post(url, case)
            record = None if post.event is None else await finished(inbox, post.event, deadline)
            posts.append(post)
            show(post, record, calls[before:])
        ids = [record.id for record in await inbox.find(Filter(limit=1000))]
        return Facts(tuple(posts), tuple(calls), await inbox.read(ids))


# ---------------------------------------------------------------- what is printed


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


# ---------------------------------------------------------------- the command


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

        async def main() -> int:
            async with receiver.lifespan():
                showing = asyncio.create_task(show())
                served = asyncio.create_task(server.serve(sockets=[listener]))
                await asyncio.wait([showing, served], return_when=asyncio.FIRST_COMPLETED)
                if not showing.done():  # somebody pressed Ctrl-C
                    showing.cancel()
                    await asyncio.wait([showing])
                    return INTERRUPTED
                if keep and showing.exception() is None:
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
