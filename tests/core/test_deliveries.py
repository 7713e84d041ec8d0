"""How credits are sent: beside each other, never one twice at a time, and within the limits."""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
import trio
from outcome import Maybe
from trio.testing import MockClock

from settled import limits
from settled.core import incoming
from settled.errors import StoreBroken, StoreBusy
from settled.store.memory import MemoryStore
from settled.store.protocol_incoming import CreditSent
from settled.store.records import (
    AddCredit,
    Ambiguous,
    Credit,
    Delivered,
    DeliveryOutcome,
    NextDeliveries,
)
from tests.harness import (
    Running,
    ScriptedConnector,
    ScriptedEngine,
    clock_ms,
    memory_store,
    running,
)


class Gauge:
    """A connector that takes its time, and notes how many deliveries are under way."""

    def __init__(self, **seconds: float) -> None:
        self._seconds = seconds
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.most_at_once = 0

    async def __call__(self, credit: Credit) -> DeliveryOutcome:
        for name in (credit.id, credit.account_id):
            self.now[name] += 1
            self.most[name] = max(self.most[name], self.now[name])
        assert self.now[credit.id] == 1, "the same credit twice at the same time"
        at_once = sum(count for name, count in self.now.items() if name.startswith("peer"))
        self.most_at_once = max(self.most_at_once, at_once)
        await trio.sleep(self._seconds.get(credit.settlement_id, 1))
        for name in (credit.id, credit.account_id):
            self.now[name] -= 1
        return Delivered()


async def credited(daemon: Running, account_id: str, *settlement_ids: str) -> None:
    """Record incoming settlements and have them delivered."""
    account = await daemon.store.open_account(account_id, setup=False)
    await daemon.store.commit([AddCredit(account_id, name, Decimal(1)) for name in settlement_ids])
    daemon.core.incoming.scheduler.wake(account.number)


async def test_a_credit_under_way_is_not_sent_again_when_its_account_is_woken(
    autojump_clock: MockClock,
) -> None:
    connector, store = ScriptedConnector(Gauge(slow=9)), memory_store()
    async with running(ScriptedEngine(), store, connector) as daemon:
        await credited(daemon, "peer", "slow", "quick")
        for _ in range(12):
            await trio.sleep(1)
            daemon.core.incoming.scheduler.wake(1)
        assert (await store.account("peer")).credited == 2
    assert sorted(credit.settlement_id for credit in connector.seen) == ["quick", "slow"]


async def test_an_account_has_its_share_of_the_places_and_no_more(
    autojump_clock: MockClock,
) -> None:
    gauge = Gauge()
    connector, store = ScriptedConnector(gauge), memory_store()
    async with running(ScriptedEngine(), store, connector) as daemon:
        count = 24
        await credited(daemon, "peer", *(f"tx{n}" for n in range(count)))
        await trio.sleep(3.5)
        assert (await store.account("peer")).credited == count
    assert gauge.most["peer"] == limits.DELIVERIES_PER_ACCOUNT_MAX


async def test_the_last_place_of_an_account_is_used_while_the_others_hang(
    autojump_clock: MockClock,
) -> None:
    hanging = {f"hangs{n}": 100.0 for n in range(limits.DELIVERIES_PER_ACCOUNT_MAX - 1)}
    connector, store = ScriptedConnector(Gauge(**hanging)), memory_store()
    async with running(ScriptedEngine(), store, connector) as daemon:
        await credited(daemon, "peer", *hanging)
        await daemon.rest()
        await credited(daemon, "peer", *(f"quick{n}" for n in range(5)))
        await trio.sleep(5.5)
        assert (await store.account("peer")).credited == 5


async def test_accounts_that_find_no_place_get_the_next_that_is_free(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 2)
    gauge = Gauge()
    connector, store = ScriptedConnector(gauge), memory_store()
    async with running(ScriptedEngine(), store, connector) as daemon:
        for n in range(7):
            await credited(daemon, f"peer{n}", "tx")
        await trio.sleep(4.5)
        assert sorted(credit.account for credit in connector.seen) == [1, 2, 3, 4, 5, 6, 7]
        assert [account.credited for account in await store.accounts()] == [1] * 7
        assert gauge.most_at_once == 2
        assert not daemon.core.incoming._sending
        assert not daemon.core.incoming._waiting
        assert daemon.core.incoming._taken == 0


