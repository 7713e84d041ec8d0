"""Promise 8: a start goes on with everything unfinished, and nothing stalls another."""

import random
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from settled import NotSettled, limits
from settled.amounts import Quantity
from settled.core.scheduler import Scheduler
from settled.errors import StoreBusy
from settled.store.memory import MemoryStore
from settled.store.records import (
    AddCredit,
    Ambiguous,
    Credit,
    Delivered,
    DeliveryOutcome,
    NotDelivered,
    NotSent,
    Parked,
    Settled,
    Unknown,
)
from settled.store.sqlite import open_sqlite
from tests.harness import (
    ScriptedConnector,
    ScriptedEngine,
    clock_ms,
    conserved,
    memory_store,
    running,
)


async def found(account_id: str, settlement_id: str) -> object:
    return Decimal(5)


@pytest.mark.parametrize(
    "state", ["queued", "resting", "backoff", "in_flight", "unknown", "parked"]
)
async def test_a_start_goes_on_from_every_state_of_the_outgoing_side(
    state: str, autojump_clock: MockClock
) -> None:
    store = memory_store()
    account = await store.open_account("alice", setup=False)
    await store.queue_settlement("alice", Quantity("5", 0), "k")
    if state == "resting":
        await store.next_settlement(account.number, "s0")
        await store.record_outcome("s0", Settled(Decimal(0)))
    elif state == "backoff":
        await store.next_settlement(account.number, "s0")
        await store.record_outcome("s0", NotSent("no funds", 60_000))
    elif state != "queued":
        await store.next_settlement(account.number, "s0")
    if state == "unknown":
        await store.record_outcome("s0", Unknown("reset", 3_600_000))
    if state == "parked":
        await store.record_outcome("s0", Parked("no find_settlement"))
    async with running(ScriptedEngine(find_settlement=found), store) as daemon:
        await daemon.until(lambda account: account.settled == 5)
    await conserved(store)


@pytest.mark.parametrize("outcome", [None, NotDelivered("down", 60_000), Ambiguous("500", 60_000)])
async def test_a_start_delivers_every_credit_that_was_not(
    outcome: DeliveryOutcome | None, autojump_clock: MockClock
) -> None:
    connector, store = ScriptedConnector(), memory_store()
    account = await store.open_account("alice", setup=False)
    await store.commit([AddCredit("alice", "tx", Decimal(5))])
    if outcome is not None:
        (sent,) = (await store.next_deliveries(account.number, 1)).credits
        await store.record_delivery(sent, outcome)
    async with running(ScriptedEngine(), store, connector) as daemon:
        await daemon.until(lambda account: account.credited == 5)
    assert len(connector.seen) == 1


async def test_set_up_is_retried_until_it_succeeds_across_restarts_then_settling_begins(
    autojump_clock: MockClock,
) -> None:
    tries = 0

    async def peer_comes_late(account_id: str) -> None:
        nonlocal tries
        tries += 1
        if tries < 6:
            raise OSError("the peer does not exist yet")

    engine, store = ScriptedEngine(setup_account=peer_comes_late), memory_store()
    async with running(engine, store) as daemon:
        await daemon.operations.open_account("alice")
        await daemon.request("alice", "5", "k")
        account = await daemon.until(lambda account: account.hook_failures >= 3)
        assert account.state == "setup"
        assert "the peer does not exist yet" in (account.waiting or "")
        assert engine.calls == []
    async with running(engine, store) as daemon:
        account = await daemon.until(lambda account: account.settled == 5)
    assert (tries, account.state) == (6, "open")


async def test_set_up_is_tried_again_as_soon_as_the_peer_shows_up(
    autojump_clock: MockClock,
) -> None:
    there = False

    async def ask_the_peer(account_id: str) -> None:
        if not there:
            raise OSError("the peer does not exist yet")

    async def reply(account_id: str, message: object) -> object:
        return {}

    engine, store = ScriptedEngine(setup_account=ask_the_peer, handle_message=reply), memory_store()
    async with running(engine, store) as daemon:
        await daemon.operations.open_account("alice")
        await trio.sleep(100 * 3600)
        there = True
        await daemon.operations.handle_message("alice", b'"hello"')
        await daemon.rest()
        assert (await store.account("alice")).state == "open"


async def test_close_account_is_retried_until_it_succeeds(autojump_clock: MockClock) -> None:
    closed = []

    async def close(account_id: str) -> None:
        closed.append(account_id)
        if len(closed) < 4:
            raise OSError("the ledger is down")

    engine, store = ScriptedEngine(close_account=close), memory_store()
    async with running(engine, store) as daemon:
        await daemon.operations.open_account("alice")
        await daemon.operations.close_account("alice")
        await trio.sleep(60)
    assert closed == ["alice"] * 4
    assert (await store.account("alice")).hook is None


