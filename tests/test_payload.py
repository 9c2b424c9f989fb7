"""Every shape of the wire reads into one model, and nothing that arrives raises anything odd."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.strategies import JSON, SHAPES, Fields, conversations
from whatsable_receiver.errors import NotJSON, PayloadError, Unfit
from whatsable_receiver.payload import ITEMS_READ_ONE_BY_ONE, Payload, Status, read

SAMPLES = Path(__file__).parent / "samples"
ACCOUNT = "3d0c1b7e-5a51-4f0e-9a55-0b9c2f6f7a10"
VAULT = "https://files.example.net/vault/"
BOT_TEXT: Fields = json.loads((SAMPLES / "bot-text.json").read_bytes())

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read_message(body: bytes) -> Payload:
    """Read a body that holds a message, and nothing else."""
    payload = read(body)
    assert isinstance(payload, Payload)
    return payload


def message(**changes: Any) -> Payload:
    """The plain sample with some fields changed, read."""
    return read_message(json.dumps(BOT_TEXT | changes).encode())


def raw(name: str, value: str) -> bytes:
    """The plain sample's bytes with one field written as it is given, valid or not."""
    rest = {key: content for key, content in BOT_TEXT.items() if key != name}
    return f"{json.dumps(rest)[:-1]}, {json.dumps(name)}: {value}}}".encode()


def outcome(body: bytes) -> Payload | Status | PayloadError:
    """What reading gives: a model, or one of our two errors. Anything else fails the test."""
    try:
        return read(body)
    except (NotJSON, Unfit) as error:
        return error


EXPECTED: dict[str, dict[str, Any]] = {
    "bot-text": {"labels": ("bicycles", "second-hand"), "user_last_message_time": 1756800940},
    "bot-document": {"message_type": "document", "attachment_url": VAULT + "lease_draft.pdf"},
    "bot-image-with-caption": {
        "message_type": "image",
        "last_message_of_user": "The scratch is near the pedal",
    },
    "bot-audio-with-transcription": {
        "message_type": "audio",
        "last_message_of_user": "Could you keep it for me until Friday?",
    },
    "bot-video-without-caption": {"message_type": "video", "last_message_of_user": ""},
    "bot-location": {"message_type": "location", "attachment_url": None},
    "bot-unknown-type-sticker": {"message_type": "sticker"},
    "bot-first-message-ever": {"bot_last_message_time": 0, "recipient_name": ""},
    "bot-times-in-milliseconds": {
        "user_last_message_time": 1756800940,
        "bot_last_message_time": 1756800842,
    },
    "bot-labels-as-list": {"labels": ("bicycles", "second-hand")},
    "bot-labels-missing": {"labels": ()},
    "bot-lone-surrogate": {"last_message_of_user": "What a bike! \ufffd"},
    "notifyer-incoming-text": {"was_message_by_human": True, "send_by": ""},
    "notifyer-incoming-document-with-dots-in-url": {
        "attachment_url": VAULT + "Qm3xT/Zk81../tender.pdf",
        "labels": ("contracts", "tenders"),
    },
    "notifyer-incoming-click-on-ad": {"labels": (), "bot_last_message_time": 0},
    "notifyer-outgoing-teammate": {"incoming_message": False, "send_by": "Petra Malá"},
    "notifyer-outgoing-business-app": {
        "incoming_message": False,
        "send_by": "WhatsApp App",
        "note": "size: 54\ncolour: blue",
        "bot_last_message_time": 1756821704,
    },
    "envelope-incoming-message": {
        "user_last_message_time": 1756800940,
        "attachment_url": VAULT + "offer.jpg",
    },
    "zapier-flat": {
        "last_messages": (),
        "user_last_message_time": 1756800940,
        "bot_last_message_time": 1756800842,
    },
}
STATUSES = {
    "envelope-message-status": ("read", None),
    "envelope-message-status-failed": ("failed", 131047),
}
NOT_OURS = {"meta-cloud-api"}


def test_every_sample_has_its_expectation() -> None:
    """No sample lies about unread, and none is expected that is not there."""
    files = {path.stem for path in SAMPLES.glob("*.json")}
    assert files == EXPECTED.keys() | STATUSES.keys() | NOT_OURS


