"""Chains that are undone, lose transactions and grow dear at the test's word: two makes of node."""

import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx2
import trio

from tests.engines.ethereum.anvil import ANVIL_TOOLS, HARDHAT_TOOLS, Chain

_BLOCK_S: Final = (0.03, 0.15)


class UnrestfulChain(Chain):
    """A chain whose blocks the test makes."""

    made_of = ANVIL_TOOLS

    def __init__(self, url: str, client: httpx2.AsyncClient, rng: random.Random) -> None:
        super().__init__(url, client, self.made_of)
        self._rng = rng
        self._lock = trio.Lock()

    async def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            await self.rpc("evm_mine")

    async def make_blocks(self) -> None:
        """Make a block every now and then, for ever."""
        while True:
            async with self._lock:
                await self.mine()
            await trio.sleep(self._rng.uniform(*_BLOCK_S))

    async def offer(self, raw: str) -> None:
        """Send a transaction; that it is there already, or does not fit now, is no matter."""
        try:
            await self.rpc("eth_sendRawTransaction", raw)
        except RuntimeError:
            await trio.lowlevel.checkpoint()

    async def undo(self, depth: int) -> None:
        """Put as many other, empty blocks in place of the last ``depth`` ones."""
        async with self._lock:
            await self._undo(depth)

    async def _undo(self, depth: int) -> None:
        raise NotImplementedError

    async def drop(self) -> int:
        """Have the node forget one of the transactions that wait; return how many there were."""
        async with self._lock:
            block = await self.rpc("eth_getBlockByNumber", "pending", False)
            waiting = block["transactions"]
            if waiting:
                await self.rpc("anvil_dropTransaction", self._rng.choice(waiting))
            return len(waiting)

    async def set_base_fee(self, wei: int) -> None:
        async with self._lock:
            await self.rpc("anvil_setNextBlockBaseFeePerGas", hex(wei))


class Anvil(UnrestfulChain):
    """It can undo blocks."""

    async def _undo(self, depth: int) -> None:
        await self.rpc("anvil_reorg", depth, [])


class Hardhat(UnrestfulChain):
    """It can only go back to where it was told to remember; so it is, at each block."""

    made_of = HARDHAT_TOOLS

    def __init__(self, url: str, client: httpx2.AsyncClient, rng: random.Random) -> None:
        super().__init__(url, client, rng)
        self._marks: deque[Any] = deque(maxlen=16)

    async def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self._marks.append(await self.rpc("evm_snapshot"))
            await super().mine()

    async def _undo(self, depth: int) -> None:
        depth = min(depth, len(self._marks))
        for _ in range(depth):
            mark = self._marks.pop()
        if depth:
            await self.rpc("evm_revert", mark)
            await self.rpc("hardhat_setPrevRandao", f"0x{self._rng.getrandbits(256):064x}")
            await self.mine(depth)


@asynccontextmanager
async def unrestful(
    make: type[UnrestfulChain], url: str, rng: random.Random
) -> AsyncIterator[UnrestfulChain]:
    """Make the blocks of the chain at a URL while the block runs."""
    async with (
        httpx2.AsyncClient(trust_env=False, timeout=30) as client,
        trio.open_nursery() as nursery,
    ):
        chain = make(url, client, rng)
        await chain.automine(False)
        nursery.start_soon(chain.make_blocks)
        yield chain
        nursery.cancel_scope.cancel()
