"""The sender: a few threads that post without pause, and remember what they were told."""

from __future__ import annotations

import http.client
import random
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..serving import Answer, Line
from .bodies import body

SENDERS = 16
REDELIVERED = 0.1  # of the posts say again what was said before
LATE = 500  # how far back a redelivery reaches


@dataclass(slots=True)
class Ledger:
    """What was posted how often, and what was answered, by number of message."""

    sent: Counter[int] = field(default_factory=Counter)
    answers: dict[int, list[Answer]] = field(default_factory=dict)
    cut: deque[int] = field(default_factory=deque)  # posts whose answer never came
    next: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def choose(self, chance: random.Random) -> int:
        """The next message, or one that was cut off, or a redelivery of an earlier one."""
        with self.lock:
            if self.cut and chance.random() < 0.5:
                n = self.cut.popleft()
            elif self.next and chance.random() < REDELIVERED:
                n = chance.randrange(max(0, self.next - LATE), self.next)
            else:
                n = self.next
                self.next += 1
            self.sent[n] += 1
            return n

    def told(self, n: int, answer: Answer) -> None:
        """Note an answer."""
        with self.lock:
            self.answers.setdefault(n, []).append(answer)

    def was_cut(self, n: int) -> None:
        """Note a post that was cut off: it may have been stored, and will be sent again."""
        with self.lock:
            self.cut.append(n)

    def accepted(self) -> dict[int, list[Answer]]:
        """The 2xx answers, by number of message."""
        with self.lock:
            good = {
                n: [a for a in given if a.status // 100 == 2] for n, given in self.answers.items()
            }
        return {n: given for n, given in good.items() if given}

    def others(self) -> Counter[int]:
        """How many answers were no 2xx, by status."""
        with self.lock:
            return Counter(
                answer.status
                for given in self.answers.values()
                for answer in given
                if answer.status // 100 != 2
            )


class Senders:
    """Threads that post to some ports until told to stop; a refused connection is tried again."""

    def __init__(self, ledger: Ledger, ports: Sequence[int], seed: int) -> None:
        self._ledger = ledger
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._send,
                args=(ports[n % len(ports)], random.Random(seed * 1000 + n)),
                daemon=True,
            )
            for n in range(SENDERS)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the posts under way, and end."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(30)

    def _send(self, port: int, chance: random.Random) -> None:
        line = Line(port)
        while not self._stopped.is_set():
            n = self._ledger.choose(chance)
            try:
                self._ledger.told(n, line.post(body(n)))
            except (OSError, http.client.HTTPException, ValueError):
                self._ledger.was_cut(n)
                self._stopped.wait(0.02)  # the server is gone or not there yet
        line.close()