@pytest.mark.parametrize("name", EXPECTED)
def test_each_sample_of_a_message_reads_into_the_one_model(name: str) -> None:
    """Whatever its shape, a message has digits for a phone, seconds for times, ordered history."""
    payload = read_message((SAMPLES / f"{name}.json").read_bytes())
    assert {field: getattr(payload, field) for field in EXPECTED[name]} == EXPECTED[name]
    assert payload.phone_number == "420777100200"
    assert payload.user_id == ACCOUNT
    moments = [item.timestamp for item in payload.last_messages]
    dated = [moment for moment in moments if moment is not None]
    assert moments == sorted(dated), "each has its time, and they are in order"
    assert all(moment.utcoffset() == datetime.now(UTC).utcoffset() for moment in dated)


@pytest.mark.parametrize("name", STATUSES)
def test_a_delivery_status_is_a_model_of_its_own(name: str) -> None:
    """A status is never mistaken for a message, and says why a message failed."""
    status = read((SAMPLES / f"{name}.json").read_bytes())
    assert isinstance(status, Status)
    assert (status.status, status.error and status.error.code) == STATUSES[name]
    assert status.timestamp is not None
    assert status.timestamp.utcoffset() == datetime.now(UTC).utcoffset()


def test_an_object_of_metas_own_api_is_not_ours() -> None:
    """It is told apart by name, so that whoever looks into the quarantine understands at once."""
    with pytest.raises(Unfit, match="Meta's Cloud API"):
        read((SAMPLES / "meta-cloud-api.json").read_bytes())


@pytest.mark.parametrize("shape", SHAPES)
@given(conversation=conversations())
@quick
def test_a_conversation_reads_the_same_in_whatever_shape_it_is_written(
    shape: str, conversation: Fields
) -> None:
    """One message, one model: the writer's habits leave no trace in it."""
    payload = read_message(json.dumps(SHAPES[shape](conversation)).encode())
    assert payload == read(json.dumps(conversation).encode())
    history = conversation["last_messages"][::-1]
    assert [item.content for item in payload.last_messages] == [i["content"] for i in history]
    for name in conversation.keys() - {"last_messages", "labels"}:
        assert getattr(payload, name) == conversation[name]
    assert ", ".join(payload.labels) == conversation["labels"]
    assert not payload.model_extra


@given(conversation=conversations(), data=st.data(), as_text=st.booleans())
@quick
def test_the_order_of_the_history_on_the_wire_does_not_matter(
    conversation: Fields, data: st.DataObject, as_text: bool
) -> None:
    """The page says newest last, its samples say newest first: either reads the same."""
    shuffled: Any = data.draw(st.permutations(conversation["last_messages"]))
    changed = conversation | {"last_messages": json.dumps(shuffled) if as_text else shuffled}
    assert read(json.dumps(changed).encode()) == read(json.dumps(conversation).encode())


@given(body=st.binary(max_size=200) | st.text().map(str.encode))
@settings(quick, max_examples=200)
def test_arbitrary_bytes_are_a_model_or_our_own_error(body: bytes) -> None:
    """Nothing that can be posted makes reading fail in an unforeseen way."""
    outcome(body)


@given(found=JSON)
@settings(quick, max_examples=150)
def test_arbitrary_json_is_a_model_or_our_own_error(found: object) -> None:
    """No object is Unfit by accident of its types, and nothing but an object passes as one."""
    result = outcome(json.dumps(found).encode())
    assert isinstance(result, NotJSON) == (not isinstance(found, dict))


@given(
    conversation=conversations(),
    shape=st.sampled_from(sorted(SHAPES)),
    changes=st.dictionaries(st.sampled_from(sorted([*BOT_TEXT, "data", "event"])), JSON),
    item=JSON,
)
@settings(quick, max_examples=120)
def test_a_message_with_any_field_replaced_is_a_model_or_unfit(
    conversation: Fields, shape: str, changes: Fields, item: object
) -> None:
    """Whatever comes in place of a field, reading ends in a model or says which field."""
    fields = SHAPES[shape](conversation)
    if isinstance(fields.get("last_messages"), list):
        fields = fields | {"last_messages": [*fields["last_messages"], item]}
    assert not isinstance(outcome(json.dumps(fields | changes).encode()), NotJSON)


