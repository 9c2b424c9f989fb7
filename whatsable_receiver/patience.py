"""Time limits of one length for many tasks, with one timer for all of them.

``asyncio.timeout`` sets and cancels a timer for each use; twice a delivery, that was 8 % of the
processor time of the accept path. Here a use costs an entry in a dict.
"""

from __future__ import annotations

import asyncio
from types import TracebackType


class OutOfPatience(TimeoutError):
    """This time limit ran out, and not one that the block had set for itself."""


class Patience:
    """``with patience:`` raises ``OutOfPatience`` where the block takes more than ``seconds``.

    One object serves any number of tasks; a task does not nest uses of one object.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until: dict[asyncio.Task[object], float] = {}  # oldest first: all wait equally long
        self._overdue: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a time limit needs a task")
        if loop is not self._loop:  # an app may outlive its loop; a timer does not
            self._loop, self._timer = loop, None
            self._until.clear()
            self._overdue.clear()
        self._until[task] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._look, loop)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task = asyncio.current_task(self._loop)
        if task is None:
            return
        del self._until[task]
        if task in self._overdue:
            self._overdue.discard(task)
            if task.uncancel() == 0 and kind is asyncio.CancelledError:
                raise OutOfPatience from error

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for task, until in self._until.items():
            if until > now:
                self._timer = loop.call_later(until - now, self._look, loop)
                return
            if task not in self._overdue:
                self._overdue.add(task)
                task.cancel()
