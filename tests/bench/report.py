"""The result for people, as a table, and for programs, as JSON."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata

from .rows import Options, Row

PACKAGES = ("whatsable-receiver", "pydantic", "starlette", "fastapi", "uvicorn", "uvloop")
HEADINGS = ("figure", "measured", "floor (ambition)", "verdict")


def number(value: float) -> str:
    """Three digits that mean something."""
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """One line a row, and beneath it what else was seen."""
    cells = [
        (
            row.what,
            "-" if row.value is None or row.void else f"{number(row.value)} {row.unit}".strip(),
            str(row.floor) if row.floor else "",
            row.verdict,
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *cells, strict=True)]
    lines = [_line(HEADINGS, widths), "-" * (sum(widths[:3]) + 16)]
    section = None
    for row, cell in zip(rows, cells, strict=True):
        if row.section != section:
            section = row.section
            lines.append(f"[{section}] {row.doubt or ''}".rstrip())
        lines.append(_line(cell, widths))
        if row.seen and not row.void:
            shown = (
                f"{name} {number(value) if isinstance(value, int | float) else value}"
                for name, value in row.seen.items()
            )
            lines.append("    " + ", ".join(shown))
    return "\n".join(lines)


def _line(cell: Sequence[str], widths: Sequence[int]) -> str:
    padded = (text.ljust(width) for text, width in zip(cell, widths, strict=True))
    return "  ".join(padded).rstrip()


def circumstances(options: Options) -> dict[str, object]:
    """What the figures hold for."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: _version(name) for name in PACKAGES},
        "generator": "wrk" if shutil.which("wrk") else "python",
        "options": asdict(options),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def document(rows: Sequence[Row], options: Options) -> dict[str, object]:
    """Everything, with stable keys."""
    return {
        "circumstances": circumstances(options),
        "rows": [{**asdict(row), "verdict": row.verdict} for row in rows],
    }
