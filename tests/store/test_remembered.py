"""What the writing thread remembers decides nothing: the database does, whoever changed it."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from outcome import Error, Maybe, Value

from settled import limits
from settled.amounts import Quantity
from settled.errors import (
    AccountNotFound,
    InvalidAmount,
    KeyReused,
    SettlementConflict,
    StoreBroken,
    StoreBusy,
    StoreFull,
)
from settled.store.protocol_incoming import CreditSent, NewCredit
from settled.store.records import AddCredit, Credit, Delivered, Queued, Request, Settled
from settled.store.sql import accounts
from settled.store.sql.ledger import Tx
from settled.store.sql.steady import steady_ms
from settled.store.sqlite import SqliteStore, open_sqlite
from tests.store.steps import HOUR_MS, Clock
from tests.store.test_writing import Wrapped, error

ONE = Quantity("1", 0)
COUNTS = pytest.mark.parametrize("count", [1, 2, 5])


@asynccontextmanager
async def two_processes(path: Path) -> AsyncIterator[tuple[SqliteStore, SqliteStore]]:
    """The daemon's store and that of a command beside it; the books must add up in the end."""
    async with (
        open_sqlite(path, exclusive=True, create=True) as daemon,
        open_sqlite(path, exclusive=False) as command,
    ):
        for account_id in ("alice", "bob", "carol", "dave", "erin"):
            await daemon.open_account(account_id, setup=False)
        yield daemon, command
        assert await daemon.audit() == []


async def ask(store: SqliteStore, *asked: tuple[str, Quantity, str]) -> list[Maybe[Queued]]:
    """Queue requests together."""
    told, results = trio.Event(), list[Maybe[Queued]]()
    token = trio.lowlevel.current_trio_token()

    def done(found: list[Maybe[Queued]]) -> None:
        results.extend(found)
        token.run_sync_soon(told.set)

    store.begin_settlements([Request(*request) for request in asked], done)
    with trio.fail_after(5):
        await told.wait()
    return results


def for_all(prefix: str, count: int) -> list[tuple[str, Quantity, str]]:
    ids = ("alice", "bob", "carol", "dave", "erin")[:count]
    return [(account_id, ONE, f"{prefix} {account_id}") for account_id in ids]


def wrapped(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> Wrapped:
    conn = Wrapped(store._writer._conn)
    monkeypatch.setattr(store._writer, "_conn", conn)
    return conn


@COUNTS
async def test_requests_meet_what_another_process_has_queued_meanwhile(
    count: int, tmp_path: Path
) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, command):
        await ask(daemon, *for_all("first", count))
        await command.queue_settlement("alice", Quantity("5", 1), "of the command")
        results = await ask(daemon, *for_all("second", count))
        assert all(isinstance(result, Value) for result in results)
        assert (await daemon.account("alice")).queued == Decimal("2.5")


@COUNTS
async def test_requests_meet_a_key_that_another_process_has_used(
    count: int, tmp_path: Path
) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, command):
        await ask(daemon, *for_all("first", count))
        await command.queue_settlement("alice", Quantity("5", 0), "k")
        rest = for_all("second", count)[1:]
        first, *others = await ask(daemon, ("alice", Quantity("50", 1), "k"), *rest)
        assert first.unwrap().replayed
        first, *_ = await ask(daemon, ("alice", ONE, "k"), *for_all("third", count)[1:])
        assert isinstance(first, Error)
        assert isinstance(first.error, KeyReused)
        assert [other.unwrap().replayed for other in others] == [False] * (count - 1)
        assert (await daemon.account("alice")).queued == 6


@COUNTS
async def test_requests_go_to_the_new_life_that_another_process_has_begun(
    count: int, tmp_path: Path
) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, command):
        await ask(daemon, *for_all("first", count))
        await command.close_account("alice")
        new = await command.open_account("alice", setup=False)
        first, *_ = await ask(daemon, *for_all("second", count))
        assert first.unwrap().account == new.number
        lives = await daemon.accounts(account_id="alice")
        assert [life.requested for life in lives] == [1, 1]


