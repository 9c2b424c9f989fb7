"""Generated conversations, and the shapes of the wire in which each of them can be written."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

Fields = dict[str, Any]

_SENTENCES = st.text(max_size=40)
_LABEL = st.text(st.characters(codec="utf-8", exclude_characters=","), min_size=1, max_size=12)
_LABELS = st.lists(_LABEL.filter(str.strip).map(str.strip), max_size=4)
_SECONDS = st.just(0) | st.integers(1_000_000_000, 4_000_000_000)
_MILLISECONDS = st.integers(1_000_000_000_000, 2_000_000_000_000)


def iso(milliseconds: int) -> str:
    """A time as history items carry it: ISO 8601, UTC, milliseconds."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@st.composite
def conversations(draw: st.DrawFn) -> Fields:
    """A message in the page's own form: history newest first, each item with its own time."""
    moments = sorted(draw(st.lists(_MILLISECONDS, max_size=6, unique=True)), reverse=True)
    return {
        "last_messages": [
            {
                "type": draw(st.sampled_from(["user", "bot"])),
                "content": draw(_SENTENCES),
                "timestamp": iso(moment),
                "content_type": draw(st.sampled_from(["text", "image", "sticker"])),
            }
            for moment in moments
        ],
        "conversation_paragraph": draw(_SENTENCES),
        "phone_number": draw(st.from_regex(r"[1-9][0-9]{4,19}", fullmatch=True)),
        "recipient_name": draw(_SENTENCES),
        "user_id": draw(st.uuids().map(str)),
        "last_message_of_user": draw(_SENTENCES),
        "last_message_of_bot": draw(_SENTENCES),
        "message_type": draw(st.sampled_from(["text", "image", "location", "sticker"])),
        "user_last_message_time": draw(_SECONDS),
        "bot_last_message_time": draw(_SECONDS),
        "attachment_url": draw(st.none() | st.just("https://files.example.net/a/Zk81../b.pdf")),
        "labels": ", ".join(draw(_LABELS)),
        "incoming_message": draw(st.booleans()),
    }


def _bare(fields: Fields) -> Fields:
    return fields


def _history_as_text(fields: Fields) -> Fields:
    history = json.dumps(fields["last_messages"])
    return fields | {"last_messages": history, "phone_number": int(fields["phone_number"])}


def _history_reversed(fields: Fields) -> Fields:
    return fields | {"last_messages": fields["last_messages"][::-1]}


def _legacy_envelope(fields: Fields) -> Fields:
    data = dict(fields)
    data["user_timestamp"] = data.pop("user_last_message_time")
    data["bot_timestamp"] = data.pop("bot_last_message_time")
    return {"event": "incoming_message", "data": data}


def _milliseconds(fields: Fields) -> Fields:
    times = ("user_last_message_time", "bot_last_message_time")
    return fields | {name: fields[name] * 1000 for name in times}


def _times_as_text(fields: Fields) -> Fields:
    times = ("user_last_message_time", "bot_last_message_time")
    return fields | {name: str(fields[name] * 1000) for name in times}


def _labels_as_list(fields: Fields) -> Fields:
    return fields | {"labels": fields["labels"].split(",")}


def _plus(fields: Fields) -> Fields:
    phone = fields["phone_number"]
    return fields | {"phone_number": f"+{phone[:2]} {phone[2:4]}-{phone[4:]}"}


def _empty_links(fields: Fields) -> Fields:
    history = [item | {"media_url": ""} for item in fields["last_messages"]]
    return fields | {"last_messages": history, "attachment_url": fields["attachment_url"] or ""}


def _nulls(fields: Fields) -> Fields:
    return {name: value or None for name, value in fields.items()} | {
        "incoming_message": fields["incoming_message"],
        "note": None,
        "send_by": None,
    }


SHAPES: dict[str, Callable[[Fields], Fields]] = {
    "bare": _bare,
    "history as text, phone as number": _history_as_text,
    "history newest last": _history_reversed,
    "envelope with legacy names": _legacy_envelope,
    "times in milliseconds": _milliseconds,
    "times as text in milliseconds": _times_as_text,
    "labels as list": _labels_as_list,
    "phone with plus, space and dash": _plus,
    "empty links": _empty_links,
    "null for nothing": _nulls,
}

NUMBERS = st.integers() | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
