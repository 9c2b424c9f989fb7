"""The command: what it refuses, what it prints for people and for programs, how it ends."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from whatsable_receiver import Receiver, __version__
from whatsable_receiver.cli.printing import clock_time, counted, visible, visible_lines
from whatsable_receiver.cli.run import banner, proofs, refuse_unsafe
from whatsable_receiver.cli.serving import CannotListen, listen, loopback
from whatsable_receiver.cli.times import moment
from whatsable_receiver.errors import ConfigurationError
from whatsable_receiver.inbox.base import KINDS
from whatsable_receiver.jobs import State

ROOT = Path(__file__).parent.parent
PATIENCE = 60.0  # seconds
SECRET = "tellnobody-0123456789"
PHONE = "14155550142"
HOSTILE = "\x1b]0;gone\x07\x1b[31m[bold red]hi[/]\u202e\x9b2J\r\nfake line"

APP = """
import asyncio, threading, time
from whatsable_receiver import Discard, Receiver

receiver = Receiver()

@receiver.on("text")
async def answer(event):
    pass

@receiver.on(label="broken")
def break_down(event):
    if event.attempt == 1:
        raise Discard("not today \\x1b[31m[red]" + event.text)

@receiver.on(label="hang")
def hang(event):
    open("hanging", "w").close()
    threading.Event().wait()

@receiver.on(label="hang-in-pool")
async def hang_in_pool(event):
    open("hanging-in-pool", "w").close()
    await asyncio.to_thread(threading.Event().wait)

def make():
    made = Receiver(path="/made")
    made.on("text")(answer)
    return made

def make_nothing():
    return 42

def make_with(setting):
    return receiver

def fail():
    raise RuntimeError("out of luck")

number = 42
"""


# ---------------------------------------------------------------- the real command


def environment(**more: str) -> dict[str, str]:
    """The environment of a command: no settings but those given, and no width."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WHATSABLE_") and name not in ("COLUMNS", "FORCE_COLOR")
    }
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **more}


def command(
    folder: Path, *words: str, given: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, as people do."""
    return subprocess.run(
        [sys.executable, "-m", "whatsable_receiver", *words],
        cwd=folder,
        env=environment(**more),
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


class Serving:
    """A ``run`` that serves: its URL, and all that it wrote to standard error."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.log = ""

    def read_until(self, pattern: str) -> re.Match[str]:
        """Read what it logs until the pattern is in it."""
        assert self.process.stderr is not None
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.log)):
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self.process.stderr], [], [], left)[0], self.log
            chunk = os.read(self.process.stderr.fileno(), 65_536)
            assert chunk, f"ended: {self.log}"
            self.log += chunk.decode()
        return found

    def post(self, url: str, body: bytes) -> dict[str, Any]:
        """Post a body; the answer, whatever its status."""
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return json.load(response)  # type: ignore[no-any-return]
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)  # type: ignore[no-any-return]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to stop; its exit code."""
        self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=PATIENCE)
        self.log += rest.decode()
        return self.process.returncode


@contextmanager
def serving(folder: Path, *words: str, **more: str) -> Iterator[Serving]:
    """``run`` with ``APP`` on a free port; killed if it is still there at the end."""
    (folder / "app.py").write_text(APP, "utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "whatsable_receiver", "run", *words, "--port", "0"],
        cwd=folder,
        env=environment(**more),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        bufsize=0,
    )
    try:
        yield Serving(process)
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most ``PATIENCE`` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def body(text: str = "hi", labels: str = "", second: int = 1_767_225_600, **more: Any) -> bytes:
    """A message of one customer."""
    return json.dumps(
        {
            "phone_number": PHONE,
            "message_type": "text",
            "user_id": "account-1",
            "last_message_of_user": text,
            "user_last_message_time": second,
            "labels": labels,
            **more,
        }
    ).encode()


# ---------------------------------------------------------------- the command as such


def test_the_version_is_said(tmp_path: Path) -> None:
    """--version prints the name and the version."""
    ended = command(tmp_path, "--version")
    assert (ended.returncode, ended.stdout) == (0, f"whatsable-receiver {__version__}\n")


