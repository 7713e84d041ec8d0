"""Two daemons settle both ways on a real chain, through connectors that lose and repeat things.

Both are restarted in the middle, and the sums of the connectors, of both databases and of the chain
agree to the smallest unit.
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
from settled import open_sqlite, serve
from settled.store.sqlite import SqliteStore
from settled.testing import AccountingSystem, Faults, accounting_systems, connect_peers
from tests.engines.ethereum.anvil import CHAIN_ID, ETHER, Chain
from tests.engines.ethereum.sides import KEYS
from tests.harness import conserved, sum_exactly

NAMES = ("alice", "bob")
SIGNERS = [LocalSigner(key) for key in KEYS[-2:]]


@asynccontextmanager
async def daemon(
    directory: Path, chain: Chain, index: int, system: AccountingSystem, token: str | None
) -> AsyncIterator[SqliteStore]:
    options = EthereumOptions(
        rpc_url=chain.url,
        chain_id=CHAIN_ID,
        key=KEYS[-2:][index],
        token=token,
        confirmations=3,
        poll_s=0.03,
    )
    async with (
        open_sqlite(directory / f"{NAMES[index]}.db", exclusive=True, create=True) as store,
        serve(
            create_engine(options), store, listen="127.0.0.1:0", connector_url=system.url
        ) as running,
    ):
        system.engine_url = running.url
        yield store


@pytest.mark.parametrize("asset", ["ether", "token"])
async def test_everything_owed_is_paid_on_the_chain_and_credited_once(
    asset: str, chain: Chain, tmp_path: Path
) -> None:
    rng, token = random.Random(5), None
    for signer in SIGNERS:
        await chain.fund(signer.address, 1000 * ETHER)
    if asset == "token":
        token = await chain.deploy_token(6)
        for signer in SIGNERS:
            await chain.mint(token, signer.address, 10**12)
    scale = 6 if token else 18
    with trio.fail_after(60):
        async with accounting_systems(seed=3) as systems, trio.open_nursery() as nursery:
            nursery.start_soon(_mine, chain)
            alice, bob = systems
            stack = AsyncExitStack()
            for index, system in enumerate(systems):
                await stack.enter_async_context(daemon(tmp_path, chain, index, system, token))
            await connect_peers(alice, "to-bob", bob, "to-alice", asset_scale=scale)
            for system in systems:
                system.faults = Faults(fail_rate=0.2, lose_reply_rate=0.2, duplicate_rate=0.5)
            await _owe(alice, bob, scale, rng)
            await trio.sleep(0.5)
            await stack.aclose()  # in the midst of it
            await _owe(alice, bob, scale, rng)  # while both engines are away
            async with AsyncExitStack() as again:
                stores = [
                    await again.enter_async_context(daemon(tmp_path, chain, index, system, token))
                    for index, system in enumerate(systems)
                ]
                await _owe(alice, bob, scale, rng)
                await _at_rest(alice, bob, stores)
                for store in stores:
                    await conserved(store)
            owed = (alice.accounts["to-bob"].owed, bob.accounts["to-alice"].owed)
            assert owed == (bob.accounts["to-alice"].credited, alice.accounts["to-bob"].credited)
            if token is not None:
                moved = int((owed[1] - owed[0]).scaleb(6))
                for signer, change in zip(SIGNERS, (moved, -moved), strict=True):
                    assert await chain.token_balance(token, signer.address) == 10**12 + change
            nursery.cancel_scope.cancel()


async def _mine(chain: Chain) -> None:
    while True:
        await trio.sleep(0.05)
        await chain.mine()


async def _owe(
    alice: AccountingSystem, bob: AccountingSystem, scale: int, rng: random.Random
) -> None:
    for _ in range(10):
        for system, account in ((alice, "to-bob"), (bob, "to-alice")):
            system.owe(account, Decimal(rng.randint(1, 10 ** (scale - 1))).scaleb(-scale))
        await trio.sleep(0.01)


async def _at_rest(
    alice: AccountingSystem, bob: AccountingSystem, stores: list[SqliteStore]
) -> None:
    await alice.wait_posted()
    await bob.wait_posted()
    while True:
        accounts = [account for store in stores for account in await store.accounts()]
        waiting = any(a.queued or a.in_flight or a.unknown or a.undelivered for a in accounts)
        settled = sum_exactly(account.settled for account in accounts)
        if not waiting and settled == sum_exactly(account.credited for account in accounts):
            return
        await trio.sleep(0.05)