async def test_hanging_accounts_do_not_hold_back_others(autojump_clock: MockClock) -> None:
    async def hang_for_some(account_id: str, amount: Decimal, settlement_id: str) -> object:
        if account_id.startswith("hang"):
            await trio.sleep_forever()
        return amount

    async def hanging_setup(account_id: str) -> None:
        if account_id.startswith("setup"):
            await trio.sleep_forever()

    engine = ScriptedEngine(hang_for_some, setup_account=hanging_setup)
    store = memory_store()
    async with running(engine, store) as daemon:
        for n in range(150):
            await daemon.operations.open_account(f"hang{n}")
            await daemon.request(f"hang{n}", "1", "k")
        for n in range(20):
            await daemon.operations.open_account(f"setup{n}")
        await daemon.operations.open_account("alice")
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.settled == 5)
        assert trio.current_time() < 10


async def test_a_poison_credit_holds_back_no_other_credit(autojump_clock: MockClock) -> None:
    """One hangs, one is refused for ever; the rest of the account and the others go on."""

    async def answer(credit: Credit) -> DeliveryOutcome:
        if credit.settlement_id == "hangs":
            await trio.sleep(10)
            return Ambiguous("time-out")
        if credit.settlement_id == "refused":
            return NotDelivered("404")
        return Delivered()

    connector, store = ScriptedConnector(answer), memory_store()
    for name in ("alice", "bob"):
        await store.open_account(name, setup=False)
    poison = [AddCredit("alice", name, Decimal(1)) for name in ("hangs", "refused")]
    await store.commit(poison)
    async with running(ScriptedEngine(), store, connector) as daemon:
        await trio.sleep(5)
        credits = [
            AddCredit(name, f"tx{n}", Decimal(1)) for name in ("alice", "bob") for n in range(50)
        ]
        for number in await store.commit(credits):
            assert number is not None
            daemon.core.incoming.scheduler.wake(number)
        await daemon.rest()
        assert (await store.account("alice")).credited == 50
        assert (await store.account("bob")).credited == 50
        await conserved(store)


async def test_try_settlement_ends_a_backoff(autojump_clock: MockClock) -> None:
    async def no_funds(account_id: str, amount: Decimal, settlement_id: str) -> object:
        raise NotSettled("no funds")

    engine, store = ScriptedEngine(no_funds), memory_store()
    account = await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await trio.sleep(50 * 3600)
        engine.script = None
        await store.retry_settlement("alice")
        daemon.core.outgoing.scheduler.wake(account.number)
        await daemon.rest()
        assert (await store.account("alice")).settled == 5


@pytest.mark.parametrize("years", [-10, 10])
async def test_a_jump_of_the_clock_stalls_no_retry(years: int, autojump_clock: MockClock) -> None:
    async def no_funds_at_first(account_id: str, amount: Decimal, settlement_id: str) -> object:
        if len(engine.calls) < 15:
            raise NotSettled("no funds")
        return amount

    jump_ms = 0
    store = MemoryStore(now_ms=lambda: clock_ms() + jump_ms)
    engine = ScriptedEngine(no_funds_at_first)
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.failures >= 12)
    jump_ms = years * 365 * 86_400_000
    async with running(engine, store) as daemon:
        await daemon.until(lambda account: account.settled == 5)
    assert len(engine.calls) == 15


async def test_what_another_process_writes_is_noticed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    engine = ScriptedEngine()
    async with (
        open_sqlite(path, exclusive=True, create=True) as store,
        running(engine, store),
        open_sqlite(path, exclusive=False) as beside,
    ):
        await beside.open_account("alice")
        await beside.queue_settlement("alice", Quantity("5", 0), "k")
        with trio.fail_after(2):
            while (await store.account("alice")).settled != 5:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await conserved(store)


@pytest.mark.parametrize("hook", ["setup_account", "find_settlement"])
async def test_what_an_engine_never_returns_from_is_cut_off_and_tried_again(
    hook: str, autojump_clock: MockClock
) -> None:
    calls = 0

    async def hang_once(*arguments: str) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            await trio.sleep_forever()
        return Decimal(5)

    async def lose_the_first(account_id: str, amount: Decimal, settlement_id: str) -> object:
        if hook == "find_settlement":
            raise OSError("reset")
        return amount

    engine, store = ScriptedEngine(lose_the_first), memory_store()
    setattr(engine, hook, hang_once)
    async with running(engine, store) as daemon:
        await daemon.operations.open_account("alice")
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.settled == 5)
    assert calls == 2