@pytest.mark.parametrize("missing", ["typer", "rich", "structlog", "uvicorn"])
def test_without_the_extra_one_sentence_says_what_to_install(missing: str, tmp_path: Path) -> None:
    """A light install has the command's name; it says how to get the command, and exits 2."""
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from whatsable_receiver.cli import main
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert 'pip install "whatsable-receiver[cli]"' in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_options_name_every_state_and_every_kind(tmp_path: Path) -> None:
    """What a job or an event can be is what one can filter by, and --help lists it."""
    said = command(tmp_path, "events", "list", "--help").stdout
    assert "--state " + "|".join(state.name.lower() for state in State) + "\n" in said
    assert "--kind " + "|".join(KINDS) + "\n" in said


def test_help_names_the_exit_codes(tmp_path: Path) -> None:
    """Whoever writes a script finds them where they look first."""
    said = " ".join(command(tmp_path, "--help").stdout.split())
    listed = re.search(r"Exit codes: (.+)\.$", said)
    assert listed
    assert re.findall(r"(?:^|; )(\d+) ", listed[1]) == ["0", "1", "2", "3", "4", "130"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("events", "list", "--state", "lost"),
            "'--state': 'lost' is none of these: available, retryable, running, completed, ",
        ),
        (("events", "list", "--limit", "many"), "'--limit': 'many' is no whole number from 1 to"),
        (("events", "list", "--limit", "10001"), "'10001' is no whole number from 1 to 10000"),
        (("events", "list", "--since", "yesterday"), "'--since': 'yesterday' is no time: write"),
        (("events", "list", "--phone", "abc"), "'--phone': 'abc' has no digits"),
        (("events", "list", "--label", ""), "'--label': it is empty"),
        (("events", "show", "first"), "'ID': 'first' is no whole number from 1 on"),
        (("run", "app:receiver", "--port", "70000"), "'70000' is no whole number from 0 to 65535"),
        (
            ("run", "app:receiver", "--log-level", "trace"),
            "'--log-level': 'trace' is none of these: debug, info, warning, error",
        ),
        (("run", "app:receiver", "--grace", "abc"), "grace cannot be 'abc': it should be a number"),
    ],
)
def test_an_option_that_is_refused_says_what_it_takes(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """The option, what was given, what would be right: in our words, not in a parser's."""
    (tmp_path / "app.py").write_text(APP, "utf-8")
    ended = command(tmp_path, *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert "Value error" not in ended.stderr
    assert "Input should" not in ended.stderr


# ---------------------------------------------------------------- run: what it refuses


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        ("app", 2, "'app' is not module:attribute"),
        ("nosuch:receiver", 2, "there is no module 'nosuch'"),
        ("app.inner:receiver", 2, "there is no module 'app.inner'"),
        (".app:receiver", 2, "relative name"),
        ("app:reciever", 2, "app has no reciever; did you mean app:receiver?"),
        ("app:number", 2, "app:number is an int, not a Receiver; did you mean app:receiver?"),
        ("app.py:receiver", 2, "nor among what is installed; the module of app.py is app\n"),
        ("app:make_nothing", 2, "app:make_nothing is a function that returns an int"),
        ("app:make_with", 2, "a function, not a Receiver; did you mean app:receiver?\n"),
        ("json:loads", 2, "a function, not a Receiver; another ASGI app is served with uvicorn\n"),
        ("app:fail", 1, "app:fail failed: RuntimeError: out of luck"),
        ("needs:receiver", 1, "'needs' cannot be imported: ModuleNotFoundError"),
        ("raises:receiver", 1, "'raises' cannot be imported: ZeroDivisionError"),
        ("misconfigured:receiver", 2, "path cannot be 'x': it should be like /webhook"),
        ("twice:receiver", 2, "two routes are named 'same'"),
    ],
)
def test_a_wrong_target_is_a_sentence(target: str, code: int, said: str, tmp_path: Path) -> None:
    """Whoever mistypes is told what is wrong and what is near; nothing is created."""
    (tmp_path / "app.py").write_text(APP, "utf-8")
    (tmp_path / "needs.py").write_text("import not_there_at_all", "utf-8")
    (tmp_path / "raises.py").write_text("secret = 'hush'\n1 / 0", "utf-8")
    start = "from whatsable_receiver import Receiver\n"
    (tmp_path / "misconfigured.py").write_text(start + "receiver = Receiver(path='x')", "utf-8")
    twice = "receiver = Receiver()\nfor _ in 'ab':\n    receiver.on(name='same')(print)"
    (tmp_path / "twice.py").write_text(start + twice, "utf-8")
    ended = command(tmp_path, "run", target, "--port", "0", PYTHONDONTWRITEBYTECODE="1")
    assert (ended.returncode, said in ended.stderr) == (code, True), ended.stderr
    assert ("Traceback" in ended.stderr) == (code == 1)
    assert {path.suffix for path in tmp_path.iterdir()} == {".py"}


