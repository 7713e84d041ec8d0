"""The receiving part of an engine, on a real chain and a store that outlives it."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

import trio

from engines.ethereum.entries import Entries
from engines.ethereum.receiving import Pace, Receiving
from engines.ethereum.rpc import Rpc, View
from engines.ethereum.scanning import EtherScanner, TokenScanner
from engines.ethereum.signing import LocalSigner, SignedTransaction
from engines.ethereum.transactions import UnsignedTransaction
from engines.ethereum.transfers import Crediting
from settled.testing import MemoryStore
from tests.engines.ethereum.anvil import CHAIN_ID, GWEI, Chain
from tests.engines.ethereum.sides import KEYS, Log, Side

CONFIRMATIONS = 4
OURS = LocalSigner(KEYS[0]).address


@dataclass
class Receiver:
    """What outlives a start: the store, and how the engine is set."""

    chain: Chain
    token: str | None = None
    confirmations: int = CONFIRMATIONS
    blocks_max: int = 20
    max_credit: Decimal | None = None
    start_block: int | None = None
    poll_s: float = 0.01
    store: MemoryStore = field(default_factory=MemoryStore)
    log: Log | None = None
    hinder: Callable[[View], Any] = lambda view: view

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Running"]:
        """Start it; it ends with the block, as suddenly as a process that is killed."""
        self.log = self.log or Log()
        rpc = Rpc([self.chain.url], chain_id=CHAIN_ID, timeout_s=5, log=self.log)
        async with rpc, trio.open_nursery() as nursery:
            side = Side(
                KEYS[0],
                nursery,
                store=self.store,
                token=self.token,
                max_credit=self.max_credit,
                log=self.log,
            )
            scanner: Any = EtherScanner(CHAIN_ID, OURS)
            if self.token is not None:
                scanner = TokenScanner(CHAIN_ID, OURS, self.token, 18)
            entries = Entries(side.services, side.peers, Crediting(self.max_credit))
            pace = Pace(self.confirmations, self.poll_s, self.blocks_max)
            nodes = cast(Any, Hindered(rpc, self))
            receiving = Receiving(side.services, nodes, scanner, entries, pace)
            await receiving.begin(self.start_block)
            nursery.start_soon(receiving.watch)
            yield Running(self.chain, side, receiving)
            nursery.cancel_scope.cancel()

    async def reorg(self, depth: int, again: Sequence[tuple[SignedTransaction, int]] = ()) -> None:
        """Replace the last blocks by others, with these transactions in those at these places."""
        transactions = [["0x" + signed.raw.hex(), place] for signed, place in again]
        await self.chain.rpc("anvil_reorg", depth, transactions)

    async def run_to_end(self) -> list[tuple[str, Decimal]]:
        """Start it, wait until all that is confirmed is done, end it; return all credits."""
        async with self.running() as running:
            await running.done()
            return await running.credits()


class Hindered:
    """Nodes that show the chain as somebody wants it to be seen."""

    def __init__(self, rpc: Rpc, receiver: Receiver) -> None:
        self._rpc, self._receiver = rpc, receiver

    @asynccontextmanager
    async def view(self) -> AsyncIterator[Any]:
        async with self._rpc.view() as view:
            yield self._receiver.hinder(view)


@dataclass
class Running:
    """One life of it."""

    chain: Chain
    side: Side
    receiving: Receiving

    async def done(self, confirmations: int | None = None) -> None:
        """Wait until everything that is confirmed has been looked through."""
        if confirmations is None:
            confirmations = self.receiving._pace.confirmations
        last = await self.chain.head() - confirmations + 1
        with trio.fail_after(30):
            while self.receiving._trail.number < last:  # noqa: ASYNC110
                await trio.sleep(0.005)

    async def credits(self) -> list[tuple[str, Decimal]]:
        found = await self.side.store.credits(limit=1000)
        return [(credit.settlement_id, credit.amount) for credit in reversed(found)]

    async def unclaimed(self) -> list[tuple[str, Any]]:
        return await self.side.services.state.items("unclaimed:")

    async def claimed(self, count: int) -> None:
        """Wait until there are so many credits."""
        with trio.fail_after(10):
            while len(await self.credits()) < count:  # noqa: ASYNC110
                await trio.sleep(0.005)


class Payer:
    """Somebody with a key, whose transactions can be made again after they were dropped."""

    def __init__(self, chain: Chain, signer: LocalSigner) -> None:
        self.chain, self.signer, self.address = chain, signer, signer.address

    async def sign(self, to: str, wei: int = 0, data: str = "0x") -> SignedTransaction:
        return await self.signer.sign_transaction(
            UnsignedTransaction(
                chain_id=CHAIN_ID,
                nonce=await self.chain.nonce(self.address),
                to=to,
                value=wei,
                data=bytes.fromhex(data[2:]),
                gas=500_000,
                max_fee=100 * GWEI,
                max_priority_fee=GWEI,
            )
        )

    async def pay(self, to: str, wei: int = 0, data: str = "0x") -> SignedTransaction:
        signed = await self.sign(to, wei, data)
        await self.chain.rpc("eth_sendRawTransaction", "0x" + signed.raw.hex())
        await self.chain.mined(signed.hash)
        return signed
