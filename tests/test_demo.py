"""The demo: what it says is computed, it fails when it should, and it leaves nothing behind."""

from __future__ import annotations

import ast
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from whatsable_receiver.cli.demo.checks import Call, Facts, Post, check, summary
from whatsable_receiver.cli.demo.samples import UNSTEADY, cases
from whatsable_receiver.cli.demo.tour import post_of
from whatsable_receiver.inbox.base import AttemptRecord, EventRecord, JobRecord
from whatsable_receiver.jobs import Job, State

ROOT = Path(__file__).parent.parent
NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
PATIENCE = 60.0  # seconds


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a command: no terminal, no settings, temporary files in ``folder``."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WHATSABLE_") and name not in ("COLUMNS", "FORCE_COLOR")
    }
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "TMPDIR": str(folder), **more}


def run_demo(folder: Path, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the real command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "whatsable_receiver", "demo", *options],
        env=environment(folder, **more),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@contextmanager
def started(
    folder: Path, *options: str, stderr: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The real command while it runs; killed if it does not end by itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", "whatsable_receiver", "demo", *options],
        env=environment(folder),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=stderr,
        bufsize=0,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[bytes], words: str) -> str:
    """What the command prints, up to these words."""
    assert process.stdout is not None
    deadline = time.monotonic() + PATIENCE
    read = b""
    while words.encode() not in read:
        ready, _, _ = select.select([process.stdout], [], [], deadline - time.monotonic())
        assert ready, f"no {words!r} in {read!r}"
        chunk = os.read(process.stdout.fileno(), 65_536)
        assert chunk, f"ended before {words!r}: {read!r}"
        read += chunk
    return read.decode()


# ---------------------------------------------------------------- the command


def test_the_demo_shows_that_what_happened_is_what_should_have_happened(tmp_path: Path) -> None:
    """Every case is posted over HTTP, every check holds, the exit code is 0, nothing stays."""
    ended = run_demo(tmp_path, "--json")
    told = json.loads(ended.stdout)
    assert (ended.returncode, ended.stderr, told["ok"]) == (0, "", True)
    assert [post["title"] for post in told["posts"]] == [case.title for case in cases(0)]
    assert all(one["ok"] for one in told["checks"])
    numbers = told["summary"]
    assert numbers["posted"] == len(told["posts"]) == len(cases(0))
    assert numbers["events_stored"] == len({post["event"] for post in told["posts"]} - {None})
    assert numbers["attempts"] == numbers["jobs_completed"] + 1
    assert list(tmp_path.iterdir()) == []


def test_the_table_fits_into_80_columns_and_needs_no_terminal(tmp_path: Path) -> None:
    """Piped, the demo prints a row for each post, no escape, and no line beyond column 80."""
    ended = run_demo(tmp_path)
    assert ended.returncode == 0
    assert "\x1b" not in ended.stdout
    lines = ended.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for case in cases(0):
        row = next(line for line in lines if line.startswith(case.title + " "))
        assert re.search(rf" {case.status} {case.answer} +\d+\.\d ", row)
    assert f"{UNSTEADY} (2 tries)" in ended.stdout
    assert "✓" in ended.stdout
    assert "✗" not in ended.stdout


def test_settings_of_the_environment_do_not_change_the_demo(tmp_path: Path) -> None:
    """A shell that holds the secrets of another receiver can run the demo all the same."""
    ended = run_demo(tmp_path, "--json", WHATSABLE_PATH_SECRET="unguessable", WHATSABLE_NOSUCH="1")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_terminal_without_utf8_is_enough(tmp_path: Path) -> None:
    """What cannot be encoded is written out, and is no error."""
    ended = run_demo(tmp_path, PYTHONIOENCODING="ascii")
    assert ended.returncode == 0
    assert "\\u2713" in ended.stdout


def test_kept_it_goes_on_serving_until_ctrl_c(tmp_path: Path) -> None:
    """--keep prints a URL that accepts posts and shows them; Ctrl-C ends it, and nothing stays."""
    with started(tmp_path, "--keep") as process:
        said = read_until(process, "events show")
        found = re.search(r"Still serving at (\S+) until Ctrl-C", said)
        assert found
        request = urllib.request.Request(
            found[1],
            b'{"phone_number": "14155550119", "message_type": "text"}',
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            event = json.load(response)["event"]
        read_until(process, f"event {event}: answer, attempt 1")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    """Interrupted at its start, the demo takes its file and its sender with it."""
    with started(tmp_path) as process:
        read_until(process, "what is posted")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)  # nor does haste change that
        code = process.wait(PATIENCE)
        assert process.stdout is not None
        process.stdout.read()  # ends only when nobody holds the pipe: the sender is gone too
    assert code in (130, 0)  # 0: it was done before the signal came
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [(), ("--keep",), ("--json",)])
def test_when_nobody_reads_on_it_ends_quietly(options: tuple[str, ...], tmp_path: Path) -> None:
    """``demo | head`` ends with 1, without a traceback, and leaves nothing; so does --keep."""
    with started(tmp_path, *options, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(PATIENCE), said) == (1, b"")
    assert list(tmp_path.iterdir()) == []


