"""The receiver as a whole: settings, start and stop, and a delivery's way to its handler."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from whatsable_receiver import Event, Receiver, ReceiverError, Retries, Retry, Router
from whatsable_receiver.errors import ConfigurationError, Unavailable
from whatsable_receiver.inbox.base import Filter
from whatsable_receiver.jobs import State

from .asgi import EVENT, make, request
from .stores import (
    Commits,
    anyio_backend,  # noqa: F401 - a fixture
    body,
    until,
)

pytestmark = pytest.mark.anyio


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """These names in the environment, and then as it was before."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ---------------------------------------------------------------- configure


def test_arguments_win_over_the_environment_and_later_ones_over_earlier(tmp_path: Path) -> None:
    """An argument, then the environment, then the default; ``configure`` has the last word."""
    with environment(WHATSABLE_PATH="/from-env", WHATSABLE_MAX_BODY="2048"):
        receiver = Receiver(path="/from-argument")
        assert (receiver.settings.path, receiver.settings.max_body) == ("/from-argument", 2048)
        receiver.configure(path="/from-configure", concurrency=3)
        receiver.configure(max_body=None)
        assert receiver.settings.path == "/from-configure"
        assert (receiver.settings.max_body, receiver.settings.concurrency) == (2048, 3)
        assert receiver.settings.database == "whatsable.db"


def test_a_wrong_setting_leaves_the_old_ones(tmp_path: Path) -> None:
    """A ``configure`` that is refused changes nothing."""
    receiver = make(tmp_path, path="/before")
    for wrong in ({"path": "no slash"}, {"pth": "/x"}, {"path": "/after", "max_body": -1}):
        with pytest.raises(ConfigurationError):
            receiver.configure(**wrong)
    assert receiver.settings.path == "/before"
    receiver.configure(concurrency=2)
    assert (receiver.settings.path, receiver.settings.concurrency) == ("/before", 2)


async def test_a_running_receiver_is_not_configured(tmp_path: Path) -> None:
    """Settings are for before the start; while it runs they are an error."""
    receiver = make(tmp_path)
    async with receiver.lifespan():
        with pytest.raises(ConfigurationError, match="before it starts"):
            receiver.configure(path="/other")
    receiver.configure(path="/other")
    async with receiver.lifespan():
        assert (await request(receiver, path="/other")).status == 200
        assert (await request(receiver)).status == 404


async def test_a_path_of_your_own(tmp_path: Path) -> None:
    """The webhook may be anywhere but at /health; the rest is 404."""
    async with (receiver := make(tmp_path, path="/a/b.c")).lifespan():
        assert (await request(receiver, path="/a/b.c")).status == 200
        assert (await request(receiver, path="/a/b.cd")).status == 404
    with pytest.raises(ConfigurationError):
        make(tmp_path, path="/health")


@pytest.mark.parametrize(
    "wrong",
    [
        {"idempotency": "unheard of"},
        {"verify": 5},
        {"signing_secret": ""},
        {"signature": "hmac-md5", "signing_secret": "x" * 20},
        {"signature": "hmac-sha256"},
        {"accounts": ""},
        {"path_secret": ""},
        {"database": ""},
    ],
    ids=str,
)
def test_what_would_protect_nothing_is_an_error_at_once(wrong: dict[str, Any]) -> None:
    """Fail closed: an empty secret or an unknown word does not wait for the first delivery."""
    with pytest.raises(ConfigurationError):
        Receiver(**wrong)


# ---------------------------------------------------------------- start and stop


async def test_it_starts_once(tmp_path: Path) -> None:
    """A second start is an error and disturbs nothing; a second stop does nothing."""
    receiver = make(tmp_path)
    await receiver.start()
    with pytest.raises(ReceiverError, match="running already"):
        await receiver.start()
    assert (await request(receiver)).status == 200
    await receiver.stop()
    await receiver.stop()
    assert (await request(receiver)).status == 503


