"""What a POST is answered, and what of it is stored: at the door, mounted, and on a real socket."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from whatsable_receiver import Receiver

from .asgi import EVENT, JSON, Headers, make, request, running, scope_of
from .stores import (
    anyio_backend,  # noqa: F401 - a fixture
    body,
    until,
)

pytestmark = pytest.mark.anyio
SECRET = "a-part-of-the-path"
KIB = 1024


def kept(folder: Path) -> list[bytes]:
    """The bodies in the inbox, in order, read without any code of the library."""
    db = sqlite3.connect(f"file:{folder / 'inbox.db'}?mode=ro", uri=True)
    try:
        return [raw for (raw,) in db.execute("SELECT raw FROM events ORDER BY id")]
    finally:
        db.close()


def typed(content_type: str, *more: tuple[bytes, bytes]) -> Headers:
    """Headers with this content type."""
    return [(b"content-type", content_type.encode()), *more]


# ---------------------------------------------------------------- accepted


async def test_a_post_is_accepted_once_and_then_a_duplicate(tmp_path: Path) -> None:
    """Promises 1 and 2: the first delivery is accepted and stored as it came, the second known."""
    async with running(tmp_path) as receiver:
        first = await request(receiver)
        assert kept(tmp_path) == [EVENT]  # already, at the moment of the answer
        again = await request(receiver)
    assert (first.status, first.said) == (200, {"status": "accepted", "event": 1, "reason": None})
    assert (again.status, again.said) == (200, {"status": "duplicate", "event": 1, "reason": None})
    assert first.headers["content-type"] == "application/json"
    assert int(first.headers["content-length"]) == len(first.body)
    assert kept(tmp_path) == [EVENT]


async def test_sixty_four_posts_at_once_are_one_event(tmp_path: Path) -> None:
    """Promise 2: one of sixty-four simultaneous deliveries is accepted, all have its number."""
    async with running(tmp_path) as receiver:
        answers = await asyncio.gather(*[request(receiver) for _ in range(64)])
    assert {answer.status for answer in answers} == {200}
    said = [answer.said["status"] for answer in answers]
    assert (said.count("accepted"), said.count("duplicate")) == (1, 63)
    assert {answer.said["event"] for answer in answers} == {1}


async def test_different_messages_of_one_second_are_two_events(tmp_path: Path) -> None:
    """Promise 3: ten images that share the documented key are ten events."""
    bodies = [
        body(1, message_type="image", attachment_url=f"https://files.example.net/{n}.jpg")
        for n in range(10)
    ]
    async with running(tmp_path) as receiver:
        answers = [await request(receiver, one) for one in bodies]
    assert {answer.said["status"] for answer in answers} == {"accepted"}
    assert kept(tmp_path) == bodies


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        " application/json ;charset=UTF-8",
        "text/json",
        "application/vnd.whatsable+json",
    ],
)
async def test_every_way_to_say_json_is_taken(tmp_path: Path, content_type: str) -> None:
    """A content type may have parameters, capitals, and a suffix."""
    async with running(tmp_path) as receiver:
        assert (await request(receiver, headers=typed(content_type))).status == 200


async def test_identity_is_no_encoding(tmp_path: Path) -> None:
    """``Content-Encoding: identity`` says that the body is as it is."""
    async with running(tmp_path) as receiver:
        headers = typed("application/json", (b"content-encoding", b"Identity"))
        assert (await request(receiver, headers=headers)).status == 200


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
async def test_the_pieces_of_a_body_do_not_matter(tmp_path: Path, size: int) -> None:
    """Promise 1: a body that comes in many chunks is stored as one, byte for byte."""
    raw = body(1, note="x" * 3000)
    async with running(tmp_path) as receiver:
        chunks = [raw[n : n + size] for n in range(0, len(raw), size)] + [b"", b""]
        assert (await request(receiver, chunks)).status == 200
    assert kept(tmp_path) == [raw]


# ---------------------------------------------------------------- refused before the body


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post"]
)
async def test_only_post_is_received(tmp_path: Path, method: str) -> None:
    """Any other method is 405 with ``Allow: POST``, and its body is not read."""
    async with running(tmp_path) as receiver:
        answer = await request(receiver, method=method, ending="never")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.said["status"] == "refused"
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    "headers",
    [
        [],
        typed(""),
        typed("text/plain"),
        typed("application/x-www-form-urlencoded"),
        typed("multipart/form-data; boundary=x"),
        typed("application/jsonp"),
        typed("application/json-seq"),
        typed("image/svg+xml"),
        typed("text/html; application/json"),
        typed("+json"),
        typed("application/json", (b"content-encoding", b"gzip")),
        typed("application/json", (b"content-encoding", b"br")),
        typed("application/json", (b"content-encoding", b"zstd")),
        typed("application/json", (b"content-encoding", b"deflate")),
        typed("application/json", (b"content-encoding", b"gzip, gzip")),
        typed("application/json", (b"content-encoding", b"unheard-of")),
    ],
    ids=str,
)
async def test_other_types_and_encodings_are_415(tmp_path: Path, headers: Headers) -> None:
    """What is not plain JSON is refused without reading it: no bomb is ever unpacked."""
    async with running(tmp_path) as receiver:
        answer = await request(receiver, gzip.compress(EVENT), headers=headers, ending="never")
    assert (answer.status, answer.said["status"]) == (415, "refused")
    assert kept(tmp_path) == []


# ---------------------------------------------------------------- size and time


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 413)])
@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("pieces", [1, 3, 64])
async def test_a_body_may_have_so_many_bytes_and_not_one_more(
    tmp_path: Path, more: int, status: int, announced: bool, pieces: int
) -> None:
    """The limit counts what arrives, whatever the headers announce, to the byte."""
    limit = 4 * KIB
    raw = body(1, note="")
    raw = body(1, note="x" * (limit + more - len(raw)))
    assert len(raw) == limit + more
    step = -(-len(raw) // pieces)
    headers = list(JSON)
    if announced:
        headers.append((b"content-length", b"%d" % len(raw)))
    async with running(tmp_path, max_body=limit) as receiver:
        chunks = [raw[n : n + step] for n in range(0, len(raw), step)]
        answer = await request(receiver, chunks, headers=headers)
    assert answer.status == status
    assert kept(tmp_path) == ([raw] if status == 200 else [])


@pytest.mark.parametrize(
    "length", [b"4097", b"1048577", b"9" * 19, b"9" * 400, b"0" * 30 + b"99999"]
)
async def test_a_body_that_announces_too_much_is_not_read(tmp_path: Path, length: bytes) -> None:
    """A Content-Length beyond the limit is 413 at once, however many digits it has."""
    async with running(tmp_path, max_body=4 * KIB, body_timeout=30) as receiver:
        headers = [*JSON, (b"content-length", length)]
        if length.startswith(b"0"):
            answer = await request(receiver, [b"x" * 5000], headers=headers)
        else:
            answer = await asyncio.wait_for(
                request(receiver, [], headers=headers, ending="never"), 10
            )
    assert (answer.status, answer.headers["connection"]) == (413, "close")


async def test_an_endless_body_is_cut_at_the_limit(tmp_path: Path) -> None:
    """Promise 9: of a body without end no more is held than may be stored."""
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * KIB

    async with running(tmp_path, max_body=64 * KIB) as receiver:
        answer = await request(receiver, endless(), ending="never")
    assert answer.status == 413
    assert taken == 65


async def test_a_hundred_thousand_chunks_of_a_byte_are_one_body(tmp_path: Path) -> None:
    """Promise 9: memory goes with the bytes of a body and not with its pieces."""
    raw = body(1, note="x" * 100_000)
    async with running(tmp_path) as receiver:
        answer = await request(receiver, (raw[n : n + 1] for n in range(len(raw))))
    assert answer.status == 200
    assert kept(tmp_path) == [raw]


@pytest.mark.parametrize("begun", [[], [EVENT[:20]], [EVENT]], ids=["nothing", "a part", "no end"])
async def test_a_body_that_drips_is_given_up(tmp_path: Path, begun: list[bytes]) -> None:
    """Promise 8: a body has so many seconds to arrive; then 408, and nothing is stored."""
    async with running(tmp_path, body_timeout=0.05) as receiver:
        answer = await asyncio.wait_for(request(receiver, begun, ending="never"), 10)
    assert (answer.status, answer.said["status"]) == (408, "refused")
    assert answer.headers["connection"] == "close"
    assert kept(tmp_path) == []


@pytest.mark.parametrize("tenth", range(11))
async def test_a_sender_that_goes_away_leaves_nothing(tmp_path: Path, tenth: int) -> None:
    """Promise 1: a body that was cut at any tenth is not stored, even if it was all there."""
    async with running(tmp_path) as receiver:
        part = EVENT[: len(EVENT) * tenth // 10]
        answer = await request(receiver, [part], ending="cut")
        assert answer.status == 0
        assert kept(tmp_path) == []
        assert (await request(receiver)).said["status"] == "accepted"


# ---------------------------------------------------------------- what JSON can be

MESSAGE = json.loads(EVENT)
DEEP = 100_000
NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "blank": b" \r\n\t ",
    "an array": b"[" + EVENT + b"]",
    "a text": b'"text"',
    "a number": b"12",
    "null": b"null",
    "true": b"true",
    "half of it": EVENT[: len(EVENT) // 2],
    "two of it": EVENT + EVENT,
    "something behind it": EVENT + b"x",
    "single quotes": EVENT.replace(b'"', b"'"),
    "a trailing comma": EVENT[:-1] + b",}",
    "a comment": b"/* */" + EVENT,
    "UTF-16": EVENT.decode().encode("utf-16"),
    "UTF-16 without a mark": EVENT.decode().encode("utf-16-le"),
    "UTF-32": EVENT.decode().encode("utf-32"),
    "UTF-7": b"+AHs-" + EVENT[1:],
    "Latin-1": EVENT.replace(b"message 1", b"caf\xe9"),
    "overlong UTF-8": EVENT.replace(b"message 1", b"\xc0\xaf"),
    "a UTF-8 surrogate": EVENT.replace(b"message 1", b"\xed\xa0\x80"),
    "a bare NUL": EVENT.replace(b"message 1", b"a\x00b"),
    "a bare line end in a text": EVENT.replace(b"message 1", b"a\nb"),
    "form data": b"phone_number=14155550100",
    "gzip": gzip.compress(EVENT),
    "XML": b"<?xml version='1.0'?><a/>",
    "a deep array": b"[" * DEEP,
    "a broken escape": EVENT.replace(b"message 1", b"\\x41"),
}


@pytest.mark.parametrize("raw", NOT_JSON.values(), ids=NOT_JSON)
async def test_what_is_no_json_object_is_refused(tmp_path: Path, raw: bytes) -> None:
    """Not one JSON object: 400 with a reason, nothing stored, no exception."""
    async with running(tmp_path) as receiver:
        answer = await request(receiver, raw)
    assert (answer.status, answer.said["status"], answer.said["event"]) == (400, "refused", None)
    assert answer.said["reason"]
    assert kept(tmp_path) == []


def with_field(text: bytes) -> bytes:
    """The event with one more field, written by hand."""
    return EVENT[:-1] + b", " + text + b"}"


ODD: dict[str, bytes] = {
    "depth 100": with_field(b'"deep": ' + b"[" * 100 + b"]" * 100),
    "depth 900": with_field(b'"deep": ' + b"[" * 900 + b"]" * 900),
    "depth 1000": with_field(b'"deep": ' + b"[" * 1000 + b"]" * 1000),
    "depth 100000": with_field(b'"deep": ' + b"[" * DEEP + b"]" * DEEP),
    "a deep object": b'{"a":' * DEEP,
    "a deep and whole object": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a deep history text": with_field(b'"last_messages": "' + b"[" * DEEP + b'"'),
    "a deep and whole history text": with_field(
        b'"last_messages": "' + b"[" * DEEP + b"]" * DEEP + b'"'
    ),
    "doubled keys": with_field(b'"phone_number": "14155550199"'),
    "doubled keys of another type": with_field(b'"phone_number": {"a": 1}'),
    "NaN": with_field(b'"score": NaN'),
    "Infinity": with_field(b'"score": -Infinity'),
    "1e999": with_field(b'"score": 1e999'),
    "a time of 1e999": with_field(b'"user_last_message_time": 1e999'),
    "4301 digits": with_field(b'"score": ' + b"9" * 4301),
    "a time of 4301 digits": with_field(b'"user_last_message_time": ' + b"9" * 4301),
    "a phone of 4301 digits": with_field(b'"phone_number": ' + b"9" * 4301),
    "a negative time": with_field(b'"user_last_message_time": -5'),
    "a lone surrogate": with_field(b'"note": "\\ud83d"'),
    "a lone surrogate in the type": with_field(b'"message_type": "\\udc00"'),
    "an escaped NUL": with_field(b'"note": "a\\u0000b"'),
    "an escaped NUL in the phone": with_field(b'"phone_number": "1415555\\u00000100"'),
    "an escaped NUL in the labels": with_field(b'"labels": "a\\u0000b"'),
    "a lone surrogate in the labels": with_field(b'"labels": "\\ud800"'),
    "a lone surrogate in the account": with_field(b'"user_id": "\\ud800"'),
    "a byte-order mark": b"\xef\xbb\xbf" + EVENT,
    "an empty key": with_field(b'"": 1'),
    "twenty thousand keys": with_field(b", ".join(b'"k%d": %d' % (n, n) for n in range(20_000))),
    "an empty object": b"{}",
    "Meta's own object": b'{"object": "whatsapp_business_account", "entry": []}',
    "an envelope of nothing": b'{"event": "incoming_message", "data": null}',
    "an envelope in an envelope": b'{"event": "x", "data": {"event": "x", "data": {}}}',
    "a status of nothing": b'{"event": "message_status", "data": {"message_id": "", "status": 5}}',
    "a field named like a method": with_field(b'"model_extra": {}, "__class__": "x"'),
    "every field null": json.dumps(dict.fromkeys(MESSAGE)).encode(),
    "every field a list": json.dumps({key: [] for key in MESSAGE}).encode(),
    "every field an object": json.dumps({key: {} for key in MESSAGE}).encode(),
}


@pytest.mark.parametrize("raw", ODD.values(), ids=ODD)
async def test_odd_objects_are_kept_as_they_came_or_refused(tmp_path: Path, raw: bytes) -> None:
    """Promise 1: any object is accepted, quarantined or refused; 2xx means stored, to the byte."""
    async with running(tmp_path) as receiver:
        answer = await request(receiver, raw)
        assert (await request(receiver, body(77))).said["status"] == "accepted"
    assert answer.status in (200, 202, 400)
    assert kept(tmp_path) == ([raw] if answer.status < 300 else []) + [body(77)]
    if answer.status == 202:
        assert answer.said["reason"]


async def test_an_object_that_fits_no_model_is_quarantined(tmp_path: Path) -> None:
    """An unknown object is kept and answered 202 with the reason; delivered again, a duplicate."""
    raw = b'{"hello": "world"}'
    async with running(tmp_path) as receiver:
        first, again = await request(receiver, raw), await request(receiver, raw)
    assert (first.status, first.said["status"], first.said["event"]) == (202, "quarantined", 1)
    assert "phone_number" in first.said["reason"]
    assert (again.status, again.said["status"], again.said["event"]) == (200, "duplicate", 1)
    assert kept(tmp_path) == [raw]


MARK = "zq9f7-mark"


@pytest.mark.parametrize(
    ("raw", "headers", "path"),
    [
        (f'{{"{MARK}": "{MARK}"}}'.encode(), JSON, "/webhook"),
        (f'{{"{MARK}": {MARK}'.encode(), JSON, "/webhook"),
        (body(1, phone=MARK, message_type=[MARK], user_id=5), JSON, "/webhook"),
        (b"{}", typed(f"text/{MARK}"), "/webhook"),
        (b"{}", [*JSON, (b"content-encoding", MARK.encode())], "/webhook"),
        (b"{}", [*JSON, (b"x-webhook-signature", MARK.encode())], "/webhook"),
        (EVENT, JSON, f"/webhook/{MARK}"),
        (EVENT, JSON, f"/{MARK}"),
    ],
    ids=["key", "broken", "values", "type", "encoding", "signature", "secret", "path"],
)
async def test_an_answer_does_not_repeat_what_came_in(
    tmp_path: Path, raw: bytes, headers: Headers, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A reason is our own sentence: nothing of the input is echoed, nor written to the log."""
    caplog.set_level(logging.DEBUG, "whatsable_receiver")
    async with running(tmp_path) as receiver:
        answer = await request(receiver, raw, headers=headers, path=path)
    assert MARK.encode() not in answer.body
    assert MARK not in str(answer.headers)
    assert MARK not in caplog.text


