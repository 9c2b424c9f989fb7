"""The sections, each a module with ``run(options) -> list[Row]``."""

from __future__ import annotations

# Imported when asked for, so that one may miss what it needs.
SECTIONS = ("accept", "peers", "latency", "drain", "two", "idle", "keys", "memory", "imports")
