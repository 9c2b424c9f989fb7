"""The commands. What they take is in ``options``, what they do in the other files here."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from ..errors import ConfigurationError
from ..inbox.base import Filter
from . import events, options
from .printing import exit_codes

CODES = """Exit codes: 0 well; 1 something failed; 2 asked or set up wrongly; 3 no such event or
job; 4 not in a state that allows it; 130 ended early by Ctrl-C."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # its tracebacks show locals, and those hold secrets
    rich_markup_mode=None,
    help="Receives WhatsAble's webhooks and loses nothing.",
    epilog=CODES,
)
events_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at what was received and what became of it.",
    epilog=CODES,
)
app.add_typer(events_app, name="events")


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
    target: options.Target,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    path: options.Path = None,
    database: options.Database = None,
    grace: options.Grace = None,
    insecure: options.Insecure = False,
    log_format: options.LogFormat = "text",
    log_level: options.LogLevel = "info",
) -> None:
    """Serve a receiver: an attribute of a module, or a function there that returns one.

    Secrets are not given here, where other users of the machine could read them: set
    WHATSABLE_PATH_SECRET, WHATSABLE_SIGNING_SECRET or WHATSABLE_ACCOUNTS. Options win over
    what the code gives to Receiver, and that wins over the environment.
    """
    from . import run as running

    with exit_codes():
        code = running.run(
            target,
            host=host,
            port=port,
            settings={"path": path, "database": database, "grace": grace},
            insecure=insecure,
            log_format=log_format,
            log_level=log_level,
        )
    raise typer.Exit(code)


@app.command()
def demo(
    keep: options.Keep = False, port: options.Port = 0, as_json: options.AsJson = False
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


@events_app.command("list")
def events_list(
    since: options.Since = None,
    until: options.Until = None,
    state: options.States = None,
    kind: options.Kinds = None,
    message_type: options.Type = None,
    label: options.Label = None,
    phone: options.Phone = None,
    limit: options.Limit = 50,
    before: options.Before = None,
    phones: options.Phones = False,
    database: options.Database = None,
    as_json: options.AsJson = False,
) -> None:
    """List events, newest first. Every condition given must hold."""
    chosen = Filter(
        since=since,
        until=until,
        states=frozenset(state or ()),
        kinds=frozenset(kind or ()),
        message_type=message_type,
        label=label,
        phone=phone,
        before=before,
        limit=limit,
    )
    with exit_codes():
        events.list_events(database, chosen, phones=phones, as_json=as_json)


@events_app.command("show")
def events_show(
    number: options.Id,
    raw: options.Raw = False,
    database: options.Database = None,
    as_json: options.AsJson = False,
) -> None:
    """Show one event: its payload, its jobs, their attempts and errors."""
    if raw and as_json:
        raise typer.BadParameter("--raw and --json print different things; choose one")
    with exit_codes():
        events.show_event(database, number, raw=raw, as_json=as_json)


@events_app.command("resubmit")
def events_resubmit(
    jobs: options.Jobs = None,
    all_discarded: options.AllDiscarded = False,
    since: options.Since = None,
    until: options.Until = None,
    kind: options.Kinds = None,
    message_type: options.Type = None,
    label: options.Label = None,
    phone: options.Phone = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    database: options.Database = None,
    as_json: options.AsJson = False,
) -> None:
    """Run discarded jobs again, with a fresh budget of attempts. Their history stays."""
    chosen = Filter(
        since=since,
        until=until,
        kinds=frozenset(kind or ()),
        message_type=message_type,
        label=label,
        phone=phone,
    )
    with exit_codes():
        if bool(jobs) == all_discarded or (chosen != Filter() and not all_discarded):
            raise ConfigurationError(
                "name the jobs, or say --all-discarded; filters go with --all-discarded only"
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
def events_stats(database: options.Database = None, as_json: options.AsJson = False) -> None:
    """Show the inbox in numbers."""
    with exit_codes():
        events.show_stats(database, as_json=as_json)