# ---------------------------------------------------------------- proof of origin


@pytest.mark.parametrize(
    ("options", "sent", "status"),
    [
        ({"signing_secret": SECRET}, {}, 401),
        ({"signing_secret": SECRET}, {"headers": [*JSON, (b"x-webhook-signature", b"x")]}, 401),
        (
            {"signing_secret": SECRET},
            {"headers": [*JSON, (b"x-webhook-signature", SECRET.encode())]},
            200,
        ),
        ({"accounts": "account-2"}, {}, 403),
        ({"accounts": ("account-1", "account-2")}, {}, 200),
        ({"accounts": "account-1"}, {"chunks": b"{}"}, 403),
        ({"path_secret": SECRET}, {}, 404),
        ({"path_secret": SECRET}, {"path": "/webhook/"}, 404),
        ({"path_secret": SECRET}, {"path": "/webhook/another-one"}, 404),
        ({"path_secret": SECRET}, {"path": f"/webhook/{SECRET}/"}, 404),
        ({"path_secret": SECRET}, {"path": f"/webhook/{SECRET}"}, 200),
        ({"path_secret": SECRET}, {"path": "/webhook/é"}, 404),
        ({}, {"path": f"/webhook/{SECRET}"}, 404),
        ({}, {"path": "/webhooks"}, 404),
        ({}, {"path": "/"}, 404),
        ({"verify": lambda headers, raw: False}, {}, 401),
        ({"verify": lambda headers, raw: raw == EVENT}, {}, 200),
    ],
    ids=str,
)
async def test_who_proves_nothing_is_refused(
    tmp_path: Path, options: dict[str, Any], sent: dict[str, Any], status: int
) -> None:
    """A delivery without its proof is 401, 403 or 404, and nothing of it is stored."""
    async with running(tmp_path, **options) as receiver:
        answer = await request(receiver, **sent)
    assert answer.status == status
    assert len(kept(tmp_path)) == (status == 200)


