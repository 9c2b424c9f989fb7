"""Rounds of load and SIGKILL on one inbox, and the reckoning after the last of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag

from ..serving import Server, launch, until
from .books import copied, effects, opened
from .load import Ledger, Senders
from .verdict import Verdict, judge

LONGEST = 0.6  # seconds of load before a kill
AT_START = 0.2  # of the rounds are killed while the server starts, if it has begun to at all
DRAINED = 60.0  # seconds for the last of the work


@dataclass(frozen=True, slots=True)
class Round:
    """What one kill met."""

    number: int
    after: float  # seconds from the first answer (or from the start) to the kill
    starting: bool
    answered: int  # 2xx so far
    stored: int
    waiting: int  # jobs that were not finished
    running: int  # jobs under lease


class Campaign:
    """``rounds`` kills of one of ``processes`` servers, at moments that ``seed`` gives."""

    def __init__(self, folder: Path, *, seed: int, processes: int = 1) -> None:
        self.folder = folder
        self.ledger = Ledger()
        self.caught: Counter[int] = Counter()
        self._seed = seed
        self._processes = processes
        self._chance = random.Random(seed)
        self._servers: list[Server] = []

    def rounds(self, number: int) -> Iterator[Round]:
        """Kill so often; each round is told when it is over."""
        try:
            for n in range(1, number + 1):
                yield self._round(n)
        except BaseException:
            self.end()
            raise

    def reckon(self) -> Verdict:
        """Start what is dead, let the work end, stop everything and compare the books."""
        try:
            self._complete()
            for server in self._servers:
                server.wait_ready()
            database = self.folder / "inbox.db"
            with opened(database) as books:
                until(lambda: not books.unfinished(), DRAINED, what="all jobs are finished")
            for server in self._servers:
                server.stop()
            with copied(database) as books:
                return judge(books, self.ledger, effects(self.folder), self.caught)
        finally:
            self.end()

    def end(self) -> None:
        """Leave no process behind."""
        for server in self._servers:
            server.kill()

    def _complete(self) -> None:
        """Start servers until there are as many as there should be."""
        self._servers = [server for server in self._servers if server.process.poll() is None]
        while len(self._servers) < self._processes:
            # A lease shorter than usual, so that one process soon has the work of another.
            self._servers.append(launch("writing", self.folder, env={"WHATSABLE_LEASE": "1.5"}))

    def _round(self, number: int) -> Round:
        self._complete()
        starting = self._chance.random() < AT_START
        after = self._chance.uniform(0, 3 * LONGEST if starting else LONGEST)
        if not starting:
            for server in self._servers:
                server.wait_ready()
        victim = self._chance.choice(self._servers)
        ports = [server.port for server in self._servers]
        senders = Senders(self.ledger, ports, self._seed * 10_000 + number)
        try:
            _pass(after)
            victim.kill()
            stored, waiting, running = self._look()
        finally:
            senders.stop()
        self.caught.update(running)
        return Round(
            number,
            after,
            starting,
            sum(len(answers) for answers in self.ledger.accepted().values()),
            stored,
            waiting,
            len(running),
        )

    def _look(self) -> tuple[int, int, set[int]]:
        database = self.folder / "inbox.db"
        if not database.exists():
            return 0, 0, set()
        alive = any(server.process.poll() is None for server in self._servers)
        with (opened if alive else copied)(database) as books:
            if not books.made():
                return 0, 0, set()
            return books.stored(), books.unfinished(), books.running()


def _pass(seconds: float) -> None:
    """Let time pass: here the moment itself is what is tried."""
    Flag().wait(seconds)
