"""What a section hands back: rows, each with the floor that it is judged by."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long and how often to measure. Seconds are those of one run of one configuration."""

    rounds: int = 3
    seconds: int = 3
    quick: bool = False  # a smoke run: does it work at all; its figures mean nothing
    full: bool = False  # the sizes that were asked for, where the default is smaller
    verbose: bool = False  # print each run as it ends, to stderr

    def tell(self, text: str) -> None:
        """Print what a run gave, if somebody wants to see it."""
        if self.verbose:
            print(text, file=sys.stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What a figure must reach. One of the two bounds; an ambition lies beyond it."""

    at_least: float | None = None
    at_most: float | None = None
    ambition: float | None = None

    def __str__(self) -> str:
        text = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return f"{text} ({self.ambition:g})" if self.ambition is not None else text

    def verdict(self, value: float) -> str:
        """ "ok", or by how much the value misses."""
        if self.at_least is not None and value < self.at_least:
            return f"misses by {100 * (1 - value / self.at_least):.0f} %"
        if self.at_most is not None and value > self.at_most:
            if self.at_most == 0:
                return f"misses by {value:g}"
            return f"misses by {100 * (value / self.at_most - 1):.0f} %"
        if self.ambition is not None and self.at_least is not None and value >= self.ambition:
            return "ok, ambition reached"
        return "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: a figure, what it is judged by, and what else was seen."""

    what: str
    value: float | None = None  # None: not measured, and ``void`` says why
    unit: str = ""
    floor: Floor | None = None
    seen: dict[str, float | str] = field(default_factory=dict)
    void: str | None = None  # why this row says nothing: skipped, or its run was not sound
    rounds: tuple[float, ...] = ()  # the value in each round
    doubt: str | None = None  # why a sound run still proves little
    section: str = ""  # written by whoever ran it

    @property
    def verdict(self) -> str:
        """How the figure stands to its floor; "" where there is none."""
        if self.void is not None:
            return self.void
        if self.floor is None or self.value is None:
            return ""
        verdict = self.floor.verdict(self.value)
        return f"{verdict}, in doubt" if self.doubt else verdict

    @property
    def fine(self) -> bool:
        """Whether this row is no reason to look closer."""
        if self.void is not None:
            return self.void.startswith("skipped")
        return self.verdict == "" or (self.verdict.startswith("ok") and not self.doubt)


def figure(
    what: str,
    rounds: Sequence[float],
    unit: str,
    *,
    floor: Floor | None = None,
    seen: dict[str, float | str] | None = None,
    void: str | None = None,
) -> Row:
    """A row whose value is the median over its rounds."""
    return Row(
        what=what,
        value=median(rounds),
        unit=unit,
        floor=floor,
        seen=seen or {},
        void=void,
        rounds=tuple(rounds),
    )
