"""The map of the house: imports go downwards only, and neighbours do not know each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "whatsable_receiver"
ROOT = Path(__file__).parent.parent / PACKAGE

# Top floor first. A room may import from the floors below its own, and from itself.
# Rooms may stand empty until they are built.
FLOORS = """
    __main__
    cli          testing       pytest_plugin
    __init__
    receiver
    web          worker        housekeeping  inspector     inbox.sqlite  inbox.postgres
    inbox        inbox.base    handling      media         sending
    idempotency  verification  routing       conversation  client        settings  telemetry
    event        jobs          patience
    payload
    errors
"""
# A house of its own: it imports nothing of ours, and only those above the front door visit it.
EMULATOR = "emulator"
VISITORS = {"__main__", "cli", "testing", "pytest_plugin"}

# No await, no clock, no files here: time, randomness and bytes are arguments.
CORE = {"errors", "payload", "event", "idempotency", "verification", "jobs", "routing"}
WORLD = {"anyio", "asyncio", "os", "pathlib", "random", "socket", "sqlite3", "tempfile", "time"}
CLOCK_OR_FILE = {"now", "utcnow", "today", "open"}

HEIGHT = {
    room: height
    for height, floor in enumerate(reversed(FLOORS.strip().splitlines()), start=1)
    for room in floor.split()
}


def room_of(module: str) -> str | None:
    """The room of a module named from the package on: ``cli.events`` is in ``cli``."""
    parts = module.split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    found = next((name for name in names if name in HEIGHT or name == EMULATOR), None)
    # The inbox is divided: what is in its folder is a room by name, or no room at all.
    return None if found == "inbox" and module != "inbox" else found


def modules() -> dict[str, Path]:
    """Every module of the package, by its name from the package on."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        inside = parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts
        found[".".join(inside)] = path
    return found


