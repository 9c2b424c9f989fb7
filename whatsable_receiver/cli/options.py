"""What the commands take: each argument and option written once, with how its value is read.

A value that cannot be taken is typer's ``BadParameter``: it names the option, and is exit code 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar, get_args

import typer

from ..event import Kind
from ..inbox.base import KINDS
from ..jobs import State
from .logs import Format, Level
from .times import moment

T = TypeVar("T")

# ---------------------------------------------------------------- how values are read


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number within these bounds."""
    bounds = f"from {least} on" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            raise typer.BadParameter(f"{text!r} is no whole number {bounds}")
        return number

    return read


def one_of(names: Mapping[str, T]) -> Callable[[str], T]:
    """What one of these names stands for; case does not matter."""

    def read(text: str) -> T:
        try:
            return names[text.strip().lower()]
        except KeyError:
            known = ", ".join(names)
            raise typer.BadParameter(f"{text!r} is none of these: {known}") from None

    return read


def time(text: str) -> datetime:
    """A moment, counted from now on where it is so long ago."""
    try:
        return moment(text, datetime.now(UTC))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def word(text: str) -> str:
    """A text that says something: an empty one comes from a variable that is not set."""
    if not text.strip():
        raise typer.BadParameter("it is empty; leave it out to go without it")
    return text.strip()


def lower(text: str) -> str:
    """Like ``word``, in lower case."""
    return word(text).lower()


def digits(text: str) -> str:
    """The digits of a phone number."""
    found = re.sub(r"\D", "", text)
    if not found:
        raise typer.BadParameter(f"{text!r} has no digits")
    return found


STATES = {state.name.lower(): state for state in State}
KIND_NAMES: dict[str, Kind] = {kind: kind for kind in KINDS}
FORMATS: dict[str, Format] = {name: name for name in get_args(Format)}
LEVELS: dict[str, Level] = {name: name for name in get_args(Level)}


# ---------------------------------------------------------------- options of several commands


AsJson = Annotated[bool, typer.Option("--json", help="One JSON document, with stable keys.")]
Port = Annotated[
    int, typer.Option(parser=whole(0, 65535), metavar="PORT", help="0 takes a free one.")
]
Database = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="A path or a URL; WHATSABLE_DATABASE, or whatsable.db, unless given."
    ),
]

# ---------------------------------------------------------------- run


Target = Annotated[str, typer.Argument(metavar="MODULE:RECEIVER", show_default=False)]
Host = Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen at.")]
Path = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Where POSTs are received; /webhook unless set."),
]
# Text: the setting says itself which numbers it takes.
Grace = Annotated[
    str | None,
    typer.Option(metavar="SECONDS", help="For running handlers at the end; 10 unless set."),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Let anybody post, from anywhere.")]
LogFormat = Annotated[
    Format,
    typer.Option(parser=one_of(FORMATS), metavar="|".join(FORMATS), help="Lines, or JSON objects."),
]
LogLevel = Annotated[
    Level,
    typer.Option(
        parser=one_of(LEVELS), metavar="|".join(LEVELS), help="What is logged, from here on."
    ),
]

# ---------------------------------------------------------------- demo


Keep = Annotated[bool, typer.Option("--keep", help="Go on serving afterwards.")]

# ---------------------------------------------------------------- events


Since = Annotated[
    datetime | None,
    typer.Option(parser=time, metavar="TIME", help="Received from then on: 2h, 3d, or ISO 8601."),
]
Until = Annotated[
    datetime | None, typer.Option(parser=time, metavar="TIME", help="Received before then.")
]
Kinds = Annotated[
    list[Any] | None,  # of Kind, which is a Literal, and typer takes no list of those
    typer.Option(
        "--kind", parser=one_of(KIND_NAMES), metavar="|".join(KIND_NAMES), help="May be repeated."
    ),
]
Type = Annotated[
    str | None,
    typer.Option("--type", parser=lower, metavar="TYPE", help="A message type, or a status."),
]
Label = Annotated[
    str | None,
    typer.Option(parser=word, metavar="LABEL", help="With this label; case does not matter."),
]
Phone = Annotated[
    str | None,
    typer.Option(parser=digits, metavar="PHONE", help="Of this phone; only its digits count."),
]
States = Annotated[
    list[State] | None,
    typer.Option(
        "--state",
        parser=one_of(STATES),
        metavar="|".join(STATES),
        help="Of at least one job; may be repeated.",
    ),
]
Limit = Annotated[
    int, typer.Option(parser=whole(1, 10_000), metavar="NUMBER", help="How many at most.")
]
Before = Annotated[
    int | None,
    typer.Option(parser=whole(1), metavar="ID", help="Only events with a smaller id, for paging."),
]
Phones = Annotated[bool, typer.Option("--phones", help="Show whole phone numbers.")]

Id = Annotated[int, typer.Argument(parser=whole(1), metavar="ID", show_default=False)]
Raw = Annotated[bool, typer.Option("--raw", help="Only the body, byte for byte.")]

Jobs = Annotated[
    list[int] | None, typer.Argument(parser=whole(1), metavar="JOB", show_default=False)
]
AllDiscarded = Annotated[
    bool, typer.Option("--all-discarded", help="Every discarded job; the filters narrow it down.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many.")]