@pytest.mark.parametrize(
    "path", [f"/webhook/{SECRET}", f"/webhook/{SECRET}x", f"/webhook/{SECRET}/y"]
)
async def test_the_secret_of_the_path_reaches_no_access_log(tmp_path: Path, path: str) -> None:
    """What a server prints of a request after its answer has no secret in it."""
    async with running(tmp_path, path_secret=SECRET) as receiver:
        scope = scope_of(path)
        await request(receiver, scope=scope)
    assert SECRET not in repr({name: scope[name] for name in ("path", "raw_path", "query_string")})
    assert scope["path"].startswith("/webhook/")


# ---------------------------------------------------------------- when it cannot be stored


async def test_before_the_start_and_after_the_stop_it_is_503(tmp_path: Path) -> None:
    """Promise 8: a receiver that is not started says 503 with Retry-After, and how to start it."""
    receiver = make(tmp_path)
    answers = [await request(receiver)]
    async with receiver.lifespan():
        answers.append(await request(receiver))
    answers.append(await request(receiver))
    assert [answer.status for answer in answers] == [503, 200, 503]
    for answer in (answers[0], answers[2]):
        assert answer.said["status"] == "unavailable"
        assert int(answer.headers["retry-after"]) >= 1


async def test_too_many_at_once_are_told_to_come_again(tmp_path: Path) -> None:
    """Promise 8: under overload some are 503; every 2xx is stored, and no other."""
    bodies = [body(n) for n in range(200)]
    async with running(tmp_path, max_waiting=8) as receiver:
        answers = await asyncio.gather(*[request(receiver, one) for one in bodies])
        assert {answer.status for answer in answers} == {200, 503}
        stored = [one for one, answer in zip(bodies, answers, strict=True) if answer.status == 200]
        assert sorted(kept(tmp_path)) == sorted(stored)
        assert (await request(receiver, bodies[-1])).status == 200