def imported(module: str, source: str, *, package: bool, known: set[str]) -> Iterator[str]:
    """The modules of ours that ``source`` imports, wherever in the file it does so."""
    here = [] if module == "__init__" else module.split(".")
    folder = here if package else here[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == PACKAGE:
                    yield "__init__"
                elif alias.name.startswith(PACKAGE + "."):
                    yield alias.name.removeprefix(PACKAGE + ".")
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = folder[: len(folder) - (node.level - 1)]
            elif (node.module or "").split(".")[0] == PACKAGE:
                base = []
            else:
                continue
            named = (node.module or "").split(".") if node.module else []
            base = base + (named if node.level else named[1:])
            for alias in node.names:
                # "from .inbox import sqlite" names a module; "from .jobs import Job" does not.
                full = ".".join([*base, alias.name])
                is_module = full in known or room_of(full) == full
                yield full if is_module else ".".join(base) or "__init__"


def complaints(module: str, source: str, *, package: bool, known: set[str]) -> list[str]:
    """What is wrong with a module's imports, each as a sentence; empty when nothing is."""
    room = room_of(module)
    if room is None:
        return [f"{module} has no floor; draw it in FLOORS"]
    wrong = []
    for other in imported(module, source, package=package, known=known):
        target = room_of(other)
        if target == room:
            continue
        if target is None:
            wrong.append(f"{module} imports {other}, which has no floor")
        elif room == EMULATOR:
            wrong.append(f"{module} imports {other}: the emulator imports nothing of ours")
        elif target == EMULATOR:
            if room not in VISITORS:
                wrong.append(f"{module} imports {other}: the emulator is a house of its own")
        elif HEIGHT[target] == HEIGHT[room]:
            wrong.append(f"{module} imports {other}: neighbours do not know each other")
        elif HEIGHT[target] > HEIGHT[room]:
            wrong.append(f"{module} imports {other}: imports go downwards only")
    return wrong


def impurities(module: str, source: str) -> list[str]:
    """Where a core module awaits, or reaches for the clock, for chance or for files."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                reached = {alias.name.split(".")[0] for alias in names} & WORLD
            case ast.ImportFrom(module=str(name), level=0):
                reached = {name.split(".")[0]} & WORLD
            case ast.Await() | ast.AsyncFor() | ast.AsyncWith() | ast.AsyncFunctionDef():
                reached = {"await"}
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
                reached = {name} & CLOCK_OR_FILE
            case _:
                continue
        wrong += [f"{module}, line {getattr(node, 'lineno', '?')}: {name}" for name in reached]
    return wrong


def test_imports_go_downwards_and_neighbours_do_not_know_each_other() -> None:
    """Every module of the package stands on its floor and imports only from below."""
    known = modules()
    assert known, f"no modules found in {ROOT}"
    wrong = [
        complaint
        for module, path in known.items()
        for complaint in complaints(
            module,
            path.read_text("utf-8"),
            package=path.name == "__init__.py",
            known=set(known),
        )
    ]
    assert wrong == []


def test_the_core_has_no_await_no_clock_and_no_files() -> None:
    """What decides takes time and randomness as arguments, so it can be called without set-up."""
    wrong = [
        impurity
        for module, path in modules().items()
        if room_of(module) in CORE
        for impurity in impurities(module, path.read_text("utf-8"))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "source", "caught"),
    [
        ("payload", "from .worker import Worker", "downwards only"),
        ("payload", "from . import Receiver", "downwards only"),
        ("jobs", "import whatsable_receiver", "downwards only"),
        ("inbox.base", "from .sqlite import SQLiteInbox", "downwards only"),
        ("inbox.base", "from ..web import app", "downwards only"),
        ("inbox.sqlite", "from . import postgres", "neighbours"),
        ("inbox.sqlite.writer", "from ..postgres import PostgresInbox", "neighbours"),
        ("web", "from .worker import Worker", "neighbours"),
        ("web", "def late():\n    from .worker import Worker", "neighbours"),
        ("web", "import whatsable_receiver.worker", "neighbours"),
        ("web", "from whatsable_receiver import worker", "neighbours"),
        ("handling", "from .inbox.base import Inbox", "neighbours"),
        ("receiver", "from .cli.demo import main", "downwards only"),
        ("receiver", "from .emulator import vault", "house of its own"),
        ("emulator.vault", "from ..payload import Payload", "nothing of ours"),
        ("helpers", "", "no floor"),
        ("inbox.oracle", "", "no floor"),
        ("worker", "from .helpers import anything", "downwards only|no floor"),
    ],
)
def test_a_wrong_import_is_caught(module: str, source: str, caught: str) -> None:
    """The map is a test that can fail: each kind of wrong import is named as such."""
    found = complaints(module, source, package=False, known={"helpers"} | HEIGHT.keys())
    assert len(found) == 1
    assert any(words in found[0] for words in caught.split("|"))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("payload", "import json\nfrom .errors import Unfit"),
        ("inbox.sqlite", "from ..jobs import Job\nfrom .base import Inbox"),
        ("inbox.sqlite.inbox", "from .writer import Writer"),
        ("receiver", "from .web import endpoint\nfrom .inbox import sqlite"),
        ("cli.run", "from ..receiver import Receiver\nfrom .printing import table"),
        ("cli.run", "from .. import Receiver\nfrom ..emulator import sender"),
        ("emulator.vault", "import json\nfrom .sender import post"),
        ("__init__", "from .receiver import Receiver\nfrom .errors import Retry"),
    ],
)
def test_a_right_import_is_let_through(module: str, source: str) -> None:
    """The map forbids no more than it says."""
    assert complaints(module, source, package=module == "__init__", known=set(HEIGHT)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from random import random",
        "from pathlib import Path",
        "async def f():\n    pass",
        "import datetime\ndatetime.datetime.now()",
        "open('f')",
    ],
)
def test_an_impure_core_is_caught(source: str) -> None:
    """The rule about the core is a test that can fail, too."""
    assert len(impurities("jobs", source)) == 1
