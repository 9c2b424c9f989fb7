"""What the receiver tells about itself, and what it does not."""

from __future__ import annotations

import inspect
import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsable_receiver import Discard, Retries, telemetry
from whatsable_receiver.telemetry import (
    COUNTERS,
    TIMINGS,
    Guarded,
    Silence,
    masked,
    one_line,
)

from .asgi import EVENT, make, request
from .stores import (
    anyio_backend,  # noqa: F401 - a fixture
    body,
    until,
)

PHONE = "14155550123"


class Book:
    """A meter that writes everything down."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, frozenset[tuple[str, str]]]] = Counter()
        self.times: dict[str, list[tuple[float, dict[str, str]]]] = {}
        self.labels: dict[str, set[str]] = {}

    def count(self, name: str, value: int = 1, **labels: str) -> None:
        """Add it."""
        self.counts[name, frozenset(labels.items())] += value
        self.labels.setdefault(name, set()).update(labels)

    def time(self, name: str, seconds: float, **labels: str) -> None:
        """Note it."""
        self.times.setdefault(name, []).append((seconds, labels))
        self.labels.setdefault(name, set()).update(labels)

    def counted(self, name: str, **labels: str) -> int:
        """How often this was counted."""
        return self.counts[name, frozenset(labels.items())]


async def traffic(folder: Path, meter: Any, **options: Any) -> list[int]:
    """Some of every answer, and of every outcome."""
    receiver = make(folder, meter=meter, grace=0.0, **options)
    done: list[int] = []

    @receiver.on("text")
    async def answer(event: Any) -> None:
        done.append(event.id)

    @receiver.on("image", retries=Retries(attempts=2, first=0.0))
    def fail(event: Any) -> None:
        done.append(event.id)
        raise ValueError(f"cannot call +{PHONE}")

    @receiver.on("video")
    async def refuse(event: Any) -> None:
        done.append(event.id)
        raise Discard("no videos")

    statuses = [(await request(receiver)).status]
    async with receiver.lifespan():
        bodies = [EVENT, EVENT, body(2, message_type="image", phone=PHONE)]
        bodies += [body(3, message_type="video"), b'{"odd": 1}', b"[]"]
        for raw in bodies:
            statuses.append((await request(receiver, raw)).status)
        statuses.append((await request(receiver, [EVENT[:9]], ending="cut")).status)
        await until(lambda: len(done) == 4)
    return statuses


@pytest.mark.anyio
async def test_everything_that_happens_is_counted_and_timed(tmp_path: Path) -> None:
    """Each delivery is counted by what it was answered, each attempt by its route and outcome."""
    book = Book()
    statuses = await traffic(tmp_path, book)
    assert statuses == [503, 200, 200, 200, 200, 202, 400, 0]
    deliveries = {
        status: book.counted("deliveries", status=status)
        for status in (
            "accepted",
            "duplicate",
            "quarantined",
            "refused",
            "unavailable",
            "cut off",
        )
    }
    assert deliveries == {
        "accepted": 3,
        "duplicate": 1,
        "quarantined": 1,
        "refused": 1,
        "unavailable": 1,
        "cut off": 1,
    }
    attempts = {
        (route, outcome): book.counted("attempts", route=route, outcome=outcome)
        for route, outcome in [
            ("answer", "completed"),
            ("fail", "failed"),
            ("fail", "discarded"),
            ("refuse", "discarded"),
        ]
    }
    assert set(attempts.values()) == {1}
    assert len(book.times["wait"]) == 3
    assert len(book.times["attempt"]) == 4
    assert all(seconds >= 0 for times in book.times.values() for seconds, _ in times)


@pytest.mark.anyio
async def test_nothing_is_told_under_another_name(tmp_path: Path) -> None:
    """The tables name every counter and timing with its labels: an exporter needs nothing else."""
    book = Book()
    await traffic(tmp_path, book)
    known = {name: set(filter(None, labels.split(", "))) for name, labels in COUNTERS.items()}
    assert {name for name, _ in book.counts} <= set(COUNTERS)
    assert set(book.times) <= set(TIMINGS)
    known |= {name: set(filter(None, labels.split(", "))) for name, labels in TIMINGS.items()}
    assert all(labels <= known[name] for name, labels in book.labels.items())


class Broken:
    """A meter of a user that does not work."""

    def count(self, name: str, value: int = 1, **labels: str) -> None:
        """Fail."""
        raise RuntimeError("the exporter is gone")

    def time(self, name: str, seconds: float, **labels: str) -> None:
        """Fail."""
        raise RuntimeError("the exporter is gone")


@pytest.mark.anyio
async def test_a_meter_that_fails_stops_nothing(tmp_path: Path) -> None:
    """Promise 8: whatever a meter raises, deliveries are answered and jobs are run."""
    assert await traffic(tmp_path, Broken()) == [503, 200, 200, 200, 200, 202, 400, 0]


def test_what_a_meter_raises_is_logged_and_goes_no_further(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Promise 8: the log names what could not be told; a meter that works is told everything."""
    guarded = Guarded(Broken())
    guarded.count("deliveries", 2, status="accepted")
    guarded.time("keep", 0.5)
    assert "'deliveries'" in caplog.text
    assert "'keep'" in caplog.text
    assert "the exporter is gone" in caplog.text
    book = Book()
    guarded = Guarded(book)
    guarded.count("deliveries", 2, status="accepted")
    guarded.time("wait", 0.5, route="answer")
    assert book.counted("deliveries", status="accepted") == 2
    assert book.times == {"wait": [(0.5, {"route": "answer"})]}


