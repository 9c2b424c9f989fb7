"""``run module:receiver``: find the receiver, refuse what is unsafe, serve it."""

from __future__ import annotations

import difflib
import gc
import importlib
import inspect
import logging
import os
import sys
import traceback
from types import ModuleType
from typing import Any

import typer

from ..errors import ConfigurationError, ReceiverError
from ..receiver import Receiver
from . import logs, serving
from .printing import counted, say, visible_lines

log = logging.getLogger("whatsable_receiver.cli")


class Broken(ReceiverError):
    """The user's module raised while it was imported; its traceback is printed already."""


# ---------------------------------------------------------------- from a name to a receiver


def find(target: str) -> Receiver:
    """The receiver that ``module:attribute`` names: itself, or what a function there returns.

    Raises ``ConfigurationError`` with what to change, ``Broken`` where the module itself fails.
    """
    module_name, colon, path = target.partition(":")
    if not (colon and module_name and path):
        raise ConfigurationError(
            f"{target!r} is not module:attribute; for a receiver = Receiver() in app.py it is "
            "app:receiver"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = _module(module_name)
    found: Any = module
    for name in path.split("."):
        if not hasattr(found, name):
            raise ConfigurationError(f"{module_name} has no {path}{_hint(module, path)}")
        found = getattr(found, name)
    if isinstance(found, Receiver):
        return found
    if callable(found) and _takes_nothing(found):
        made = _called(target, found)
        if isinstance(made, Receiver):
            return made
        if inspect.iscoroutine(made):
            made.close()
        raise ConfigurationError(
            f"{target} is a function that returns {_a(made)}, not a Receiver{_hint(module, path)}"
        )
    hint = _hint(module, path) or "; another ASGI app is served with uvicorn"
    raise ConfigurationError(f"{target} is {_a(found)}, not a Receiver{hint}")


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            file = name.removesuffix(".py")
            hint = f"; the module of {name} is {file}" if file != name else ""
            raise ConfigurationError(
                f"there is no module {name!r} in {os.getcwd()}, nor among what is installed{hint}"
            ) from None
        raise _broken(f"module {name!r} cannot be imported", error) from None
    except ReceiverError:
        raise
    except TypeError as error:
        if name.startswith("."):
            raise ConfigurationError(f"{name!r} is a relative name; write it in full") from None
        raise _broken(f"module {name!r} cannot be imported", error) from None
    except Exception as error:  # the user's module: anything may come out
        raise _broken(f"module {name!r} cannot be imported", error) from None


def _called(target: str, function: Any) -> Any:
    try:
        return function()
    except ReceiverError:
        raise
    except Exception as error:  # the user's function: anything may come out
        raise _broken(f"{target} failed", error) from None


def _broken(what: str, error: BaseException) -> Broken:
    typer.echo(visible_lines("".join(traceback.format_exception(error))), err=True, nl=False)
    return Broken(f"{what}: {type(error).__name__}: {error}")


def _takes_nothing(function: Any) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True


def _a(thing: object) -> str:
    name = type(thing).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _hint(module: ModuleType, path: str) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, Receiver)]
    near = difflib.get_close_matches(path, names, n=1) or names[:1]
    return f"; did you mean {module.__name__}:{near[0]}?" if near else ""


# ---------------------------------------------------------------- what is in force


def proofs(receiver: Receiver) -> list[str]:
    """What a delivery has to prove, in words, without a secret."""
    verifier = receiver.verifier
    found = []
    if verifier.path_secret is not None:
        found.append("secret path")
    if count := len(verifier.signing_secrets):
        scheme = "" if verifier.scheme == "auto" else f", {verifier.scheme}"
        found.append(f"signature ({counted(count, 'secret')}{scheme})")
    if count := len(verifier.accounts):
        found.append(counted(count, "allowed account"))
    if verifier.function is not None:
        found.append("your verify function")
    return found


def refuse_unsafe(receiver: Receiver, host: str, *, insecure: bool) -> None:
    """``ConfigurationError`` where anybody could post: beyond loopback without a proof."""
    if receiver.verifier.open_to_anyone and not serving.loopback(host) and not insecure:
        raise ConfigurationError(
            f"anybody who reaches {host or 'this machine'} could post: set WHATSABLE_PATH_SECRET, "
            "WHATSABLE_SIGNING_SECRET or WHATSABLE_ACCOUNTS, listen on 127.0.0.1, or say --insecure"
        )


def banner(receiver: Receiver, listening: str) -> list[str]:
    """Where it listens, where it stores, what it runs, what it checks; no secret is in it."""
    settings = receiver.settings
    names = [route.name for route in receiver.routes()]
    path = settings.path + ("/SECRET" if settings.path_secret else "")
    file = settings.sqlite_file
    return [
        f"receives   POST {listening}{path}   health: {listening}/health",
        f"stores in  {os.path.abspath(file) if file else 'PostgreSQL'}",
        f"routes     {', '.join(names) or 'none: events are stored, and nothing runs'}",
        f"proofs     {', '.join(proofs(receiver)) or 'none: whoever reaches this port may post'}",
    ]


# ---------------------------------------------------------------- the command


def run(
    target: str,
    *,
    host: str,
    port: int,
    settings: dict[str, Any],
    insecure: bool,
    log_format: logs.Format,
    log_level: logs.Level,
) -> int:
    """Serve until SIGINT or SIGTERM; 0 when it stopped as it should."""
    logs.set_up(log_format, log_level)
    receiver = find(target)
    receiver.configure(**settings)
    receiver.routes()  # two routes of one name: said before anything is opened
    refuse_unsafe(receiver, host, insecure=insecure)
    with serving.listen(host, port) as listener:
        server = serving.server(receiver)
        lines = banner(receiver, serving.url(listener))

        def ready() -> None:
            if log_format == "json":
                log.info("serving at %s", serving.url(listener))
            else:
                for line in lines:
                    say(line)
            # What lives now lives until the end: the collector need not walk it again. And of
            # what comes, nearly all goes by itself; the collector looks less often.
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000, 20, 50)

        async def main() -> int:
            await serving.serve(receiver, server, listener, ready)
            return 0

        return serving.until_stopped(server, main())
