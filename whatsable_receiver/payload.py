"""What WhatsAble says: the models of one body, and ``read``, which reads every shape into them.

The shapes come from the vendor's webhook page, its Notifyer samples, its older guide and its
Zapier app. Well-formed bodies are read by the strict model alone, in one call, because that call
is the accept path. Only what it refuses is written into that model's form first, and read again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import CoreSchema, core_schema, from_json

from .errors import NotJSON, Unfit

# Times from here on are milliseconds. As seconds this is the year 2603, as milliseconds August
# 1970; pydantic draws the same line, so both ways of reading agree.
MILLISECONDS_FROM = 20_000_000_000

# Of a history with a bad item in it. The wire shows 20 or so; each costs time before the answer.
ITEMS_READ_ONE_BY_ONE = 500

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# --- the types of the fields: all but two are checked without calling Python ---------------------


class _NoneInstead:
    """A field whose unusable values ("" above all) read as None, decided in pydantic's core."""

    def __get_pydantic_core_schema__(self, source: Any, read: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_default_schema(read(source), default=None, on_error="default")


class _InUTC:
    """An aware datetime in UTC; any other offset, or none, is left to the lenient way."""

    def __get_pydantic_core_schema__(self, source: Any, read: GetCoreSchemaHandler) -> CoreSchema:
        moment = core_schema.datetime_schema(tz_constraint=0)
        return core_schema.nullable_schema(moment)


def _split(value: object) -> tuple[str, ...]:
    """Labels from the page's comma-separated text, or from the chat API's list."""
    if isinstance(value, str):
        parts = value.split(",")
    elif isinstance(value, list | tuple):
        parts = [part for part in value if isinstance(part, str)]
    else:
        return ()
    return tuple(filter(None, map(str.strip, parts)))


def _oldest_first(items: tuple[HistoryItem, ...]) -> tuple[HistoryItem, ...]:
    """The history in the order in which it was written.

    An item without a time stays beside its neighbour. Where times say nothing, the wire counts as
    newest first, as in every sample that the vendor shows (its page says the opposite).
    """
    if len(items) < 2:
        return items
    moments = [item.timestamp for item in items]
    # Aware datetimes of pydantic's own zone compare slowly: each comparison asks both for their
    # offset. All of these are in UTC, so their parts say the same, three times as fast.
    times = [(moment.date(), moment.time()) for moment in moments if moment]
    if len(times) < len(items):
        times = [(moment.date(), moment.time()) for moment in _filled(moments)]
    if times[0] >= times[-1]:
        items = items[::-1]
        times.reverse()
    if times == sorted(times):
        return items
    order = sorted(range(len(items)), key=times.__getitem__)  # stable
    return tuple([items[place] for place in order])


def _filled(moments: list[datetime | None]) -> list[datetime]:
    """The times, each missing one taken from the item before it, or else after it."""
    last = next((moment for moment in moments if moment), _EPOCH)
    return [last := moment or last for moment in moments]


_Word = Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True)]
_Moment = Annotated[datetime | None, _InUTC()]
_Link = Annotated[Annotated[str, Field(min_length=1)] | None, _NoneInstead()]
_Seconds = Annotated[int, Field(ge=0, lt=MILLISECONDS_FROM)]
_Labels = Annotated[
    tuple[str, ...],
    PlainValidator(_split),
    # Without this, pydantic warns that the tuple it has just written as a list is no tuple.
    PlainSerializer(list, return_type=list[str], when_used="json"),
]
# Names that end up in keys, columns and terminals: short, and without control characters.
_Name = Annotated[str, Field(max_length=200, pattern=r"^\P{Cc}*$")]
_Kind = Annotated[_Word, Field(min_length=1, max_length=100, pattern=r"^\P{Cc}*$")]


# --- the models ----------------------------------------------------------------------------------