@given(data=st.data(), name=st.sampled_from(sorted(EXPECTED)))
@settings(quick, max_examples=150)
def test_a_sample_with_bytes_broken_is_a_model_or_our_own_error(
    data: st.DataObject, name: str
) -> None:
    """Bits that flip on the way, or an attacker who flips them, find no other way out."""
    body = bytearray((SAMPLES / f"{name}.json").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=4)):
        body[place] = data.draw(st.integers(0, 255))
    outcome(
        bytes(body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body)
    )


@given(when=st.text(max_size=30) | st.from_regex(r"[0-9]{1,5}-[0-9]{2}-[0-9]{2}[T ].{0,14}"))
@settings(quick, max_examples=150)
def test_no_text_in_place_of_a_time_refuses_a_message(when: str) -> None:
    """A time of the history is read, or it is None; the message counts."""
    (item,) = message(
        last_messages=[{"type": "user", "content": "hi", "timestamp": when}]
    ).last_messages
    assert item.content == "hi"
    assert item.timestamp is None or item.timestamp.utcoffset() == datetime.now(UTC).utcoffset()


SAMPLE_BYTES = json.dumps(BOT_TEXT).encode()


@pytest.mark.parametrize(
    ("body", "ending"),
    [
        pytest.param(b"", NotJSON, id="empty"),
        pytest.param(b" \n", NotJSON, id="blank"),
        pytest.param(b"null", NotJSON, id="null"),
        pytest.param(b"[]", NotJSON, id="list"),
        pytest.param(b'"{}"', NotJSON, id="text"),
        pytest.param(b"{", NotJSON, id="cut"),
        pytest.param(SAMPLE_BYTES + b"x", NotJSON, id="trailing"),
        pytest.param(SAMPLE_BYTES * 2, NotJSON, id="two objects"),
        pytest.param(b'{"phone_number": "\xff\xfe"}', NotJSON, id="not UTF-8"),
        pytest.param(SAMPLE_BYTES.decode().encode("utf-16"), NotJSON, id="UTF-16"),
        pytest.param(SAMPLE_BYTES.decode().encode("utf-32-le"), NotJSON, id="UTF-32"),
        pytest.param(b"\xef\xbb\xbf" + SAMPLE_BYTES, Payload, id="byte-order mark"),
        pytest.param(b"\xef\xbb\xbf" * 2 + SAMPLE_BYTES, NotJSON, id="two byte-order marks"),
        pytest.param(b"{}", Unfit, id="empty object"),
        pytest.param(b'{"data": {}}', Unfit, id="empty envelope"),
        pytest.param(b'{"event": "message_status", "data": {}}', Unfit, id="empty status"),
        *[
            pytest.param(raw("x", "[" * depth + "]" * depth), ending, id=f"depth {depth}")
            for depth, ending in [(100, Payload), (900, Unfit), (1000, Unfit), (100_000, Unfit)]
        ],
        pytest.param(b"[" * 100_000, NotJSON, id="a list of depth 100000"),
        *[
            pytest.param(
                raw("last_messages", json.dumps("[" * depth)), Payload, id=f"in text {depth}"
            )
            for depth in (100, 900, 1000, 100_000)
        ],
        *[
            pytest.param(raw("x", text), ending, id=f"unknown field {text[:9]}")
            for text, ending in [
                ("NaN", Payload),
                ("-Infinity", Payload),
                ("1e999", Payload),
                ("9" * 4301, Unfit),
                (r'"\u0000"', Payload),
                (r'"\udc00\ud800"', Payload),
                ('"' + r"\n\"\\" * 10_000 + '"', Payload),
            ]
        ],
        *[
            pytest.param(raw(name, text), Unfit, id=f"{name} {text[:9]}")
            for name, texts in {
                "phone_number": [
                    *("null", '""', "true", "420777100200.0", "1e999", "NaN", "-420777100200"),
                    *('"4207"', '"42077710020x"', "[]", '"+"', '"٤٢٠٧٧٧١٠٠٢٠٠"', '"1\\u00001234"'),
                    *("9" * 33, "9" * 4000, '"' + "9" * 33 + '"'),
                ],
                "message_type": ["null", '""', '" "', "5", "{}", r'"te\u0000xt"', f'"{"x" * 101}"'],
                "user_last_message_time": [
                    *("true", "-1", '"soon"', "NaN", "1e999", "[]", '"2025-09-02T08:15:40Z"'),
                    *("9" * 20, '"' + "9" * 20 + '"', "9" * 4301),
                ],
                "user_id": [r'"a\u0000b"', r'"a\nb"', "{}", "true", f'"{"x" * 201}"'],
                "incoming_message": ['"maybe"', "2", "[]"],
            }.items()
            for text in texts
        ],
    ],
)
def test_each_attack_ends_as_a_model_or_as_the_right_error(
    body: bytes, ending: type[Payload | PayloadError]
) -> None:
    """Bombs, broken encodings and wrong types: 400, quarantine or a message, and never a 500."""
    assert type(outcome(body)) is ending


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"phone_number": 420777100200}, {"phone_number": "420777100200"}),
        ({"phone_number": "+420 (777) 100-200"}, {"phone_number": "420777100200"}),
        ({"user_last_message_time": "1756800940"}, {"user_last_message_time": 1756800940}),
        ({"user_last_message_time": 1756800940.5}, {"user_last_message_time": 1756800940}),
        ({"user_last_message_time": None}, {"user_last_message_time": 0}),
        ({"user_last_message_time": ""}, {"user_last_message_time": 0}),
        ({"user_last_message_time": 19_999_999_999}, {"user_last_message_time": 19_999_999_999}),
        ({"user_last_message_time": 20_000_000_000}, {"user_last_message_time": 20_000_000}),
        ({"user_timestamp": 7, "user_last_message_time": None}, {"user_last_message_time": 7}),
        ({"user_timestamp": 7}, {"user_last_message_time": 1756800940}),
        ({"labels": " a ,, b c ,"}, {"labels": ("a", "b c")}),
        ({"labels": ["a", " ", None, 3, "b, c"]}, {"labels": ("a", "b, c")}),
        ({"labels": {"a": 1}}, {"labels": ()}),
        ({"message_type": " Sticker "}, {"message_type": "sticker"}),
        ({"attachment_url": ""}, {"attachment_url": None}),
        ({"attachment_url": " https://a/ü%2E../b "}, {"attachment_url": " https://a/ü%2E../b "}),
        ({"user_id": None}, {"user_id": ""}),
        ({"user_id": 12}, {"user_id": "12"}),
        ({"incoming_message": None}, {"incoming_message": True}),
        ({"incoming_message": "false"}, {"incoming_message": False}),
        ({"was_message_by_human": 0}, {"was_message_by_human": False}),
        ({"was_message_by_human": "who knows"}, {"was_message_by_human": None}),
        ({"note": {"size": 54}}, {"note": '{"size": 54}'}),
        ({"last_message_of_user": 42}, {"last_message_of_user": "42"}),
        ({"referral": []}, {"referral": None}),
        ({"referral": {"new": [1]}}, {"referral": {"new": [1]}}),
        ({"last_messages": None}, {"last_messages": ()}),
        ({"last_messages": 5}, {"last_messages": (), "last_messages_unread": 5}),
        ({"last_messages": "Hello!"}, {"last_messages": (), "last_messages_unread": "Hello!"}),
        ({"last_messages": "[Image]"}, {"last_messages": (), "last_messages_unread": "[Image]"}),
        ({"reaction": {"emoji": "👍"}}, {"reaction": {"emoji": "👍"}}),
    ],
)
def test_odd_but_plain_values_are_read_as_they_are_meant(changes: Fields, expected: Fields) -> None:
    """What a sender plainly means is read; what nobody can mean becomes nothing, or is kept."""
    payload = message(**changes)
    assert {name: getattr(payload, name) for name in expected} == expected