async def test_it_starts_again_after_a_stop(tmp_path: Path) -> None:
    """Promise 4: stop and start, as often as one likes: known events stay known, work goes on."""
    receiver = make(tmp_path)
    handled: list[int | None] = []
    receiver.on(name="note")(lambda event: handled.append(event.id))
    for n in range(3):
        async with receiver.lifespan():
            assert (await request(receiver, body(n))).said["status"] == "accepted"
            assert (await request(receiver, body(0))).said["status"] == "duplicate"
            await until(lambda: handled[-1:] == [n + 1])  # noqa: B023 - awaited in this turn
    assert handled == [1, 2, 3]


async def test_two_routes_of_one_name_do_not_start(tmp_path: Path) -> None:
    """The clash is an error at start that names both; no file is made, and it can be repaired."""
    receiver = make(tmp_path)
    receiver.on("text", name="answer")(first_handler)
    other = Router()
    other.on("image", name="answer")(second_handler)
    receiver.include(other)
    with pytest.raises(ConfigurationError) as caught:
        await receiver.start()
    assert "first_handler" in str(caught.value)
    assert "second_handler" in str(caught.value)
    assert os.listdir(tmp_path) == []
    assert (await request(receiver)).status == 503
    assert not (await receiver.health())["ready"]


def first_handler(event: Event) -> None:
    """Does nothing."""


def second_handler(event: Event) -> None:
    """Does nothing."""


@pytest.mark.parametrize("database", ["/proc/inbox.db", "/nowhere/inbox.db"])
async def test_without_a_place_to_keep_it_does_not_start(database: str) -> None:
    """Promise 1: where nothing can be kept, the start fails with the place in its message."""
    receiver = Receiver(database=database)
    with pytest.raises(ConfigurationError, match=database):
        await receiver.start()
    assert (await request(receiver)).status == 503


def ours() -> list[str]:
    """The threads of receivers that are alive."""
    return [one.name for one in threading.enumerate() if one.name.startswith("whatsable")]


async def test_a_file_that_is_no_inbox_can_be_taken_away_and_the_start_repeated(
    tmp_path: Path,
) -> None:
    """A start that failed leaves nothing running, and the same receiver starts once it can."""
    receiver = make(tmp_path)
    receiver.on(name="note")(first_handler)
    place = tmp_path / "inbox.db"
    place.write_bytes(b"These are my letters." * 1000)
    for _ in range(2):
        with pytest.raises(ConfigurationError):
            await receiver.start()
        await until(lambda: not ours())
    assert (await request(receiver)).status == 503
    place.unlink()
    receiver.on("image", name="another")(second_handler)
    async with receiver.lifespan():
        assert (await request(receiver)).status == 200
    await until(lambda: not ours())


async def test_a_start_that_fails_behind_the_open_file_can_be_repeated(tmp_path: Path) -> None:
    """The same where the file opens, and what is in it cannot be read."""
    receiver = make(tmp_path)
    receiver.on(name="note")(first_handler)
    async with receiver.lifespan():
        assert (await request(receiver)).status == 200
    with closing(sqlite3.connect(tmp_path / "inbox.db")) as db:
        (index,) = db.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'jobs_available'"
        ).fetchone()
        db.execute("DROP INDEX jobs_available")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await receiver.start()
        await until(lambda: not ours())
        assert (await request(receiver)).status == 503
        receiver.configure(concurrency=2)
    with closing(sqlite3.connect(tmp_path / "inbox.db")) as db:
        db.execute(index)
    async with receiver.lifespan():
        assert (await request(receiver, body(2))).status == 200
    await until(lambda: not ours())


async def test_routes_are_added_before_the_start(tmp_path: Path) -> None:
    """A route that comes later, here or in what is included, is refused, and no delivery is
    answered 503 for it; after a stop it is still too late."""
    receiver, desk = make(tmp_path), Router()
    receiver.include(desk)
    desk.on("text", name="note")(first_handler)
    async with receiver.lifespan():
        for router in (receiver, desk):
            with pytest.raises(ConfigurationError, match="before that"):
                router.on("image", name="late")(second_handler)
        with pytest.raises(ConfigurationError, match="before that"):
            receiver.include(Router())
        assert (await request(receiver, body(1, message_type="image"))).status == 200
    with pytest.raises(ConfigurationError, match="before that"):
        receiver.on(name="late")(second_handler)