def test_run_starts_beyond_loopback_only_with_a_proof(tmp_path: Path) -> None:
    """Without a proof of origin, an address that others can reach is refused, and says why."""
    (tmp_path / "app.py").write_text(APP, "utf-8")
    ended = command(tmp_path, "run", "app:receiver", "--host", "0.0.0.0", "--port", "0")
    assert ended.returncode == 2
    assert "WHATSABLE_PATH_SECRET" in ended.stderr
    assert "--insecure" in ended.stderr
    assert not (tmp_path / "whatsable.db").exists()


@pytest.mark.parametrize(
    "settings",
    [{"path_secret": SECRET}, {"signing_secret": SECRET}, {"accounts": "a1"}],
)
def test_each_proof_opens_the_door_to_the_world(settings: dict[str, Any]) -> None:
    """Any of the proofs is enough to listen anywhere; so is --insecure; loopback needs none."""
    with pytest.raises(ConfigurationError):
        refuse_unsafe(Receiver(), "192.0.2.1", insecure=False)
    refuse_unsafe(Receiver(), "192.0.2.1", insecure=True)
    refuse_unsafe(Receiver(), "127.0.0.1", insecure=False)
    receiver = Receiver(**settings)
    refuse_unsafe(receiver, "192.0.2.1", insecure=False)
    assert len(proofs(receiver)) == 1
    assert SECRET not in "".join(banner(receiver, "http://127.0.0.1:8000"))


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.net", False),
        ("localhost.example.net", False),
        ("127.1", False),
        ("", False),
    ],
)
def test_loopback_is_what_nobody_else_can_reach(host: str, local: bool) -> None:
    """A name that could be resolved to anything is not taken for this machine."""
    assert loopback(host) is local


def test_a_port_in_use_is_a_sentence(tmp_path: Path) -> None:
    """Exit code 1, the address and what to do; the inbox is not even opened."""
    (tmp_path / "app.py").write_text(APP, "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = command(tmp_path, "run", "app:receiver", "--port", port)
    assert ended.returncode == 1
    assert f"127.0.0.1:{port} is in use already" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "whatsable.db").exists()


def test_an_address_of_another_machine_is_a_sentence() -> None:
    """The address is named once, with the reason."""
    with pytest.raises(CannotListen) as caught:
        listen("192.0.2.1", 0)
    said = str(caught.value)
    assert said.startswith("192.0.2.1:0 cannot be listened at: ")
    assert said.count("192.0.2.1") == 1