async def test_a_locked_database_is_503_and_then_well_again(tmp_path: Path) -> None:
    """Promise 8: while another holds the file nothing is promised; then it goes on by itself."""
    async with running(tmp_path, keep_timeout=0.2) as receiver:
        db = sqlite3.connect(tmp_path / "inbox.db", isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        try:
            answer = await request(receiver)
            unwell = await receiver.health()
        finally:
            db.execute("ROLLBACK")
            db.close()
        assert answer.status == 503
        assert (unwell["ready"], unwell["writable"]) == (False, False)
        await until(lambda: is_stored(receiver, body(2)), 15)
        assert (await receiver.health())["ready"]


async def is_stored(receiver: Receiver, raw: bytes) -> bool:
    """Whether it is accepted now."""
    return (await request(receiver, raw)).status == 200


# ---------------------------------------------------------------- inside another app


@pytest.mark.parametrize("prefix", ["/hooks", "/a/b", "/webhook"])
@pytest.mark.parametrize("framework", [Starlette, FastAPI])
async def test_a_mounted_receiver_receives_below_its_prefix(
    tmp_path: Path, framework: type[Starlette], prefix: str
) -> None:
    """With ``lifespan=receiver.lifespan`` an app that mounts the receiver starts and stops it."""
    receiver = make(tmp_path, path_secret=SECRET)
    handled: list[int | None] = []

    @receiver.on()
    async def note(event: Any) -> None:
        handled.append(event.id)

    app = framework(routes=[Mount(prefix, receiver)], lifespan=receiver.lifespan)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://receiver.test"
        ) as client,
    ):

        async def post(path: str) -> httpx2.Response:
            json_ = {"content-type": "application/json"}
            return await client.post(path, content=EVENT, headers=json_)

        answer = await post(f"{prefix}/webhook/{SECRET}")
        assert (answer.status_code, answer.json()["status"]) == (200, "accepted")
        assert (await client.get(f"{prefix}/health")).json()["ready"]
        assert (await post(f"{prefix}/webhook")).status_code == 404
        assert (await post(f"/webhook/{SECRET}")).status_code == 404
        await until(lambda: handled)
    assert (await request(app, path=f"{prefix}/webhook/{SECRET}")).status == 503


