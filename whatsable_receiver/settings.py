"""Every setting of a receiver: one frozen model, read from arguments and ``WHATSABLE_*``.

A setting's argument is its environment name in lower case, without the prefix:
``WHATSABLE_MAX_BODY`` and ``max_body=``. Nothing is fetched here; the environment is handed in.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .errors import ConfigurationError

PREFIX = "WHATSABLE_"
IGNORED = "WHATSABLE_TEST_"  # names for test suites, which are no settings

KIB = 1024
MIB = 1024 * KIB
SHORTEST_SECRET = 8  # characters
LARGEST = 2**63 - 1  # what a database takes for a whole number

# Their values stay out of errors; a database or a folder for media may be a URL with a password.
# The signature is a scheme's name, and easily mixed up with the signing secret.
CONFIDENTIAL = frozenset(
    {"path_secret", "signing_secret", "signature", "api_key", "database", "media"}
)


# ---------------------------------------------------------------- how values are written


def _text(value: object) -> object:
    """A secret or a path object as the text it stands for."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _entry(value: object) -> object:
    """One entry of a list as text. Accounts are often numbers, and payloads give them as text."""
    return str(value) if type(value) is int else _text(value)


def _items(value: object) -> tuple[object, ...]:
    """A list setting: a sequence, or text with commas or spaces between the entries."""
    value = _entry(value)
    if isinstance(value, str):
        # "a, b" has two entries; "a,,b" and "a," have an empty one, which is refused below.
        entries = [entry.split() or [""] for entry in value.split(",")]
        return tuple(part for entry in entries for part in entry)
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray | Mapping):
        return tuple(_entry(entry) for entry in value)
    raise ValueError("it should be a list, or text with commas between the entries")


