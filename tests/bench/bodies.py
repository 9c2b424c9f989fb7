"""What the load posts: realistic payloads of 1.4 KB, each of them a different event.

Message ``n`` comes from one of 20,000 phones, its time grows with ``n``, its text holds ``n``.
The same bodies are made here for the Python client and in Lua for wrk.
"""

from __future__ import annotations

import json
import random
import re
import string
from datetime import UTC, datetime

ACCOUNT = "5d0c2b1e-7a43-4f0e-9d52-1c6f3a7be210"
PHONES = 20_000
FIRST_PHONE = 15_550_000_000
VARIANTS = 48  # so that no cache anywhere profits from a repeated text
FIRST_SECOND = 1_790_000_000
PER_SECOND = 1_000  # messages that share a second; their texts and milliseconds differ
STAMP = 20  # digits; the text begins with the moment of sending, or with zeros


def _sentence(rng: random.Random, letters: int) -> str:
    words: list[str] = []
    while sum(map(len, words)) + len(words) < letters:
        words.append("".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9))))
    return " ".join(words)[:letters].strip().capitalize() + "."


def _template(rng: random.Random) -> list[str]:
    """A body, cut at its marks: literal, mark, literal, mark, …, literal."""
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
        "user_id": ACCOUNT,
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
    written = written.replace('"%time%"', "%time%")  # a number on the wire
    return re.split(r"%(\w+)%", written)


_RANDOM = random.Random(7)
_TEMPLATES = [_template(_RANDOM) for _ in range(VARIANTS)]
_MARKS = _TEMPLATES[0][1::2]  # in this order in every variant


def body(n: int, sent_at: int = 0, phones: int = PHONES) -> bytes:
    """Message ``n``, from one of so many phones; ``sent_at`` in monotonic nanoseconds."""
    second = FIRST_SECOND + n // PER_SECOND
    instant = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    values = {
        "text": f"{sent_at:0{STAMP}d} {n:09d}",
        "iso": f"{instant}.{n % PER_SECOND:03d}Z",
        "phone": str(FIRST_PHONE + n % phones),
        "time": str(second),
    }
    pieces = list(_TEMPLATES[n % VARIANTS])
    pieces[1::2] = [values[mark] for mark in _MARKS]
    return "".join(pieces).encode()


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
    """The wrk script that posts messages ``first``, ``first + step``, …"""
    variants = ",\n".join(
        "{" + ",".join('""' if at % 2 else f"[==[{piece}]==]" for at, piece in enumerate(cut)) + "}"
        for cut in _TEMPLATES
    )
    fill = "\n".join(f"  p[{2 * i + 2}] = {mark}" for i, mark in enumerate(_MARKS))
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
