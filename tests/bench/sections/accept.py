"""Accepted POSTs a second, beside a bare Starlette endpoint that keeps nothing."""

from __future__ import annotations

from statistics import median

from ..rounds import Config, Runs, flaw_of, interleaved, ratios, seen_of
from ..rows import Floor, Options, Row, figure

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


def run(options: Options) -> list[Row]:
    """The rate at 128 and at 32 connections, and the p99 at 128."""
    configs = (BARE, ACCEPT, HANDLERS)
    runs = interleaved(configs, WIDTHS, options)
    return [
        *(
            against_bare(runs, config, width, FLOORS.get((config.name, width)))
            for width in WIDTHS
            for config in configs
        ),
        *(_p99(runs, config, 128) for config in (ACCEPT, HANDLERS)),
    ]


def against_bare(runs: Runs, config: Config, width: int, floor: Floor | None = None) -> Row:
    """The rate of a configuration, and what else was seen of it."""
    mine, bare = runs[config.name, width], runs[BARE.name, width]
    return figure(
        f"@{width} {config.name}, against bare",
        ratios(mine, bare),
        "x",
        floor=floor,
        seen=seen_of(mine),
        void=flaw_of(mine, bare),
    )


def _p99(runs: Runs, config: Config, width: int) -> Row:
    mine, bare = runs[config.name, width], runs[BARE.name, width]
    return figure(
        f"@{width} {config.name}, p99 against bare's",
        ratios(mine, bare, lambda run: run.report.p99_ms),
        "x",
        floor=P99,
        seen={
            "p99 ms": median(run.report.p99_ms for run in mine),
            "bare p99 ms": median(run.report.p99_ms for run in bare),
        },
        void=flaw_of(mine, bare),
    )
