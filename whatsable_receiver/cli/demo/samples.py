"""What the demo posts: one body for each shape that WhatsAble publishes, and what should follow.

A garden shop, its customers, and their messages. All of it is made up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

ACCOUNT = "9c1f5b52-0a1e-4d7b-8f0c-2f6d6f0a7e11"
UNSTEADY = "call_helpdesk"  # the route whose first attempt fails
AMARA, BO, CHIARA, DMITRI = "14155550110", "14155550111", "14155550112", "14155550113"


@dataclass(frozen=True, slots=True)
class Case:
    """One post, and what should come of it."""

    title: str
    body: bytes
    status: int  # of HTTP
    answer: str
    routes: tuple[str, ...] = ()  # that should have handled its event, by the end
    again: int | None = None  # the place of the case whose event this is a redelivery of


def _iso(seconds: int, milliseconds: int = 0) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds:03}Z"


def _item(side: str, content: str, at: int, milliseconds: int = 0) -> dict[str, Any]:
    return {
        "type": side,
        "content": content,
        "timestamp": _iso(at, milliseconds),
        "content_type": "text",
    }


def _message(phone: str, name: str, text: str, at: int, **more: Any) -> dict[str, Any]:
    """A message as the vendor's page shows it."""
    return {
        "last_messages": [
            _item("user", text, at, 250),
            _item("bot", "Welcome to Fern & Root!", at - 60),
        ],
        "conversation_paragraph": f"User: {text} ; Bot: Welcome to Fern & Root!",
        "phone_number": phone,
        "recipient_name": name,
        "user_id": ACCOUNT,
        "last_message_of_user": text,
        "last_message_of_bot": "Welcome to Fern & Root!",
        "message_type": "text",
        "user_last_message_time": at,
        "bot_last_message_time": at - 60,
        "attachment_url": None,
        "note": "",
        "note_automation": "",
        "labels": "",
        **more,
    }


def _outgoing(text: str, asked: int, at: int, by: str) -> dict[str, Any]:
    """A message of one's own side: a number for the phone, and the history as text in JSON."""
    history = [_item("bot", text, at), _item("user", "Do ferns like shade?", asked)]
    return _message(BO, "Bo Lindqvist", "Do ferns like shade?", asked) | {
        "last_messages": json.dumps(history),
        "phone_number": int(BO),
        "last_message_of_bot": text,
        "bot_last_message_time": at,
        "incoming_message": False,
        "send_by": by,
        "was_message_by_human": True,
    }


def _status(status: str, at: int, **more: Any) -> dict[str, Any]:
    data = {"message_id": "wamid.FERN0001", "status": status, "timestamp": _iso(at, 500)}
    return {"event": "message_status", "data": {**data, **more}}


def _body(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def cases(now: int) -> tuple[Case, ...]:
    """Everything the demo posts, in order; ``now`` (epoch seconds) is when it all happens."""
    at = now - 600
    first = _message(AMARA, "Amara Obi", "Do you open on Sunday?", at)
    seeds = {"source_type": "ad", "source_id": "5550001", "headline": "Seeds, 3 for 2"}
    legacy = _message(CHIARA, "Chiara Rossi", "Is the lemon tree in stock?", at + 80)
    legacy["user_timestamp"] = legacy.pop("user_last_message_time")
    legacy["bot_timestamp"] = legacy.pop("bot_last_message_time")
    del legacy["labels"]
    flat = {
        "id": 31,
        "createdAt": _iso(at + 90),
        "last_messages": "Welcome to Fern & Root!",
        "phone_number": f"+{DMITRI}",
        "user_id": ACCOUNT,
        "last_message_of_user": "A bag of peat-free compost, please",
        "last_message_of_bot": "Welcome to Fern & Root!",
        "conversation_paragraph": "User asked for compost.",
        "message_type": "text",
        "user_timestamp": str((at + 90) * 1000 + 120),
        "bot_timestamp": str((at + 30) * 1000),
    }
    lease = _message(
        BO,
        "Bo Lindqvist",
        "",
        at + 10,
        message_type="document",
        attachment_url="https://files.example.net/fern/lease.pdf",
        labels="contracts",
    )
    wilting = _message(CHIARA, "Chiara Rossi", "My olive tree is wilting", at + 20)
    photo = _message(
        DMITRI,
        "Dmitri Petrov",
        "What plant is this?",
        at + 100,
        message_type="image",
        attachment_url="https://files.example.net/fern/leaf.jpg",
    )
    one = _message(AMARA, "Amara Obi", "Two roses", at + 40)
    two = _message(AMARA, "Amara Obi", "and one lavender", at + 40)
    two["last_messages"].insert(0, _item("user", "and one lavender", at + 40, 900))
    meta = {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": []}]}
    labels = {"labels": "opening hours, answered"}
    clicked = _message(
        DMITRI, "", "I saw your ad", at + 110, incoming_message=True, send_by="", referral=seeds
    )
    failed = _status("failed", at + 75, error={"code": 131047, "message": "Too late to reply"})
    return (
        Case("a text", _body(first), 200, "accepted", ("answer",)),
        Case("a document, contracts", _body(lease), 200, "accepted", ("file_contract",)),
        Case(
            "a text, support and vip",
            _body(wilting | {"labels": "support, vip"}),
            200,
            "accepted",
            (UNSTEADY, "tell_owner"),
        ),
        Case("the first text again", _body(first), 200, "duplicate", ("answer",), again=0),
        Case("again, its labels edited", _body(first | labels), 200, "duplicate", ("answer",), 0),
        Case("one message of a second", _body(one), 200, "accepted", ("answer",)),
        Case("another of that second", _body(two), 200, "accepted", ("answer",)),
        Case(
            "outgoing, from the phone",
            _body(_outgoing("They love it.", at + 50, at + 60, "WhatsApp App")),
            200,
            "accepted",
            ("keep_record",),
        ),
        Case(
            "outgoing, from a teammate",
            _body(_outgoing("But not frost.", at + 50, at + 65, "Ines Duarte")),
            200,
            "accepted",
            ("keep_record",),
        ),
        Case("status: delivered", _body(_status("delivered", at + 70)), 200, "accepted", ("mark",)),
        Case("status: failed", _body(failed), 200, "accepted", ("mark",)),
        Case(
            "a text in an envelope",
            _body({"event": "incoming_message", "data": legacy}),
            200,
            "accepted",
            ("answer",),
        ),
        Case("a flat text, times as text", _body(flat), 200, "accepted", ("answer",)),
        Case("a text after an ad", _body(clicked), 200, "accepted", ("answer",)),
        Case("an image, no route of its own", _body(photo), 200, "accepted", ("look_at",)),
        Case("an object that fits nothing", _body({"hello": "world"}), 202, "quarantined"),
        Case("an object of Meta's own", _body(meta), 202, "quarantined"),
        Case("no JSON at all", b"phone_number=14155550110", 400, "refused"),
    )
