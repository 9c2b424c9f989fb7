"""Bodies to post: each number is another message, of one of a few conversations."""

from __future__ import annotations

import json

ACCOUNT = "5b1f6a52-0b8e-4c55-9d5e-6f3a8f0c1d2e"
PHONES = 12
SECOND = 1_760_000_000


def body(n: int, *, phone: int | None = None, text: str | None = None, labels: str = "") -> bytes:
    """Message ``n`` as WhatsAble's bot sends one, in the conversation that its number gives."""
    customer = str(420_777_000_000 + (n % PHONES if phone is None else phone))
    said = f"message {n}" if text is None else text
    # Whole seconds are shared by several messages, as on the wire.
    seconds = SECOND + n // 40
    payload = {
        "last_messages": [
            {
                "type": "user",
                "content": said,
                "timestamp": f"2025-10-09T08:{n // 60_000 % 60:02}:{n // 1000 % 60:02}."
                f"{n % 1000:03}Z",
                "content_type": "text",
            }
        ],
        "phone_number": customer,
        "recipient_name": "Jana Dvořák",
        "user_id": ACCOUNT,
        "last_message_of_user": said,
        "last_message_of_bot": "",
        "message_type": "text",
        "user_last_message_time": seconds,
        "bot_last_message_time": 0,
        "attachment_url": None,
        "note": "x" * (n % 700),
        "note_automation": "",
        "labels": labels,
    }
    return json.dumps(payload, ensure_ascii=False).encode()
