"""The benchmark's harness: it starts what it measures, measures it, and voids what is not sound."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from .bench import bodies
from .bench.load import Load, run
from .bench.rows import Floor
from .bench.sections import SECTIONS
from .bench.server import accepts, serve


@pytest.mark.parametrize("generator", ["auto", "python"])
def test_the_load_counts_answers_of_a_server_that_is_gone_afterwards(generator: str) -> None:
    """A bare endpoint answers more than nothing, and does not outlive its measurement."""
    with serve("bare") as server:
        report = run(Load(port=server.port, connections=8, seconds=1, generator=generator))
        assert report.rate > 0
        assert report.flaw is None
    assert server.process.returncode is not None
    assert not accepts(server.port)


def test_a_count_is_kept_to_the_request() -> None:
    """A load bounded by count sends so many requests and gets an answer to each."""
    with serve("bare") as server:
        report = run(Load(port=server.port, connections=4, seconds=10, count=100))
    assert report.requests == 100
    assert report.statuses == {"200": 100}


def test_a_run_with_other_answers_than_2xx_is_void() -> None:
    """A server that refuses quickly is not a fast server."""
    with serve("bare") as server:
        load = Load(port=server.port, path="/nothing", connections=4, seconds=10, count=20)
        flaw = run(load).flaw
    assert flaw is not None
    assert flaw.startswith("void")


def test_every_body_is_another_event_of_1_4_kb() -> None:
    """No two bodies share phone, time and text; a body is JSON of the documented shape."""
    numbers = [*range(3_000), *range(20_000, 20_100), 10**6]
    payloads = [json.loads(bodies.body(n)) for n in numbers]
    names = {
        (each["phone_number"], each["user_last_message_time"], each["last_message_of_user"])
        for each in payloads
    }
    assert len(names) == len(numbers)
    assert all(1_350 <= len(bodies.body(n)) <= 1_450 for n in numbers)
    assert len(payloads[0]["last_messages"]) == 3


@pytest.mark.parametrize(
    ("floor", "value", "verdict"),
    [
        (Floor(at_least=0.5), 0.5, "ok"),
        (Floor(at_least=0.5), 0.4, "misses by 20 %"),
        (Floor(at_least=0.5, ambition=0.8), 0.9, "ok, ambition reached"),
        (Floor(at_most=10), 10, "ok"),
        (Floor(at_most=10), 15, "misses by 50 %"),
        (Floor(at_most=0), 1, "misses by 1"),
    ],
)
def test_a_figure_is_told_how_far_it_misses_its_floor(
    floor: Floor, value: float, verdict: str
) -> None:
    """A verdict is ok, or says by how much it is not."""
    assert floor.verdict(value) == verdict


def test_every_section_has_its_name() -> None:
    """What the command line offers is a module that runs, and no module is left out."""
    folder = Path(__file__).parent / "bench" / "sections"
    assert {file.stem for file in folder.glob("[a-z]*.py")} == set(SECTIONS)
    assert all(import_module(f"tests.bench.sections.{name}").run for name in SECTIONS)