@pytest.mark.parametrize(
    ("database", "said"),
    [
        ("no/such/x.db", "the folder of the database no/such/x.db does not exist"),
        (".", "database cannot be used: it should name a file, not a folder"),
        ("/", "database cannot be used: it should name a file, not a folder"),
        ("", "database cannot be used: it is empty; leave it out for whatsable.db"),
        ("app.py", "the database app.py cannot be used: file is not a database"),
        ("mysql://u:tellnobody@h/d", "a URL that starts with postgresql:// or sqlite:///"),
        ("postgresql://u:tellnobody@h/d", "PostgreSQL is not supported yet"),
    ],
)
@pytest.mark.parametrize("words", [("run", "app:receiver", "--port", "0"), ("events", "stats")])
def test_an_unusable_database_is_a_sentence(
    database: str, said: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    """Exit code 2 where the inbox cannot be opened; neither a traceback nor a password."""
    (tmp_path / "app.py").write_text(APP, "utf-8")
    ended = command(tmp_path, *words, "--database", database)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "tellnobody" not in ended.stderr


# ---------------------------------------------------------------- run: serving


def test_run_serves_stores_and_stops(tmp_path: Path) -> None:
    """The banner says where; a post is stored; SIGTERM ends it with 0; options win."""
    with serving(
        tmp_path,
        "app:receiver",
        "--path",
        "/hooks",
        "--database",
        "mine.db",
        WHATSABLE_DATABASE="other.db",
        WHATSABLE_PATH_SECRET=SECRET,
    ) as run:
        url = run.read_until(r"receives   POST (\S+)/SECRET")[1]
        assert url.endswith("/hooks")
        run.read_until(r"proofs     secret path")
        assert run.post(f"{url}/wrong-secret", body())["status"] == "refused"
        assert run.post(f"{url}/{SECRET}", body())["status"] == "accepted"
        assert run.end() == 0
        assert SECRET not in run.log
        assert re.search(r"into mine\.db, 4 routes\n", run.log)
        assert re.search(r"routes     answer, break_down", run.log)
    assert (tmp_path / "mine.db").exists()
    assert not (tmp_path / "other.db").exists()


def test_run_takes_a_function_that_makes_the_receiver(tmp_path: Path) -> None:
    """A factory is called; Ctrl-C ends as well as SIGTERM does."""
    with serving(tmp_path, "app:make") as run:
        url = run.read_until(r"receives   POST (\S+/made)\s")[1]
        assert run.post(url, body())["status"] == "accepted"
        assert run.end(signal.SIGINT) == 0
        assert re.search(r"into whatsable\.db, 1 route\n", run.log)


def test_logs_can_be_json(tmp_path: Path) -> None:
    """--log-format json: every line is an object, with its fields; nothing else is printed."""
    with serving(tmp_path, "app:receiver", "--log-format", "json") as run:
        url = run.read_until(r"serving at (http[^\"\s]+)")[1] + "/webhook"
        run.post(url, body(HOSTILE, labels="broken"))
        run.read_until("is discarded")
        assert run.end() == 0
    lines = [json.loads(line) for line in run.log.splitlines()]
    assert all({"message", "level", "logger", "timestamp"} <= line.keys() for line in lines)
    (told,) = [line for line in lines if "is discarded" in line["message"]]
    assert (told["level"], told["route"], told["event"]) == ("error", "break_down", 1)


def test_a_message_cannot_forge_a_line_of_the_log(tmp_path: Path) -> None:
    """What a customer wrote, quoted by a handler's error, stays on its line, without escapes."""
    with serving(tmp_path, "app:receiver") as run:
        url = run.read_until(r"receives   POST (\S+)")[1]
        run.post(url, body(HOSTILE, labels="broken"))
        run.read_until("is discarded.*\n")
        assert run.end() == 0
    assert "fake line" in run.log
    assert not any(line.startswith("fake line") for line in run.log.splitlines())
    assert "\x1b" not in run.log


def test_handlers_that_hang_do_not_keep_the_process(tmp_path: Path) -> None:
    """Promise 4: after the grace the process ends with 0, and their jobs wait for the next one."""
    with serving(tmp_path, "app:receiver", "--grace", "0.2") as run:
        url = run.read_until(r"receives   POST (\S+)")[1]
        run.post(url, body(labels="hang"))
        run.post(url, body(labels="hang-in-pool", second=1_767_225_601))
        until(lambda: (tmp_path / "hanging").exists() and (tmp_path / "hanging-in-pool").exists())
        began = time.monotonic()
        assert run.end() == 0
        assert time.monotonic() - began < 20
    told = json.loads(command(tmp_path, "events", "list", "--json").stdout)
    states = {job["route"]: job["state"] for event in told["events"] for job in event["jobs"]}
    assert states["hang"] == states["hang_in_pool"] == "available"
    assert stats(tmp_path)["unfinished"] == {"hang": 1, "hang_in_pool": 1}
    printed = command(tmp_path, "events", "stats").stdout
    assert re.search(r"unfinished jobs +hang +1\n +hang_in_pool +1\n", printed)


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Whoever cannot wait for the grace asks again; the job is taken up by the next process."""
    with serving(tmp_path, "app:receiver", "--grace", "600") as run:
        url = run.read_until(r"receives   POST (\S+)")[1]
        run.post(url, body(labels="hang"))
        until(lambda: (tmp_path / "hanging").exists())
        run.process.send_signal(signal.SIGTERM)

        def closed() -> bool:
            try:
                run.post(url, body())
            except OSError:
                return True
            return False

        until(closed)
        assert run.end() == 128 + signal.SIGTERM
    (tmp_path / "hanging").unlink()
    with serving(tmp_path, "app:receiver", "--grace", "0") as run:
        until(lambda: (tmp_path / "hanging").exists())
        assert run.end() == 0


# ---------------------------------------------------------------- events, of a file in use


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a server that is running: three events, one of them with a discarded job.

    1: a text. 2: a hostile text, labelled broken and VIP, delivered twice. 3: in quarantine.
    """
    folder = tmp_path_factory.mktemp("inbox")
    with serving(folder, "app:receiver") as run:
        url = run.read_until(r"receives   POST (\S+)")[1]
        run.post(url, body())
        for _ in range(2):
            run.post(url, BODY_2)
        run.post(url, BODY_3)
        run.read_until("is discarded")

        def settled() -> bool:
            jobs = stats(folder)["jobs"]
            return bool(jobs["completed"] == 2 and jobs["discarded"] == 1)

        until(settled)
        yield folder
        assert run.end() == 0


BODY_2 = body(HOSTILE, "broken, VIP", 1_767_225_700, phone_number="+14155550143")
BODY_3 = json.dumps({"hello": HOSTILE}).encode()


def stats(folder: Path) -> dict[str, Any]:
    """What ``events stats --json`` says."""
    return json.loads(command(folder, "events", "stats", "--json").stdout)  # type: ignore[no-any-return]


EVENT_KEYS = {
    *("id", "kind", "received_at", "deliveries", "account", "phone", "message_type", "labels"),
    *("reason", "jobs"),
}
JOB_KEYS = {"id", "route", "state", "run_at", "attempt", "reason"}
ATTEMPT_KEYS = {"number", "started_at", "ended_at", "outcome", "reason", "detail"}
STATS_KEYS = {
    *("events", "jobs", "unfinished", "oldest_available_at", "oldest_waiting_seconds", "bytes"),
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
TIME_FOR_PEOPLE = re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ ")


def test_list_prints_a_row_for_each_event_newest_first(inbox: Path) -> None:
    """People see a table: ids, kinds, labels, how the jobs stand; phones masked unless asked."""
    ended = command(inbox, "events", "list")
    assert (ended.returncode, ended.stderr) == (0, "")
    rows = [line.split() for line in ended.stdout.splitlines() if re.match(r"\s*\d", line)]
    assert [row[0] for row in rows] == ["3", "2", "1"]
    assert "quarantined" in rows[0]
    assert rows[1][1] == "x2"
    assert "1 completed, 1 discarded" in ended.stdout
    assert "14155550143" not in ended.stdout
    assert "14155550143" in command(inbox, "events", "list", "--phones").stdout


@pytest.mark.parametrize(("columns", "longest"), [("40", 80), ("80", 80), ("", 160)])
def test_the_list_cuts_no_word_however_narrow_the_terminal(
    columns: str, longest: int, inbox: Path
) -> None:
    """80 columns hold every word whole; a narrower terminal breaks the lines by itself."""
    more = {"COLUMNS": columns} if columns else {}
    ended = command(inbox, "events", "list", **more)
    words = {"received", "kind", "type", "phone", "labels", "quarantined", "incoming", "text"}
    assert words | {"completed", "completed,", "discarded", "broken,", "VIP"} <= set(
        ended.stdout.split()
    )
    assert "…" not in ended.stdout.replace("…42", "").replace("…43", "")
    assert max(map(len, ended.stdout.splitlines())) <= longest
    assert len(TIME_FOR_PEOPLE.findall(ended.stdout)) == 3


def test_list_as_json_has_stable_keys(inbox: Path) -> None:
    """Programs get one document, whose keys, times and values stay as documented."""
    ended = command(inbox, "events", "list", "--json")
    told = json.loads(ended.stdout)
    assert (ended.returncode, ended.stderr, told.keys()) == (0, "", {"events", "next_before"})
    assert [event["id"] for event in told["events"]] == [3, 2, 1]
    assert told["next_before"] is None
    for event in told["events"]:
        assert event.keys() == EVENT_KEYS
        assert TIME.fullmatch(event["received_at"])
        for job in event["jobs"]:
            assert job.keys() == JOB_KEYS
            assert TIME.fullmatch(job["run_at"])
    second = told["events"][1]
    assert (second["kind"], second["deliveries"]) == ("incoming", 2)
    assert (second["phone"], second["labels"]) == ("14155550143", ["broken", "VIP"])
    assert {job["route"]: job["state"] for job in second["jobs"]} == {
        "answer": "completed",
        "break_down": "discarded",
    }


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (("--kind", "quarantined"), [3]),
        (("--kind", "quarantined", "--kind", "incoming"), [3, 2, 1]),
        (("--state", "discarded"), [2]),
        (("--state", "completed"), [2, 1]),
        (("--state", "available", "--state", "discarded"), [2]),
        (("--label", "vip"), [2]),
        (("--label", "brok"), []),
        (("--type", "TEXT"), [2, 1]),
        (("--type", "image"), []),
        (("--phone", "+1 (415) 555-0142"), [1]),
        (("--since", "1h"), [3, 2, 1]),
        (("--until", "1h"), []),
        (("--since", "2100-01-01"), []),
        (("--before", "3"), [2, 1]),
        (("--limit", "2"), [3, 2]),
        (("--label", "broken", "--kind", "quarantined"), []),
    ],
)
def test_list_shows_what_fits_every_condition(
    words: tuple[str, ...], ids: list[int], inbox: Path
) -> None:
    """Each filter takes away what does not fit it; together they all count."""
    told = json.loads(command(inbox, "events", "list", "--json", *words).stdout)
    assert [event["id"] for event in told["events"]] == ids
    full = "--limit" in words and len(ids) == int(words[1])
    assert told["next_before"] == (ids[-1] if full else None)


