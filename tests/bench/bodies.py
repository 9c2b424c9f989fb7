"""What the load posts: realistic payloads of 1.4 KB, each of them a different event.

Message ``n`` comes from one of 20,000 phones, its time grows with ``n``, its text holds ``n``.
The same bodies are made here for the Python client and in Lua for wrk.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterator
from datetime import UTC, datetime

PHONES = 20_000
FIRST_PHONE = 15_550_000_000
VARIANTS = 48  # so that no cache anywhere profits from a repeated text
FIRST_SECOND = 1_790_000_000
PER_SECOND = 1_000  # messages that share a second; their texts and milliseconds differ
STAMP = 20  # digits; the text begins with the moment of sending, or with zeros

_MARKS = ("%text%", "%iso%", "%phone%", "%time%")


def _sentence(rng: random.Random, letters: int) -> str:
    words: list[str] = []
    while sum(map(len, words)) + len(words) < letters:
        words.append("".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9))))
    return " ".join(words)[:letters].strip().capitalize() + "."


def _template(rng: random.Random) -> str:
    ours, earlier = _sentence(rng, 85), _sentence(rng, 60)
    text = "%text% " + _sentence(rng, 60)
    payload = {
        "last_messages": [
            {"type": "user", "content": text, "timestamp": "%iso%", "content_type": "text"},
            {
                "type": "bot",
                "content": ours,
                "timestamp": "2026-09-21T08:12:31.250Z",
                "content_type": "text",
            },
            {
                "type": "user",
                "content": earlier,
                "timestamp": "2026-09-21T08:11:02.114Z",
                "content_type": "text",
            },
        ],
        "conversation_paragraph": f"User: {text} ; Bot: {ours} ; User: {earlier}",
        "phone_number": "%phone%",
        "recipient_name": "Ines Okafor",
        "user_id": "5d0c2b1e-7a43-4f0e-9d52-1c6f3a7be210",
        "last_message_of_user": text,
        "last_message_of_bot": ours,
        "message_type": "text",
        "user_last_message_time": "%time%",
        "bot_last_message_time": 1_789_978_351,
        "attachment_url": None,
        "note": "",
        "note_automation": "",
        "labels": "orders, returns",
        "incoming_message": True,
        "send_by": "",
        "was_message_by_human": True,
    }
    written = json.dumps(payload, separators=(",", ":"))
    return written.replace('"%time%"', "%time%")  # a number on the wire


def templates() -> list[list[str]]:
    """Each variant, cut at its marks: literal, mark, literal, mark, …, literal.

    The marks stand in the same order in every variant; :data:`MARK_ORDER` names it.
    """
    rng = random.Random(7)  # bodies, no secrets
    return [_cut(_template(rng)) for _ in range(VARIANTS)]


def _cut(template: str) -> list[str]:
    pieces = [template]
    for mark in _MARKS:
        pieces = [part for piece in pieces for part in _split(piece, mark)]
    return pieces


def _split(piece: str, mark: str) -> Iterator[str]:
    if piece in _MARKS:
        yield piece
        return
    literals = piece.split(mark)
    for literal in literals[:-1]:
        yield literal
        yield mark
    yield literals[-1]


_TEMPLATES = templates()
MARK_ORDER = tuple(piece.strip("%") for piece in _TEMPLATES[0] if piece in _MARKS)
_LITERALS = [tuple(piece for piece in cut if piece not in _MARKS) for cut in _TEMPLATES]


def text_of(n: int, sent_at: int = 0) -> str:
    """How the text of message ``n`` begins; ``sent_at`` in monotonic nanoseconds."""
    return f"{sent_at:0{STAMP}d} {n:09d}"


def body(n: int, sent_at: int = 0, phones: int = PHONES) -> bytes:
    """The body of message ``n``, from one of so many phones."""
    second = FIRST_SECOND + n // PER_SECOND
    instant = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    values = {
        "text": text_of(n, sent_at),
        "iso": f"{instant}.{n % PER_SECOND:03d}Z",
        "phone": str(FIRST_PHONE + n % phones),
        "time": str(second),
    }
    literals = _LITERALS[n % VARIANTS]
    parts = [literals[0]]
    for mark, literal in zip(MARK_ORDER, literals[1:], strict=True):
        parts += values[mark], literal
    return "".join(parts).encode()


LUA = """
-- Written by tests/bench/load.py: message n as in bodies.py, and a report as JSON.
local n, step = %(first)d, %(step)d
local head = "POST %(path)s HTTP/1.1\\r\\nHost: 127.0.0.1:%(port)d\\r\\n"
  .. "Content-Type: application/json\\r\\nContent-Length: "
local variants = %(variants)s
local second, instant = -1, ""

function request()
  local s = %(second)d + math.floor(n / %(per_second)d)
  if s ~= second then second = s; instant = os.date("!%%Y-%%m-%%dT%%H:%%M:%%S", s) end
  local text = string.format("%(zeros)s %%09d", n)
  local iso = string.format("%%s.%%03dZ", instant, n %% %(per_second)d)
  local phone = string.format("%%d", %(first_phone)d + n %% %(phones)d)
  local time = string.format("%%d", s)
  local p = variants[n %% %(variant_count)d + 1]
%(fill)s
  n = n + step
  local b = table.concat(p)
  return head .. #b .. "\\r\\n\\r\\n" .. b
end

function done(summary, latency, requests)
  io.write(string.format('\\nJSON{"requests": %%d, "seconds": %%.6f, "refused": %%d, '
    .. '"broken": %%d, "p50_ms": %%.3f, "p99_ms": %%.3f, "max_ms": %%.3f}\\n',
    summary.requests, summary.duration / 1e6, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
"""


def lua(*, port: int, path: str, first: int, step: int) -> str:
    """The wrk script that posts messages ``first``, ``first + step``, … (``count`` 0: no end)."""

    def quoted(piece: str) -> str:
        return '""' if piece in _MARKS else "[==[" + piece + "]==]"

    variants = ",\n".join("{" + ",".join(map(quoted, cut)) + "}" for cut in _TEMPLATES)
    fill = "\n".join(f"  p[{2 * i + 2}] = {mark}" for i, mark in enumerate(MARK_ORDER))
    return LUA % {
        "first": first,
        "step": step,
        "path": path,
        "port": port,
        "variants": "{" + variants + "}",
        "variant_count": VARIANTS,
        "second": FIRST_SECOND,
        "per_second": PER_SECOND,
        "zeros": "0" * STAMP,
        "phones": PHONES,
        "first_phone": FIRST_PHONE,
        "fill": fill,
    }
