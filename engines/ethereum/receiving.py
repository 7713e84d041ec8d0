"""What comes in: every confirmed payment to us is credited exactly once.

The chain is looked through from a trail on disk, range by range, behind the confirmations. What a
range paid and the new end of the trail are committed together. When the chain changes deeper than
that, it is looked through again from where it changed.
"""

from dataclasses import dataclass
from typing import Final

import trio

from engines.ethereum.entries import Entries
from engines.ethereum.rpc import Rpc, RpcError, RpcFailure, View
from engines.ethereum.scanning import Inconsistent, Range, Scanner
from engines.ethereum.telling import Seldom
from engines.ethereum.trail import Trail
from engines.ethereum.transfers import Transfer
from engines.ethereum.uptodate import refuse_syncing
from settled import Services

_READ_WELL: Final = 16  # ranges in a row, before more is asked for again
_PROGRESS_EVERY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How the chain is followed."""

    confirmations: int
    poll_s: float
    blocks_max: int


@dataclass(frozen=True, slots=True)
class _Step:
    """Blocks that were read: what they paid, the trail once that is entered, what is left."""

    transfers: list[Transfer]
    after: Trail
    to_go: int


class Receiving:
    """Follows the chain and credits what it pays us."""

    def __init__(
        self,
        services: Services,
        rpc: Rpc,
        scanner: Scanner,
        entries: Entries,
        pace: Pace,
    ) -> None:
        self._services = services
        self._rpc = rpc
        self._scanner = scanner
        self._entries = entries
        self._pace = pace
        self._blocks = pace.blocks_max  # to look through at once
        self._read_well = 0  # ranges since it was less
        self._trail = Trail.begin(0)
        self._progress = Progress(services)
        self._seldom = Seldom(services.log)

    async def begin(self, start_block: int | None) -> None:
        """Find out where to go on, or where to begin, before any account can be paid.

        Raises:
            RpcFailure: when no node can tell.
        """
        state = self._services.state
        stored = await state.get("trail")
        if stored is None:
            if start_block is None:
                async with self._rpc.view() as view:
                    await refuse_syncing(view)
                    start_block = view.head + 1
            stored = Trail.begin(start_block - 1).stored()
            await state.set("trail", stored)
        self._trail = Trail.read(stored)
        await self._entries.load()

    async def watch(self) -> None:
        """Follow the chain, for ever."""
        while True:
            try:
                found = await self._read()
            except (RpcFailure, ValueError) as error:
                again = isinstance(error, RpcError) and self._blocks > 1
                # Less at once may be what the node can give. Of one block there is no less.
                self._blocks, self._read_well = max(1, self._blocks // 2), 0
                if again:
                    continue
                found = None
                self._seldom.warning(
                    "ethereum_blocks_unreadable",
                    "",
                    after=self._trail.number,
                    reason=f"{error}: what is paid to us is not seen until a node shows the blocks "
                    f"after this one",
                )
            if found is not None:
                await self._enter(found)
            if found is None or not found.to_go:
                await trio.sleep(self._pace.poll_s)

    async def _read(self) -> _Step | None:
        """Return the next range, if one is confirmed; it changes nothing but the way back."""
        trail = self._trail
        async with self._rpc.view() as view:
            confirmed = view.head - self._pace.confirmations + 1
            if view.head < trail.number:
                self._seldom.warning(
                    "ethereum_node_behind", "", head=view.head, blocks_done=trail.number
                )
            if confirmed <= trail.number:
                return None
            if not await self._holds(view, trail):
                trail = await self._go_back(view)
            last = min(confirmed, trail.number + self._blocks)
            found = await self._scanner.scan(view, Range(trail.number + 1, last, trail.hash))
        after = trail.advance(last, found.last_hash, self._pace.confirmations)
        return _Step(found.transfers, after, confirmed - last)

    async def _enter(self, step: _Step) -> None:
        before = self._trail
        await self._entries.enter(step.transfers, before=before, after=step.after)
        self._trail = step.after
        self._read_well += 1
        if self._read_well % _READ_WELL == 0:
            self._blocks = min(self._pace.blocks_max, self._blocks * 2)
        self._progress.tell(step.after.number - before.number, step.to_go)

    # --- when the chain has changed ---

    async def _holds(self, view: View, trail: Trail) -> bool:
        """Say whether the end of the trail is still in the chain."""
        if trail.hash is None:
            return True
        block = await view.block(trail.number)
        if block is None:
            raise Inconsistent(f"the node has no block {trail.number}")
        return str(block["hash"]).lower() == trail.hash

    async def _go_back(self, view: View) -> Trail:
        """Go back to the last block of the trail that is still in the chain; return the trail."""
        former = trail = self._trail
        while not await self._holds(view, trail):
            trail = trail.back()
        self._services.log.error(
            "ethereum_chain_changed",
            done=former.number,
            hash=former.hash,
            back_to=trail.number,
            reason=f"block {former.number} had {self._pace.confirmations} confirmations and is not "
            f"in the chain any more. Blocks are looked through again from {trail.number + 1}; "
            f"payments that have gone will be told. Consider more confirmations",
        )
        await self._services.state.set("trail", trail.stored())
        self._trail = trail
        return trail


class Progress:
    """Tells now and then how far a long way is done."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._began_at: float | None = None
        self._told_at = 0.0
        self._done = 0

    def tell(self, done: int, to_go: int) -> None:
        """Note that so many more blocks are done, and so many are left."""
        now = trio.current_time()
        if self._began_at is None:
            if not to_go:
                return
            self._began_at, self._told_at, self._done = now, now, 0
        self._done += done
        if not to_go:
            if self._told_at > self._began_at:
                self._services.log.info("ethereum_caught_up", blocks_done=self._done)
            self._began_at = None
        elif now >= self._told_at + _PROGRESS_EVERY_S:
            self._told_at = now
            left_s = round(to_go * (now - self._began_at) / self._done)
            self._services.log.info(
                "ethereum_catching_up", blocks_done=self._done, blocks_to_go=to_go, left_s=left_s
            )
