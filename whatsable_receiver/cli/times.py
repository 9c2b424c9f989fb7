"""Times as people write them on a command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str, now: datetime) -> datetime:
    """``"2h"`` (that long before ``now``), a date, or an ISO 8601 time; without an offset: UTC.

    Raises ValueError with what it takes.
    """
    try:
        if found := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", text):
            return now - timedelta(**{UNITS[found[2]]: float(found[1])})
        time = datetime.fromisoformat(text.strip())
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        time.timestamp()
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time: write 90s, 15m, 2h, 3d or 1w (that long ago), "
            "2026-01-31, or 2026-01-31T09:30Z"
        ) from None
    return time.astimezone(UTC)
