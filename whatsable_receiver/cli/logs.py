"""What ``run`` logs to standard error: a line for people, or a JSON object for programs."""

from __future__ import annotations

import logging
import time
from typing import Any, Literal

import structlog

from .printing import visible, visible_lines

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]


class Line(logging.Formatter):
    """One line a record, whatever is in its message; a traceback follows on lines of its own."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The line itself, with what could act on a terminal written out."""
        return visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        """The traceback, its line breaks kept."""
        return visible_lines(super().formatException(ei))


def _json() -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            # Before the fields, because one of them is called event: it is an event's number.
            structlog.processors.EventRenamer("message"),
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )


def set_up(form: Format, level: Level) -> None:
    """Send every record of this process to standard error, from ``level`` on."""
    handler = logging.StreamHandler()
    handler.setFormatter(_json() if form == "json" else Line())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # its start and stop are ours to tell
