"""The commands and their options; what they do is in the other files of this folder."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

import typer

from .. import __version__
from ..errors import ConfigurationError
from ..inbox.base import KINDS, Filter
from ..jobs import State
from . import events
from .printing import exit_codes
from .times import moment

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # its tracebacks show locals, and those hold secrets
    rich_markup_mode=None,
    help="Receives WhatsAble's webhooks and loses nothing.",
)
events_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at what was received and what became of it.",
)
app.add_typer(events_app, name="events")


class StateName(StrEnum):
    """The states of a job, as options name them."""

    AVAILABLE = "available"
    RETRYABLE = "retryable"
    RUNNING = "running"
    COMPLETED = "completed"
    DISCARDED = "discarded"
    HELD = "held"


class KindName(StrEnum):
    """The kinds of an event, as options name them."""

    INCOMING = "incoming"
    OUTGOING = "outgoing"
    STATUS = "status"
    QUARANTINED = "quarantined"


LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

Database = Annotated[
    str | None, typer.Option(help="A path or a URL; WHATSABLE_DATABASE, or whatsable.db.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document, with stable keys.")]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="Received from then on: 2h, 3d, or ISO 8601.")
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Received before then.")]
Kinds = Annotated[list[KindName] | None, typer.Option("--kind", help="May be repeated.")]
Type = Annotated[str | None, typer.Option("--type", help="A message type, or a status.")]
Label = Annotated[str | None, typer.Option(help="With this label; case does not matter.")]
Phone = Annotated[str | None, typer.Option(help="Of this phone; only its digits count.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"whatsable-receiver {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Receives WhatsAble's webhooks and loses nothing."""


# ---------------------------------------------------------------- run and demo


@app.command()
def run(
    target: Annotated[str, typer.Argument(metavar="MODULE:RECEIVER", show_default=False)],
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    path: Annotated[
        str | None, typer.Option(help="Where POSTs are received; /webhook unless set.")
    ] = None,
    database: Annotated[
        str | None, typer.Option(help="A path, or a URL; whatsable.db unless set.")
    ] = None,
    grace: Annotated[
        float | None, typer.Option(help="Seconds that running handlers get at the end.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let anybody post, from anywhere.")
    ] = False,
    log_format: Annotated[LogFormat, typer.Option(help="Lines, or JSON objects.")] = "text",
    log_level: Annotated[LogLevel, typer.Option(help="What is logged, from here on.")] = "info",
) -> None:
    """Serve a receiver: an attribute of a module, or a function there that returns one.

    Secrets are not given here, where other users of the machine could read them: set
    WHATSABLE_PATH_SECRET, WHATSABLE_SIGNING_SECRET or WHATSABLE_ACCOUNTS. Options win over the
    environment.
    """
    from . import run as running

    with exit_codes():
        settings = {"path": path, "database": database, "grace": grace}
        code = running.run(
            target,
            host=host,
            port=port,
            settings=settings,
            insecure=insecure,
            log_format=log_format,
            log_level=log_level,
        )
    raise typer.Exit(code)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Go on serving afterwards.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what happens: a receiver on a temporary file, and a sender that posts to it.

    Exits 0 only if what happened is what should have happened.
    """
    from . import demo as showing

    if keep and as_json:
        raise typer.BadParameter("--json prints one document and ends; leave out --keep")
    with exit_codes():
        code = showing.demo(keep=keep, port=port, as_json=as_json)
    raise typer.Exit(code)


# ---------------------------------------------------------------- events


def _filter(
    *,
    since: str | None,
    until: str | None,
    kind: list[KindName] | None,
    message_type: str | None,
    label: str | None,
    phone: str | None,
    state: list[StateName] | None = None,
    before: int | None = None,
    limit: int = 50,
) -> Filter:
    now = datetime.now(UTC)
    digits = None
    if phone is not None:
        digits = re.sub(r"\D", "", phone)
        if not digits:
            raise ConfigurationError(f"--phone takes a number, not {phone!r}")
    try:
        return Filter(
            since=moment(since, now) if since is not None else None,
            until=moment(until, now) if until is not None else None,
            states=frozenset(State[name.upper()] for name in state or ()),
            kinds=frozenset(each for each in KINDS if each in (kind or ())),
            message_type=message_type.strip().lower() if message_type is not None else None,
            label=label,
            phone=digits,
            before=before,
            limit=limit,
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


@events_app.command("list")
def events_list(
    since: Since = None,
    until: Until = None,
    state: Annotated[
        list[StateName] | None, typer.Option(help="Of at least one job; may be repeated.")
    ] = None,
    kind: Kinds = None,
    message_type: Type = None,
    label: Label = None,
    phone: Phone = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    before: Annotated[
        int | None, typer.Option(min=1, help="Only events with a smaller id, for paging.")
    ] = None,
    phones: Annotated[bool, typer.Option("--phones", help="Show whole phone numbers.")] = False,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List events, newest first. Every condition given must hold."""
    with exit_codes():
        chosen = _filter(
            since=since,
            until=until,
            kind=kind,
            message_type=message_type,
            label=label,
            phone=phone,
            state=state,
            before=before,
            limit=limit,
        )
        events.list_events(database, chosen, phones=phones, as_json=as_json)


@events_app.command("show")
def events_show(
    number: Annotated[int, typer.Argument(metavar="ID", min=1, show_default=False)],
    raw: Annotated[bool, typer.Option("--raw", help="Only the body, byte for byte.")] = False,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show one event: its payload, its jobs, their attempts and errors."""
    if raw and as_json:
        raise typer.BadParameter("--raw and --json print different things; choose one")
    with exit_codes():
        events.show_event(database, number, raw=raw, as_json=as_json)


@events_app.command("resubmit")
def events_resubmit(
    jobs: Annotated[
        list[int] | None, typer.Argument(metavar="[JOB]...", min=1, show_default=False)
    ] = None,
    all_discarded: Annotated[
        bool, typer.Option("--all-discarded", help="All of them; the filters below narrow it.")
    ] = False,
    since: Since = None,
    until: Until = None,
    kind: Kinds = None,
    message_type: Type = None,
    label: Label = None,
    phone: Phone = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Run discarded jobs again, with a fresh budget of attempts. Their history stays."""
    narrowed = any((since, until, kind, message_type, label, phone))
    with exit_codes():
        if bool(jobs) == all_discarded or (narrowed and not all_discarded):
            raise ConfigurationError(
                "name the jobs, or say --all-discarded; filters go with --all-discarded only"
            )
        chosen = _filter(
            since=since,
            until=until,
            kind=kind,
            message_type=message_type,
            label=label,
            phone=phone,
        )
        events.resubmit_jobs(
            database,
            jobs or [],
            chosen if all_discarded else None,
            yes=yes,
            dry_run=dry_run,
            as_json=as_json,
        )


@events_app.command("stats")
def events_stats(database: Database = None, as_json: AsJson = False) -> None:
    """Show the inbox in numbers."""
    with exit_codes():
        events.show_stats(database, as_json=as_json)