@pytest.mark.parametrize(
    "words",
    [
        ("--since", "yesterday"),
        ("--since", "9999999999999w"),
        ("--phone", "abc"),
        ("--label", " "),
        ("--type", ""),
        ("--state", "lost"),
        ("--kind", "odd"),
        ("--limit", "0"),
        ("--before", "0"),
    ],
)
def test_a_filter_that_means_nothing_is_refused(words: tuple[str, ...], inbox: Path) -> None:
    """A filter that cannot be read is exit code 2, not an empty list."""
    ended = command(inbox, "events", "list", *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr


def test_show_prints_the_payload_the_jobs_and_their_attempts(inbox: Path) -> None:
    """All that is known of an event, in one place."""
    ended = command(inbox, "events", "show", "2")
    assert (ended.returncode, ended.stderr) == (0, "")
    for words in ("deliveries 2", "14155550143", "broken, VIP", "2001 answer: completed"):
        assert words in ended.stdout
    assert "2002 break_down: discarded" in ended.stdout
    assert len(re.findall(r"attempt 1  " + TIME_FOR_PEOPLE.pattern, ended.stdout)) == 2
    assert re.search(r"received   [\d-]+ [\d:]+Z\n", ended.stdout)
    assert not re.search(r"\d\dT\d\d:", ended.stdout), "one format of time for people"
    assert '"phone_number": "14155550143"' in ended.stdout


def test_show_says_why_there_is_no_payload(inbox: Path) -> None:
    """A quarantined event is shown with its reason, once, and with its body all the same."""
    ended = command(inbox, "events", "show", "3")
    assert ended.returncode == 0
    assert re.search(r"reason     phone_number is missing.*\nbody\n{\n  \"hello\"", ended.stdout)
    assert ended.stdout.count("phone_number is missing") == 1


def test_show_says_that_no_route_matched(tmp_path: Path) -> None:
    """An event without a job is no riddle: nothing was to be done for it."""
    with serving(tmp_path, "app:make") as run:
        url = run.read_until(r"receives   POST (\S+/made)\s")[1]
        run.post(url, body(message_type="image"))
        run.post(url, body())
        assert run.end() == 0
    none = "job        none: no route matched when it came\n"
    assert none in command(tmp_path, "events", "show", "1").stdout
    assert none not in command(tmp_path, "events", "show", "2").stdout


@pytest.mark.parametrize("number", ["1", "2", "3"])
def test_show_as_json_has_stable_keys(number: str, inbox: Path) -> None:
    """The event's own keys, its payload or the problem with it, its body as base64."""
    told = json.loads(command(inbox, "events", "show", number, "--json").stdout)
    assert told.keys() == EVENT_KEYS | {"payload", "problem", "body_base64"}
    assert (told["payload"] is None) == (told["problem"] is not None) == (number == "3")
    for job in told["jobs"]:
        assert job.keys() == JOB_KEYS | {"attempts"}
        for attempt in job["attempts"]:
            assert attempt.keys() == ATTEMPT_KEYS
            assert TIME.fullmatch(attempt["started_at"])


@pytest.mark.parametrize(("number", "sent"), [("2", BODY_2), ("3", BODY_3)])
def test_raw_prints_the_bytes_that_came(number: str, sent: bytes, inbox: Path) -> None:
    """--raw is the body byte for byte, and so is its base64 in the document."""
    ended = subprocess.run(
        [sys.executable, "-m", "whatsable_receiver", "events", "show", number, "--raw"],
        cwd=inbox,
        env=environment(),
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stdout) == (0, sent)
    told = json.loads(command(inbox, "events", "show", number, "--json").stdout)
    assert base64.b64decode(told["body_base64"]) == sent


@pytest.mark.parametrize(
    "words",
    [
        ("list", "--phones"),
        ("show", "2"),
        ("show", "3"),
        ("list", "--json"),
        ("show", "2", "--json"),
        ("stats",),
    ],
)
def test_no_message_reaches_the_terminal_as_a_command(words: tuple[str, ...], inbox: Path) -> None:
    """Escapes, carriage returns and direction marks in data are written out; markup is text."""
    ended = command(inbox, "events", *words)
    assert ended.returncode == 0
    unsafe = {mark for mark in ended.stdout if not mark.isprintable() and mark != "\n"}
    assert unsafe == set()
    if words == ("show", "2"):
        assert "\\x1b[31m[red]" in ended.stdout
        assert "[bold red]hi[/]" in ended.stdout


def test_stats_counts(inbox: Path) -> None:
    """Numbers by kind and by state, the oldest waiting job, and the size."""
    told = stats(inbox)
    assert told.keys() == STATS_KEYS
    assert told["events"] == {"incoming": 2, "outgoing": 0, "status": 0, "quarantined": 1}
    assert told["jobs"].keys() == {state.name.lower() for state in State}
    assert (told["jobs"]["completed"], told["jobs"]["discarded"]) == (2, 1)
    assert (told["oldest_available_at"], told["oldest_waiting_seconds"]) == (None, None)
    assert told["bytes"] > 0
    printed = command(inbox, "events", "stats")
    assert printed.returncode == 0
    assert re.search(r"discarded\s+1\s", printed.stdout)


def test_when_nobody_reads_on_it_ends_quietly(inbox: Path) -> None:
    """``events list | head`` prints no traceback."""
    words = [sys.executable, "-m", "whatsable_receiver", "events", "list"]
    process = subprocess.Popen(
        words, cwd=inbox, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as stderr:
        assert (stderr.read(), process.wait(PATIENCE)) == (b"", 1)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("show", "77"), 3, "there is no event 77"),
        (("show", "99999999999999999999"), 3, "there is no event"),
        (("show", "x"), 2, ""),
        (("show", "1", "--raw", "--json"), 2, ""),
        (("resubmit", "77001", "--yes"), 3, "there is no job 77001"),
        (("resubmit", "2001", "--yes"), 4, "job 2001 is completed"),
        (("resubmit", "2002", "2001", "--yes"), 4, "job 2001 is completed"),
        (("resubmit",), 2, "name the jobs, or say --all-discarded"),
        (("resubmit", "2002", "--all-discarded"), 2, "name the jobs"),
        (("resubmit", "2002", "--label", "vip"), 2, "filters go with --all-discarded"),
        (("resubmit", "--all-discarded", "--label", "", "--yes"), 2, "it is empty"),
    ],
)
def test_exit_codes_say_what_was_wrong(
    words: tuple[str, ...], code: int, said: str, inbox: Path
) -> None:
    """2: asked wrongly, 3: not there, 4: not in that state; and nothing was changed."""
    ended = command(inbox, "events", *words)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    if "--yes" in words:
        assert stats(inbox)["jobs"]["discarded"] == 1


