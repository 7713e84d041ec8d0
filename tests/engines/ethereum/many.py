"""Many settlements over many accounts by one daemon on a real chain: what they take.

    python -m tests.engines.ethereum.many           1,000 over 100 accounts, netted and one by one
    python -m tests.engines.ethereum.many 200 20    200 over 20

Blocks come every quarter of a second, and three of them confirm a payment. Each account has a peer
of its own, with an address of its own.
"""

import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, cast

import structlog
import trio

from engines.ethereum import create_engine
from engines.ethereum.options import EthereumOptions
from engines.ethereum.signing import LocalSigner
from settled import open_sqlite, serve
from settled.store.protocol import Store
from settled.testing import AccountingSystem, accounting_systems
from tests.engines.ethereum.anvil import CHAIN_ID, ETHER, Chain, install, on_chain, running
from tests.engines.ethereum.sides import Side

KEY: Final = "f0" * 32
AMOUNT: Final = Decimal("0.001")
BLOCK_S: Final = 0.25


@dataclass(frozen=True)
class Figures:
    """What so many settlements took.

    Attributes:
        requests: what the connector asked to be settled.
        accounts: of how many peers.
        transactions: those on the chain.
        seconds: from the first request to the last outcome.
        paid: wei that came to the peers.
    """

    requests: int
    accounts: int
    transactions: int
    seconds: float
    paid: int

    def __str__(self) -> str:
        return (
            f"{self.requests} settlements over {self.accounts} accounts: {self.seconds:.1f} s, "
            f"{self.transactions} transactions"
        )


class Crowd:
    """A daemon with many accounts, and the peer of each."""

    def __init__(self, chain: Chain, system: AccountingSystem, store: Store) -> None:
        self.chain = chain
        self.system = system
        self.store = store
        self.sides: dict[str, Side] = {}

    async def add_peers(self, count: int, nursery: trio.Nursery) -> None:
        """Open accounts, and wait until each has exchanged addresses with its peer."""

        async def carry(account_id: str, message: bytes) -> bytes | None:
            return await self.sides[account_id].handshake.answer("us", message)

        cast(Any, self.system).send_to_peer = carry
        for n in range(count):
            side = Side(f"{0xABCD0000 + n:064x}", nursery)
            await side.store.open_account("us")
            self.sides[f"peer-{n}"] = side
            await self.system.add_account(f"peer-{n}", asset_scale=18)
        while await self.store.accounts(state="setup"):  # noqa: ASYNC110
            await trio.sleep(0.02)

    async def netted(self, each: int) -> None:
        """Owe each peer so many times, as fast as it goes."""
        for _time in range(each):
            for account_id in self.sides:
                self.system.owe(account_id, AMOUNT)
        await self.system.wait_posted()
        await self._settled(AMOUNT * each)

    async def one_by_one(self, each: int) -> None:
        """Owe each peer so many times, but again only when the last time is settled."""
        left = dict.fromkeys(self.sides, each)
        asked = dict.fromkeys(self.sides, Decimal(0))
        while left:
            for account in await self.store.accounts():
                account_id = account.id
                if account.settled == asked[account_id] and account_id in left:
                    self.system.owe(account_id, AMOUNT)
                    asked[account_id] += AMOUNT
                    left[account_id] -= 1
                    if not left[account_id]:
                        del left[account_id]
            await trio.sleep(0.05)
        await self._settled(AMOUNT * each)

    async def _settled(self, amount: Decimal) -> None:
        while any(a.settled != amount for a in await self.store.accounts()):  # noqa: ASYNC110
            await trio.sleep(0.05)

    async def paid(self) -> int:
        balances = [await self.chain.balance(s.signer.address) for s in self.sides.values()]
        return sum(balances)


async def mine(chain: Chain) -> None:
    while True:
        await chain.mine(1)
        await trio.sleep(BLOCK_S)


@asynccontextmanager
async def crowd(chain: Chain, directory: Path) -> AsyncIterator[Crowd]:
    options = EthereumOptions(
        rpc_url=chain.url, chain_id=CHAIN_ID, key=KEY, confirmations=3, poll_s=0.1
    )
    async with AsyncExitStack() as stack:
        alice, _ = await stack.enter_async_context(accounting_systems())
        path = directory / "settled.db"
        store = await stack.enter_async_context(open_sqlite(path, exclusive=True, create=True))
        connect = create_engine(options)
        daemon = await stack.enter_async_context(
            serve(connect, store, listen="127.0.0.1:0", connector_url=alice.url)
        )
        alice.engine_url = daemon.url
        yield Crowd(chain, alice, store)


async def measure(
    chain: Chain, directory: Path, way: Callable[[Crowd, int], Any], requests: int, accounts: int
) -> Figures:
    """Run a daemon, have it settle, and compare with the chain."""
    address = LocalSigner(KEY).address
    await chain.fund(address, 1000 * ETHER)
    await chain.automine(False)
    before = await chain.nonce(address)
    async with trio.open_nursery() as nursery, crowd(chain, directory) as people:
        nursery.start_soon(mine, chain)
        await people.add_peers(accounts, nursery)
        start = time.monotonic()
        await way(people, requests // accounts)
        seconds = time.monotonic() - start
        paid = await people.paid()
        nursery.cancel_scope.cancel()
    transactions = await chain.nonce(address) - before
    return Figures(requests, accounts, transactions, seconds, paid)


async def main(requests: int, accounts: int) -> None:
    for way in (Crowd.netted, Crowd.one_by_one):
        with running() as url, tempfile.TemporaryDirectory() as directory:
            async with on_chain(url) as chain:
                found = await measure(chain, Path(directory), way, requests, accounts)
        sys.stdout.write(f"{way.__name__}: {found}\n")
        assert found.paid == int(AMOUNT * ETHER) * requests


if __name__ == "__main__":
    fault = install()
    if fault is not None:
        sys.exit(f"no anvil: {fault}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    numbers = [int(argument) for argument in sys.argv[1:]]
    trio.run(main, *(numbers or (1000, 100)))