@pytest.mark.parametrize("name", ["phone_number", "message_type"])
def test_a_message_without_its_phone_or_type_is_unfit(name: str) -> None:
    """Without these an event can be neither placed nor routed; all else may be missing."""
    least = {"phone_number": "420777100200", "message_type": "text"}
    assert isinstance(outcome(json.dumps(least).encode()), Payload)
    del least[name]
    with pytest.raises(Unfit, match=f"^{name} is missing$"):
        read(json.dumps(least).encode())


def test_the_older_names_of_the_times_are_read_without_their_envelope_too() -> None:
    """A bare object that is sound but for the legacy names does not lose its times."""
    fields = dict(BOT_TEXT)
    fields["user_timestamp"] = fields.pop("user_last_message_time")
    fields["bot_timestamp"] = fields.pop("bot_last_message_time")
    assert read(json.dumps(fields).encode()) == message()


def test_of_doubled_keys_the_last_one_wins_in_both_ways_of_reading() -> None:
    """A body means one thing, whichever of the two parsers reads it."""
    strict = raw("phone_number", '"11111", "note": "a", "phone_number": "22222"')
    lenient = raw("phone_number", '11111, "note": "a", "phone_number": 22222')
    assert read(strict) == read(lenient)
    assert read_message(strict).phone_number == "22222"