@COUNTS
async def test_nothing_is_queued_for_an_account_that_another_process_has_closed(
    count: int, tmp_path: Path
) -> None:
    """Not even if that has changed nothing else of it, as nothing is queued."""
    async with two_processes(tmp_path / "s.db") as (daemon, command):
        number = (await daemon.account("alice")).number
        await ask(daemon, ("alice", Quantity("5", 0), "k"))
        await daemon.next_settlement(number, "s")
        await daemon.record_outcome("s", Settled(Decimal(8)))
        await ask(daemon, ("alice", Quantity("3", 0), "back to zero"), *for_all("first", 5)[1:])
        await command.close_account("alice")
        first, *others = await ask(daemon, *for_all("second", count))
        assert isinstance(first, Error)
        assert isinstance(first.error, AccountNotFound)
        assert [other.unwrap().replayed for other in others] == [False] * (count - 1)


@COUNTS
async def test_what_was_rolled_back_is_not_remembered(count: int, tmp_path: Path) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, _command):
        await ask(daemon, *for_all("first", count))

        def spoil(tx: Tx) -> None:
            daemon._requests.queue(tx, [Request(*asked) for asked in for_all("lost", count)])
            raise RuntimeError("half-way")

        with pytest.raises(RuntimeError):
            await daemon._writer.write(spoil)
        results = await ask(daemon, *for_all("second", count))
        assert [result.unwrap().replayed for result in results] == [False] * count
        assert (await daemon.account("alice")).queued == 2
        results = await ask(daemon, *for_all("lost", count))
        assert [result.unwrap().replayed for result in results] == [False] * count


@pytest.mark.parametrize("count", [1, 2])
async def test_nothing_goes_to_another_account_that_has_the_number_of_one_that_was_rolled_back(
    count: int, tmp_path: Path
) -> None:
    """Even if the books of both look alike, and nothing was forgotten."""
    path = tmp_path / "s.db"
    async with (
        open_sqlite(path, exclusive=True, create=True) as daemon,
        open_sqlite(path, exclusive=False) as command,
    ):
        await daemon.open_account("erin", setup=False)
        await daemon.add_credit(AddCredit("erin", "clock", Decimal(1)), hand_out=True)
        credited = NewCredit(AddCredit("alice", "lost", Decimal(5)), hand_out=True)

        def undo(tx: Tx) -> None:
            tx.conn.execute("SAVEPOINT undone")
            accounts.open_account(tx, "alice", False)
            daemon._credits.add(tx, [credited])
            daemon._requests.queue(tx, [Request("alice", Quantity("5", 0), "lost")])
            tx.conn.execute("ROLLBACK TO undone")

        await daemon._writer.write(undo)
        await command.open_account("bob", setup=False)
        await command.queue_settlement("bob", Quantity("5", 0), "k")
        await command.add_credit(AddCredit("bob", "tx", Decimal(5)))
        assert "alice" in daemon._requests._accounts
        results = await ask(daemon, *[("alice", ONE, "k"), ("alice", ONE, "l")][:count])
        assert all(isinstance(result, Error) for result in results)
        assert await daemon.audit() == []
        assert (await daemon.account("bob")).requested == 5


async def test_no_credit_goes_to_another_account_that_has_the_number_of_one_rolled_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s.db"
    clock = Clock()  # it stands still: nothing but the account is another
    async with (
        open_sqlite(path, exclusive=True, create=True, now_ms=clock, uptime=clock.uptime) as daemon,
        open_sqlite(path, exclusive=False, now_ms=clock, uptime=clock.uptime) as command,
    ):
        await daemon.open_account("erin", setup=False)
        for n in range(2):
            await daemon.add_credit(AddCredit("erin", f"clock {n}", Decimal(1)), hand_out=True)

        def undo(tx: Tx) -> None:
            tx.conn.execute("SAVEPOINT undone")
            accounts.open_account(tx, "alice", False)
            daemon._credits._remembered.written()
            for n in range(2):
                credited = AddCredit("alice", f"lost {n}", Decimal(5))
                daemon._credits.add(tx, [NewCredit(credited, hand_out=True)])
            tx.conn.execute("ROLLBACK TO undone")

        await daemon._writer.write(undo)
        assert "alice" in daemon._credits._numbers
        await command.open_account("bob", setup=False)
        for n in range(2):
            await command.add_credit(AddCredit("bob", f"{n}", Decimal(5)))
        with pytest.raises(AccountNotFound):
            await daemon.add_credit(AddCredit("alice", "tx", Decimal(5)), hand_out=True)
        assert await daemon.audit() == []
        assert (await daemon.account("bob")).received == 10