WRONG = """
import sys
from whatsable_receiver import Receiver
from whatsable_receiver.cli.demo import demo
from whatsable_receiver.cli.demo.checks import Call

def make(database, called):
    receiver = Receiver(database=database)
    @receiver.on()
    def answer(event):
        called(Call(event.route, event.id, event.attempt))
    return receiver

sys.exit(demo(keep=False, port=0, as_json=True, make=make))
"""


def test_a_receiver_with_wrong_handlers_fails_the_demo(tmp_path: Path) -> None:
    """Exit code 1 and the reason, where the routes are not those that should have run."""
    ended = subprocess.run(
        [sys.executable, "-c", WRONG],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    told = json.loads(ended.stdout)
    assert (ended.returncode, told["ok"]) == (1, False)
    failed = {one["name"] for one in told["checks"] if not one["ok"]}
    assert failed == {
        "each event took the routes it should take, and no other",
        "the handler that failed was tried again",
    }
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the comparison


def right_facts() -> Facts:
    """What the demo should come to know, made by hand."""
    posts: list[Post] = []
    events: dict[int, EventRecord] = {}
    calls: list[Call] = []
    for case in cases(int(NOW.timestamp())):
        if case.again is not None:
            id_ = posts[case.again].event
            assert id_ is not None
            events[id_] = replace(events[id_], deliveries=events[id_].deliveries + 1)
        elif case.status // 100 == 2:
            id_ = len(events) + 1
            jobs = []
            for n, route in enumerate(case.routes, start=1):
                outcomes = ("failed", "completed") if route == UNSTEADY else ("completed",)
                tried = tuple(
                    AttemptRecord(k, NOW, NOW, outcome, None, None)
                    for k, outcome in enumerate(outcomes, start=1)
                )
                calls += [Call(route, id_, attempt.number) for attempt in tried]
                job = Job(id_ * 1000 + n, route, State.COMPLETED, 0, len(tried))
                jobs.append(JobRecord(job, tried))
            events[id_] = EventRecord(
                id_, "incoming", NOW, 1, "", "", "", (), None, case.body, tuple(jobs)
            )
        else:
            id_ = None
        posts.append(Post(case, case.status, case.answer, id_, 1.0))
    return Facts(tuple(posts), tuple(calls), events)


def _event(facts: Facts, id_: int, **changes: object) -> Facts:
    return replace(facts, events=facts.events | {id_: replace(facts.events[id_], **changes)})  # type: ignore[arg-type]


def _post(facts: Facts, place: int, **changes: object) -> Facts:
    posts = list(facts.posts)
    posts[place] = replace(posts[place], **changes)  # type: ignore[arg-type]
    return replace(facts, posts=tuple(posts))


def _job(facts: Facts, id_: int, route: str = "answer", state: State = State.COMPLETED) -> Facts:
    (record,) = facts.events[id_].jobs
    job = Job(record.job.id, route, state, 0, 1)
    return _event(facts, id_, jobs=(replace(record, job=job),))


def _steady(facts: Facts) -> Facts:
    """The unsteady handler succeeded at once, and everybody agrees that it did."""
    jobs = []
    for record in facts.events[3].jobs:
        first = replace(record.attempts[0], outcome="completed")
        jobs.append(replace(record, attempts=(first,)))
    calls = tuple(call for call in facts.calls if call.attempt == 1)
    return replace(_event(facts, 3, jobs=tuple(jobs)), calls=calls)


ANSWERS = "every post got the answer it should get"
BYTES = "what was answered 2xx is in the inbox, byte for byte"
NOTHING_ELSE = "the inbox holds nothing that was not posted"
APART = "a redelivery is its event again, another message is another event"
ROUTES = "each event took the routes it should take, and no other"
COMPLETED = "every job completed"
CALLED = "each handler was called once for each recorded attempt"
RETRIED = "the handler that failed was tried again"


def failed(facts: Facts) -> set[str]:
    """The names of the checks that do not hold."""
    return {one.name for one in check(facts) if not one.ok}


def test_right_facts_pass_every_check() -> None:
    """What should happen is what the checks ask for."""
    assert failed(right_facts()) == set()


@pytest.mark.parametrize(
    ("spoil", "caught"),
    [
        (lambda facts: _post(facts, 0, answer="duplicate"), {ANSWERS}),
        (lambda facts: _post(facts, 15, status=400, answer="refused", event=None), {ANSWERS}),
        (lambda facts: _post(facts, 17, status=500, answer="not one of ours"), {ANSWERS}),
        (lambda facts: _event(facts, 2, raw=facts.events[2].raw + b" "), {BYTES}),
        (lambda facts: _event(facts, 2, raw=None), {BYTES}),
        (lambda facts: _event(facts, 1, deliveries=2), {APART}),
        (lambda facts: _post(facts, 3, event=2), {APART, ROUTES}),
        (lambda facts: _post(facts, 6, event=facts.posts[5].event), {APART, BYTES}),
        (lambda facts: _event(facts, 1, jobs=()), {ROUTES, CALLED}),
        (lambda facts: _job(facts, 1, route="look_at"), {ROUTES, CALLED}),
        (lambda facts: _job(facts, 1, state=State.RETRYABLE), {COMPLETED}),
        (lambda facts: _job(facts, 1, state=State.DISCARDED), {COMPLETED}),
        (lambda facts: replace(facts, calls=facts.calls[1:]), {CALLED}),
        (lambda facts: replace(facts, calls=(*facts.calls, facts.calls[0])), {CALLED}),
        (_steady, {RETRIED}),
    ],
)
def test_wrong_facts_fail(spoil: Callable[[Facts], Facts], caught: set[str]) -> None:
    """Each way to be wrong is caught, by the check that is about it."""
    found = failed(spoil(right_facts()))
    assert caught <= found
    assert found - caught <= {BYTES, NOTHING_ELSE, APART}  # what follows from it


def test_a_lost_event_fails() -> None:
    """An answer of 2xx for an event that is not in the inbox is caught."""
    facts = right_facts()
    lost = {id_: record for id_, record in facts.events.items() if id_ != 2}
    assert BYTES in failed(replace(facts, events=lost))


def test_an_event_that_nobody_posted_fails() -> None:
    """An event too many is caught."""
    facts = right_facts()
    more = facts.events | {99: replace(facts.events[1], id=99, jobs=())}
    assert failed(replace(facts, events=more)) == {NOTHING_ELSE}


def test_problems_are_counted_in_plain_english() -> None:
    """Once is not many times."""
    facts = right_facts()
    (problem,) = next(one.problems for one in check(_event(facts, 1, deliveries=1)) if not one.ok)
    assert problem == "event 1: delivered 1 time, posted 3 times"
    called = replace(facts, calls=facts.calls[1:])
    (problem,) = next(one.problems for one in check(called) if not one.ok)
    assert problem == "answer, event 1, attempt 1: called 0 times, recorded 1 time"


def test_nothing_at_all_fails() -> None:
    """A demo in which nothing happened did not go well."""
    assert {ANSWERS, RETRIED} <= failed(Facts((), (), {}))


def test_the_summary_counts_what_happened() -> None:
    """The numbers are those of the facts; the median is over every post."""
    facts = right_facts()
    numbers = summary(_post(facts, 0, ms=9.0))
    assert numbers["posted"] == len(facts.posts)
    assert numbers["accepted"] + numbers["quarantined"] == numbers["events_stored"]
    assert numbers["duplicates"] == 2
    assert (numbers["p50_ms"], numbers["slowest_ms"]) == (1.0, 9.0)


@pytest.mark.parametrize(
    ("told", "status", "answer"),
    [
        ({"error": "ConnectionRefusedError: no"}, 0, "no answer: ConnectionRefusedError: no"),
        ({"status": 502, "answer": "<html>", "ms": 1.0}, 502, "not one of ours"),
        ({"status": 200, "answer": "[]", "ms": 1.0}, 200, "not one of ours"),
    ],
)
def test_a_strange_answer_is_no_good_answer(
    told: dict[str, object], status: int, answer: str
) -> None:
    """What came back counts as ours only if it is."""
    post = post_of(cases(0)[0], told)
    assert (post.status, post.answer, post.event) == (status, answer, None)


def test_the_sender_imports_nothing_of_ours() -> None:
    """The sender is a stranger to the library: Python alone runs it."""
    source = ROOT / "whatsable_receiver" / "cli" / "demo" / "sender.py"
    names = set()
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." if node.level else (node.module or "").split(".")[0])
    assert names
    assert names <= sys.stdlib_module_names | {"__future__"}