def test_one_bad_item_of_the_history_costs_only_itself() -> None:
    """The message is read, the good items are there, and the bad one is kept beside them."""
    good = BOT_TEXT["last_messages"]
    odd = {"type": "User", "content": None, "timestamp": "gibberish", "media_url": 3, "new": 1}
    for bad in ([*good, 7, odd], json.dumps([*good, 7, odd])):
        payload = message(last_messages=bad)
        assert {item.content for item in payload.last_messages} == {
            "Is the blue bicycle still for sale?",
            "Good morning! What are you looking for?",
            "",
        }
        (item,) = [item for item in payload.last_messages if item.timestamp is None]
        assert (item.type, item.media_url, item.model_extra) == ("user", None, {"new": 1})
        assert payload.model_extra == {"last_messages_unread": [7]}


def test_a_long_history_with_a_bad_item_is_read_only_so_far() -> None:
    """The answer does not wait for a million items that need a second look; none is dropped."""
    many = ITEMS_READ_ONE_BY_ONE + 5
    item = {"type": "user", "content": 1}
    payload = message(last_messages=[item] * many)
    assert len(payload.last_messages) == ITEMS_READ_ONE_BY_ONE
    assert payload.model_extra == {"last_messages_unread": [item] * 5}


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2025-09-02T08:15:40.120Z", "2025-09-02T08:15:40.120"),
        ("2025-09-02T08:15:40.120", "2025-09-02T08:15:40.120"),
        ("2025-09-02 10:15:40+02:00", "2025-09-02T08:15:40"),
        ("Tue, 02 Sep 2025 08:15:40 GMT", "2025-09-02T08:15:40"),
        ("September 2, 2025 8:15:40 AM", "2025-09-02T08:15:40"),
        (1756800940, "2025-09-02T08:15:40"),
        ("1756800940120", "2025-09-02T08:15:40.120"),
    ],
)
def test_a_time_of_the_history_is_in_utc_however_it_is_written(
    written: object, moment: str
) -> None:
    """Naive times count as UTC; other offsets are converted."""
    expected = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    for as_text in (False, True):
        history: Any = [{"type": "user", "content": "hi", "timestamp": written}]
        payload = message(last_messages=json.dumps(history) if as_text else history)
        assert [item.timestamp for item in payload.last_messages] == [expected]


@pytest.mark.parametrize(
    "written",
    [
        *("10:30", "Friday", "9" * 50, "9" * 5000, "99999-01-01T00:00:00Z", "", "2025-13-45"),
        *("0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00", "2025-09-02 08:15 CST"),
        *(True, [], {}, 10**30, 1e300, float("nan"), float("inf")),
    ],
)
def test_a_time_that_cannot_be_read_is_none(written: object) -> None:
    """An ambiguous or impossible time is no time, rather than a wrong one or a refusal."""
    (item,) = message(
        last_messages=[{"type": "user", "content": "hi", "timestamp": written}]
    ).last_messages
    assert item.timestamp is None


