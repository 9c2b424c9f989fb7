"""Every exception of this library, the tree drawn on top.

ReceiverError
├── PayloadError                a body that could not be read
│   ├── NotJSON                 no JSON object at all               → answered 400
│   └── Unfit                   an object that fits no model        → quarantined, 202
├── Refused                     a delivery we do not accept         → its own status
├── ConfigurationError          a setting or a route is wrong       → at start, exit code 2
├── InboxError                  the store
│   ├── Unavailable             cannot keep anything now            → answered 503, retried
│   └── NotFound                no such event or job                → exit code 3
│       (a job in the wrong state is a StateError)
└── StateError                  a job that cannot take this step    → exit code 4

HandlerEnding                   what a handler raises when it means it: no errors of ours
├── Retry                       try again, at the usual time or after so many seconds
└── Discard                     never again, for this reason
"""

from __future__ import annotations

LONGEST_RETRY = 366 * 86_400  # seconds
LONGEST_TEXT = 500  # characters of what an error says that are kept


def told(thing: object, longest: int = LONGEST_TEXT) -> str:
    """What a thing says as text that every store can keep: short, no lone surrogate, no NUL."""
    try:
        text = str(thing)[:longest]
    except BaseException:  # a broken __str__ is the user's code: anything may come out
        return "(its text cannot be read)"
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


class ReceiverError(Exception):
    """The root of what this library raises."""


class PayloadError(ReceiverError):
    """A body that could not be read as a payload. Its text never repeats the body."""


class NotJSON(PayloadError):
    """The body is not one JSON object."""


class Unfit(PayloadError):
    """A JSON object that fits none of the shapes WhatsAble sends."""


class Refused(ReceiverError):
    """A delivery that is not accepted; ``status`` is the HTTP status that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class ConfigurationError(ReceiverError):
    """A setting, a route or their combination is wrong; the receiver does not start."""


class InboxError(ReceiverError):
    """Something about the store."""


class Unavailable(InboxError):
    """The inbox cannot keep anything at the moment: nothing was kept, so nothing is claimed."""


class NotFound(InboxError):
    """No event or job of that number."""


class StateError(ReceiverError):
    """The job is in a state from which this step does not lead."""


class HandlerEnding(Exception):
    """How a handler says that it ended, other than by returning."""


class Retry(HandlerEnding):
    """Raised by a handler: try this job again.

    ``after`` is in seconds, or None for the route's usual backoff. The attempt counts.
    """

    def __init__(
        self, reason: str = "the handler asked for a retry", *, after: float | None = None
    ):
        super().__init__(reason)
        if after is not None and not 0 <= after <= LONGEST_RETRY:
            raise ValueError(f"Retry(after=...) takes 0 seconds to 366 days, not {after!r}")
        self.reason = reason
        self.after = after


class Discard(HandlerEnding):
    """Raised by a handler: end this job now, for this reason; it can be resubmitted by hand."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason
