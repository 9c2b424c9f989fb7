"""Time limits of one length for many tasks, with one timer for all of them.

``asyncio.timeout`` sets and cancels a timer for each use; twice a delivery, that was 8 % of the
processor time of the accept path. Here a use costs an entry in a dict.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType

log = logging.getLogger("whatsable_receiver.patience")


class OutOfPatience(TimeoutError):
    """This time limit ran out, and not one that the block had set for itself."""


class Patience:
    """``with patience:`` raises ``OutOfPatience`` where the block takes more than ``seconds``.

    One object serves any number of tasks; a task does not nest uses of one object. A task may
    swallow its cancellation and go on: ``told`` seconds later the log names ``what`` it is.
    """

    def __init__(self, seconds: float, what: str = "a task", *, told: float = 5.0) -> None:
        self.seconds = seconds
        self._what = what
        self._told = told
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
                loop.call_later(self._told, self._tell, task)

    def _tell(self, task: asyncio.Task[object]) -> None:
        if task in self._overdue:
            log.warning(
                "%s goes on after its limit of %g seconds: it swallows its cancellation",
                self._what,
                self.seconds,
            )