def test_items_without_a_time_stay_beside_their_neighbour() -> None:
    """A history is never torn apart because one item lacks its time."""
    times = ["2025-09-02T08:03:00Z", None, "2025-09-02T08:01:00Z", "2025-09-02T08:02:00Z"]
    history = [{"type": "user", "content": str(n), "timestamp": t} for n, t in enumerate(times)]
    assert [i.content for i in message(last_messages=history).last_messages] == ["2", "3", "1", "0"]


def test_equal_times_count_as_newest_first() -> None:
    """Where the times do not say, the samples do."""
    history = [
        {"type": "user", "content": text, "timestamp": "2025-09-02T08:03:00Z"}
        for text in ("second", "first")
    ]
    payload = message(last_messages=history)
    assert [item.content for item in payload.last_messages] == ["first", "second"]


@given(conversation=conversations(), side=st.sampled_from(["user", "bot", "nobody"]))
@quick
def test_the_newest_time_of_a_side_is_exact_in_milliseconds(
    conversation: Fields, side: str
) -> None:
    """Events are told apart by it, so it is an integer and not a rounded float."""
    sides = [i["timestamp"] for i in conversation["last_messages"] if i["type"] == side]
    newest = read_message(json.dumps(conversation).encode()).newest(side)
    moment = datetime.fromisoformat(max(sides)) if sides else None
    assert newest == (
        moment
        and round(moment.replace(microsecond=0).timestamp()) * 1000 + moment.microsecond // 1000
    )


@pytest.mark.parametrize(
    ("envelope", "incoming", "extras"),
    [
        ({"event": "incoming_message"}, True, {}),
        ({"event": "outgoing_message"}, False, {}),
        ({"event": "message_edited"}, True, {"event": "message_edited"}),
        ({"event": "incoming_message", "id": 5}, True, {"id": 5}),
        ({}, True, {}),
    ],
)
def test_an_envelope_is_unwrapped_whatever_its_event_is_called(
    envelope: Fields, incoming: bool, extras: Fields
) -> None:
    """A message is a message; what stands beside it is kept, and what we know of it is used."""
    payload = read(json.dumps(envelope | {"data": BOT_TEXT}).encode())
    assert payload == message(incoming_message=incoming, **extras)


@given(fields=st.dictionaries(st.text(), JSON, max_size=4))
@quick
def test_unknown_fields_are_kept(fields: Fields) -> None:
    """What the vendor adds tomorrow is there for handlers tomorrow."""
    unknown = {name: value for name, value in fields.items() if name not in Payload.model_fields}
    unknown = json.loads(json.dumps(unknown), parse_constant=lambda _: None)
    for legacy in ("user_timestamp", "bot_timestamp"):
        unknown.pop(legacy, None)
    for phone in ("420777100200", 420777100200):  # read strictly, and leniently
        assert message(phone_number=phone).model_extra == {}
        body = json.dumps(BOT_TEXT | {"phone_number": phone} | unknown).encode()
        assert read_message(body).model_extra == unknown


@given(changes=st.dictionaries(st.sampled_from(sorted(BOT_TEXT)), st.none(), min_size=1))
@quick
def test_a_reason_never_repeats_what_came_in(changes: Fields) -> None:
    """Reasons go into answers and logs, where nobody's phone or words belong."""
    secret = "qx7Zt0"
    spoilt = [secret, [secret], {secret: secret}, {"type": secret}, secret * 60]
    for value in spoilt:
        fields = BOT_TEXT | {secret: secret} | dict.fromkeys(changes, value)
        for body in (json.dumps(fields), json.dumps(fields)[:-1], json.dumps({"data": fields})):
            result = outcome(body.encode())
            if isinstance(result, PayloadError):
                assert str(result)
                assert secret not in repr(result)
                assert result.__context__ is None, "a traceback of it would show the input"


def test_a_payload_cannot_be_changed_by_a_handler() -> None:
    """Two routes share one payload; neither sees the other's doings."""
    payload = message()
    for name in Payload.model_fields:
        with pytest.raises(ValueError, match="frozen"):
            setattr(payload, name, "changed")
