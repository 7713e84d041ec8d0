"""What a store on a file must still know when it is opened again."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from settled import limits
from settled.errors import KeyReused
from settled.store.records import AddCredit, NotSent, SetState
from settled.store.sqlite import open_sqlite
from tests.store.steps import HOUR_MS, Clock, brought_to, opened, parked, quantity, snapshot
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


@pytest.mark.parametrize(
    "work",
    [
        "open_account",
        "close_account",
        "queue_settlement",
        "commit",
        "retry_settlement",
        "resolve_settlement",
        "retry_credit",
    ],
)
async def test_a_daemon_is_told_of_the_work_that_a_command_makes(
    path: Path, clock: Clock, work: str
) -> None:
    async with (
        open_sqlite(path, exclusive=True, create=True, now_ms=clock) as daemon,
        open_sqlite(path, exclusive=False, now_ms=clock) as command,
    ):
        settlement = await brought_to(daemon, "parked")
        credit = await parked(daemon, clock)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "open_account": lambda: command.open_account("bob"),
            "close_account": lambda: command.close_account("alice"),
            "queue_settlement": lambda: command.queue_settlement("alice", quantity("1"), "k"),
            "commit": lambda: command.commit([AddCredit("alice", "tx-9", Decimal(1))]),
            "retry_settlement": lambda: command.retry_settlement("alice"),
            "resolve_settlement": lambda: command.resolve_settlement(settlement.id, NotSent("no")),
            "retry_credit": lambda: command.retry_credit(credit.id),
        }
        await calls[work]()
        with trio.fail_after(5):
            told = await daemon.wait_foreign_writes()
        number = (await daemon.account("bob" if work == "open_account" else "alice")).number
        assert told == [number]
