"""Credits that are sent as soon as they are recorded: the same rules hold as for all others."""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
import trio
from outcome import Maybe
from trio.testing import MockClock

from settled import limits
from settled.errors import AccountNotFound, SettlementConflict, StoreBusy
from settled.store.memory import MemoryStore
from settled.store.protocol_incoming import CreditLook
from settled.store.records import (
    AddCredit,
    Credit,
    Delivered,
    DeliveryOutcome,
    NextDeliveries,
    NotDelivered,
)
from tests.core.test_deliveries import Gauge
from tests.harness import (
    Running,
    ScriptedConnector,
    ScriptedEngine,
    clock_ms,
    memory_store,
    running,
)


class LookedAt(MemoryStore):
    """A store that notes which accounts it is looked at for, and may take its time over it."""

    def __init__(self) -> None:
        super().__init__(now_ms=clock_ms)
        self.looks: list[CreditLook] = []
        self.after_look_s = 0.0

    async def next_deliveries_of(self, looks: Sequence[CreditLook]) -> list[Maybe[NextDeliveries]]:
        self.looks += looks
        found = await super().next_deliveries_of(looks)
        if self.after_look_s:
            await trio.sleep(self.after_look_s)
        return found


async def receive(daemon: Running, account_id: str, *settlement_ids: str) -> list[bool]:
    """Have the engine hear of payments, of all of them at once."""
    await daemon.store.open_account(account_id, setup=False)
    new: list[bool] = []

    async def one(settlement_id: str) -> None:
        change = AddCredit(account_id, settlement_id, Decimal(1))
        new.append(await daemon.core.incoming.receive(change))

    async with trio.open_nursery() as nursery:
        for settlement_id in settlement_ids:
            nursery.start_soon(one, settlement_id)
    return new


def nothing_under_way(daemon: Running) -> None:
    incoming = daemon.core.incoming
    assert not incoming._sending
    assert not incoming._under_way
    assert not incoming._ready
    assert not incoming._looked_for
    assert (incoming._taken, incoming._arriving) == (0, 0)


async def test_a_credit_is_sent_without_a_look(autojump_clock: MockClock) -> None:
    connector, store = ScriptedConnector(), LookedAt()
    async with running(ScriptedEngine(), store, connector) as daemon:
        assert await receive(daemon, "peer", "tx", "ty") == [True, True]
        await trio.sleep(0.1)
        assert (await store.account("peer")).credited == 2
        assert [credit.attempts for credit in connector.seen] == [1, 1]
        assert await receive(daemon, "peer", "tx") == [False]
        nothing_under_way(daemon)
    assert store.looks == []
    assert len(connector.seen) == 2


async def test_one_that_fails_is_sent_again_like_any_other(autojump_clock: MockClock) -> None:
    async def refuse(credit: Credit) -> DeliveryOutcome:
        await trio.lowlevel.checkpoint()
        return Delivered() if credit.attempts == 3 else NotDelivered("refused")

    connector, store = ScriptedConnector(refuse), memory_store()
    async with running(ScriptedEngine(), store, connector) as daemon:
        await receive(daemon, "peer", "tx")
        await trio.sleep(3600)
        assert (await store.account("peer")).credited == 1
        nothing_under_way(daemon)
    assert [credit.attempts for credit in connector.seen] == [1, 2, 3]
    assert {credit.id for credit in connector.seen} == {connector.seen[0].id}
    assert [credit.ambiguous_ms for credit in connector.seen] == [None] * 3, "never unclear"


async def test_neither_an_account_nor_all_have_more_than_their_places(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 12)
    gauge = Gauge()
    connector, store = ScriptedConnector(gauge), memory_store()
    async with running(ScriptedEngine(), store, connector) as daemon:
        for n in range(4):
            await receive(daemon, f"peer{n}", *(f"tx{m}" for m in range(20)))
        await trio.sleep(30)
        assert [account.credited for account in await store.accounts()] == [20] * 4
        nothing_under_way(daemon)
    assert gauge.most_at_once == 12
    accounts = {gauge.most[f"peer{n}"] for n in range(4)}
    assert max(accounts) <= limits.DELIVERIES_PER_ACCOUNT_MAX


