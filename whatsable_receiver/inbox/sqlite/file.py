"""The database file: opened, migrated, locked, written to in transactions, opened anew."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path

from ...errors import ConfigurationError, Unavailable
from .locks import FileLock

log = logging.getLogger("whatsable_receiver.inbox")

CHECKPOINT_BYTES = 8 << 20  # of log, roughly: small steps keep the pause of one short
SCHEMA = 1
APPLICATION_ID = 0x57684162  # "WhAb": tells our files from those of other programs
# A transaction that failed so leaves its connection as good as it was.
MERELY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CONSTRAINT}


def connect(path: Path) -> sqlite3.Connection:
    """A connection with the pragmas that the promises need; used by one thread at a time."""
    # SQLite would open such a file for reading, and leave a -shm beside it with the same rights:
    # that one would stay read-only when the file no longer is.
    if path.exists() and not os.access(path, os.W_OK):
        raise sqlite3.OperationalError("it may not be written")
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        db.execute("PRAGMA busy_timeout = 5000")
        _refuse_foreign(db, path)
        db.execute("PRAGMA page_size = 8192")
        # Another process may be making the same switch: this one statement does not wait by itself.
        for _ in range(50):
            try:
                mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                time.sleep(0.02)
        else:
            raise sqlite3.OperationalError("database is locked")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("PRAGMA automatic_index = OFF")
        db.execute("PRAGMA cache_size = -65536")
        synchronous = db.execute("PRAGMA synchronous").fetchone()[0]
        if mode != "wal" or synchronous != 2:
            # Promise 1 stands on these two.
            raise ConfigurationError(
                f"{path} cannot be made durable: journal_mode is {mode!r} (not 'wal'), "
                f"synchronous is {synchronous} (not 2, FULL); use a local disk"
            )
    except BaseException:
        db.close()
        raise
    return db


def _refuse_at_sight(path: Path) -> None:
    """What is plainly no database of ours, before anything is made beside it.

    Asked through SQLite: to close a handle of our own would drop the locks of every connection
    that this process has to the file.
    """
    if path.is_dir():
        raise ConfigurationError(f"the database {path} is a folder; give the path of a file")
    if path.exists():
        with closing(sqlite3.connect(path, timeout=5.0)) as db:
            _refuse_foreign(db, path)


def _refuse_foreign(db: sqlite3.Connection, path: Path) -> None:
    """A database that has tables and is not ours is left exactly as it is."""
    ours = db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    if not ours and db.execute("PRAGMA schema_version").fetchone()[0]:
        raise ConfigurationError(f"{path} is the database of another program")


def migrate(db: sqlite3.Connection) -> None:
    """Bring the schema to the newest number, each step in a transaction of its own."""
    while (version := db.execute("PRAGMA user_version").fetchone()[0]) < SCHEMA:
        script = Path(__file__).with_name("schema") / f"{version + 1:04}.sql"
        statements = script.read_text("utf-8").split(";\n")
        db.execute("BEGIN IMMEDIATE")
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] == version:
                for statement in statements:
                    if statement.strip():
                        db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {version + 1}")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
    if version > SCHEMA:
        raise ConfigurationError(
            f"the database has schema {version}, and this version knows {SCHEMA}: "
            "it was written by a newer whatsable-receiver; upgrade this one"
        )


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class DatabaseFile:
    """The one writing connection, and the locks beside the file; for one thread at a time.

    ``prepare`` is called with each new connection, and whether the file behind it is new to us.
    """

    def __init__(
        self, path: Path, *, create: bool, prepare: Callable[[sqlite3.Connection, bool], None]
    ) -> None:
        self.path = path
        self.db: sqlite3.Connection | None = None
        self.logged = 0  # bytes since the last checkpoint, roughly
        self._create = create
        self._prepare = prepare
        self._inode: tuple[int, int] | None = None
        self._lock: FileLock | None = None
        self._alive: FileLock | None = None

    # ------------------------------------------------------------ start and stop

    def start(self, *, alone: Callable[[sqlite3.Connection], None] | None) -> None:
        """Open or make the file. Raises ConfigurationError.

        ``alone`` is called if no other process has the file open; None says that this one does
        not count as one that has.
        """
        if not self.path.parent.is_dir():
            raise ConfigurationError(f"the folder of the database {self.path} does not exist")
        if not self._create and not self.path.exists():
            raise ConfigurationError(f"there is no database {self.path}")
        try:
            lock = self.path.with_name(self.path.name + "-lock")
            if not lock.exists():  # else it was ours before
                _refuse_at_sight(self.path)
            self._lock = FileLock(lock)
            self._alive = FileLock(self.path.with_name(self.path.name + "-alive"))
            with self.locked():
                first = alone is not None and self._alive.take(wait=False)
                db = self._open()
                if alone is not None and first:
                    alone(db)
            self._alive.take(shared=True)
        except sqlite3.Error as error:
            self.close()
            raise ConfigurationError(f"the database {self.path} cannot be used: {error}") from error
        except OSError as error:
            self.close()
            raise ConfigurationError(
                f"the database {self.path} cannot be used: {error.strerror}"
            ) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file and the locks."""
        if self.db is not None:
            with suppress(sqlite3.Error), self.locked():
                self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self.db.close()
            self.db = None
        for lock in (self._lock, self._alive):
            if lock is not None:
                lock.close()
        self._lock = self._alive = None

    def _open(self) -> sqlite3.Connection:
        if self.db is not None:
            return self.db
        fresh = not self.path.exists()
        if fresh and self._inode is not None and not self._create:
            raise sqlite3.OperationalError("the file is gone")
        if fresh:  # other people's messages: for the owner's eyes, and so are -wal and -shm
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        db = connect(self.path)
        try:
            migrate(db)
            inode = self._identity()
            self._prepare(db, fresh or inode != self._inode)  # or: inodes come again
            # The name of a file is stable only once its folder is synced. SQLite does that for a
            # log that it makes, unless it was built without; each connection may have made one.
            with nullcontext() if fresh else suppress(OSError):
                _sync(self.path.parent)
        except BaseException:
            db.close()
            raise
        self.db, self._inode = db, inode
        return db

    def _identity(self) -> tuple[int, int]:
        stat = os.stat(self.path)
        return stat.st_dev, stat.st_ino

    # ------------------------------------------------------------ writing

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes meanwhile."""
        assert self._lock is not None
        self._lock.take()
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction in the file that stands at the path now, or ``Unavailable``."""
        try:
            with self.locked(), self._rolling_back():
                db = self._open()
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
                if self._identity() != self._inode:
                    raise sqlite3.OperationalError("the file was replaced")
        except (sqlite3.Error, OSError, ConfigurationError) as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if self.db is not None and code not in MERELY:
                self.db.close()
                self.db = None
            raise Unavailable(f"the inbox cannot be written: {error}") from error

    @contextmanager
    def _rolling_back(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if self.db is not None and self.db.in_transaction:
                with suppress(sqlite3.Error):
                    self.db.execute("ROLLBACK")
            raise

    def checkpoint(self, at: int = CHECKPOINT_BYTES) -> None:
        """Move the log into the file, once it has about ``at`` bytes."""
        if self.logged < at or not self.logged:
            return
        self.logged = 0
        if self.db is None:
            return
        try:
            # Under the lock: versions of SQLite before 3.51.3 can corrupt a log that two
            # connections reset at once.
            with self.locked():
                self.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except (sqlite3.Error, OSError) as error:
            log.warning("a checkpoint has to wait: %s", error)
