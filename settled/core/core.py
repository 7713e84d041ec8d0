"""The core as one thing: recovery at start, the schedulers, upkeep, and the end."""

import structlog
import trio

from settled import limits
from settled.core.hooks import Hooks
from settled.core.incoming import Incoming
from settled.core.outgoing import Outgoing
from settled.core.ports import ConnectorPort, EnginePort
from settled.core.room import Room
from settled.core.scheduler import Agenda
from settled.errors import StoreBroken, StoreBusy
from settled.store.protocol import Store
from settled.store.records import Difference, Work
from settled.text import describe_error

log = structlog.get_logger()

_PAGE_ROWS = 1000
_LOOK_AGAIN_S = 600


class Core:
    """Everything that goes on by itself while a daemon runs.

    Args:
        store: what it works on.
        engine: what pays.
        connector: what brings credits to it.
        nursery: where all of it runs; a crash in there ends the daemon.
        settle_timeout_s: how long a call of ``settle`` may take; ``None``: for ever.
    """

    def __init__(
        self,
        store: Store,
        engine: EnginePort,
        connector: ConnectorPort,
        nursery: trio.Nursery,
        *,
        settle_timeout_s: float | None = None,
    ) -> None:
        self._store = store
        self._nursery = nursery
        self.room = Room(store)
        self.outgoing = Outgoing(store, engine, settle_timeout_s=settle_timeout_s)
        self.incoming = Incoming(store, connector, nursery)
        self.hooks = Hooks(store, engine, self.outgoing.scheduler.wake)
        self._schedulers: dict[Work, Agenda] = {
            "settle": self.outgoing.scheduler,
            "deliver": self.incoming.scheduler,
            "hook": self.hooks.scheduler,
        }

    def start(self) -> None:
        """Start the schedulers, take up everything unfinished, and keep the store well."""
        for scheduler in self._schedulers.values():
            self._nursery.start_soon(scheduler.run)
        for work in self._schedulers:
            self._nursery.start_soon(self._take_up, work)
        self._nursery.start_soon(self._heed_other_processes)
        self._nursery.start_soon(self._keep_keys)
        self._nursery.start_soon(self.room.watch)
        self._nursery.start_soon(self._look_over)

    def end(self) -> None:
        """Begin nothing more, drained or not: what is recorded is left to the next start."""
        for scheduler in self._schedulers.values():
            scheduler.draining.set()

    async def _look_over(self) -> None:
        """Look for damage that the start has not found; what is damaged ends the daemon."""
        while (found := await self._looked_over()) is None:  # noqa: ASYNC110 - a disk tells nobody
            await trio.sleep(_LOOK_AGAIN_S)
        for wrong in found:
            log.error(
                "books_differ",
                subject=wrong.subject,
                what=wrong.what,
                expected=wrong.expected,
                found=wrong.found,
                advice='run `settled audit`, and see docs/operators.md, "Damage"',
            )

    async def _looked_over(self) -> list[Difference] | None:
        try:
            return await self._store.look_over()
        except StoreBroken:
            raise
        except Exception as error:
            # That it cannot be looked at now says nothing of the books.
            log.warning("not_looked_over", reason=describe_error(error), again_in_s=_LOOK_AGAIN_S)
            return None

    async def _take_up(self, work: Work) -> None:
        after, count = 0, 0
        while page := await self._store.unfinished(work, after=after, limit=_PAGE_ROWS):
            for account in page:
                self._schedulers[work].wake(account)
            after, count = page[-1], count + len(page)
        if count:
            log.info("taken_up", work=work, accounts=count)

    async def _heed_other_processes(self) -> None:
        try:
            while True:
                for account in await self._store.wait_foreign_writes():
                    for scheduler in self._schedulers.values():
                        scheduler.wake(account)
        except StoreBroken as error:
            # Said at once: an engine that hangs may hold it up on its way out.
            log.exception("store_broken", reason=str(error))
            raise

    async def _keep_keys(self) -> None:
        while True:
            await trio.sleep(limits.KEY_TICK_S)
            try:
                await self._store.age_keys()
                while await self._store.purge_keys():
                    pass
            except StoreBusy as error:
                log.warning("store_busy", reason=str(error))

    async def drain(self) -> None:
        """Start nothing new, and wait for the payments, deliveries and hooks under way."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.outgoing.scheduler.drain)
            nursery.start_soon(self.incoming.drain)
            nursery.start_soon(self.hooks.scheduler.drain)