async def test_a_failed_lifespan_says_why(tmp_path: Path) -> None:
    """A server is told that the start failed, and does not listen to what nobody keeps."""
    receiver = Receiver(database="/nowhere/inbox.db")
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(ConfigurationError):
        await receiver({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]


async def test_a_handler_that_is_running_may_finish(tmp_path: Path) -> None:
    """Promise 4: stop accepts no more, and lets handlers end within the grace."""
    receiver = make(tmp_path, grace=10.0)
    begun, gate = asyncio.Event(), asyncio.Event()
    ended: list[int | None] = []

    @receiver.on()
    async def slow(event: Event) -> None:
        begun.set()
        await gate.wait()
        ended.append(event.id)

    await receiver.start()
    await request(receiver)
    await begun.wait()
    stopping = asyncio.create_task(receiver.stop())
    await asyncio.sleep(0)
    assert (await request(receiver, body(2))).status == 503
    gate.set()
    await stopping
    assert ended == [1]


# ---------------------------------------------------------------- health


async def test_health_is_looked_at_once_a_second_whoever_asks(tmp_path: Path) -> None:
    """Promise 8: anybody may ask for health, and a thousand who do cost one transaction."""
    commits = Commits()
    loop = asyncio.get_running_loop()
    async with (receiver := make(tmp_path, workers=False, meter=commits)).lifespan():
        began, before = loop.time(), commits.seen
        for _ in range(20):
            answers = await asyncio.gather(*[receiver.health() for _ in range(50)])
            assert all(answer["ready"] for answer in answers)
        assert (await request(receiver, path="/health", method="GET")).said["writable"] is True
        assert 1 <= commits.seen - before <= 1 + (loop.time() - began)

        async def looked_at_again() -> bool:
            await receiver.health()
            return commits.seen - before > 1 + (last - began)

        last = loop.time()
        await until(looked_at_again)
    assert not (await receiver.health())["ready"]


async def test_who_stops_asking_for_health_takes_the_answer_from_nobody(tmp_path: Path) -> None:
    """A health check that gives up does not cancel the look that others wait for."""
    async with (receiver := make(tmp_path)).lifespan():
        impatient = asyncio.create_task(receiver.health())
        patient = asyncio.create_task(receiver.health())
        await asyncio.sleep(0)
        impatient.cancel()
        assert (await asyncio.wait_for(patient, 10))["ready"]
        assert impatient.cancelled()


# ---------------------------------------------------------------- workers=False


async def test_one_process_accepts_and_another_works(tmp_path: Path) -> None:
    """With ``workers=False`` nothing is run here; a receiver on the same file runs it, once."""
    door, worker = make(tmp_path, workers=False), make(tmp_path)
    ran: list[str] = []
    door.on(name="note")(lambda event: ran.append("door"))
    worker.on(name="note")(lambda event: ran.append("worker"))
    async with door.lifespan():
        assert (await request(door)).said["status"] == "accepted"
        assert (await door.health())["oldest_waiting_seconds"] is not None
        async with worker.lifespan():
            await until(lambda: ran)
            await request(door, body(2))
            await until(lambda: len(ran) == 2)
            health = await door.health()
        assert (health["ready"], health["workers"]) == (True, False)
    assert ran == ["worker", "worker"]


# ---------------------------------------------------------------- the whole way


async def test_a_delivery_reaches_every_route_that_fits(tmp_path: Path) -> None:
    """Promise 2: async, plain and included handlers each get the event once, however often sent."""
    receiver = make(tmp_path)
    seen: list[tuple[str, int | None, bool]] = []
    main = threading.get_ident()

    def note(name: str, event: Event) -> None:
        seen.append((name, event.id, threading.get_ident() == main))

    @receiver.on("text", unless_label="human")
    async def answer(event: Event) -> None:
        note("answer", event)

    @receiver.on(label="support", where=lambda event: "open" in event.text)
    def ticket(event: Event) -> None:
        note("ticket", event)

    desk = Router()
    desk.on("image", name="image")(lambda event: note("image", event))
    desk.on_outgoing(name="outgoing")(lambda event: note("outgoing", event))
    desk.on_status("failed", name="failed")(lambda event: note("failed", event))
    desk.otherwise(name="rest")(lambda event: note("rest", event))
    receiver.include(desk)
    status = {"message_id": "wamid.1", "status": "failed", "timestamp": "2026-01-01T00:00:00Z"}
    bodies = [
        body(1, labels="Support, vip", last_message_of_user="Is it open?"),
        body(2, message_type="image", labels="human"),
        body(3, incoming_message=False, last_message_of_bot="Yes", bot_last_message_time=5),
        json.dumps({"event": "message_status", "data": status}).encode(),
    ]
    async with receiver.lifespan():
        for raw in bodies * 2:
            assert (await request(receiver, raw)).status == 200
        expected = {
            ("answer", 1, True),
            ("ticket", 1, False),
            ("rest", 1, False),
            ("image", 2, False),
            ("outgoing", 3, False),
            ("failed", 4, False),
        }
        await until(lambda: len(seen) >= len(expected))
    assert sorted(seen, key=str) == sorted(expected, key=str)


async def test_a_handler_says_when_to_try_again(tmp_path: Path) -> None:
    """Promise 4: Retry(after=…) is kept to; the next attempt has the next number."""
    receiver = make(tmp_path)
    attempts: list[tuple[int, float]] = []
    loop = asyncio.get_running_loop()

    @receiver.on(retries=Retries(attempts=3, first=3600.0))
    async def answer(event: Event) -> None:
        attempts.append((event.attempt, loop.time()))
        if event.attempt < 3:
            raise Retry("not yet", after=0.1 * event.attempt)

    async with receiver.lifespan():
        await request(receiver)
        await until(lambda: len(attempts) == 3)
    (_, first), (_, second), (_, third) = attempts
    assert [number for number, _ in attempts] == [1, 2, 3]
    assert 0.09 < second - first < 3
    assert 0.19 < third - second < 3


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "x" * 100_000, "é\u202e"], ids=repr)
@pytest.mark.parametrize("where", [True, False])
async def test_whatever_an_error_says_the_event_can_be_shown(
    tmp_path: Path, text: str, where: bool
) -> None:
    """Promise 4: a reason with a lone surrogate, a NUL or a novel in it is kept readably."""

    def fail(event: Event) -> bool:
        raise ValueError(text)

    receiver = make(tmp_path)
    receiver.on(name="fail", retries=1, where=fail if where else None)(fail)
    async with receiver.lifespan():
        assert (await request(receiver)).status == 200
        inbox = receiver._inbox
        assert inbox is not None
        wanted = Filter(states=frozenset({State.DISCARDED}))

        async def found() -> bool:
            return bool(await inbox.find(wanted))

        await until(found)
        reason = (await inbox.read([1]))[1].jobs[0].job.reason
        assert reason is not None
        assert len(reason) < 1000
        reason.encode()


async def test_a_rule_of_your_own_that_fails_loses_nothing(tmp_path: Path) -> None:
    """Promise 1: an idempotency function that raises leaves the body as the event's name."""

    def broken(payload: object, raw: bytes) -> str:
        raise KeyError("id")

    async with (receiver := make(tmp_path, idempotency=broken)).lifespan():
        answers = [await request(receiver, raw) for raw in (EVENT, body(2), EVENT)]
    assert [answer.said["status"] for answer in answers] == ["accepted", "accepted", "duplicate"]


def test_the_package_is_light() -> None:
    """Importing the package brings no server, no HTTP client and no database driver."""
    code = "import sys, whatsable_receiver; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    ).stdout.split()
    heavy = {"uvicorn", "httpx2", "typer", "rich", "psycopg", "fastapi", "stamina", "pytest"}
    assert heavy.isdisjoint(modules)