# ---------------------------------------------------------------- health


async def test_health_says_whether_it_is_ready(tmp_path: Path) -> None:
    """Not started 503; started 200 with workers and a writable inbox; stopped 503 again."""
    receiver = make(tmp_path)
    receiver.on(name="note")(lambda event: None)
    seen = []
    for _ in range(2):
        seen.append(await request(receiver, path="/health", method="GET"))
        async with receiver.lifespan():
            seen.append(await request(receiver, path="/health", method="GET"))
    seen.append(await request(receiver, path="/health", method="GET"))
    assert [answer.status for answer in seen] == [503, 200, 503, 200, 503]
    unwell = {
        "status": "unwell",
        "live": True,
        "ready": False,
        "workers": False,
        "writable": False,
        "oldest_waiting_seconds": None,
    }
    assert seen[0].said == seen[2].said == seen[4].said == unwell
    well = {**unwell, "status": "ok", "ready": True, "workers": True, "writable": True}
    assert seen[1].said == seen[3].said == well


async def test_health_says_how_long_the_oldest_job_waits(tmp_path: Path) -> None:
    """A receiver that only accepts shows since when its work waits for another process."""
    now = 1_767_268_800_000
    receiver = make(tmp_path, workers=False, clock=lambda: now)
    receiver.on(name="note")(lambda event: None)
    async with receiver.lifespan():
        await request(receiver)
        now += 90_500
        health = await receiver.health()
    assert (health["ready"], health["workers"]) == (True, False)
    assert health["oldest_waiting_seconds"] == 90.5


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("POST", 405)])
async def test_health_is_only_read(tmp_path: Path, method: str, status: int) -> None:
    """GET and HEAD ask; anything else is 405."""
    async with running(tmp_path) as receiver:
        assert (await request(receiver, path="/health", method=method)).status == status


