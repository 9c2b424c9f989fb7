"""File locks between processes: who writes now, and who is alive.

SQLite's own busy handler sleeps up to 100 ms between tries; a waiting ``flock`` is woken at once
(measured on two processes: p99 26 ms instead of 600 ms). Where there is no ``flock``, the locks
do nothing and SQLite's own waiting is all there is.
"""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class FileLock:
    """A lock on a file beside the database, never on the database: closing a second handle on
    that would drop SQLite's own locks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self, *, shared: bool = False, wait: bool = True) -> bool:
        """Take it, or answer False where somebody else has it and ``wait`` is False."""
        if fcntl is None:
            return wait  # nobody can know whether somebody else has it
        how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.flock(self._handle, how)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let go of it."""
        if fcntl is not None:
            fcntl.flock(self._handle, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of it and of the file."""
        os.close(self._handle)
