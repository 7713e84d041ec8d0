"""Promise 7: closing an account hides nothing, and its id never revives or loses an old debt."""

import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from settled import AccountNotFound, NotSettled
from settled.store.records import AddCredit
from settled.store.sqlite import open_sqlite
from tests.harness import ScriptedConnector, ScriptedEngine, conserved, memory_store, running


async def test_what_a_closed_account_owes_stays_visible_and_is_not_paid(
    autojump_clock: MockClock,
) -> None:
    async def no_funds(account_id: str, amount: Decimal, settlement_id: str) -> object:
        raise NotSettled("no funds")

    engine, store = ScriptedEngine(no_funds), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.failures > 0)
        await daemon.operations.close_account("alice")
        await daemon.rest()
        engine.script, engine.calls = None, []
        await trio.sleep(86_400)
        account = await store.account("alice")
    assert (account.state, account.queued, account.waiting) == (
        "closed",
        5,
        "the account is closed",
    )
    assert engine.calls == []
    assert await store.settlements(account_id="alice")


async def test_a_payment_under_way_when_the_account_is_closed_is_recorded(
    autojump_clock: MockClock,
) -> None:
    async def slowly(account_id: str, amount: Decimal, settlement_id: str) -> object:
        await trio.sleep(60)
        return amount - 1

    engine, store = ScriptedEngine(slowly), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.in_flight == 5)
        await daemon.operations.close_account("alice")
        account = await daemon.until(lambda account: account.settled == 4)
        assert (account.queued, account.state) == (1, "closed")
        with pytest.raises(AccountNotFound):
            await daemon.request("alice", "5", "k2")


async def test_an_id_that_is_created_again_starts_at_nothing_and_the_old_debt_stays(
    autojump_clock: MockClock,
) -> None:
    async def no_funds(account_id: str, amount: Decimal, settlement_id: str) -> object:
        raise NotSettled("no funds")

    engine, store = ScriptedEngine(no_funds), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.failures > 0)
        await daemon.operations.close_account("alice")
        assert await daemon.operations.open_account("alice") == "alice"
        engine.script, engine.calls = None, []
        await daemon.request("alice", "7", "k2")
        await daemon.until(lambda account: account.settled == 7)
        new, old = await store.accounts(account_id="alice")
    assert (old.state, old.queued, old.settled) == ("closed", 5, 0)
    assert (new.state, new.queued, new.settled) == ("open", 0, 7)
    assert [amount for _, amount, _ in engine.calls] == [7]


async def test_a_payment_that_arrives_for_a_closed_account_is_credited(
    autojump_clock: MockClock,
) -> None:
    connector, store = ScriptedConnector(), memory_store()
    await store.open_account("alice", setup=False)
    await store.close_account("alice")
    async with running(ScriptedEngine(), store, connector) as daemon:
        (number,) = await store.commit([AddCredit("alice", "tx", Decimal(3))])
        assert number is not None
        daemon.core.incoming.scheduler.wake(number)
        await daemon.until(lambda account: account.credited == 3)


async def test_a_payment_is_credited_once_over_all_lives_of_an_id() -> None:
    store = memory_store()
    await store.open_account("alice", setup=False)
    assert await store.commit([AddCredit("alice", "tx", Decimal(3))]) == [1]
    await store.close_account("alice")
    await store.open_account("alice", setup=False)
    assert await store.commit([AddCredit("alice", "tx", Decimal(3))]) == [None]


async def test_the_journal_cannot_be_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        async with running(ScriptedEngine(), store) as daemon:
            await daemon.request("alice", "5", "k")
            await daemon.until(lambda account: account.settled == 5)
        with closing(sqlite3.connect(path)) as conn:
            for statement in ("DELETE FROM journal", "UPDATE journal SET amount = '1'"):
                with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                    conn.execute(statement)
        await conserved(store)


@pytest.mark.parametrize(
    ("tamper", "subject"),
    [
        ("UPDATE accounts SET queued = '7'", "queued"),
        ("UPDATE accounts SET queued = '7'", "requested = queued + in_flight + unknown + settled"),
        ("UPDATE accounts SET parked = '1'", "received = undelivered + parked + credited"),
        ("UPDATE accounts SET settled = '4'", "settled"),
        ("UPDATE accounts SET credited = '1', received = '1'", "credited"),
        ("INSERT INTO journal SELECT 99, 0, 1, 'requested', 'queued', '1', 'x'", "requested"),
        ("UPDATE accounts SET in_flight = '1', requested = '6'", "in_flight, by its rows"),
        ("UPDATE settlements SET settled = '4'", "settled, by its rows"),
        ("UPDATE settlements SET state = 'not_sent'", "settled, by its rows"),
        ("DELETE FROM settlements", "settled, by its rows"),
        ("UPDATE credits SET amount = '999'", "credited, by its rows"),
        ("UPDATE credits SET state = 'undelivered'", "undelivered, by its rows"),
        ("DELETE FROM credits", "credited, by its rows"),
    ],
)
async def test_the_audit_finds_what_does_not_add_up(
    tamper: str, subject: str, tmp_path: Path
) -> None:
    path = tmp_path / "s.db"
    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        async with running(ScriptedEngine(), store) as daemon:
            await daemon.request("alice", "5", "k")
            await store.commit([AddCredit("alice", "tx", Decimal(7))])
            daemon.core.incoming.scheduler.wake(1)
            await daemon.until(lambda account: (account.settled, account.credited) == (5, 7))
        assert await store.audit() == []
        with closing(sqlite3.connect(path)) as conn:
            conn.execute(tamper)
            conn.commit()
        differences = await store.audit()
    assert subject in {difference.what for difference in differences}
    assert {difference.subject for difference in differences} == {"alice"}


async def test_the_audit_finds_what_the_file_itself_holds_to_be_wrong(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        with closing(sqlite3.connect(path, isolation_level=None)) as conn:
            conn.execute("PRAGMA ignore_check_constraints = ON")
            conn.execute("UPDATE accounts SET hook = 'none'")
            conn.execute("INSERT INTO journal VALUES (7, 0, 99, 'requested', 'queued', '1', 'x')")
        damaged, orphaned = await store.audit()
    assert (damaged.subject, damaged.what, damaged.expected) == ("database", "integrity", "ok")
    assert "CHECK constraint failed in accounts" in damaged.found
    assert (orphaned.subject, orphaned.what) == ("database", "row 7 of journal")
    assert (orphaned.expected, orphaned.found) == ("a row of accounts", "none")


async def test_the_audit_says_how_many_entries_it_has_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("settled.store.sql.audit._PROGRESS_ROWS", 2)
    said: list[tuple[int, int]] = []
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        for name in ("alice", "bob"):
            await store.open_account(name, setup=False)
        await store.commit([AddCredit("alice", f"tx{n}", Decimal(7)) for n in range(5)])
        await store.audit(lambda done, total: said.append((done, total)))
    assert said == [(2, 5), (4, 5), (5, 5)]
