"""Two daemons with loopback engines settle both ways, for connectors that lose and repeat things.

In one process, over real sockets and files, with both of them restarted in the middle; the sums of
both connectors, both databases and the ledger agree to the last digit.
"""

import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from engines.loopback import LoopbackOptions, create_engine
from settled import open_sqlite, serve
from settled.store.sqlite import SqliteStore
from settled.testing import AccountingSystem, Faults, ProfileName, accounting_systems, connect_peers
from tests.harness import conserved, sum_exactly


@asynccontextmanager
async def daemon(
    directory: Path, name: str, system: AccountingSystem, listen: str = "127.0.0.1:0"
) -> AsyncIterator[SqliteStore]:
    options = LoopbackOptions(
        wallet=name,
        ledger=directory / "ledger.db",
        asset_scale=6,
        poll_s=0.02,
        failure_rate=0.3,
    )
    async with (
        open_sqlite(directory / f"{name}.db", exclusive=True, create=True) as store,
        serve(create_engine(options), store, listen=listen, connector_url=system.url) as running,
    ):
        system.engine_url = running.url
        yield store


@pytest.mark.parametrize(
    "profiles",
    [("rfc", "rfc"), ("interledger-rs", "java")],
    ids=["as the RFC says", "as Interledger.rs and the Java connector do"],
)
async def test_everything_owed_is_settled_and_credited_once(
    profiles: tuple[ProfileName, ProfileName], tmp_path: Path
) -> None:
    rng = random.Random(7)
    with trio.fail_after(60):
        async with accounting_systems(profiles, seed=11) as (alice, bob):
            systems = {"alice": alice, "bob": bob}
            stack = AsyncExitStack()
            stores = [
                await stack.enter_async_context(daemon(tmp_path, name, system))
                for name, system in systems.items()
            ]
            await connect_peers(alice, "to-bob", bob, "to-alice", asset_scale=6)
            await connect_peers(alice, "cents", bob, "cents", asset_scale=2)
            await _set_up(stores)
            for system in systems.values():
                system.faults = Faults(fail_rate=0.2, lose_reply_rate=0.3, duplicate_rate=0.5)
            await _owe(alice, bob, rng)
            await stack.aclose()
            await _owe(alice, bob, rng)  # while both engines are away
            async with AsyncExitStack() as again:
                stores = [
                    await again.enter_async_context(daemon(tmp_path, name, system))
                    for name, system in systems.items()
                ]
                await _owe(alice, bob, rng)
                await _at_rest(alice, bob, stores)
                for store in stores:
                    await conserved(store)
                await _equal(alice, bob, stores)
            assert not _negative_wallets(tmp_path / "ledger.db")


async def _set_up(stores: list[SqliteStore]) -> None:
    for store in stores:
        while await store.accounts(state="setup"):  # noqa: ASYNC110
            await trio.sleep(0.02)


async def _owe(alice: AccountingSystem, bob: AccountingSystem, rng: random.Random) -> None:
    for _ in range(15):
        alice.owe("to-bob", Decimal(rng.randint(1, 10**8)).scaleb(-6))
        bob.owe("to-alice", Decimal(rng.randint(1, 10**8)).scaleb(-6))
        alice.owe("cents", Decimal(rng.randint(1, 10**4)).scaleb(-2))
        bob.owe("cents", Decimal(rng.randint(1, 10**4)).scaleb(-2))
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


async def _equal(alice: AccountingSystem, bob: AccountingSystem, stores: list[SqliteStore]) -> None:
    """What one side owed is what its engine settled, what the other received, and was credited."""
    ours, theirs = stores
    for payer, payee, from_id, to_id, paying, paid in (
        (alice, bob, "to-bob", "to-alice", ours, theirs),
        (bob, alice, "to-alice", "to-bob", theirs, ours),
        (alice, bob, "cents", "cents", ours, theirs),
        (bob, alice, "cents", "cents", theirs, ours),
    ):
        owed = payer.accounts[from_id].owed
        out, into = await paying.account(from_id), await paid.account(to_id)
        assert owed > 0
        assert owed == out.requested == out.settled
        assert owed == into.received == into.credited
        assert owed == payee.accounts[to_id].credited
        assert payer.accounts[from_id].payable == 0
        assert payee.accounts[to_id].receivable == 0


def _negative_wallets(ledger: Path) -> list[str]:
    with closing(sqlite3.connect(ledger)) as conn:
        rows = conn.execute("SELECT name, balance FROM wallets").fetchall()
    return [name for name, balance in rows if name != "mint" and Decimal(balance) < 0]
