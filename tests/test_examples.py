"""The examples run as they stand, in processes of their own, and do what they say."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .serving import ROOT, Server, until

EXAMPLES = ROOT / "examples"


@contextmanager
def example(app: str, folder: Path, **environment: str) -> Iterator[Server]:
    """An app of ``examples/`` under uvicorn, as a user would run it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "printed"
    env = {k: v for k, v in os.environ.items() if not k.startswith("WHATSABLE_")}
    env |= {"WHATSABLE_DATABASE": str(folder / "inbox.db"), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"PYTHONUNBUFFERED": "1"}
    env |= {name: value.format(port=port) for name, value in environment.items()}
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--no-access-log"],
            cwd=EXAMPLES,
            env=env,
            stdout=said,
            stderr=said,
        )
    server = Server(process, port, log)
    try:
        yield server.wait_ready()
    finally:
        server.kill()


def message(phone: str, text: str, *, labels: str = "", second: int = 0) -> bytes:
    """A text message as WhatsAble Bot sends it."""
    return json.dumps(
        {
            "last_messages": [
                {
                    "type": "user",
                    "content": text,
                    "timestamp": f"2026-03-01T10:00:{second:02}.000Z",
                    "content_type": "text",
                },
                {
                    "type": "user",
                    "content": "Good morning!",
                    "timestamp": "2026-03-01T09:00:00.000Z",
                    "content_type": "text",
                },
            ],
            "conversation_paragraph": "",
            "phone_number": phone,
            "recipient_name": "Nadia",
            "user_id": "0d7d3c52-1f7e-4a34-9a50-2a2f6f3f9f11",
            "last_message_of_user": text,
            "last_message_of_bot": "",
            "message_type": "text",
            "user_last_message_time": 1772359200 + second,
            "bot_last_message_time": 0,
            "attachment_url": None,
            "labels": labels,
        }
    ).encode()


def test_the_agent_writes_one_answer_for_each_text(tmp_path: Path) -> None:
    """A redelivery is answered once, and a conversation that a human has is left alone."""
    answers = tmp_path / "answers"
    with example("agent:receiver", tmp_path, ANSWERS=str(answers)) as server:
        first = server.post(message("4915112345", "When do you open?")).body["event"]
        assert server.post(message("4915112345", "When do you open?")).body["event"] == first
        human = server.post(message("4915112345", "And now?", labels="human", second=5))
        until(lambda: (answers / f"{first}.txt").exists())
        left = f"event {human.body['event']} (text) is left to people"
        until(lambda: left in server.printed())
    assert [file.name for file in answers.iterdir()] == [f"{first}.txt"]
    text = (answers / f"{first}.txt").read_text()
    assert text == "You said: 'When do you open?'. Earlier you said: 'Good morning!'.\n"


@pytest.mark.parametrize(
    ("labels", "queue"),
    [("billing, support", "billing"), ("VIP", "support"), ("support-billing", "inbox")],
)
def test_the_helpdesk_gets_one_ticket_in_the_right_queue(
    tmp_path: Path, labels: str, queue: str
) -> None:
    """The first label that matches decides; what no label claims is a ticket as well."""
    url = "http://127.0.0.1:{port}/stand-in/tickets"
    with example("helpdesk:app", tmp_path, HELPDESK=url) as server:
        body = message("4915112345", "Please help", labels=labels)
        assert server.post(body).body["status"] == "accepted"
        assert server.post(body).body["status"] == "duplicate"

        def tickets() -> list[dict[str, object]]:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            connection.request("GET", "/stand-in/tickets")
            found: list[dict[str, object]] = json.loads(connection.getresponse().read())
            connection.close()
            return found

        (ticket,) = until(tickets)
        assert ticket["queue"] == queue
        assert ticket["customer"] == "4915112345"


def test_every_example_is_run_by_a_test() -> None:
    """A file in ``examples/`` that no test here starts would rot."""
    source = Path(__file__).read_text()
    for file in EXAMPLES.glob("*.py"):
        assert f'example("{file.stem}:' in source