@pytest.mark.parametrize("words", [("list",), ("show", "1"), ("stats",), ("resubmit", "1", "-y")])
def test_a_file_that_is_not_there_is_not_made(words: tuple[str, ...], tmp_path: Path) -> None:
    """Looking creates nothing: exit code 2, a sentence, an empty folder."""
    ended = command(tmp_path, "events", *words, "--database", "typo.db")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "there is no database typo.db" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_resubmitting_asks_first_and_then_runs_the_job_again(tmp_path: Path) -> None:
    """Neither a no nor a dry run changes a thing; a yes does, and the running server takes it."""
    with serving(tmp_path, "app:receiver") as run:
        url = run.read_until(r"receives   POST (\S+)")[1]
        run.post(url, body("one", "broken"))
        run.post(url, body("two", "broken", 1_767_225_601))
        until(lambda: stats(tmp_path)["jobs"]["discarded"] == 2)

        refused = command(tmp_path, "events", "resubmit", "1002", given="n\n")
        assert refused.returncode == 1
        dry = command(tmp_path, "events", "resubmit", "--all-discarded", "--dry-run", "--json")
        assert json.loads(dry.stdout) == {
            "dry_run": True,
            "resubmitted": [],
            "would_resubmit": [1002, 2002],
            "refused": [],
        }
        assert stats(tmp_path)["jobs"]["discarded"] == 2

        assert command(tmp_path, "events", "resubmit", "1002", given="y\n").returncode == 0
        until(lambda: stats(tmp_path)["jobs"]["discarded"] == 1)
        words = ("events", "resubmit", "--all-discarded", "--yes", "--label", "broken", "--json")
        done = command(tmp_path, *words)
        assert (done.returncode, json.loads(done.stdout)["resubmitted"]) == (0, [2002])
        until(lambda: stats(tmp_path)["jobs"]["completed"] == 4)

        shown = json.loads(command(tmp_path, "events", "show", "1", "--json").stdout)
        again = next(job for job in shown["jobs"] if job["id"] == 1002)
        assert [attempt["outcome"] for attempt in again["attempts"]] == ["discarded", "completed"]
        assert run.end() == 0