class _Record(BaseModel):
    """Frozen, with unknown fields kept; its errors never show what came in."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)


class HistoryItem(_Record):
    """One message of ``last_messages``."""

    type: _Word
    content: str = ""
    timestamp: _Moment = None
    content_type: _Word = ""
    media_url: _Link = None


# Stops at the first bad item: a body of a million of them would cost a million errors.
_History = Annotated[tuple[HistoryItem, ...], FailFast()]


class Payload(_Record):
    """One message as WhatsAble tells it, under the wire's own names, in one form.

    Unknown fields are in ``model_extra``.
    """

    phone_number: Annotated[str, Field(pattern=r"^[0-9]{5,32}$")]
    message_type: _Kind
    last_messages: Annotated[_History, AfterValidator(_oldest_first)] = ()
    user_last_message_time: _Seconds = 0  # epoch seconds; 0: that side never wrote
    bot_last_message_time: _Seconds = 0
    user_id: _Name = ""
    recipient_name: str = ""
    conversation_paragraph: str = ""
    last_message_of_user: str = ""
    last_message_of_bot: str = ""
    attachment_url: _Link = None
    note: str = ""
    note_automation: str = ""
    labels: _Labels = ()
    incoming_message: bool = True  # WhatsAble Bot does not send it: all of its messages come in
    send_by: str = ""
    was_message_by_human: bool | None = None
    referral: dict[str, Any] | None = None
    is_scheduled: bool | None = None
    scheduled_messages: Any = None

    def newest(self, side: str) -> int | None:
        """The newest history timestamp of a side (``"user"`` or ``"bot"``), in epoch milliseconds.

        None if the history shows no dated message of that side.
        """
        for item in reversed(self.last_messages):
            if item.type == side and item.timestamp is not None:
                return _in_milliseconds(item.timestamp)
        return None


def _in_milliseconds(moment: datetime) -> int:
    days = moment.toordinal() - _EPOCH.toordinal()
    seconds = ((days * 24 + moment.hour) * 60 + moment.minute) * 60 + moment.second
    return seconds * 1000 + moment.microsecond // 1000


class StatusError(_Record):
    """Why a message failed; ``code`` is Meta's number where there is one."""

    code: int | str | None = None
    message: str = ""


class Status(_Record):
    """How a sent message fares: ``sent``, ``delivered``, ``read``, ``failed``, or a later word."""

    message_id: Annotated[_Name, Field(min_length=1)]
    status: _Kind
    timestamp: _Moment = None
    error: StatusError | None = None


# --- reading -------------------------------------------------------------------------------------

_strict = Payload.__pydantic_validator__.validate_json
_history = TypeAdapter(_History).validator
_moment = TypeAdapter(_Moment).validator


def read(body: bytes) -> Payload | Status:
    """The payload in a body of any known shape.

    Raises NotJSON if there is no JSON object in it, Unfit if there is one that fits no model, and
    nothing else. Their texts name fields, and never repeat what came in.
    """
    try:
        payload: Payload = _strict(body, strict=True)
        if _LEGACY.keys().isdisjoint(payload.__pydantic_extra__ or ()):
            return payload
    except ValidationError:
        pass  # left before reading on, so that later errors carry no context with the input in it
    return _read_leniently(_object(body))


def _read_leniently(fields: dict[str, Any]) -> Payload | Status:
    if fields.get("object") == "whatsapp_business_account":
        raise Unfit("this is an object of Meta's Cloud API, not a payload of WhatsAble's")
    fields = _unwrapped(fields)
    model: type[Payload | Status]
    if "status" in fields and "message_id" in fields and "message_type" not in fields:
        model, problems = Status, _rewrite_status(fields)
    else:
        model, problems = Payload, _rewrite_message(fields)
    if not problems:
        try:
            return model.__pydantic_validator__.validate_python(fields)  # type: ignore[no-any-return]
        except ValidationError as error:
            wrong = {str(e["loc"][0]) for e in error.errors(include_input=False) if e["loc"]}
            problems = [f"{name} has an unusable value" for name in sorted(wrong)]
    raise Unfit("; ".join(problems) or "the object fits no shape of WhatsAble's")


# --- from bytes to an object ---------------------------------------------------------------------

_BOM = b"\xef\xbb\xbf"
_ESCAPES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair: one character
    rb"|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|.)",  # any other escape, taken whole, so that its second half is not misread
    re.DOTALL,
)


def _whole(text: bytes) -> bytes:
    """JSON with each lone surrogate escape replaced by U+FFFD.

    JavaScript senders that cut a text inside an emoji send such halves, and no strict parser takes
    them. Python's own would, but brings other limits and a text that cannot be encoded again.
    """
    return _ESCAPES.sub(lambda found: rb"\ufffd" if found["lone"] else found[0], text)


def _parse(text: bytes) -> Any:
    """Like ``from_json``, and tolerant of lone surrogates; of doubled keys the last one wins."""
    try:
        return from_json(text)
    except ValueError:
        whole = _whole(text)
        if whole == text:
            raise
    return from_json(whole)