def _unbounded(value: object) -> object:
    """``"unbounded"`` says None in an environment, and in arguments, where None says nothing."""
    return None if value == "unbounded" else value


Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Days = Annotated[
    Annotated[float, Field(ge=0, le=36500, allow_inf_nan=False)] | None,
    BeforeValidator(_unbounded),
]
Bound = Annotated[Annotated[int, Field(ge=1, le=LARGEST)] | None, BeforeValidator(_unbounded)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


# ---------------------------------------------------------------- the model


class Settings(BaseModel):
    """How one receiver is set up. Make it with ``Settings.load``; its repr shows no secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    database: str = Field("whatsable.db", description="a path, `sqlite:///…` or `postgresql://…`")
    path: str = Field("/webhook", description="where POSTs are received")

    path_secret: SecretStr | None = Field(None, description="one more path segment, secret")
    signing_secret: tuple[SecretStr, ...] = Field((), description="who may have signed; several")
    signature: str = Field("auto", description="the signature scheme")
    accounts: tuple[str, ...] = Field((), description="the allowed `user_id`s")

    api_key: SecretStr | None = Field(None, description="WhatsAble's key, for sending")
    media: str | Literal[False] | None = Field(None, description="a folder, a URL, or `off`")

    max_body: int = Field(MIB, ge=KIB, le=64 * MIB, description="bytes of one body")
    body_timeout: Seconds = Field(5.0, description="seconds for a body to arrive")
    # WhatsAble gives up after 10 seconds; an answer after that is no answer.
    keep_timeout: float = Field(8.0, gt=0, lt=10, description="seconds to be stored, or 503")
    max_waiting: Count = Field(2048, description="deliveries waiting to be stored at once")
    max_waiting_bytes: int = Field(
        64 * MIB, ge=KIB, le=LARGEST, description="bytes waiting to be stored"
    )

    concurrency: Count = Field(256, description="handlers running at once")
    lease: Seconds = Field(30.0, description="seconds after which a silent worker is dead")
    grace: float = Field(10.0, ge=0, le=3600, description="seconds for a graceful stop")

    quarantine_rows: int = Field(10_000, ge=1, le=LARGEST, description="events kept in quarantine")
    quarantine_bytes: int = Field(
        64 * MIB, ge=KIB, le=LARGEST, description="bytes kept in quarantine"
    )
    keep_bodies: Days = Field(30.0, description="days a finished event is kept")
    keep_keys: Days = Field(90.0, description="days a redelivery is still recognised")
    max_rows: Bound = Field(None, description="finished events kept")
    max_bytes: Bound = Field(None, description="bytes of finished events kept")

    log_phones: bool = Field(False, description="whole phone numbers in logs")

    @classmethod
    def load(cls, environ: Mapping[str, str], **arguments: object) -> Self:
        """The settings of ``arguments``, then of ``WHATSABLE_*`` in ``environ``, then defaults.

        An argument that is None counts as not given. ``ConfigurationError`` names the setting
        that is unknown or cannot be used, as you wrote it, and never a secret's value.
        """
        given: dict[str, object] = {}
        written: dict[str, str] = {}
        for name, value in environ.items():
            if name.upper().startswith(PREFIX) and not name.upper().startswith(IGNORED):
                setting = _known(name, {PREFIX + each.upper(): each for each in cls.model_fields})
                given[setting], written[setting] = value, name
        for name, argument in arguments.items():
            setting = _known(name, {each: each for each in cls.model_fields})
            if argument is not None:
                given[setting], written[setting] = argument, name
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problem = _sentence(error, given, written)
        # Raised out here, so that no chained error carries what was given.
        raise ConfigurationError(problem)

    @property
    def sqlite_file(self) -> str | None:
        """The path of the SQLite file; None where the database is PostgreSQL."""
        if self.database.startswith("postgresql://"):
            return None
        return self.database.removeprefix("sqlite:///")

    @field_validator("database", "path_secret", "api_key", mode="before")
    @classmethod
    def _read_text(cls, value: object, info: ValidationInfo) -> object:
        value = _text(value)
        if isinstance(value, str) and not value.strip():
            without = "for whatsable.db" if info.field_name == "database" else "to go without it"
            raise ValueError(f"it is empty; leave it out {without}")
        return value

    @field_validator("database", mode="after")
    @classmethod
    def _check_database(cls, value: str) -> str:
        if value.startswith("postgresql://"):
            return value
        path = value.removeprefix("sqlite:///")
        # Two letters and a colon are a scheme, one is a drive of Windows.
        if path == value and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", value):
            raise ValueError(
                "it should be a path, or a URL that starts with postgresql:// or sqlite:/// "
                "(four slashes for an absolute path)"
            )
        if path == ":memory:":
            raise ValueError("it should name a file: what memory keeps, a crash takes")
        if not PurePath(path).name or path.endswith("/"):
            raise ValueError("it should name a file, not a folder")
        if "\0" in path or (path != value and ("?" in path or "#" in path)):
            raise ValueError("it should be a file's path, without query, fragment or NUL")
        return value

    @field_validator("path", mode="after")
    @classmethod
    def _check_path(cls, value: str) -> str:
        # Letters of a path that need no escape (RFC 3986, 2.3), so that it has one spelling.
        if not re.fullmatch(r"(?:/[A-Za-z0-9._~-]+)+", value):
            raise ValueError(
                "it should be like /webhook or /hooks/webhook: before each part a slash, "
                "in it letters, digits and - . _ ~ only"
            )
        if {".", ".."} & set(value.split("/")):
            raise ValueError("it should have no part that is . or ..")
        if value == "/health" or value.startswith("/health/"):
            raise ValueError("there GET answers whether the receiver is well; choose another path")
        return value

    @field_validator("path_secret", mode="after")
    @classmethod
    def _check_path_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _refuse_short(value)
            if not re.fullmatch(r"[A-Za-z0-9._~-]+", value.get_secret_value()):
                raise ValueError("it is a part of a URL: use letters, digits and - . _ ~ only")
        return value

    @field_validator("api_key", mode="after")
    @classmethod
    def _check_api_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _refuse_unsendable(value)
        return value

    @field_validator("signing_secret", "accounts", mode="before")
    @classmethod
    def _read_list(cls, value: object) -> object:
        entries = _items(value)
        if not entries:
            raise ValueError("it has no entries; leave it out to go without it")
        return entries

    @field_validator("signing_secret", mode="after")
    @classmethod
    def _check_signing_secret(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for secret in value:
            _refuse_empty(secret.get_secret_value())
            _refuse_short(secret)
            _refuse_unsendable(secret)
        return value

    @field_validator("accounts", mode="after")
    @classmethod
    def _check_accounts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        stripped = tuple(account.strip() for account in value)
        for account in stripped:
            _refuse_empty(account)
        return stripped

    @field_validator("media", mode="before")
    @classmethod
    def _read_media(cls, value: object) -> object:
        value = _text(value)
        if value is False or (isinstance(value, str) and value.lower() == "off"):
            return False
        if value is None or (isinstance(value, str) and value.strip() and "\0" not in value):
            return value
        raise ValueError("it should be a folder, a URL, or off")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        for name in ("max_waiting_bytes", "quarantine_bytes"):
            if (room := getattr(self, name)) < self.max_body:
                raise ValueError(
                    f"`{name}` ({room}) should be at least `max_body` ({self.max_body}), "
                    "or the largest body would never find room"
                )
        if self.keep_keys is not None and (
            self.keep_bodies is None or self.keep_bodies > self.keep_keys
        ):
            bodies = "unbounded" if self.keep_bodies is None else f"{self.keep_bodies:g}"
            raise ValueError(
                f"`keep_keys` ({self.keep_keys:g}) should be at least `keep_bodies` ({bodies}), "
                "or a redelivery of an event that is still here would be taken for a new one"
            )
        return self

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """What repr and str show: the password of a database's or a folder's URL is masked."""
        for name, value in super().__repr_args__():
            yield name, _masked(value) if name in ("database", "media") else value


# ---------------------------------------------------------------- refusals


def _refuse_empty(entry: str) -> None:
    if not entry.strip():
        raise ValueError("it is empty, or one of its entries is")


def _refuse_short(secret: SecretStr) -> None:
    if len(secret.get_secret_value()) < SHORTEST_SECRET:
        raise ValueError(
            f"it should have at least {SHORTEST_SECRET} characters: "
            "a shorter secret can be found by trying"
        )


def _refuse_unsendable(secret: SecretStr) -> None:
    # A newline at the end, as files have it, would make every comparison fail without a word.
    if not re.fullmatch(r"[!-~]+", secret.get_secret_value()):
        raise ValueError("it should be printable ASCII without spaces or line ends")


def _known(name: str, names: Mapping[str, str]) -> str:
    """The setting of that name, or an error that suggests the nearest."""
    if name in names:
        return names[name]
    # Without what all of them begin with, which would make any two of them alike.
    bare = {each.upper().removeprefix(PREFIX): each for each in names}
    near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), bare, n=1)
    hint = f"did you mean {bare[near[0]]}?" if near else "docs/security.md lists every setting"
    raise ConfigurationError(f"no setting is called {name}; {hint}")


def _sentence(
    error: ValidationError, given: Mapping[str, object], written: Mapping[str, str]
) -> str:
    """The first problem as one sentence, with the setting named as it was written."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    why = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # a rule about two settings, which it names in backticks
        return re.sub(r"`(\w+)`", lambda found: written.get(found[1], found[1]), why)
    setting = str(first["loc"][0])
    if first["type"] != "value_error":  # pydantic's words, not ours
        why = f"it should be {_right(setting)}"
    value = "used" if setting in CONFIDENTIAL else _shown(given[setting])
    return f"{written[setting]} cannot be {value}: {why}"


TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "array": "a list of texts",
}
BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}


def _right(setting: str) -> str:
    """What a setting takes, in words: its kind, its bounds, and what it is."""
    schema = Settings.model_json_schema()["properties"][setting]
    kind = schema.get("anyOf", [schema])[0]
    bounds = [
        f"{words} {kind[bound]:.12g}"
        for bound, words in BOUNDS.items()
        if kind.get(bound, LARGEST) != LARGEST
    ]
    words = TYPES[kind["type"]]
    if bounds:
        words += f", {' and '.join(bounds)}"
        if kind is not schema:
            words += ", or unbounded"
    return f"{words} ({schema['description']})"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _masked(value: object) -> object:
    """A URL without its user, password and query; anything else as it is."""
    if not isinstance(value, str) or "://" not in value or value.startswith("sqlite:"):
        return value
    scheme, _, rest = value.partition("://")
    # From the last @ on: a password may have an unescaped @ or / in it.
    _user, at, place = rest.rpartition("@")
    place, query, _ = place.partition("?")
    return f"{scheme}://{'***@' if at else ''}{place}{'?***' if query else ''}"
