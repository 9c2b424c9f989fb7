"""The power goes, and with it what was written and not synced: what was answered is there."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from .crash.bodies import body
from .crash.books import copied, effects, opened
from .crash.load import Ledger, Senders
from .crash.verdict import judge
from .power.disk import Disk, build, compiler
from .serving import Answer, Server, serving, until

pytest.importorskip("uvicorn")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"),
    pytest.mark.skipif(compiler() is None, reason="needs a C compiler"),
]

IMAGES = 5  # of one spell of load
APART = 20  # messages, at least, that are answered from one to the next


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What keeps book of the syncs of a process."""
    return build(tmp_path_factory.mktemp("power"))


# ---------------------------------------------------------------- the receiver


def missing(database: Path, accepted: Mapping[int, Sequence[Answer]]) -> list[str]:
    """What was answered 2xx and is not in a database as it came."""
    if not database.exists():
        return ["the database"]
    with opened(database) as books:
        if not books.made():
            return ["the schema"]
        raw = {event.id: event.raw for event in books.events()}
        gone = [
            f"message {n}, answered {answer.status} {answer.body}"
            for n, answers in accepted.items()
            for answer in answers
            if raw.get(answer.body["event"]) != body(n)
        ]
        return gone if books.sound() else [*gone, "pages of the file"]


@contextmanager
def posting(server: Server, ledger: Ledger, seed: int) -> Iterator[None]:
    """Threads post meanwhile, and what they are told is in the ledger."""
    senders = Senders(ledger, [server.port], seed)
    try:
        yield
    finally:
        senders.stop()


def look(disk: Disk, ledger: Ledger) -> None:
    """Let the power go now and then: nothing is missing that was answered before."""
    for _ in range(IMAGES):
        enough = len(ledger.accepted()) + APART

        def accepted(enough: int = enough) -> dict[int, list[Answer]] | None:
            answers = ledger.accepted()
            return answers if len(answers) >= enough else None

        before = until(accepted, what="more answers")
        with disk.image() as found:
            assert missing(found / "inbox.db", before) == []


def test_what_was_answered_survives_the_loss_of_power(tmp_path: Path, library: Path) -> None:
    """Promises 1 to 5: whenever the power goes, each 2xx given before is on the disk byte for
    byte; the server that starts on what is there completes every job, and runs again only those
    that it finds under lease."""
    database = tmp_path / "inbox.db"
    disk = Disk(database, library)
    ledger = Ledger()
    # Without workers it falls silent between two loads, and moves the log into the file.
    silent = {**disk.env, "WHATSABLE_TEST_WORKERS": "no"}
    with serving("writing", tmp_path, env=silent) as server:
        with posting(server, ledger, 1):
            look(disk, ledger)
        small = database.stat().st_size
        until(lambda: database.stat().st_size > small, what="the log is moved into the file")
        with posting(server, ledger, 2):
            look(disk, ledger)
        server.stop()
    with (
        serving("writing", tmp_path, env=disk.env) as server,
        posting(server, ledger, 3),
    ):
        look(disk, ledger)
        server.kill()
    with disk.image() as found:
        with copied(found / "inbox.db") as books:
            caught = Counter(books.running())
        with serving("writing", found) as server, opened(found / "inbox.db") as books:
            until(lambda: not books.unfinished(), what="all jobs are finished")
            server.stop()
        with copied(found / "inbox.db") as books:
            lines = effects(tmp_path) + effects(found)
            assert judge(books, ledger, lines, caught).wrong == ()
    assert not ledger.others()