# ---------------------------------------------------------------- logs


@pytest.mark.anyio
@pytest.mark.parametrize("whole", [False, True])
async def test_phones_in_logs_are_masked_unless_asked_for(
    tmp_path: Path, whole: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of a handler that quotes a phone shows its last two digits, by default."""
    caplog.set_level(logging.DEBUG, "whatsable_receiver")
    await traffic(tmp_path, Silence(), log_phones=whole)
    assert "cannot call" in caplog.text
    assert (PHONE in caplog.text) == whole
    assert ("+…23" in caplog.text) == (not whole)


@pytest.mark.anyio
async def test_log_records_have_fields(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A discarded job is logged as an error that names event, job, route, attempt and outcome."""
    await traffic(tmp_path, Silence())
    found = [record for record in caplog.records if getattr(record, "route", "") == "fail"]
    last = vars(found[-1])
    fields = {name: last[name] for name in ("event", "job", "route", "attempt", "outcome")}
    assert fields == {
        "event": 2,
        "job": 2001,
        "route": "fail",
        "attempt": 2,
        "outcome": "discarded",
    }
    assert last["levelno"] == logging.ERROR


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("call 14155550123 now", "call …23 now"),
        ("+14155550123", "+…23"),
        ("12345", "12345"),
        ("123456", "…56"),
        ("14155550123,14155550199", "…23,…99"),
        ("2026-01-01 12:00", "2026-01-01 12:00"),
        ("no digits", "no digits"),
    ],
)
def test_long_numbers_are_masked(text: str, shown: str) -> None:
    """A run of six digits or more shows its last two; a date stays as it is."""
    assert masked(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("first\nsecond\r\nthird", "first second third"),
        ("\x1b[31mred\x1b[0m\x07", " [31mred [0m "),
        ("a\x00b\x7fc\x85d\x9be", "a b c d e"),
        ("one\u2028two\u2029three", "one two three"),
        ("é 日本\U0001f600\u00a0", "é 日本\U0001f600\u00a0"),
        (f"call +{PHONE}\nnow", "call +…23 now"),
    ],
)
def test_nothing_in_a_text_ends_a_line_of_the_log(text: str, shown: str) -> None:
    """Who sends a line break or an escape writes no line of the log; letters stay as they are."""
    assert one_line(text) == shown
    assert len(one_line(text).splitlines()) == 1


def test_phones_stay_whole_where_that_is_asked_for() -> None:
    """With ``phones=True`` nothing is masked; the line is one line all the same."""
    assert one_line(f"call\n+{PHONE}", phones=True) == f"call +{PHONE}"


@given(st.text(max_size=60), st.booleans())
def test_one_line_is_one_line(text: str, phones: bool) -> None:
    """Whatever the text, a reader of lines sees one, and no control character comes through."""
    shown = one_line(f"x{text}x", phones=phones)
    assert shown.splitlines() == [shown]
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", shown)


@pytest.mark.anyio
async def test_a_handler_writes_no_line_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a handler raises is quoted in the log on the line of its job."""
    receiver = make(tmp_path)

    @receiver.on(retries=1)
    async def fail(event: Any) -> None:
        raise ValueError("first\nERROR job 2 is discarded\x1b[2K\u2028third")

    async with receiver.lifespan():
        await request(receiver)
        await until(lambda: "is discarded" in caplog.text)
    (record,) = [one for one in caplog.records if getattr(one, "outcome", "") == "discarded"]
    said = record.getMessage()
    assert "ValueError: first ERROR job 2" in said
    assert said.splitlines() == [said]
    assert "\x1b" not in said


@given(st.text("0123456789 +-x", max_size=60))
def test_no_six_digits_in_a_row_are_left(text: str) -> None:
    """Whatever stands around it, no phone comes through, and other text stays as long."""
    assert not re.search(r"\d{6}", masked(text))
    assert re.sub(r"[\d…]", "", masked(text)) == re.sub(r"\d", "", text)


def test_silence_takes_whatever_a_meter_takes() -> None:
    """The meter that nobody reads has the methods of the protocol, argument by argument."""
    for name in ("count", "time"):
        wanted = inspect.signature(getattr(telemetry.Meter, name))
        assert inspect.signature(getattr(Silence, name)) == wanted
    Silence().count("deliveries", status="accepted")
    Silence().time("wait", 0.1, route="answer")
