"""Takes back leases that ran out, and prunes what retention lets go, in small steps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from .errors import Unavailable
from .inbox.base import Inbox, Retention

log = logging.getLogger("whatsable_receiver.housekeeping")

PAUSE = 0.05  # seconds between two steps of pruning
REST = 60.0  # seconds after a step that found nothing to do


async def take_back_leases(take_back: Callable[[], Awaitable[int]], every: float) -> None:
    """Look for lost leases now, and again each ``every`` seconds, until cancelled."""
    while True:
        try:
            if lost := await take_back():
                log.warning("attempts that lost their lease, taken back: %d", lost)
        except Unavailable as error:
            log.warning("leases cannot be looked at: %s", error)
        except Exception:  # whatever it is, the next look may go well
            log.exception("leases could not be looked at")
        await asyncio.sleep(every)


async def prune(inbox: Inbox, retention: Retention) -> None:
    """Prune step by step, until cancelled."""
    while True:
        touched = 0
        try:
            touched = await inbox.prune(retention)
        except Unavailable as error:
            log.warning("nothing can be pruned: %s", error)
        except Exception:  # whatever it is, the next step may go well
            log.exception("nothing could be pruned")
        await asyncio.sleep(PAUSE if touched else REST)
