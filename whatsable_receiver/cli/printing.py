"""What the commands print: text that is safe for a terminal, tables, JSON documents, exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from ..errors import ConfigurationError, NotFound, ReceiverError, StateError

PIPED_WIDTH = 160  # columns for a reader that is no terminal: one line a row, easy to grep
NARROWEST = 80  # columns; a narrower terminal breaks the lines itself, and no word is cut
# Invisible, and needed all the same: they join the parts of an emoji, or letters of a script.
JOINERS = frozenset("\u200c\u200d")

CODES: tuple[tuple[type[ReceiverError], int], ...] = (
    (ConfigurationError, 2),
    (NotFound, 3),
    (StateError, 4),
    (ReceiverError, 1),
)


# ---------------------------------------------------------------- safe text


def visible(text: object) -> str:
    """A text on one line, with every character that could act on a terminal written out."""
    return "".join([_shown(character) for character in str(text)])


def visible_lines(text: object) -> str:
    """Like ``visible``, with its line breaks kept: for tracebacks and pretty JSON."""
    return "\n".join([visible(line) for line in str(text).split("\n")])


def _shown(character: str) -> str:
    if character.isprintable() or character in JOINERS:
        return character
    return character.encode("unicode_escape").decode("ascii")


def cell(text: object, style: str = "") -> Text:
    """Data for a table: safe, and never read as markup."""
    return Text(visible(text), style=style)


# ---------------------------------------------------------------- people


def console(*, piped_width: int = PIPED_WIDTH) -> Console:
    """Standard output. Its width is the terminal's, or ``COLUMNS``, or ``piped_width``."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else piped_width
    printed = Console(width=width, highlight=False, markup=False, emoji=False)
    printed.width = max(printed.width, NARROWEST)
    return printed


def say(text: str) -> None:
    """A sentence to standard error, where it does not mix with what was asked for."""
    typer.echo(visible(text), err=True)


def clock_time(moment: datetime) -> str:
    """A time for people: UTC, which the Z says, to the second. ``--since`` takes it, too."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def counted(number: int, noun: str) -> str:
    """So many of a thing: ``1 job``, ``2 jobs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# ---------------------------------------------------------------- programs


def iso(moment: datetime | None) -> str | None:
    """A time for programs: ISO 8601 in UTC, with milliseconds and Z."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def document(value: Mapping[str, Any]) -> None:
    """One JSON document on standard output; ASCII only, so that no terminal can be hurt."""
    typer.echo(json.dumps(value, indent=2))


# ---------------------------------------------------------------- endings


@contextmanager
def exit_codes() -> Iterator[None]:
    """Our own errors end the command with their sentence and their exit code."""
    try:
        yield
    except ReceiverError as error:
        say(f"Error: {error}")
        raise typer.Exit(next(code for kind, code in CODES if isinstance(error, kind))) from None
