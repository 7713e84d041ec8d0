"""Promise 4: one payment at a time per account; what arrives meanwhile is netted."""

import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from settled.errors import ConfigError, StoreHeld
from settled.store.sqlite import open_sqlite
from tests.harness import ScriptedEngine, memory_store, running


async def test_requests_that_arrive_during_a_payment_are_netted_into_the_next(
    autojump_clock: MockClock,
) -> None:
    paying = set()

    async def slowly(account_id: str, amount: Decimal, settlement_id: str) -> object:
        assert account_id not in paying, "two payments of one account at the same time"
        paying.add(account_id)
        await trio.sleep(60)
        paying.discard(account_id)
        return amount

    engine, store = ScriptedEngine(slowly), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "1", "first")
        await daemon.rest()
        async with trio.open_nursery() as nursery:
            for n in range(100):
                nursery.start_soon(daemon.request, "alice", "2", f"k{n}")
        await daemon.until(lambda account: account.settled == 201)
    assert [amount for _, amount, _ in engine.calls] == [1, 200]


async def test_accounts_are_paid_beside_each_other(autojump_clock: MockClock) -> None:
    async def slowly(account_id: str, amount: Decimal, settlement_id: str) -> object:
        await trio.sleep(60)
        return amount

    engine, store = ScriptedEngine(slowly), memory_store()
    async with running(engine, store) as daemon:
        for n in range(200):
            await store.open_account(f"peer{n}", setup=False)
            await daemon.request(f"peer{n}", "1", "k")
        await daemon.until(lambda account: account.settled == 1, "peer199")
        assert trio.current_time() < 200
        assert len(engine.calls) == 200


async def test_an_id_that_is_created_again_waits_for_the_payment_of_its_former_account(
    autojump_clock: MockClock,
) -> None:
    paying = set()

    async def slowly(account_id: str, amount: Decimal, settlement_id: str) -> object:
        assert account_id not in paying, "two payments of one account at the same time"
        paying.add(account_id)
        await trio.sleep(60)
        paying.discard(account_id)
        return amount

    engine, store = ScriptedEngine(slowly), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "1", "k1")
        await daemon.rest()
        await daemon.operations.close_account("alice")
        await daemon.operations.open_account("alice")
        await daemon.request("alice", "2", "k2")
        await daemon.until(lambda account: account.settled == 2)
    assert [amount for _, amount, _ in engine.calls] == [1, 2]


async def test_a_settlement_of_unknown_outcome_holds_back_the_next(
    autojump_clock: MockClock,
) -> None:
    answer: list[object] = [None]

    async def find(account_id: str, settlement_id: str) -> object:
        return answer[0]

    async def lose_the_first(account_id: str, amount: Decimal, settlement_id: str) -> object:
        if len(engine.calls) == 1:
            raise OSError("reset")
        return amount

    engine, store = ScriptedEngine(lose_the_first, find_settlement=find), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k1")
        await daemon.until(lambda account: account.unknown == 5)
        await daemon.request("alice", "6", "k2")
        await trio.sleep(24 * 3600)
        assert len(engine.calls) == 1
        answer[0] = Decimal(5)
        await daemon.until(lambda account: account.settled == 11)
    assert [amount for _, amount, _ in engine.calls] == [5, 6]


async def test_a_second_daemon_on_the_same_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settled.db"
    (tmp_path / "other-name.db").symlink_to(path)
    async with open_sqlite(path, exclusive=True, create=True):
        for name in ("settled.db", "other-name.db"):
            with pytest.raises(StoreHeld, match=r"pid \d+"):
                await _open(tmp_path / name)
    async with open_sqlite(path, exclusive=True):
        pass


async def test_neither_a_deleted_lock_file_nor_a_hard_link_lets_a_second_daemon_in(
    tmp_path: Path,
) -> None:
    path = tmp_path / "settled.db"
    async with open_sqlite(path, exclusive=True, create=True) as store:
        (tmp_path / "hard.db").hardlink_to(path)
        (tmp_path / "settled.db.lock").unlink()
        for name in ("settled.db", "hard.db"):
            with pytest.raises(StoreHeld):
                await _open(tmp_path / name)
        await store.open_account("alice", setup=False)
    with pytest.raises(ConfigError, match="2 names"):
        await _open(path)
    (tmp_path / "hard.db").unlink()
    async with open_sqlite(path, exclusive=True) as store:
        assert (await store.account("alice")).id == "alice"


async def _open(path: Path) -> None:
    async with open_sqlite(path, exclusive=True):
        pass


async def test_the_file_itself_refuses_a_second_open_settlement(tmp_path: Path) -> None:
    """Whatever the program does, two open settlements of one account cannot be stored."""
    path = tmp_path / "settled.db"
    async with open_sqlite(path, exclusive=True, create=True) as store:
        account = await store.open_account("alice", setup=False)
    insert = (
        "INSERT INTO settlements (id, account, amount, state, created_ms, updated_ms) "
        "VALUES (?, ?, '1', ?, 0, 0)"
    )
    with closing(sqlite3.connect(path)) as conn:
        conn.execute(insert, ("done", account.number, "settled"))
        conn.execute(insert, ("first", account.number, "parked"))
        with pytest.raises(sqlite3.IntegrityError, match="settlements.account"):
            conn.execute(insert, ("second", account.number, "in_flight"))