async def test_a_slow_account_holds_up_no_other(autojump_clock: MockClock) -> None:
    count = limits.DELIVERIES_PER_ACCOUNT_MAX * 3
    slow = {f"slow{n}": 9.0 for n in range(count)}
    connector, store = ScriptedConnector(Gauge(**slow)), memory_store()
    async with running(ScriptedEngine(), store, connector) as daemon:
        await receive(daemon, "peer", *slow)
        await receive(daemon, "other", "quick")
        sent = [credit for credit in await store.credits(account_id="peer") if credit.attempts]
        assert len(sent) == limits.DELIVERIES_PER_ACCOUNT_MAX, "the others do not count as sent"
        await trio.sleep(1.5)
        assert (await store.account("other")).credited == 1
        assert (await store.account("peer")).credited == 0
        await trio.sleep(30)
        assert (await store.account("peer")).credited == count
        nothing_under_way(daemon)


async def test_those_that_wait_for_a_place_come_first(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 1)
    connector, store = ScriptedConnector(Gauge()), memory_store()
    async with running(ScriptedEngine(), store, connector) as daemon:
        await receive(daemon, "peer1", "tx")
        account = await store.open_account("peer2", setup=False)
        await store.commit([AddCredit("peer2", "tx", Decimal(1))])
        daemon.core.incoming.scheduler.wake(account.number)
        await daemon.rest()
        assert daemon.core.incoming._waiting
        await receive(daemon, "peer3", "tx")
        await trio.sleep(10)
        nothing_under_way(daemon)
    assert [credit.account_id for credit in connector.seen] == ["peer1", "peer2", "peer3"]


async def test_what_a_daemon_leaves_behind_is_sent_by_the_next(autojump_clock: MockClock) -> None:
    async def hang(_credit: Credit) -> DeliveryOutcome:
        await trio.sleep_forever()
        raise AssertionError

    store, connector = memory_store(), ScriptedConnector()
    async with running(ScriptedEngine(), store, ScriptedConnector(hang)) as daemon:
        await receive(daemon, "peer", "tx")
        await daemon.rest()
    async with running(ScriptedEngine(), store, connector):
        await trio.sleep(limits.HANDED_OUT_S + 1)
        assert (await store.account("peer")).credited == 1
    assert [credit.attempts for credit in connector.seen] == [2]
    assert connector.seen[0].ambiguous_ms is not None, "it may have been sent"


async def test_a_stop_sends_no_more_and_forgets_none(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 2)
    first, second, store = ScriptedConnector(Gauge()), ScriptedConnector(), memory_store()
    async with running(ScriptedEngine(), store, first) as daemon:
        await receive(daemon, "peer", *(f"tx{n}" for n in range(6)))
        await daemon.core.incoming.drain()
        assert len(first.seen) == 2
        assert await receive(daemon, "peer", "late") == [True]
        assert (await store.credits())[0].attempts == 0, "it does not count as sent"
        await trio.sleep(5)
        assert len(first.seen) == 2
        nothing_under_way(daemon)
    async with running(ScriptedEngine(), store, second):
        await trio.sleep(5)
        assert (await store.account("peer")).credited == 7
    assert len(second.seen) == 5


async def test_what_comes_while_a_stop_begins_is_left_to_the_next_start(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector, store = ScriptedConnector(), memory_store()
    add = store.add_credit

    async def slowly(*args: Any, **kwargs: Any) -> Credit | None:
        await trio.sleep(1)
        return await add(*args, **kwargs)

    monkeypatch.setattr(store, "add_credit", slowly)
    async with running(ScriptedEngine(), store, connector) as daemon:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, daemon, "peer", "tx")
            await daemon.rest()
            await daemon.core.incoming.drain()
        await trio.sleep(5)
        assert connector.seen == []
        nothing_under_way(daemon)
    async with running(ScriptedEngine(), store, connector):
        await trio.sleep(5)
        assert (await store.account("peer")).credited == 1


