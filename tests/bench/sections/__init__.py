"""The sections, each a module with ``run(options) -> list[Row]``."""

from __future__ import annotations

#: Name on the command line: module. Imported when asked for, so that one may miss what it needs.
SECTIONS = {
    "accept": "accept",
    "peers": "peers",
    "latency": "latency",
    "drain": "drain",
    "two": "two",
    "idle": "idle",
    "keys": "keys",
    "memory": "memory",
    "import": "imports",
}
