"""Receives WhatsAble's webhooks and loses nothing.

Receiver, Router       the app, and routes to include in it
Event, Conversation    what a handler is given
Payload, Status        what WhatsAble said: a message, or the status of one
Retry, Discard         what a handler raises when it means it
Retries                how often, and how far apart, a job is tried
ReceiverError          the root of every error of ours; the tree is in ``errors``
"""

from .errors import Discard, ReceiverError, Retry
from .event import Conversation, Event
from .jobs import Retries
from .payload import Payload, Status
from .receiver import Receiver
from .routing import Router

__all__ = [
    "Conversation",
    "Discard",
    "Event",
    "Payload",
    "Receiver",
    "ReceiverError",
    "Retries",
    "Retry",
    "Router",
    "Status",
]
__version__ = "0.1.0"