@pytest.mark.parametrize("deaf", ["", "sqlite"], ids=["as-it-is", "sqlite-syncs-no-folder"])
def test_an_answer_is_on_the_disk_when_it_is_given(
    tmp_path: Path, library: Path, deaf: str
) -> None:
    """Promise 1: from the first answer of a new file on, after a new start, and even with a
    SQLite that is built not to sync folders: the store syncs that of its file."""
    if deaf:
        plain = Disk(tmp_path / "plain" / "inbox.db", library, deaf=deaf)
        run(ROWS, plain, "FULL")
        with plain.image() as found:
            if any(found.iterdir()):
                pytest.skip("SQLite is no library of its own here")
    disk = Disk(tmp_path / "inbox.db", library, deaf=deaf)
    accepted: dict[int, list[Answer]] = {}
    for life in (range(5), range(5, 10)):
        with serving("writing", tmp_path, env=disk.env) as server:
            for n in life:
                accepted[n] = [server.post(body(n))]
                with disk.image() as found:
                    assert missing(found / "inbox.db", accepted) == []
            server.stop()


# ---------------------------------------------------------------- the tests above can fail

ROWS = """
import os, sqlite3, sys
db = sqlite3.connect(os.environ["POWER_FILE"], isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("CREATE TABLE rows (n)")
db.execute(f"PRAGMA synchronous = {sys.argv[1]}")
for n in range(10):
    if n == 4:
        db.execute("PRAGMA wal_checkpoint")
    db.execute("INSERT INTO rows VALUES (?)", (n,))
os._exit(0)  # without the checkpoint of a close
"""

STEPS = """
import os, sys, time
path = os.environ["POWER_FILE"]
for number, step in enumerate(sys.argv[1:]):
    match step:
        case "make":
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            os.write(file, b"%d" % number)
        case "write":
            os.write(file, b", %d" % number)
        case "sync":
            os.fsync(file)
        case "sync data":
            os.fdatasync(file)
        case "sync folder":
            os.fsync(os.open(os.path.dirname(path), os.O_RDONLY))
        case "remove":
            os.close(file)
            os.unlink(path)
            time.sleep(0.02)  # the clock of births ticks slowly, and the inode comes again
"""


def run(script: str, disk: Disk, *given: str) -> None:
    """Run a Python program on a disk."""
    subprocess.run(
        [sys.executable, "-c", script, *given], env={**os.environ, **disk.env}, check=True
    )


@pytest.mark.parametrize(("synchronous", "rows"), [("FULL", 10), ("NORMAL", 4), ("OFF", 0)])
def test_a_commit_that_was_not_synced_is_lost(
    tmp_path: Path, library: Path, synchronous: str, rows: int
) -> None:
    """With synchronous=NORMAL, SQLite loses what it committed since the last checkpoint."""
    disk = Disk(tmp_path / "inbox.db", library)
    run(ROWS, disk, synchronous)
    with closing(sqlite3.connect(tmp_path / "inbox.db")) as db:
        assert db.execute("SELECT count(*) FROM rows").fetchone() == (10,)
    with disk.image() as found, closing(sqlite3.connect(found / "inbox.db")) as db:
        assert db.execute("SELECT count(*) FROM rows").fetchone() == (rows,)


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ("make, sync, sync folder", b"0"),
        ("make, sync data, sync folder, write", b"0"),
        ("make, sync, sync folder, write, sync data", b"0, 3"),
        ("make, sync", None),
        ("sync folder, make, sync", None),
        ("make, sync folder", b""),
        ("make, sync, sync folder, remove", b"0"),
        ("make, sync, sync folder, remove, sync folder", None),
        ("make, sync, sync folder, remove, make, sync", b"0"),
    ],
)
def test_a_file_is_found_as_it_was_synced_under_the_names_that_were(
    tmp_path: Path, library: Path, steps: str, found: bytes | None
) -> None:
    """A file is lost until its folder is synced, and what is written to it until it is itself."""
    disk = Disk(tmp_path / "inbox.db", library)
    run(STEPS, disk, *steps.split(", "))
    with disk.image() as image:
        assert {path.name: path.read_bytes() for path in image.iterdir()} == (
            {} if found is None else {"inbox.db": found}
        )