def _object(body: bytes) -> dict[str, Any]:
    reason = ""
    try:
        found = _parse(body.removeprefix(_BOM))
    except ValueError as error:
        found, reason = None, str(error)
    if isinstance(found, dict):
        return found
    # Limits of the parser, not of JSON: an object beyond them is worth keeping in quarantine.
    if body.removeprefix(_BOM).lstrip(b" \t\r\n").startswith(b"{"):
        if "recursion limit" in reason:
            raise Unfit("the object is nested too deeply to be read")
        if "out of range" in reason:
            raise Unfit("the object holds a number too long to be read")
    if not body.strip():
        raise NotJSON("the body is empty; a JSON object was expected")
    if reason:
        raise NotJSON("the body is not valid JSON in UTF-8")
    raise NotJSON("the body is JSON, but not an object")


# --- from an object of any shape to the model's form ---------------------------------------------

# What an envelope's name says about a message that does not say it itself.
_DIRECTIONS = {"incoming_message": True, "outgoing_message": False}


def _unwrapped(fields: dict[str, Any]) -> dict[str, Any]:
    """The message inside ``{"event": ..., "data": {...}}``, or a copy of the object itself.

    What stands beside ``data`` is kept like any unknown field; so is an event name we do not know.
    """
    data = fields.get("data")
    if not isinstance(data, dict) or "phone_number" in fields:
        return dict(fields)
    beside = {name: value for name, value in fields.items() if name != "data"}
    event = beside.get("event")
    if event == "message_status":
        del beside["event"]
        data = {"message_id": None, "status": None} | data
    elif isinstance(event, str) and event in _DIRECTIONS:
        del beside["event"]
        if not _DIRECTIONS[event]:
            data = {"incoming_message": False} | data
    return beside | data


def _rewrite_message(fields: dict[str, Any]) -> list[str]:
    """Write the fields of a message as the model wants them; say which ones cannot be."""
    for legacy, name in _LEGACY.items():
        if fields.get(name) is None and legacy in fields:
            fields[name] = fields.pop(legacy)
    items, unread = _items(fields.get("last_messages"))
    fields["last_messages"] = items
    if unread:
        fields["last_messages_unread"] = unread
    problems = []
    for name, rewrite in _ESSENTIAL.items():
        try:
            fields[name] = rewrite(fields.get(name))
        except ValueError as problem:
            problems.append(f"{name} {problem if name in fields else 'is missing'}")
    for name in _TEXTS:
        if type(fields.get(name, "")) is not str:
            fields[name] = _text(fields[name])
    for name in _FLAGS:
        if type(fields.get(name, True)) is not bool:
            fields[name] = _FLAG_WORDS.get(_text(fields[name]).strip().lower())
    if not isinstance(fields.get("referral"), dict):
        fields["referral"] = None
    return problems


def _rewrite_status(fields: dict[str, Any]) -> list[str]:
    """Write the fields of a status as the model wants them; say which ones cannot be."""
    fields["message_id"] = _text(fields["message_id"])
    fields["status"] = _text(fields["status"])
    fields["timestamp"] = _when(fields.get("timestamp"))
    error = fields.get("error")
    if error is not None and not isinstance(error, dict):
        error = {"message": error}
    if isinstance(error, dict):
        code = error.get("code")
        fits = isinstance(code, int | str) and not isinstance(code, bool)
        error = error | {
            "code": code if fits or code is None else _text(code),
            "message": _text(error.get("message")),
        }
    fields["error"] = error
    return [f"{name} is missing" for name in ("message_id", "status") if not fields[name].strip()]


_PHONE_PUNCTUATION = re.compile("[\\s().\\-\u200e\u200f\u202a-\u202e\u2010-\u2015]+")
_PHONE = re.compile(r"\+?([0-9]{5,32})")
_TIME = re.compile(r"([0-9]{1,14})(?:\.[0-9]{0,9})?")


