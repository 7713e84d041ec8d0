"""What a store on a file must still know when it is opened again."""

from decimal import Decimal
from pathlib import Path

import pytest
import trio

from settled import limits
from settled.errors import KeyReused
from settled.store.records import AddCredit, SetState
from settled.store.sqlite import open_sqlite
from tests.store.steps import HOUR_MS, Clock, opened, quantity, snapshot
from tests.store.test_contract_audit import worked


async def test_everything_is_as_it_was_left(path: Path, clock: Clock) -> None:
    async with open_sqlite(path, exclusive=True, create=True, now_ms=clock) as store:
        await worked(store)
        await store.commit([SetState(None, "cursor", b"7"), SetState("a1", "note", b"\x00")])
        await store.open_account("waiting")
        await store.finish_hook(
            (await store.account("waiting")).number,
            "setup_account",
            failure="no peer",
            retry_delay_ms=HOUR_MS,
        )
        before = await snapshot(store)
    for exclusive in (True, False):
        async with open_sqlite(path, exclusive=exclusive, now_ms=clock) as store:
            assert await snapshot(store) == before
            assert await store.audit() == []


async def test_keys_and_their_age_survive(path: Path, clock: Clock) -> None:
    async with open_sqlite(path, exclusive=True, create=True, now_ms=clock) as store:
        await opened(store)
        await store.queue_settlement("alice", quantity("5"), "k")
        for _ in range(limits.KEY_LIFE_TICKS - 1):
            await store.age_keys()
    async with open_sqlite(path, exclusive=True, now_ms=clock) as store:
        assert await store.purge_keys() == 0
        with pytest.raises(KeyReused):
            await store.queue_settlement("alice", quantity("6"), "k")
        assert (await store.queue_settlement("alice", quantity("5"), "k")).replayed
        await store.age_keys()
        assert await store.purge_keys() == 0


async def test_numbers_and_ids_are_not_given_again(path: Path, clock: Clock) -> None:
    async with open_sqlite(path, exclusive=True, create=True, now_ms=clock) as store:
        await worked(store)
        first = await snapshot(store)
    async with open_sqlite(path, exclusive=True, now_ms=clock) as store:
        account = await opened(store, "new")
        assert account.number > max(row.number for row in first["accounts"])
        assert await store.commit([AddCredit("a1", "tx-1", Decimal(3))]) == [
            (await store.account("a1")).number
        ]
        assert await store.commit([AddCredit("alice", "tx-1", Decimal(3))]) == [None]


async def test_a_store_beside_the_daemon_sees_and_tells_at_once(path: Path, clock: Clock) -> None:
    async with (
        open_sqlite(path, exclusive=True, create=True, now_ms=clock) as daemon,
        open_sqlite(path, exclusive=False, now_ms=clock) as command,
    ):
        account = await opened(daemon)
        assert await command.account("alice") == account
        await command.queue_settlement("alice", quantity("5"), "k")
        assert (await daemon.account("alice")).queued == 5
        with trio.fail_after(5):
            assert await daemon.wait_foreign_writes() == [account.number]
