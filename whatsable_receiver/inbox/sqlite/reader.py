"""Reading beside the writer, on a thread and a connection of its own."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ...errors import ConfigurationError, Unavailable
from .file import connect

T = TypeVar("T")


class Reader:
    """One connection that cannot write, opened when it is first needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "whatsable-inbox-reader")
        self._db: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` finds in the file that stands at the path now, or ``Unavailable``."""
        try:
            return await self.run(lambda: self._read(work))
        except (sqlite3.Error, OSError, ConfigurationError) as error:
            raise Unavailable(f"the inbox cannot be read: {error}") from error

    async def run(self, work: Callable[[], T]) -> T:
        """Anything else that takes its time, on the same thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Let go of the file and of the thread."""
        await self.run(self._disconnect)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the thread, whatever it is still doing; nothing was read."""
        self._thread.shutdown(wait=False)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        stat = os.stat(self._path)  # another file may stand there by now
        inode = stat.st_dev, stat.st_ino
        if inode != self._inode:
            self._disconnect()
        if self._db is None:
            self._db, self._inode = connect(self._path), inode
            self._db.execute("PRAGMA query_only = ON")
        try:
            return work(self._db)
        except sqlite3.Error:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