async def test_no_more_are_handed_out_at_once_than_there_are_places(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is handed out counts as sent, so it must not wait in line behind slow ones."""
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 12)
    gauge = Gauge()
    connector, store = ScriptedConnector(gauge), memory_store()
    for n in range(20):
        await store.open_account(f"peer{n}", setup=False)
        await store.commit([AddCredit(f"peer{n}", f"tx{m}", Decimal(1)) for m in range(5)])
    async with running(ScriptedEngine(), store, connector) as daemon:
        await trio.sleep(30)
        assert [account.credited for account in await store.accounts()] == [5] * 20
        assert gauge.most_at_once == 12
        assert daemon.core.incoming._taken == 0


async def test_places_are_given_back_when_the_store_is_busy(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 2)
    connector, store = ScriptedConnector(), memory_store()
    look_up, busy = store.next_deliveries_of, 5

    async def often_busy(*args: Any, **kwargs: Any) -> list[Maybe[NextDeliveries]]:
        nonlocal busy
        if busy:
            busy -= 1
            raise StoreBusy("busy")
        return await look_up(*args, **kwargs)

    monkeypatch.setattr(store, "next_deliveries_of", often_busy)
    async with running(ScriptedEngine(), store, connector) as daemon:
        await credited(daemon, "peer", "tx")
        await trio.sleep(10)
        assert (await store.account("peer")).credited == 1


async def test_a_place_is_free_while_it_is_recorded_what_became_of_the_last_delivery(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one account no more are under way, or being recorded, than its share."""
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 2)
    monkeypatch.setattr(limits, "DELIVERIES_PER_ACCOUNT_MAX", 1)
    connector, store = ScriptedConnector(), memory_store()
    record = store.record_deliveries

    async def slowly(sent: Sequence[CreditSent]) -> list[Maybe[None]]:
        await trio.sleep(5)
        return await record(sent)

    monkeypatch.setattr(store, "record_deliveries", slowly)
    async with running(ScriptedEngine(), store, connector) as daemon:
        start_s = trio.current_time()
        for n in range(3):
            await credited(daemon, f"peer{n}", "tx1", "tx2")
        await trio.sleep(30)
        assert [account.credited for account in await store.accounts()] == [2] * 3
        assert daemon.core.incoming._taken == 0
        assert not daemon.core.incoming._sending
    times_s = [round(time_s - start_s, 3) for time_s in connector.times_s]
    assert times_s == [0] * 3 + [5] * 3


async def test_a_delivery_that_fails_in_an_unknown_way_keeps_no_place(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 1)

    async def stumble(credit: Credit) -> DeliveryOutcome:
        await trio.lowlevel.checkpoint()
        if credit.account == 1 and len(connector.seen) == 1:
            raise ValueError("nobody has thought of this")
        return Delivered()

    connector, store = ScriptedConnector(stumble), memory_store()
    async with running(ScriptedEngine(), store, connector) as daemon:
        start_s = trio.current_time()
        await credited(daemon, "peer1", "tx")
        await daemon.rest()
        await credited(daemon, "peer2", "tx")
        await trio.sleep(100)
        assert [account.credited for account in await store.accounts()] == [1, 1]
        assert daemon.core.incoming._taken == 0
    assert [round(time_s - start_s, 3) for time_s in connector.times_s] == [0, 0, 60]


async def test_many_accounts_share_the_places_evenly(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 6)
    connector, store = ScriptedConnector(Gauge()), memory_store()
    for n in range(3):
        await store.open_account(f"peer{n}", setup=False)
        await store.commit([AddCredit(f"peer{n}", f"tx{m}", Decimal(1)) for m in range(8)])
    async with running(ScriptedEngine(), store, connector):
        await trio.sleep(0.5)
        assert sorted(credit.account for credit in connector.seen) == [1, 1, 2, 2, 3, 3]


async def test_the_delay_grows_with_every_attempt(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[int] = []

    def delay_ms(failed: int) -> int:
        failures.append(failed)
        return 1000 << failed

    async def lose(credit: Credit) -> DeliveryOutcome:
        return Ambiguous("no answer")

    monkeypatch.setattr(incoming, "retry_delay_ms", delay_ms)
    connector, store = ScriptedConnector(lose), memory_store()
    async with running(ScriptedEngine(), store, connector) as daemon:
        start_s = trio.current_time()
        await credited(daemon, "peer", "tx")
        await trio.sleep(20)
    assert failures == [0, 1, 2, 3, 4]
    times_s = [time_s - start_s for time_s in connector.times_s]
    assert times_s == pytest.approx([0, 1, 3, 7, 15], abs=0.01)


class FailingStore(MemoryStore):
    """A store in which every write fails whose name begins so."""

    def __init__(self, method: str, error: Exception) -> None:
        super().__init__(now_ms=clock_ms)
        self._failing = method
        self._error = error

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        failing = super().__getattribute__("__dict__").get("_failing")
        if failing is None or not name.startswith(failing):
            return found

        async def fail(*_arguments: Any, **_named: Any) -> Any:
            await trio.lowlevel.checkpoint()
            raise self._error

        return fail


async def test_a_delivery_that_cannot_be_booked_is_tried_again_a_minute_later(
    autojump_clock: MockClock,
) -> None:
    connector = ScriptedConnector()
    store = FailingStore("record_deliver", ValueError("broken books"))
    async with running(ScriptedEngine(), store, connector) as daemon:
        start_s = trio.current_time()
        await credited(daemon, "peer", "tx")
        await trio.sleep(150)
    assert [time_s - start_s for time_s in connector.times_s] == pytest.approx([0, 60, 120])


@pytest.mark.parametrize(
    "method",
    ["next_settlement", "record_outcome", "next_deliveries", "record_deliver", "next_hook"],
)
async def test_a_store_that_is_broken_ends_the_daemon(
    method: str, autojump_clock: MockClock
) -> None:
    store = FailingStore(method, StoreBroken("the disk is gone"))
    with pytest.RaisesGroup(StoreBroken, flatten_subgroups=True):
        async with running(ScriptedEngine(), store) as daemon:
            account = await store.open_account("peer", setup=method == "next_hook")
            daemon.core.hooks.scheduler.wake(account.number)
            await credited(daemon, "peer", "tx")
            await daemon.request("peer", "1", "k")
            await trio.sleep(3600)
