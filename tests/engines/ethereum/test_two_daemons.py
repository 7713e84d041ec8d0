"""Two daemons pay each other on a real chain, for connectors that lose and repeat things.

Both are restarted in the middle, and blocks are undone. In the end the connectors, the databases
and the chain agree to the last unit.
"""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from engines.ethereum import create_engine
from engines.ethereum.options import EthereumOptions
from engines.ethereum.signing import LocalSigner
from engines.ethereum.units import to_units
from settled import open_sqlite, serve
from settled.store.sqlite import SqliteStore
from settled.testing import AccountingSystem, Faults, accounting_systems, connect_peers
from tests.engines.ethereum.anvil import CHAIN_ID, ETHER, Chain
from tests.harness import conserved, sum_exactly

KEYS = {"alice": "a1" * 32, "bob": "b0" * 32}
FUNDS = 1000 * ETHER


class World:
    """Two daemons, their connectors and the chain."""

    def __init__(self, chain: Chain, directory: Path, token: str | None, decimals: int) -> None:
        self.chain = chain
        self.token = token
        self.decimals = decimals
        self._directory = directory
        self.stores: dict[str, SqliteStore] = {}

    @asynccontextmanager
    async def running(self, systems: dict[str, AccountingSystem]) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for name, system in systems.items():
                await stack.enter_async_context(self._daemon(name, system))
            yield

    @asynccontextmanager
    async def _daemon(self, name: str, system: AccountingSystem) -> AsyncIterator[None]:
        options = EthereumOptions(
            rpc_url=self.chain.url,
            chain_id=CHAIN_ID,
            key=KEYS[name],
            token=self.token,
            confirmations=3,
            poll_s=0.05,
            bump_after_s=2,
        )
        path = self._directory / f"{name}.db"
        async with (
            open_sqlite(path, exclusive=True, create=True) as store,
            serve(
                create_engine(options), store, listen="127.0.0.1:0", connector_url=system.url
            ) as running,
        ):
            system.engine_url = running.url
            self.stores[name] = store
            yield

    async def mine(self) -> None:
        """Have blocks made, and now and then undone: fewer than the confirmations."""
        rng = random.Random(5)
        while True:
            await self.chain.mine(1)
            await trio.sleep(0.1)
            if rng.random() < 0.1:
                await self.chain.rpc("anvil_reorg", 2, [])

    async def balance(self, address: str) -> int:
        if self.token is None:
            return await self.chain.balance(address)
        return await self.chain.token_balance(self.token, address)

    async def gas_of(self, address: str) -> int:
        """Return what all transactions of an address have cost beside what they paid."""
        spent = 0
        for number in range(await self.chain.head() + 1):
            block = await self.chain.rpc("eth_getBlockByNumber", hex(number), True)
            for transaction in block["transactions"]:
                if transaction["from"] == address:
                    receipt = await self.chain.receipt(transaction["hash"])
                    spent += int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
        return spent


async def owe(systems: dict[str, AccountingSystem], rng: random.Random, scale: int) -> None:
    for _time in range(10):
        for payer, account_id in (("alice", "to-bob"), ("bob", "to-alice")):
            amount = Decimal(rng.randint(1, 10 ** (scale + 1))).scaleb(-scale)
            systems[payer].owe(account_id, amount)
        await trio.sleep(0.02)


async def at_rest(world: World, systems: dict[str, AccountingSystem]) -> None:
    """Wait until all that is owed was settled, and all that was settled is credited."""
    for system in systems.values():
        await system.wait_posted()
    while True:
        accounts = [a for store in world.stores.values() for a in await store.accounts()]
        waiting = any(a.queued or a.in_flight or a.unknown or a.undelivered for a in accounts)
        settled = sum_exactly(account.settled for account in accounts)
        if not waiting and settled == sum_exactly(account.credited for account in accounts):
            return
        await trio.sleep(0.05)


@pytest.mark.parametrize(("asset", "decimals"), [("ether", 18), ("token", 6)])
async def test_all_that_is_owed_is_paid_and_credited_once(
    chain: Chain, tmp_path: Path, asset: str, decimals: int
) -> None:
    token = await chain.deploy_token(decimals) if asset == "token" else None
    addresses = {name: LocalSigner(key).address for name, key in KEYS.items()}
    for address in addresses.values():
        await chain.fund(address, FUNDS)
        if token is not None:
            await chain.mint(token, address, FUNDS)
    await chain.mine(5)
    world = World(chain, tmp_path, token, decimals)
    rng = random.Random(3)
    with trio.fail_after(60):
        async with (
            accounting_systems(("interledger-rs", "java"), seed=11) as (alice, bob),
            trio.open_nursery() as nursery,
        ):
            systems = {"alice": alice, "bob": bob}
            nursery.start_soon(world.mine)
            async with world.running(systems):
                await connect_peers(alice, "to-bob", bob, "to-alice", asset_scale=decimals)
                for system in systems.values():
                    system.faults = Faults(fail_rate=0.2, lose_reply_rate=0.3, duplicate_rate=0.5)
                await owe(systems, rng, decimals)
                await trio.sleep(0.5)
            await owe(systems, rng, decimals)  # while both engines are away
            async with world.running(systems):
                await owe(systems, rng, decimals)
                await at_rest(world, systems)
                paid = {}
                for payer, account_id, payee, their_id in (
                    ("alice", "to-bob", "bob", "to-alice"),
                    ("bob", "to-alice", "alice", "to-bob"),
                ):
                    owed = systems[payer].accounts[account_id].owed
                    out = await world.stores[payer].account(account_id)
                    into = await world.stores[payee].account(their_id)
                    assert owed == out.settled == into.credited
                    assert owed == systems[payee].accounts[their_id].credited
                    paid[payer] = to_units(owed, decimals)
                    await conserved(world.stores[payer])
            nursery.cancel_scope.cancel()
    for name, other in (("alice", "bob"), ("bob", "alice")):
        gas = await world.gas_of(addresses[name]) if token is None else 0
        expected = FUNDS - paid[name] + paid[other] - gas
        assert await world.balance(addresses[name]) == expected