async def test_no_more_wait_in_line_than_may(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 1)
    monkeypatch.setattr(limits, "ARRIVALS_MAX", 3)
    connector, store = ScriptedConnector(Gauge()), memory_store()
    async with running(ScriptedEngine(), store, connector) as daemon:
        for n in range(8):
            await receive(daemon, f"peer{n}", "tx")
        sent = [credit for credit in await store.credits() if credit.attempts]
        assert len(sent) == 4, "one has its place, and three wait for it"
        await trio.sleep(20)
        assert [account.credited for account in await store.accounts()] == [1] * 8
        nothing_under_way(daemon)


async def test_one_whose_engine_is_cancelled_is_sent_all_the_same(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector, store = ScriptedConnector(), memory_store()
    add, added = store.add_credit, list[Credit | None]()

    async def slowly(*args: Any, **kwargs: Any) -> Credit | None:
        with trio.CancelScope(shield=True):  # as a store does that has begun to write
            await trio.sleep(5)
            added.append(await add(*args, **kwargs))
        return added[-1]

    monkeypatch.setattr(store, "add_credit", slowly)
    async with running(ScriptedEngine(), store, connector) as daemon:
        with trio.move_on_after(1):
            await receive(daemon, "peer", "tx")
        await trio.sleep(1)
        assert (await store.account("peer")).credited == 1
        nothing_under_way(daemon)


async def test_what_is_refused_keeps_no_place(autojump_clock: MockClock) -> None:
    connector, store = ScriptedConnector(), memory_store()
    async with running(ScriptedEngine(), store, connector) as daemon:
        await receive(daemon, "peer", "tx")
        with pytest.raises(AccountNotFound):
            await daemon.core.incoming.receive(AddCredit("nobody", "tx", Decimal(1)))
        with pytest.raises(SettlementConflict):
            await daemon.core.incoming.receive(AddCredit("peer", "tx", Decimal(2)))
        await trio.sleep(1)
        nothing_under_way(daemon)
    assert len(connector.seen) == 1


async def test_a_busy_store_is_waited_for(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector, store = ScriptedConnector(), memory_store()
    add, busy = store.add_credit, 3

    async def often_busy(*args: Any, **kwargs: Any) -> Credit | None:
        nonlocal busy
        if busy:
            busy -= 1
            raise StoreBusy("busy")
        return await add(*args, **kwargs)

    monkeypatch.setattr(store, "add_credit", often_busy)
    async with running(ScriptedEngine(), store, connector) as daemon:
        assert await receive(daemon, "peer", "tx") == [True]
        await trio.sleep(1)
        nothing_under_way(daemon)
    assert len(connector.seen) == 1


async def test_a_look_that_finds_what_is_under_way_already_sends_it_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the store was so slow that a credit could be found that was just handed out."""
    monkeypatch.setattr(limits, "HANDED_OUT_S", 0)
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 4)
    gauge = Gauge(tx=20)
    connector, store = ScriptedConnector(gauge), LookedAt()
    add, arrived = store.add_credit, trio.Event()

    async def late(*args: Any, **kwargs: Any) -> Credit | None:
        credit = await add(*args, **kwargs)
        arrived.set()
        await trio.sleep(5)  # until the core hears of it
        return credit

    monkeypatch.setattr(store, "add_credit", late)
    async with running(ScriptedEngine(), store, connector) as daemon:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, daemon, "peer", "tx")
            await arrived.wait()
            store.after_look_s = 8
            daemon.core.incoming.scheduler.wake(1)
        await trio.sleep(40)
        assert (await store.account("peer")).credited == 1
        nothing_under_way(daemon)
    assert [look.limit for look in store.looks] == [4]
    assert len(connector.seen) == 1


async def test_an_account_keeps_to_its_places_while_it_is_looked_for(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DELIVERIES_PER_ACCOUNT_MAX", 3)
    gauge, store = Gauge(), LookedAt()
    connector = ScriptedConnector(gauge)
    async with running(ScriptedEngine(), store, connector) as daemon:
        await store.open_account("peer", setup=False)
        changes = [AddCredit("peer", f"old{n}", Decimal(1)) for n in range(3)]
        await store.commit(changes)
        store.after_look_s = 0.5
        daemon.core.incoming.scheduler.wake(1)
        await daemon.rest()
        await receive(daemon, "peer", "new1", "new2", "new3")
        await trio.sleep(20)
        assert (await store.account("peer")).credited == 6
        nothing_under_way(daemon)
    assert gauge.most["peer"] == 3
    assert Counter(credit.settlement_id for credit in connector.seen).most_common(1)[0][1] == 1


async def test_what_the_store_does_not_hand_out_is_looked_for(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restore: it may have been sent before."""
    connector, store = ScriptedConnector(), LookedAt()
    add = store.add_credit

    async def warily(change: AddCredit, *, hand_out: bool = False) -> Credit | None:
        return await add(change)

    monkeypatch.setattr(store, "add_credit", warily)
    async with running(ScriptedEngine(), store, connector) as daemon:
        await receive(daemon, "peer", "tx")
        await daemon.rest()
        assert len(store.looks) == 1
        await trio.sleep(1)
        assert (await store.account("peer")).credited == 1
        nothing_under_way(daemon)
    assert [credit.attempts for credit in connector.seen] == [1]


async def test_what_a_look_was_faster_with_is_sent_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its commit took longer than no look may find it."""
    gauge = Gauge(tx=5)
    connector, store = ScriptedConnector(gauge), memory_store()
    add = store.add_credit

    async def late(*args: Any, **kwargs: Any) -> Credit | None:
        credit = await add(*args, **kwargs)
        await trio.sleep(limits.HANDED_OUT_S + 0.5)
        return credit

    monkeypatch.setattr(store, "add_credit", late)
    async with running(ScriptedEngine(), store, connector) as daemon:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, daemon, "peer", "tx")
            await trio.sleep(limits.HANDED_OUT_S + 0.2)
            daemon.core.incoming.scheduler.wake(1)
        await trio.sleep(20)
        assert (await store.account("peer")).credited == 1
        nothing_under_way(daemon)
    assert len(connector.seen) == 1


async def test_what_is_handed_out_and_not_sent_does_not_count_as_sent(
    autojump_clock: MockClock,
) -> None:
    """Else it would be parked a day later, as the connector might have forgotten it."""

    start_s = trio.current_time()

    async def refuse_for_a_day(_credit: Credit) -> DeliveryOutcome:
        await trio.sleep(0.01)
        if trio.current_time() < start_s + 25 * 3600:
            return NotDelivered("connection refused")
        return Delivered()

    connector, store = ScriptedConnector(refuse_for_a_day), LookedAt()
    store.after_look_s = 0.005
    async with running(ScriptedEngine(), store, connector) as daemon:
        await receive(daemon, "peer", "first")
        while not daemon.core.incoming._looked_for:  # noqa: ASYNC110 - it tells nobody
            await trio.sleep(0.001)
        await receive(daemon, "peer", "second")
        assert (await store.credits())[0].reason == "it was not sent yet"
        await trio.sleep(30 * 3600)
        assert [credit.state for credit in await store.credits()] == ["credited"] * 2
        nothing_under_way(daemon)


async def test_what_a_stop_did_not_send_does_not_count_as_sent(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 1)
    store = memory_store()
    async with running(ScriptedEngine(), store, ScriptedConnector(Gauge())) as daemon:
        for n in range(4):
            await receive(daemon, f"peer{n}", "tx")
        await daemon.core.incoming.drain()
        nothing_under_way(daemon)
    waiting = await store.credits(state="undelivered")
    assert len(waiting) == 3
    assert [credit.ambiguous_ms for credit in waiting] == [None] * 3
    assert [credit.reason for credit in waiting] == ["it was not sent yet"] * 3


async def test_one_that_is_put_back_is_found_again_though_its_engine_is_cancelled(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector, store = ScriptedConnector(), LookedAt()

    async def busy(*_arguments: Any) -> None:
        raise StoreBusy("busy")

    monkeypatch.setattr(store, "record_delivery", busy)
    async with running(ScriptedEngine(), store, connector) as daemon:
        await store.open_account("peer", setup=False)
        store.after_look_s = 2
        daemon.core.incoming.scheduler.wake(1)
        await daemon.rest()
        with trio.move_on_after(5) as engine:
            await receive(daemon, "peer", "tx")
        assert engine.cancelled_caught
        await trio.sleep(20)
        assert (await store.account("peer")).credited == 1
        nothing_under_way(daemon)