# ---------------------------------------------------------------- rules that need no process


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("žluťoučký 世界 👍", "žluťoučký 世界 👍"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x9b\x7f\x00", "\\x9b\\x7f\\x00"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("\u2028\ud800", "\\u2028\\ud800"),
        ("👩\u200d🌾", "👩\u200d🌾"),
    ],
)
def test_what_could_act_on_a_terminal_is_written_out(text: str, shown: str) -> None:
    """Controls, direction marks and halves of characters become visible; letters stay."""
    assert visible(text) == shown


def test_line_breaks_can_be_kept() -> None:
    """Tracebacks keep their lines, and nothing else that acts."""
    assert visible_lines("a\x1b\nb\r") == "a\\x1b\nb\\r"


def test_one_is_not_many() -> None:
    """Numbers and their nouns agree."""
    assert [counted(number, "job") for number in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]


NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("15m", NOW - timedelta(minutes=15)),
        ("2h", NOW - timedelta(hours=2)),
        ("1.5d", NOW - timedelta(hours=36)),
        (" 1 w ", NOW - timedelta(weeks=1)),
        ("2026-01-30", NOW.replace(day=30, hour=0, minute=0)),
        ("2026-01-30T12:00", NOW.replace(day=30, hour=12, minute=0)),
        ("2026-01-30T12:00:00Z", NOW.replace(day=30, hour=12, minute=0)),
        ("2026-01-30T12:00+02:00", NOW.replace(day=30, hour=10, minute=0)),
        (clock_time(NOW), NOW),
    ],
)
def test_times_are_read_as_people_write_them(text: str, meant: datetime) -> None:
    """So long ago, a date, or an ISO time; without an offset it is UTC."""
    assert moment(text, NOW) == meant


@pytest.mark.parametrize("text", ["", "h", "-2h", "2 hours", "99999999999d", "0001-01-01", "12"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """Anything else is an error that shows what is taken, and never a time by accident."""
    if text == "0001-01-01":  # readable, and long ago
        assert moment(text, NOW).year == 1
        return
    with pytest.raises(ValueError, match="is no time"):
        moment(text, NOW)


def test_every_key_and_every_exit_code_is_documented() -> None:
    """docs/cli.md names each key of the JSON documents, and each exit code."""
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    named = set(re.findall(r"`([a-z0-9_]+)`", page))
    keys = EVENT_KEYS | JOB_KEYS | ATTEMPT_KEYS | STATS_KEYS
    keys |= {"attempts", "payload", "problem", "body_base64", "next_before", "events"}
    keys |= {"dry_run", "resubmitted", "would_resubmit", "refused"}
    keys |= {"ok", "posts", "summary", "checks"}
    assert keys - named == set()
    codes = set(re.findall(r"^\| (\d+) \|", page, re.MULTILINE))
    assert codes == {"0", "1", "2", "3", "4", "130", "143"}
