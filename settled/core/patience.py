"""Writes that must not be given up because the store is busy."""

import math
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog
import trio

from settled.errors import StoreBusy

log = structlog.get_logger()

_T = TypeVar("_T")

_DELAY_MAX_S: Final = 5.0


async def patiently(write: Callable[[], Awaitable[_T]]) -> _T:
    """Call ``write`` until the store is not busy, and return what it returns.

    No cancellation comes between the call and its effect, only between two calls: what has
    happened outside is written down if the store can at all.

    Args:
        write: a call of the store, which notices a cancellation only before it begins.

    Example::

        await patiently(lambda: store.record_outcome(settlement_id, outcome))
    """
    delay_s = 0.1
    while True:
        try:
            if trio.current_effective_deadline() > -math.inf:
                return await write()  # it is not cancelled: a shield for each is not cheap
            with trio.CancelScope(shield=True):
                return await write()
        except StoreBusy as error:
            log.warning("store_busy", reason=str(error), retry_in_s=delay_s)
        await trio.sleep(delay_s)
        delay_s = min(delay_s * 2, _DELAY_MAX_S)
