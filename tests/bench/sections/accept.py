"""Accepted POSTs a second, beside a bare Starlette endpoint that keeps nothing."""

from __future__ import annotations

from statistics import median

from ..rounds import Config, Run, flaw_of, interleaved, ratios, seen_of
from ..rows import Floor, Options, Row

BARE = Config(name="bare Starlette", app="bare")
ACCEPT = Config(name="receiver, accept only", app="receiver_accept", stores=True)
HANDLERS = Config(
    name="receiver, with handlers", app="receiver_handlers", stores=True, handles=True
)
WIDTHS = (128, 32)

FLOORS = {
    (ACCEPT.name, 128): Floor(at_least=0.42, ambition=0.6),
    (ACCEPT.name, 32): Floor(at_least=0.3, ambition=0.45),
    (HANDLERS.name, 128): Floor(at_least=0.33, ambition=0.45),
    (HANDLERS.name, 32): Floor(at_least=0.22, ambition=0.3),
}
P99 = Floor(at_most=2.5)


def rate_of(run: Run) -> float:
    """Requests a second."""
    return run.rate


def run(options: Options) -> list[Row]:
    """The rate at 128 and at 32 connections, and the p99 at 128."""
    runs = interleaved((BARE, ACCEPT, HANDLERS), WIDTHS, options)
    rows = []
    for width in WIDTHS:
        bare = runs[BARE.name, width]
        for config in (BARE, ACCEPT, HANDLERS):
            mine = runs[config.name, width]
            each = ratios(mine, bare, rate_of)
            rows.append(
                Row(
                    section="accept",
                    what=f"@{width} {config.name}, against bare",
                    value=median(each),
                    unit="x",
                    floor=FLOORS.get((config.name, width)),
                    seen=seen_of(mine),
                    void=flaw_of(mine, bare),
                    rounds=each,
                )
            )
    bare = runs[BARE.name, 128]
    for config in (ACCEPT, HANDLERS):
        mine = runs[config.name, 128]
        each = ratios(mine, bare, lambda run: run.report.p99_ms)
        rows.append(
            Row(
                section="accept",
                what=f"@128 {config.name}, p99 against bare's",
                value=median(each),
                unit="x",
                floor=P99,
                seen={
                    "p99 ms": median(run.report.p99_ms for run in mine),
                    "bare p99 ms": median(run.report.p99_ms for run in bare),
                },
                void=flaw_of(mine, bare),
                rounds=each,
            )
        )
    return rows
