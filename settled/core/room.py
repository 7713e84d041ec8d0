"""Room for new work: it is refused before the disk is full, so that what is under way can end.

Outcomes of payments, credits that the ledger shows and deliveries still have to be written when the
disk fills up. They live on a reserve: while less than that is free, no new work is taken. It is
taken again by itself as soon as there is room.
"""

import dataclasses
from typing import Final

import structlog
import trio

from settled import limits
from settled.errors import StoreFull
from settled.store.protocol import Store
from settled.store.records import Space

log = structlog.get_logger()

_EFFECT: Final = "new settlements and accounts are refused with 503"
_ADVICE: Final = "free some space on the disk of the database; the daemon goes on by itself"


class Room:
    """Whether there is room for new work.

    Args:
        store: what fills up.

    Attributes:
        low: new work must be refused now.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watching = False
        self._full_until = 0.0  # trio time
        self.low = False

    async def watch(self) -> None:
        """Look now and then, until cancelled; return at once if there is nothing to look at."""
        while await self._look():  # noqa: ASYNC110 - a disk tells nobody
            await trio.sleep(limits.DISK_POLL_S)

    async def _look(self) -> bool:
        """Look once how much is free; return whether to look again."""
        space = await self._store.space()
        if space is None:
            return False
        if space.free_bytes is None:
            return True
        self._watching = True
        if space.free_bytes < space.reserve_bytes:
            self._enter("the disk is nearly full", space)
        # A bit more than it took to enter, lest it comes and goes with every file nearby.
        elif space.free_bytes - space.reserve_bytes >= space.reserve_bytes // 4:
            self._leave(space)
        return True

    def found_full(self, error: StoreFull) -> None:
        """Heed a write of new work that found no room: at once, whatever the disk says."""
        self._full_until = trio.current_time() + limits.DISK_FULL_PAUSE_S
        if self._watching:
            self._enter(str(error), None)

    def refusal(self) -> StoreFull:
        """Return the error that new work is refused with."""
        return StoreFull(f"there is no room for new work: {_ADVICE}; nothing was recorded")

    def _enter(self, reason: str, space: Space | None) -> None:
        if not self.low:
            self.low = True
            fields = {} if space is None else dataclasses.asdict(space)
            log.error("disk_low", reason=reason, effect=_EFFECT, advice=_ADVICE, **fields)

    def _leave(self, space: Space) -> None:
        if self.low and trio.current_time() >= self._full_until:
            self.low = False
            log.info("disk_has_room", effect="new work is taken again", **dataclasses.asdict(space))
