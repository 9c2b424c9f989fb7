"""The line of those who wait for jobs, and of which routes there may be some.

A claim that finds nothing is not repeated until something happens that may change that; a claim
costs a look at the lanes, and a look costs a commit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from ..base import Settled
from .cycle import Claimed, Cycle, Waiting, Wants

Asked = tuple[Wants, "asyncio.Future[Claimed]"]


class Line:
    """First come, first served, among those who ask for a route that may have something."""

    def __init__(self) -> None:
        self._asked: deque[Asked] = deque()
        self._bare: set[str] = set()  # routes of which the last claim left nothing to claim
        self.shaken = 0  # how often all of that became doubtful

    def __bool__(self) -> bool:
        return bool(self._asked)

    def join(self, asked: Asked, *, first: bool = False) -> None:
        """Wait, as the last or as the first."""
        if first:
            self._asked.appendleft(asked)
        else:
            self._asked.append(asked)

    @property
    def stirs(self) -> bool:
        """Whether somebody waits for something that may be there."""
        return self._place() is not None

    def next(self) -> Asked | None:
        """The first who waits for something that may be there; they wait no more."""
        place = self._place()
        if place is None:
            return None
        asked = self._asked[place]
        del self._asked[place]
        return asked

    def _place(self) -> int | None:
        self._asked = deque([asked for asked in self._asked if not asked[1].done()])  # or gone
        for place, (wants, _) in enumerate(self._asked):
            if any(want.route not in self._bare for want in wants.routes):
                return place
        return None

    def leave(self) -> None:
        """Send everybody away."""
        for _, answer in self._asked:
            answer.cancel()
        self._asked.clear()

    # ------------------------------------------------------------ what there may be

    def filled(self, waiting: Iterable[Waiting], saves: Iterable[Settled]) -> None:
        """These are being written: their routes may have something then."""
        if not self._bare:
            return
        for one in waiting:
            self._bare.difference_update([job.route for job in one.entry.jobs])
        for save in saves:
            self._bare.discard(save.job.route)
            if save.job.attempt > 1:
                self._bare.clear()  # it may have stood alone, and others may run now

    def answered(self, cycle: Cycle) -> None:
        """A claim was answered; unless something happened meanwhile, what it left is nothing."""
        if cycle.claimed and cycle.wants and not cycle.claimed.more and cycle.shaken == self.shaken:
            self._bare.update([want.route for want in cycle.wants.routes])

    def shake(self) -> None:
        """Anything may be there: something changed that no cycle of ours told of."""
        self._bare.clear()
        self.shaken += 1