def _phone(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**32:
        value = str(value)
    found = _PHONE.fullmatch(_PHONE_PUNCTUATION.sub("", value)) if isinstance(value, str) else None
    if not found:
        raise ValueError("is not a phone number of 5 to 32 digits, as text or as a whole number")
    return found[1]


def _kind(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("is not the name of a message type")
    return value


def _account(value: object) -> str:
    if isinstance(value, bool | float | list | dict):
        raise ValueError("is not text")
    return _text(value)


def _seconds(value: object) -> int:
    """Epoch seconds from seconds or milliseconds, as a number or as text; 0 for never."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return 0
    if isinstance(value, str) and (found := _TIME.fullmatch(value.strip())):
        value = int(found[1])
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("is not a time in seconds or milliseconds")
    if not 0 <= value < MILLISECONDS_FROM * 1000:
        raise ValueError("is outside the times that can be meant")
    return value if value < MILLISECONDS_FROM else value // 1000


def _direction(value: object) -> bool:
    """Whether a message came in; a guess here could make a bot answer itself, so there is none."""
    if value is None:
        return True
    known = value if isinstance(value, bool) else _FLAG_WORDS.get(_text(value).strip().lower())
    if known is None:
        raise ValueError("is neither true nor false")
    return known


_LEGACY = {"user_timestamp": "user_last_message_time", "bot_timestamp": "bot_last_message_time"}
# Who, what, when, which way: an event cannot be told apart or routed without a sound one of each.
_ESSENTIAL: dict[str, Callable[[object], object]] = {
    "phone_number": _phone,
    "message_type": _kind,
    "user_id": _account,
    "user_last_message_time": _seconds,
    "bot_last_message_time": _seconds,
    "incoming_message": _direction,
}
_FLAGS = ("was_message_by_human", "is_scheduled")
_FLAG_WORDS = {"true": True, "1": True, "false": False, "0": False}
_TEXTS = (
    "recipient_name",
    "conversation_paragraph",
    "last_message_of_user",
    "last_message_of_bot",
    "note",
    "note_automation",
    "send_by",
)


def _text(value: object) -> str:
    """A text, or the JSON text of what came in its place; "" for null.

    A message is not refused because somebody's note has become an object.
    """
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- the history ---------------------------------------------------------------------------------


def _items(value: object) -> tuple[tuple[HistoryItem, ...], object]:
    """The history in ``last_messages``, and whatever in it could not be read as history."""
    unread: object = None
    if isinstance(value, str):
        value, unread = _from_text(value)
    if isinstance(value, tuple):
        return value, None
    if not isinstance(value, list):
        return (), unread or value
    try:
        return _history.validate_python(value), None
    except ValidationError:
        read = [(_item(entry), entry) for entry in value[:ITEMS_READ_ONE_BY_ONE]]
    unread = [entry for item, entry in read if item is None] + value[ITEMS_READ_ONE_BY_ONE:]
    return tuple([item for item, _ in read if item is not None]), unread


def _from_text(text: str) -> tuple[object, str | None]:
    """The list in a JSON text, as most real deliveries send it, or the text itself as prose."""
    if not text.lstrip().startswith("["):
        return None, text
    try:
        return _history.validate_json(text, strict=True), None
    except ValidationError:
        pass
    try:
        found = _parse(text.encode())
    except ValueError:
        return None, text
    return found, None


def _item(entry: object) -> HistoryItem | None:
    """An item with what is sound in it; None if nothing says who or what."""
    if not isinstance(entry, dict) or not ("type" in entry or "content" in entry):
        return None
    fields = {name: _text(entry.get(name)) for name in ("type", "content", "content_type")}
    moment = {"timestamp": _when(entry.get("timestamp"))}
    return HistoryItem.model_validate(entry | fields | moment)


def _when(value: object) -> datetime | None:
    """A time as an aware datetime in UTC, or None; one without an offset counts as UTC."""
    try:
        return _moment.validate_python(value)  # type: ignore[no-any-return]
    except ValidationError:
        pass
    try:
        return _parsed(value) if isinstance(value, str) else None
    except Exception:  # dateutil lets out more than its ParserError; no time is worth a message
        return None


def _parsed(text: str) -> datetime | None:
    if len(text) > 64:  # longer than any date, and long enough to keep the parser busy
        return None
    from dateutil import parser as dates  # here: few need it, and it takes time to import

    # What a text leaves out is taken from the default. Two of them show that nothing was: a bare
    # "10:30" names no moment.
    one, other = (
        dates.parse(text, default=day, tzinfos=_zone)
        for day in (datetime(2000, 1, 1), datetime(2001, 2, 2))  # noqa: DTZ001 - only to be replaced
    )
    if one != other:
        return None
    return (one if one.tzinfo else one.replace(tzinfo=UTC)).astimezone(UTC)


def _zone(name: str | None, offset: int | None) -> tzinfo | None:
    """A zone that is certain; "CST" names several, and dateutil would only warn and drop it."""
    if offset is not None:
        return timezone(timedelta(seconds=offset))
    if name is None or name.upper() in ("UTC", "GMT", "Z"):
        return UTC if name else None
    raise ValueError("an ambiguous time zone")
