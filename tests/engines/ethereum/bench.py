"""The paying side of the engine on a real chain, with a peer that is an address."""

import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar, cast

import trio

from engines.ethereum.engine import open_asset, open_rpc, open_sender
from engines.ethereum.options import EthereumOptions
from engines.ethereum.sending import Sender
from engines.ethereum.signing import LocalSigner
from engines.ethereum.transactions import PREFIX, Payment, from_state
from settled import NotSettled, Services, SettlementPending
from settled.testing import MemoryStore
from tests.engines.ethereum.anvil import CHAIN_ID, Chain

KEY = "ab" * 32
T = TypeVar("T")


async def eventually(look: Callable[[], Awaitable[T]], good: Callable[[T], Any]) -> T:
    """Look again and again, and return the first that is good."""
    with trio.fail_after(5):
        while True:
            found = await look()
            if good(found):
                return found
            await trio.sleep(0.01)


class Peers(dict[str, str]):
    """Account ids and the addresses of their peers."""

    async def address(self, account_id: str) -> str | None:
        await trio.lowlevel.checkpoint()
        return self.get(account_id)


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **fields: self.lines.append((level, event, fields))

    def events(self) -> list[str]:
        return [event for _, event, _ in self.lines]


class Bench:
    """A key of our own, a store that outlives the engine, and a peer for each account."""

    def __init__(self, chain: Chain, signer: LocalSigner, **options: Any) -> None:
        self.chain = chain
        self.signer = signer
        self.store = MemoryStore()
        self.peers = Peers()
        self.log = Log()
        self.options = replace(
            EthereumOptions(
                rpc_url=chain.url,
                chain_id=CHAIN_ID,
                key=KEY,
                confirmations=3,
                poll_s=0.02,
                bump_after_s=60,
            ),
            **options,
        )

    @property
    def address(self) -> str:
        return self.signer.address

    async def add_peer(self, account_id: str = "bob") -> str:
        """Create an account whose peer has an address."""
        await self.store.open_account(account_id)
        self.peers[account_id] = LocalSigner(f"{len(self.peers) + 1:064x}").address
        return self.peers[account_id]

    @asynccontextmanager
    async def engine(self, **options: Any) -> AsyncIterator[Sender]:
        """Open it, as a daemon does at each start; at the end all of it is torn off."""
        options_now = replace(self.options, **options)
        with trio.fail_after(30):  # what should have failed may wait for ever instead
            async with self._engine(options_now) as sender:
                yield sender

    @asynccontextmanager
    async def _engine(self, options_now: EthereumOptions) -> AsyncIterator[Sender]:
        async with trio.open_nursery() as nursery:
            services = Services(self.store, cast(Any, None), nursery)
            services.log = cast(Any, self.log)
            async with open_rpc(services, options_now) as rpc:
                await rpc.check()
                yield await open_sender(
                    services,
                    options_now,
                    rpc=rpc,
                    signer=self.signer,
                    asset=await open_asset(rpc, options_now),
                    peers=self.peers,
                )
                nursery.cancel_scope.cancel()

    async def kept(self) -> list[Payment]:
        """Return what is written down, in the order of the nonces."""
        services = Services(self.store, cast(Any, None), cast(Any, None))
        found = [from_state(key, value) for key, value in await services.state.items(PREFIX)]
        return sorted(found, key=lambda payment: payment.nonce)

    async def keep(self, payment: Payment) -> None:
        """Write a payment down in another form than it had."""
        services = Services(self.store, cast(Any, None), cast(Any, None))
        await services.state.set(payment.key, payment.to_state())

    def copy(self) -> MemoryStore:
        """Return the store as it is now, as a backup has it."""
        return copy.deepcopy(self.store)

    async def wait_said(self, event: str) -> None:
        """Wait until the log says it."""

        async def look() -> list[str]:
            return self.log.events()

        await eventually(look, lambda events: event in events)

    async def wait_kept(self, count: int = 1) -> list[Payment]:
        await eventually(self.kept, lambda kept: len(kept) >= count)
        return await self.kept()

    async def wait_pool(self, count: int = 1) -> list[str]:
        """Wait until so many transactions wait to be mined."""
        return await eventually(self.chain.pool, lambda pool: len(pool) >= count)


async def found(sender: Sender, settlement_id: str, account_id: str = "bob") -> Decimal | None:
    """Return what became of a settlement, as far as can be told."""
    try:
        return await sender.find_settlement(account_id, settlement_id)
    except SettlementPending:
        return None


class Settling:
    """A settlement that goes on in the background."""

    def __init__(self) -> None:
        self.outcome: Decimal | Exception | None = None
        self.scope = trio.CancelScope()
        self._over = trio.Event()

    async def run(self, sender: Sender, account_id: str, amount: str, settlement_id: str) -> None:
        with self.scope:
            try:
                self.outcome = await sender.settle(account_id, Decimal(amount), settlement_id)
            except Exception as error:
                self.outcome = error
        self._over.set()

    async def wait(self) -> Decimal | Exception | None:
        with trio.fail_after(10):
            await self._over.wait()
        return self.outcome

    async def not_sent(self) -> str:
        """Wait for it to fail, and return the reason."""
        outcome = await self.wait()
        assert isinstance(outcome, NotSettled), outcome
        return str(outcome)


@asynccontextmanager
async def settling(
    sender: Sender, amount: str = "1.5", settlement_id: str = "s1", account_id: str = "bob"
) -> AsyncIterator[Settling]:
    """Settle in the background."""
    async with trio.open_nursery() as nursery:
        task = Settling()
        nursery.start_soon(task.run, sender, account_id, amount, settlement_id)
        yield task
        nursery.cancel_scope.cancel()
