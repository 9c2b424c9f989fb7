"""The inbox in one SQLite file: the embedded store, for one machine and several processes.

``inbox`` is the event loop's side. It hands cycles of work (``cycle``) to the one thread that
writes (``writer``), which keeps deliveries (``accept``) and leases and settles jobs (``claims``)
in a ``file``; what people ask goes to a ``reader`` beside it.
"""

from .inbox import SQLiteInbox

__all__ = ["SQLiteInbox"]