async def test_what_is_rolled_back_is_forgotten(tmp_path: Path) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, _command):
        await ask(daemon, *for_all("first", 2))

        def spoil(tx: Tx) -> None:
            daemon._requests.queue(tx, [Request("alice", ONE, "lost")])
            raise RuntimeError("half-way")

        with pytest.raises(RuntimeError):
            await daemon._writer.write(spoil)
        assert daemon._requests._accounts == {}


async def test_payments_change_what_is_remembered_of_their_accounts(tmp_path: Path) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, _command):
        for n in range(3):
            await ask(daemon, *for_all(f"{n}", 3))
            number = (await daemon.account("alice")).number
            step = await daemon.next_settlement(number, f"s{n}")
            assert step.settlement is not None
            await ask(daemon, *for_all(f"meanwhile {n}", 3))
            await daemon.record_outcome(f"s{n}", Settled(step.settlement.amount))
        alice = await daemon.account("alice")
        assert (alice.requested, alice.settled, alice.queued, alice.retry_ms) == (6, 5, 1, 0)


@pytest.mark.parametrize("most", [0, 1, 3])
async def test_no_more_is_remembered_than_fits(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ACCOUNTS_KEPT_MAX", most)
    async with two_processes(tmp_path / "s.db") as (daemon, _command):
        for n in range(4):
            results = await ask(daemon, *for_all(f"{n}", 5))
            assert [result.unwrap().replayed for result in results] == [False] * 5
            await credit_all(daemon, f"c{n}")
        assert (await daemon.account("erin")).queued == 4
        assert (await daemon.account("erin")).undelivered == 4


# --- at once ---


async def test_requests_that_are_alone_in_a_batch_are_written_by_one_statement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside a transaction nothing else may write: each statement is a commit of its own."""
    async with two_processes(tmp_path / "s.db") as (daemon, command):
        conn = wrapped(daemon, monkeypatch)
        alone: list[str] = []

        def note(sql: str) -> None:
            if not conn.conn.in_transaction and sql != "SELECT max(seq) FROM journal":
                alone.append(sql)

        conn.fail = note
        zero = Quantity("0", 0)
        for n, batch in enumerate(
            [
                for_all("a", 5),
                for_all("b", 2),
                [("alice", ONE, "c"), ("bob", zero, "c")],
                [("alice", ONE, "d"), ("nobody", ONE, "d")],
                [("alice", ONE, "e"), ("alice", ONE, "e")],
                [("alice", ONE, "e"), ("bob", ONE, "f")],
                [("alice", zero, "g"), ("bob", zero, "g")],
            ]
        ):
            await ask(daemon, *batch)
            writing = [sql for sql in alone if not sql.startswith(("SELECT", "BEGIN"))]
            assert all(sql.startswith("INSERT INTO new_requests ") for sql in writing), n
            alone.clear()
        await daemon._writer.write(
            lambda tx: tx.conn.execute("UPDATE counters SET value = ?", (limits.KEY_LIFE_TICKS,))
        )
        alone.clear()
        results = await ask(daemon, ("alice", ONE, "e"), ("bob", ONE, "h"))
        assert [result.unwrap().replayed for result in results] == [True, False]
        assert [sql.split()[0] for sql in alone] == ["SELECT", "BEGIN"], "a key is renewed"
        assert (await command.account("alice")).queued == 5


@pytest.mark.parametrize(
    ("code", "kind"), [(sqlite3.SQLITE_BUSY, StoreBusy), (sqlite3.SQLITE_FULL, StoreFull)]
)
async def test_a_passing_fault_of_the_one_statement_records_nothing(
    code: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, _command):
        await ask(daemon, *for_all("first", 2))
        conn = wrapped(daemon, monkeypatch)

        def fail(sql: str) -> sqlite3.Error | None:
            return error(code) if sql.startswith("INSERT") or sql == "COMMIT" else None

        conn.fail = fail
        conn.said.clear()
        for result in await ask(daemon, *for_all("second", 2)):
            assert isinstance(result, Error)
            assert isinstance(result.error, kind)
        waits_again = "BEGIN IMMEDIATE" in conn.said
        assert waits_again == (kind is StoreFull)
        conn.fail = lambda _sql: None
        results = await ask(daemon, *for_all("second", 2))
        assert [result.unwrap().replayed for result in results] == [False, False]


async def test_a_full_disk_that_has_room_again_is_tried_in_a_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, _command):
        await ask(daemon, *for_all("first", 2))
        conn = wrapped(daemon, monkeypatch)
        faults = [error(sqlite3.SQLITE_FULL)]
        conn.fail = lambda sql: faults.pop() if sql.startswith("INSERT") and faults else None
        results = await ask(daemon, *for_all("second", 2))
        assert [result.unwrap().replayed for result in results] == [False, False]
        assert "COMMIT" in conn.said


@pytest.mark.parametrize("written", [True, False])
async def test_nobody_is_answered_when_the_one_statement_may_be_on_the_disk(
    written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, command):
        await ask(daemon, *for_all("first", 2))
        conn = wrapped(daemon, monkeypatch)
        execute = conn.conn.execute

        def fail_late(sql: str, *values: Any) -> sqlite3.Cursor:
            if sql.startswith("INSERT"):
                if written:
                    execute(sql, *values).fetchall()
                raise error(sqlite3.SQLITE_IOERR)
            return execute(sql, *values)

        monkeypatch.setattr(conn, "execute", fail_late)
        for result in await ask(daemon, *for_all("second", 2)):
            assert isinstance(result, Error)
            assert isinstance(result.error, StoreBroken)
        with pytest.raises(StoreBroken):
            await ask(daemon, *for_all("third", 2))
        assert (await command.account("alice")).queued == 1 + written


async def test_a_refusal_is_told_at_once_and_the_others_are_recorded(tmp_path: Path) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, _command):
        await ask(daemon, *for_all("first", 2))
        refused, queued = await ask(daemon, ("alice", Quantity("0", 0), "z"), ("bob", ONE, "y"))
        assert isinstance(refused, Error)
        assert isinstance(refused.error, InvalidAmount)
        assert not queued.unwrap().replayed
        assert (await daemon.account("bob")).queued == 2


# --- credits ---


async def credit_all(store: SqliteStore, settlement_id: str, amount: int = 1) -> list[Any]:
    """Add a credit for each account, together; return what came of each."""
    results: list[Any] = [None] * 5

    async def add(n: int, account_id: str) -> None:
        change = AddCredit(account_id, settlement_id, Decimal(amount))
        try:
            results[n] = await store.add_credit(change, hand_out=True)
        except Exception as caught:
            results[n] = caught

    async with trio.open_nursery() as nursery:
        for n, (account_id, _, _) in enumerate(for_all("", 5)):
            nursery.start_soon(add, n, account_id)
    return results


def sent(found: Sequence[Any]) -> list[CreditSent]:
    return [CreditSent(credit, Delivered()) for credit in found if isinstance(credit, Credit)]


async def test_credits_are_recorded_once_whoever_else_records_them(tmp_path: Path) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, command):
        for _ in range(2):  # the first finds no clock
            await credit_all(daemon, f"warm {_}")
        known = await command.add_credit(AddCredit("alice", "tx", Decimal(1)))
        other = await command.add_credit(AddCredit("bob", "tx", Decimal(7)))
        assert known is not None
        assert other is not None
        found = await credit_all(daemon, "tx")
        assert found[0] is None
        assert isinstance(found[1], SettlementConflict)
        assert all(isinstance(credit, Credit) for credit in found[2:])
        assert [value.unwrap() for value in await daemon.record_deliveries(sent(found))] == [
            *[None] * 3
        ]
        assert (await daemon.account("carol")).credited == 1
        assert (await daemon.account("alice")).undelivered == 3


async def test_credits_meet_what_another_process_has_credited_meanwhile(tmp_path: Path) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, command):
        for _ in range(2):
            await credit_all(daemon, f"warm {_}")
        other = await command.add_credit(AddCredit("alice", "of the command", Decimal(7)))
        assert other is not None
        found = await credit_all(daemon, "tx")
        assert (await daemon.account("alice")).undelivered == 10
        await credit_all(daemon, "remembered again")
        await command.resolve_credit(other.id, "seen in its log")
        await daemon.record_deliveries(sent(found))
        alice = await daemon.account("alice")
        assert (alice.undelivered, alice.credited) == (3, 8)


async def test_accounts_of_a_batch_are_not_forgotten_to_make_room_for_others_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ACCOUNTS_KEPT_MAX", 2)
    async with two_processes(tmp_path / "s.db") as (daemon, _command):

        async def credit(settlement_id: str, *account_ids: str) -> list[Any]:
            changes = [AddCredit(id_, settlement_id, Decimal(1)) for id_ in account_ids]
            news = [NewCredit(change, hand_out=True) for change in changes]
            return await daemon._writer.write(lambda tx: list(daemon._credits.add(tx, news)))

        await credit("warm", "alice")
        await credit("first", "alice", "bob")
        found = await credit("second", "alice", "carol")
        assert all(isinstance(credit, Credit) for credit in found)


async def test_a_credit_goes_to_the_new_life_that_another_process_has_begun(tmp_path: Path) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, command):
        for _ in range(2):
            await credit_all(daemon, f"warm {_}")
        await command.close_account("alice")
        new = await command.open_account("alice", setup=False)
        found = await credit_all(daemon, "tx")
        assert found[0].account == new.number
        # What was sent before is of the former life.
        before = await daemon.credits(account_id="alice", limit=10)
        results = await daemon.record_deliveries(sent(before))
        assert [result.unwrap() for result in results] == [None] * 3
        lives = await daemon.accounts(account_id="alice")
        assert [(life.undelivered, life.credited) for life in lives] == [(0, 1), (0, 2)]


async def test_what_the_operator_has_resolved_meanwhile_is_not_credited_again(
    tmp_path: Path,
) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, command):
        for _ in range(2):
            found = await credit_all(daemon, f"c{_}")
        await command.resolve_credit(found[0].id, "seen in its log")
        await daemon.record_deliveries(sent(found))
        await daemon.record_deliveries(sent(found))
        states = {credit.state for credit in await daemon.credits(limit=100)}
        assert states == {"undelivered", "credited"}
        for account_id, _, _ in for_all("", 5):
            account = await daemon.account(account_id)
            assert (account.credited, account.undelivered) == (1, 1)


async def test_a_lost_batch_of_credits_is_not_remembered(tmp_path: Path) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, _command):
        for _ in range(2):
            await credit_all(daemon, f"warm {_}")

        def spoil(run: Callable[[Tx], object]) -> Callable[[Tx], None]:
            def spoilt(tx: Tx) -> None:
                run(tx)
                raise RuntimeError("half-way")

            return spoilt

        credits_ = await daemon.credits(limit=100)
        with pytest.raises(RuntimeError):
            await daemon._writer.write(spoil(lambda tx: daemon._credits.record(tx, sent(credits_))))
        found = await credit_all(daemon, "tx")
        assert all(isinstance(credit, Credit) for credit in found)
        await daemon.record_deliveries(sent([*credits_, *found]))
        assert (await daemon.account("erin")).credited == 3


async def test_an_ordinary_credit_takes_one_statement_and_one_to_record_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_processes(tmp_path / "s.db") as (daemon, _command):
        for _ in range(2):
            found = await credit_all(daemon, f"warm {_}")
        conn = wrapped(daemon, monkeypatch)
        alice = AddCredit("alice", "tx", Decimal(1))
        assert await daemon.add_credit(alice, hand_out=True) is not None
        await daemon.record_deliveries(sent(found))
        verbs = [" ".join(sql.split()[:3]) for sql in conn.said if not sql.startswith("SELECT max")]
        assert verbs == [
            *("BEGIN IMMEDIATE", "INSERT INTO new_credits", "COMMIT"),
            *("BEGIN IMMEDIATE", "INSERT INTO acknowledged", "COMMIT"),
        ]


async def test_the_steady_clock_that_another_process_has_put_forward_is_not_put_back(
    tmp_path: Path,
) -> None:
    path, clock, later = tmp_path / "s.db", Clock(), Clock()
    later.ms += HOUR_MS
    async with (
        open_sqlite(path, exclusive=True, create=True, now_ms=clock, uptime=clock.uptime) as daemon,
        open_sqlite(path, exclusive=False, now_ms=later, uptime=later.uptime) as command,
    ):
        await daemon.open_account("alice", setup=False)
        for n in range(2):
            await daemon.add_credit(AddCredit("alice", f"{n}", Decimal(1)), hand_out=True)
        await command._writer.write(steady_ms)
        await daemon.add_credit(AddCredit("alice", "tx", Decimal(1)), hand_out=True)
        shown = await daemon._writer.write(
            lambda tx: tx.conn.execute("SELECT steady_ms FROM clock").fetchone()
        )
        assert shown == (later.ms,)
        assert await daemon.audit() == []
