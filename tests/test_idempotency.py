"""Which deliveries are one event, and which are two."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsable_receiver.errors import ConfigurationError
from whatsable_receiver.idempotency import (
    Identity,
    by_fingerprint,
    documented,
    file_name,
    of_body,
    rule,
)
from whatsable_receiver.payload import Payload, Status, read

from .strategies import SHAPES, conversations

SAMPLES = Path(__file__).parent / "samples"
SECONDS = 1_767_225_600
MESSAGE: dict[str, Any] = {
    "phone_number": "14155550100",
    "user_id": "account-1",
    "message_type": "text",
    "incoming_message": True,
    "last_message_of_user": "Is it open?",
    "last_message_of_bot": "Hello!",
    "user_last_message_time": SECONDS,
    "bot_last_message_time": SECONDS - 60,
    "attachment_url": "https://files.example.net/Zk81../2026/photo.jpg?sig=abc",
    "labels": "support",
    "note": "a note",
    "last_messages": [
        {"type": "user", "content": "Is it open?", "timestamp": "2026-01-01T00:00:00.120Z"},
        {"type": "bot", "content": "Hello!", "timestamp": "2025-12-31T23:59:00.000Z"},
    ],
}
OUTGOING = MESSAGE | {"incoming_message": False, "bot_last_message_time": SECONDS + 5}


def identity(fields: dict[str, Any]) -> Identity:
    """The identity of a message with these fields."""
    raw = json.dumps(fields).encode()
    return by_fingerprint(read(raw), raw)


def history(*times: str, side: str = "user") -> list[dict[str, str]]:
    """A history with these times, newest first."""
    return [{"type": side, "content": "x", "timestamp": f"2026-01-01T00:00:{t}Z"} for t in times]


# ---------------------------------------------------------------- one event

ONE: dict[str, dict[str, Any]] = {
    "delivered again": {},
    "phone as a number": {"phone_number": 14155550100},
    "phone with a plus": {"phone_number": "+14155550100"},
    "phone with a plus and spaces": {"phone_number": "+1 415 555-0100"},
    "time as text": {"user_last_message_time": str(SECONDS)},
    "time in milliseconds": {"user_last_message_time": SECONDS * 1000},
    "time in milliseconds as text": {"user_last_message_time": str(SECONDS * 1000)},
    "history as text": {"last_messages": json.dumps(MESSAGE["last_messages"])},
    "history the other way round": {"last_messages": MESSAGE["last_messages"][::-1]},
    "edited labels": {"labels": "support, vip"},
    "no labels": {"labels": ""},
    "labels as a list": {"labels": ["support"]},
    "an edited note": {"note": "another note"},
    "an answer of the bot since": {
        "last_message_of_bot": "Yes, until six.",
        "bot_last_message_time": SECONDS + 3,
        "last_messages": [
            {"type": "bot", "content": "Yes", "timestamp": "2026-01-01T00:00:03.000Z"},
            *MESSAGE["last_messages"],
        ],
    },
    "a new name": {"recipient_name": "Noor"},
    "a newly signed path": {"attachment_url": "https://files.example.net/Qq9/2026/photo.jpg?sig=z"},
    "another host for the file": {"attachment_url": "https://cdn.example.net/photo.jpg"},
    "an unknown field": {"delivery_attempt": 2},
    "the missing flag of a bot's message": {"incoming_message": None},
    "a capital in the type": {"message_type": "Text"},
}


@pytest.mark.parametrize("changed", ONE.values(), ids=ONE)
def test_what_may_change_between_deliveries_leaves_one_event(changed: dict[str, Any]) -> None:
    """Promise 2: however a redelivery is written, and whatever was edited since, it is known."""
    assert identity(MESSAGE | changed) == identity(MESSAGE)


# ---------------------------------------------------------------- two events

TWO: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two accounts": (MESSAGE, {"user_id": "account-2"}),
    "two phones": (MESSAGE, {"phone_number": "14155550101"}),
    "two seconds": (MESSAGE, {"user_last_message_time": SECONDS + 1}),
    "two texts in a second": (MESSAGE, {"last_message_of_user": "And on Sunday?"}),
    "two types in a second": (MESSAGE, {"message_type": "image"}),
    "two files in a second": (
        MESSAGE,
        {"attachment_url": "https://files.example.net/Zk81../2026/photo-2.jpg?sig=abc"},
    ),
    "one text twice in a second": (MESSAGE, {"last_messages": history("00.480", "00.120")}),
    "in and out": (MESSAGE, {"incoming_message": False}),
    "two outgoing messages": (
        OUTGOING,
        {"last_message_of_bot": "And more", "bot_last_message_time": SECONDS + 9},
    ),
    "two outgoing messages of a second": (OUTGOING, {"last_message_of_bot": "And more"}),
    "one outgoing text twice in a second": (
        OUTGOING,
        {"last_messages": history("05.900", "05.100", side="bot")},
    ),
}


@pytest.mark.parametrize(("first", "changed"), TWO.values(), ids=TWO)
def test_two_messages_are_two_events(first: dict[str, Any], changed: dict[str, Any]) -> None:
    """Promise 3: another account, phone, side, time, type, text or file is another event."""
    assert identity(first | changed) != identity(first)


def test_ten_images_of_one_second_are_ten_events() -> None:
    """Promise 3: a burst that shares phone, account and second is told apart by its files."""
    burst = [
        MESSAGE | {"message_type": "image", "attachment_url": f"https://x.example.net/a/{n}.jpg"}
        for n in range(10)
    ]
    names = [identity(one) for one in burst]
    assert len(set(names)) == 10
    assert len({name.key for name in names}) == 1


def test_the_published_outgoing_pair_is_two_events() -> None:
    """Promise 3: outgoing messages leave the documented key where it was, and are told apart."""
    first = json.loads((SAMPLES / "notifyer-outgoing-business-app.json").read_bytes())
    second = json.loads((SAMPLES / "notifyer-outgoing-teammate.json").read_bytes())
    shared = ("phone_number", "user_last_message_time", "user_id")
    second |= {name: first[name] for name in shared}
    payloads = [read(json.dumps(one).encode()) for one in (first, second)]
    assert documented(payloads[0], b"") == documented(payloads[1], b"")
    assert by_fingerprint(payloads[0], b"") != by_fingerprint(payloads[1], b"")


# ---------------------------------------------------------------- properties


@given(fields=conversations(), shape=st.sampled_from(sorted(SHAPES)), seconds=st.integers(1, 2**31))
def test_the_shape_of_the_wire_does_not_matter(
    fields: dict[str, Any], shape: str, seconds: int
) -> None:
    """Promise 2: one conversation in any shape of the wire is one event."""
    seconds += 1_000_000_000
    fields |= {"user_last_message_time": seconds, "bot_last_message_time": seconds}
    if shape == "envelope with legacy names":
        fields |= {"incoming_message": True}
    assert identity(SHAPES[shape](fields)) == identity(fields)


PARTS = st.text(st.sampled_from('0123456789:,a\\"\0é'), max_size=6)


@given(st.tuples(PARTS, PARTS, PARTS), st.tuples(PARTS, PARTS, PARTS))
def test_the_parts_of_a_fingerprint_are_never_mixed_up(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    """Promise 3: ``"1" + "23"`` is not ``"12" + "3"``: equal names mean equal parts."""

    def name(parts: tuple[str, str, str]) -> Identity:
        account, text, link = parts
        payload = Payload.model_construct(
            user_id=f"u{account}",
            phone_number="14155550100",
            message_type="text",
            last_message_of_user=text,
            attachment_url=f"/{link}",
            user_last_message_time=SECONDS,
        )
        return by_fingerprint(payload, b"")

    assert (name(one) == name(other)) == (one == other)


@given(
    digits=st.text("0123456789", min_size=7, max_size=20),
    cuts=st.tuples(st.integers(), st.integers()),
)
def test_account_and_phone_are_never_mixed_up(digits: str, cuts: tuple[int, int]) -> None:
    """Promise 3: an account that ends in digits does not borrow them from the phone."""
    places = [1 + cut % (len(digits) - 5) for cut in cuts]
    names = [
        identity(MESSAGE | {"user_id": digits[:place], "phone_number": digits[place:]})
        for place in places
        if len(digits[place:]) >= 5
    ]
    assert len(set(names)) == len({place for place in places if len(digits) - place >= 5})


@given(st.integers(1, 2**32 - 1))
def test_a_key_begins_with_the_time_of_the_payload(seconds: int) -> None:
    """Keys of one hour lie together; and the clock of arrival is not in them."""
    payload = Payload.model_construct(
        user_id="a", phone_number="1", message_type="text", user_last_message_time=seconds
    )
    key, fingerprint = by_fingerprint(payload, b"")
    assert key[:4] == seconds.to_bytes(4, "big")
    assert (len(key), len(fingerprint)) == (16, 16)


# ---------------------------------------------------------------- without a name of its own


@pytest.mark.parametrize(
    "missing",
    [
        {"user_last_message_time": 0},
        {"user_last_message_time": None},
        {"user_id": ""},
        {"user_id": None},
    ],
    ids=str,
)
def test_a_message_without_identity_is_its_own_body(missing: dict[str, Any]) -> None:
    """Promise 3: without a time or an account nothing is merged but the same bytes."""
    one, other = MESSAGE | missing, MESSAGE | missing | {"note": "edited"}
    assert identity(one) == identity(one)
    assert identity(one) != identity(other)


def test_an_outgoing_message_that_was_never_dated_is_its_own_body() -> None:
    """The other side's time says nothing about this side's message."""
    fields = OUTGOING | {"bot_last_message_time": 0}
    assert identity(fields) != identity(fields | {"note": "edited"})


def test_what_cannot_be_read_is_its_bytes() -> None:
    """Quarantined bodies are one event only where they are the same bytes."""
    assert of_body(b"{}") == of_body(b"{}") != of_body(b"{ }")
    assert of_body(b"{}").key[:4] == bytes(4)


# ---------------------------------------------------------------- statuses


def status(**fields: Any) -> Identity:
    """The identity of a delivery status."""
    data = {
        "message_id": "wamid.1",
        "status": "sent",
        "timestamp": "2026-01-01T00:00:00Z",
        **fields,
    }
    raw = json.dumps({"event": "message_status", "data": data}).encode()
    payload = read(raw)
    assert isinstance(payload, Status)
    return by_fingerprint(payload, raw)


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({}, True),
        ({"error": {"code": 1, "message": "late"}}, True),
        ({"status": "delivered"}, False),
        ({"message_id": "wamid.2"}, False),
        ({"timestamp": "2026-01-01T00:00:01Z"}, False),
        ({"timestamp": None}, False),
    ],
    ids=str,
)
def test_a_status_is_named_by_its_message_and_its_word(changed: dict[str, Any], same: bool) -> None:
    """Promise 3: sent and delivered of one message are two events; sent twice is one."""
    assert (status(**changed) == status()) == same


# ---------------------------------------------------------------- other rules


def test_the_documented_rule_loses_what_the_vendor_loses() -> None:
    """``idempotency="documented"`` merges whatever shares phone and second: to the letter."""
    for changed in ({"user_id": "account-2"}, {"last_message_of_user": "x"}, OUTGOING):
        payload = read(json.dumps(MESSAGE | changed).encode())
        assert documented(payload, b"a") == documented(read(json.dumps(MESSAGE).encode()), b"b")


@pytest.mark.parametrize(
    ("answer", "as_bytes"),
    [("wamid.1", b"wamid.1"), (b"wamid.1", b"wamid.1"), ("é", "é".encode()), ("", b"")],
)
def test_your_own_rule_is_the_whole_identity(answer: str | bytes, as_bytes: bytes) -> None:
    """A function's answer, text or bytes, names the event; nothing else of it counts."""
    users = rule(lambda payload, raw: answer)
    names = {
        users(read(json.dumps(MESSAGE | changed).encode()), raw)
        for changed, raw in [({}, b"a"), ({"user_last_message_time": 5}, b"b")]
    }
    assert {name.key[4:] for name in names} == {blake2b(as_bytes, digest_size=12).digest()}
    assert len(names) == 1


def test_your_own_rule_may_answer_with_any_text() -> None:
    """A lone surrogate from a user's function is a name like any other."""
    payload = read(json.dumps(MESSAGE).encode())
    assert rule(lambda p, raw: "\ud800")(payload, b"") != rule(lambda p, raw: "\ud801")(
        payload, b""
    )


def test_rules_by_name() -> None:
    """The two rules have names, and any other word is an error that says which."""
    assert rule("fingerprint") is by_fingerprint
    assert rule("documented") is documented
    with pytest.raises(ConfigurationError, match="'fingerprint', 'documented'"):
        rule("fingerprints")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (None, ""),
        ("", ""),
        ("https://files.example.net/a/b.pdf", "b.pdf"),
        ("https://files.example.net/Ew7R9w../b.pdf?x=/y#z/w", "b.pdf"),
        ("https://files.example.net/a/", ""),
        ("https://files.example.net", ""),
        ("b.pdf", "b.pdf"),
        ("http://[::1/b.pdf?x=/y", "b.pdf"),
    ],
)
def test_the_name_of_a_file(url: str | None, name: str) -> None:
    """The last part of the path, without query; a URL that is none has a name too."""
    assert file_name(url) == name