async def test_an_account_whose_books_are_broken_holds_back_no_other(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with open_sqlite(path, exclusive=True, create=True) as store:
        for name in ("broken", "torn", "alice"):
            account = await store.open_account(name, setup=False)
            await store.queue_settlement(name, Quantity("5", 0), "k")
            await store.commit([AddCredit(name, "tx", Decimal(7))])
        await store.next_settlement(1, "s1")
        await store.next_settlement(2, "s2")
        del account
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("UPDATE accounts SET in_flight = '0', undelivered = '0' WHERE id = 'broken'")
        conn.execute("UPDATE accounts SET queued = '1.2.3' WHERE id = 'torn'")
        conn.commit()
    async with (
        open_sqlite(path, exclusive=True) as store,
        running(ScriptedEngine(find_settlement=found), store) as daemon,
    ):
        with trio.fail_after(5):
            while (await store.account("alice")).settled != 5:  # noqa: ASYNC110
                await trio.sleep(0.01)
            while (await store.account("alice")).credited != 7:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await daemon.request("alice", "1", "k2")


async def test_a_queue_longer_than_any_amount_is_paid_in_parts(autojump_clock: MockClock) -> None:
    longest = "9" * limits.AMOUNT_DIGITS_MAX
    engine, store = ScriptedEngine(), memory_store()
    await store.open_account("alice", setup=False)
    for n in range(3):
        await store.queue_settlement("alice", Quantity(longest, 0), f"k{n}")
    await store.queue_settlement("alice", Quantity("1", limits.SCALE_MAX), "crumb")
    async with running(engine, store) as daemon:
        await daemon.until(lambda account: account.queued == 0)
        await conserved(store)
    assert len(engine.calls) >= 4


class BusyStore(MemoryStore):
    """Every other write finds the store busy."""

    def __init__(self, seed: int) -> None:
        super().__init__(now_ms=clock_ms)
        self._luck = random.Random(seed)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in {
            "next_settlement",
            "record_outcome",
            "next_deliveries_of",
            "record_deliveries",
            "record_delivery",
            "next_hook",
            "finish_hook",
            "age_keys",
            "purge_keys",
        }:
            return found

        async def busy_at_times(*arguments: Any, **named: Any) -> Any:
            if self._luck.random() < 0.5:
                raise StoreBusy("another process writes")
            return await found(*arguments, **named)

        return busy_at_times


@pytest.mark.parametrize("seed", range(5))
async def test_a_store_that_is_often_busy_loses_and_repeats_nothing(
    seed: int, autojump_clock: MockClock
) -> None:
    async def set_up(account_id: str) -> None:
        await trio.sleep(1)

    engine, connector = ScriptedEngine(setup_account=set_up), ScriptedConnector()
    store = BusyStore(seed)
    async with running(engine, store, connector) as daemon:
        for n in range(10):
            account = await store.open_account(f"peer{n}")
            daemon.core.hooks.scheduler.wake(account.number)
            await daemon.request(f"peer{n}", "5", "k")
            await store.commit([AddCredit(f"peer{n}", "tx", Decimal(7))])
            daemon.core.incoming.scheduler.wake(account.number)
        await trio.sleep(3600)
        for account in await store.accounts():
            assert (account.settled, account.credited) == (5, 7), account
        await conserved(store)
    assert len(engine.calls) == 10
    assert len(connector.seen) == 10


async def test_what_is_under_way_when_an_account_is_woken_is_looked_at_again(
    autojump_clock: MockClock,
) -> None:
    """A wake during the work is not lost, also when every place is taken."""
    worked: list[int] = []

    async def work(account: int) -> int | None:
        worked.append(account)
        await trio.sleep(1)
        return None

    scheduler = Scheduler(work, tasks_max=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scheduler.run)
        for account in range(6):
            scheduler.wake(account)
        await trio.sleep(0.5)
        assert sorted(worked) == [0, 1]
        scheduler.wake(0)
        await trio.sleep(10)
        assert sorted(worked) == [0, 0, 1, 2, 3, 4, 5]
        scheduler.wake(9)
        await trio.sleep(0.5)
        await scheduler.drain()
        assert trio.current_time() >= 11
        scheduler.wake(10)
        await trio.sleep(10)
        assert 10 not in worked, "nothing new begins once it drains"
        nursery.cancel_scope.cancel()