# ---------------------------------------------------------------- a real server, raw sockets


@asynccontextmanager
async def served(receiver: Receiver, http: str) -> AsyncIterator[int]:
    """The receiver behind uvicorn on a port of loopback."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        receiver, http=http, log_config=None, timeout_graceful_shutdown=1, lifespan="on"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    await until(lambda: server.started or serving.done())
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def spoken(port: int, *parts: bytes, end: bool = False) -> bytes:
    """Say these bytes on a new connection; the answer, as far as it came. ``end``: hang up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if end and writer.can_write_eof():
            writer.write_eof()
        async with asyncio.timeout(20):
            answer = await reader.read(100_000)
    except ConnectionError:
        pass  # a server may hang up on nonsense; a reset is an answer too
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return answer


def head(*lines: str, length: int | None = len(EVENT), close: bool = True) -> bytes:
    """The head of a request, with these header lines more."""
    given = ["POST /webhook HTTP/1.1", "host: receiver.test", "content-type: application/json"]
    if length is not None:
        given.append(f"content-length: {length}")
    if close:
        given.append("connection: close")
    return "\r\n".join([*given, *lines, "", ""]).encode()


WHOLE = head() + EVENT
CUTS = {f"cut at {n}/10": (WHOLE[: len(WHOLE) * n // 10],) for n in range(10)}
NONSENSE: dict[str, tuple[bytes, ...]] = {
    **CUTS,
    "both lengths": (head("transfer-encoding: chunked") + b"0\r\n\r\n" + EVENT,),
    "two lengths": (head(f"content-length: {len(EVENT) + 1}") + EVENT,),
    "a negative length": (head("content-length: -5", length=None) + EVENT,),
    "a length with a plus": (head("content-length: +5", length=None) + EVENT,),
    "a length too long": (head(length=len(EVENT) + 10) + EVENT,),
    "a bare line feed in a header": (head("x: a\nx-evil: b")[:-4] + b"\n\n" + b"",),
    "bare line feeds in chunks": (
        head("transfer-encoding: chunked", length=None) + b"5\nhello\n0\n\n",
    ),
    "a chunk size that is no number": (
        head("transfer-encoding: chunked", length=None) + b"zz\r\nhello\r\n",
    ),
    "a chunk size of 17 digits": (
        head("transfer-encoding: chunked", length=None) + b"1" + b"0" * 16 + b"\r\nhello",
    ),
    "ten thousand headers without end": (
        head()[:-2] + b"".join(b"x-%d: y\r\n" % n for n in range(10_000)),
    ),
    "a NUL in a header": (head("x: a\0b") + b"",),
    "a request line of 128 KiB": (b"POST /" + b"a" * 131_072 + b" HTTP/1.1\r\n\r\n",),
    "HTTP/9.9": (WHOLE.replace(b"HTTP/1.1", b"HTTP/9.9")[:-1],),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",),
    "the hello of TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),),
    "an encoded body": (head("content-encoding: gzip") + EVENT,),
    "an upgrade": (
        head("upgrade: websocket", "sec-websocket-key: x", close=False).replace(
            b"POST /webhook", b"GET /webhook"
        ),
    ),
    "an oversized body in chunks": (
        head("transfer-encoding: chunked", length=None),
        *[b"1000\r\n" + b"x" * 4096 + b"\r\n"] * 40,
        b"0\r\n\r\n",
    ),
    "an oversized body": (head(length=200_000), b"x" * 200_000),
    "an oversized body that waits to be asked": (head("expect: 100-continue", length=200_000),),
    "two hundred thousand chunks of a byte": (
        head("transfer-encoding: chunked", length=None),
        *[b"1\r\nx\r\n" * 10_000] * 20,
        b"0\r\n\r\n",
    ),
}


# Of these the server would wait for more.
HANGING_UP = {*CUTS, "a length too long", "ten thousand headers without end", "HTTP/9.9"}


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_nonsense_on_a_socket_is_survived(tmp_path: Path, http: str) -> None:
    """Promises 1 and 8: broken requests are refused or dropped, never 5xx, and leave nothing."""
    receiver = make(tmp_path, max_body=64 * KIB, body_timeout=2.0)
    async with served(receiver, http) as port:
        for n, (what, parts) in enumerate(NONSENSE.items()):
            answer = await spoken(port, *parts, end=what in HANGING_UP)
            status = answer.split(b" ", 2)[1:2]
            assert not status or status[0][:1] in (b"1", b"4"), (what, answer[:200])
            assert len(kept(tmp_path)) == n, what
            after = await spoken(port, head(length=len(body(n))) + body(n))
            assert after.startswith(b"HTTP/1.1 200 "), what
            assert kept(tmp_path)[-1] == body(n)


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_a_huge_header_is_survived(tmp_path: Path, http: str) -> None:
    """A server may refuse a header of 128 KiB, or pass it on to us, who take no harm."""
    async with served(make(tmp_path), http) as port:
        answer = await spoken(port, head("x-long: " + "x" * 131_072), EVENT)
        stored = answer.startswith(b"HTTP/1.1 200 ")
        assert stored or not answer or answer.startswith(b"HTTP/1.1 4")
        assert kept(tmp_path) == [EVENT] * stored


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_a_body_in_single_bytes_is_received_over_a_socket(tmp_path: Path, http: str) -> None:
    """Promise 1: whole is whole, however slowly and in however small pieces it came."""
    async with served(make(tmp_path), http) as port:
        chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in EVENT) + b"0\r\n\r\n"
        request_ = head("transfer-encoding: chunked", length=None) + chunked
        answer = await spoken(port, *[request_[n : n + 7] for n in range(0, len(request_), 7)])
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert kept(tmp_path) == [EVENT]


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_fifty_dripping_senders_stop_nobody(tmp_path: Path, http: str) -> None:
    """Promise 8: slow bodies wait beside the others and are given up; a whole one gets through."""
    async with served(make(tmp_path, body_timeout=1.0), http) as port:
        slow = [asyncio.create_task(spoken(port, WHOLE[:-5])) for _ in range(50)]
        answers = [await spoken(port, head(length=len(body(n))) + body(n)) for n in range(10)]
        given_up = await asyncio.gather(*slow)
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in given_up)
    assert len(kept(tmp_path)) == 10


async def test_the_access_log_of_a_server_has_no_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's own log shows that a delivery came, and not by which secret."""
    caplog.set_level(logging.INFO)
    receiver = make(tmp_path, path_secret=SECRET)
    async with served(receiver, "httptools") as port:
        for path in (f"/webhook/{SECRET}", f"/webhook/{SECRET}-wrong"):
            await spoken(port, WHOLE.replace(b"/webhook", path.encode(), 1))
    assert "POST /webhook/" in caplog.text
    assert SECRET not in caplog.text
