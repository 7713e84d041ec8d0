"""Promise 6: a credit is durable at once, unique, immutable, and delivered until acknowledged."""

import random
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from settled import AccountNotFound, InvalidAmount, SettlementConflict
from settled.connector import Connector
from settled.engine.services import Services
from settled.store.clock import Uptime
from settled.store.protocol import Store
from settled.store.records import (
    AddCredit,
    Ambiguous,
    Credit,
    Delivered,
    DeliveryOutcome,
    NotDelivered,
)
from settled.store.sqlite import open_sqlite
from tests.harness import (
    Running,
    ScriptedConnector,
    ScriptedEngine,
    clock_ms,
    conserved,
    memory_store,
    running,
)

HOUR_S = 3600
HOUR_MS = HOUR_S * 1000
YEAR_MS = 365 * 24 * HOUR_MS
Answer = Callable[[Credit], Awaitable[DeliveryOutcome]]


def always(outcome: DeliveryOutcome) -> Answer:
    async def answer(credit: Credit) -> DeliveryOutcome:
        return outcome

    return answer


async def credit(daemon: Running, amount: str, settlement_id: str = "tx1") -> bool:
    """Credit as an engine does."""
    (number,) = await daemon.store.commit([AddCredit("alice", settlement_id, Decimal(amount))])
    if number is not None:
        daemon.core.incoming.scheduler.wake(number)
    return number is not None


@dataclass
class Clocks:
    """The clocks of a machine; they go on together, but for what a test does to them."""

    wall_ms: int = 1_900_000_000_000
    uptime_ms: int = 0
    boots: int = 1

    def wall(self) -> int:
        return self.wall_ms

    def uptime(self) -> Uptime:
        return Uptime(str(self.boots), self.uptime_ms)

    def go_on(self, ms: int) -> None:
        self.wall_ms += ms
        self.uptime_ms += ms

    def reboot(self) -> None:
        self.uptime_ms = 0
        self.boots += 1


async def unclear_credit(store: Store) -> int:
    """Leave a credit whose delivery just now had no clear answer; return its account's number."""
    account = await store.open_account("alice", setup=False)
    await store.commit([AddCredit("alice", "tx1", Decimal(5))])
    (sent,) = (await store.next_deliveries(account.number, 1)).credits
    await store.record_delivery(sent, Ambiguous("no answer"))
    return account.number


def services(store: Store, connector: Connector, nursery: trio.Nursery) -> Services:
    return Services(store, connector, nursery)


async def test_a_credit_is_on_disk_when_credit_settlement_returns(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    path = tmp_path / "settled.db"
    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        unused: Connector = None  # type: ignore[assignment]
        assert await services(store, unused, nursery).credit_settlement(
            "alice", Decimal("1.25"), "tx1"
        )
        async with open_sqlite(path, exclusive=False) as beside:
            (found,) = await beside.credits()
    assert (found.amount, found.state, found.settlement_id) == (
        Decimal("1.25"),
        "undelivered",
        "tx1",
    )


async def test_a_payment_reported_again_is_credited_once(autojump_clock: MockClock) -> None:
    connector, store = ScriptedConnector(), memory_store()
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(), store, connector) as daemon:
        assert await credit(daemon, "5")
        assert not await credit(daemon, "5.0")
        await daemon.until(lambda account: account.credited == 5)
        assert not await credit(daemon, "5")
        with pytest.raises(SettlementConflict):
            await credit(daemon, "6")
        await trio.sleep(HOUR_S)
        await conserved(store)
    assert len(connector.seen) == 1
    assert (await store.account("alice")).received == 5


@pytest.mark.parametrize("amount", [0, -1, 1.5, "5", None, True, Decimal("NaN"), Decimal("1e-300")])
async def test_what_is_no_amount_is_refused(amount: object, nursery: trio.Nursery) -> None:
    store = memory_store()
    await store.open_account("alice", setup=False)
    unused: Connector = None  # type: ignore[assignment]
    with pytest.raises(InvalidAmount):
        await services(store, unused, nursery).credit_settlement("alice", amount)  # type: ignore[arg-type]
    with pytest.raises(AccountNotFound):
        await services(store, unused, nursery).credit_settlement("nobody", Decimal(1))
    assert await store.credits() == []


@pytest.mark.parametrize(
    "failure",
    [Ambiguous("no answer"), NotDelivered("refused")],
    ids=["ambiguous", "not delivered"],
)
async def test_delivery_is_retried_with_the_same_key_and_amount(
    failure: DeliveryOutcome, autojump_clock: MockClock
) -> None:
    async def fail_nine_times(credit: Credit) -> DeliveryOutcome:
        return failure if len(connector.seen) < 10 else Delivered()

    connector, store = ScriptedConnector(fail_nine_times), memory_store()
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(), store, connector) as daemon:
        await credit(daemon, "5")
        await daemon.until(lambda account: account.credited == 5)
    assert len({(seen.id, seen.amount) for seen in connector.seen}) == 1
    gaps_s = [b - a for a, b in zip(connector.times_s, connector.times_s[1:], strict=False)]
    assert all(gap <= 0.1 * 2**n + 0.002 for n, gap in enumerate(gaps_s)), gaps_s


async def test_retries_are_at_most_an_hour_apart_for_ever(autojump_clock: MockClock) -> None:
    connector, store = ScriptedConnector(always(NotDelivered("down"))), memory_store()
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(), store, connector) as daemon:
        await credit(daemon, "5")
        await trio.sleep(30 * 24 * HOUR_S)
        gaps_s = [b - a for a, b in zip(connector.times_s, connector.times_s[1:], strict=False)]
        assert max(gaps_s) <= HOUR_S + 0.01
        assert 30 * 24 <= len(gaps_s) < 30 * 24 * 4, "about every half hour, and no storm"
        connector.script = None
        await daemon.until(lambda account: account.credited == 5)


async def test_credits_are_never_merged(autojump_clock: MockClock) -> None:
    connector, store = ScriptedConnector(always(Ambiguous("500"))), memory_store()
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(), store, connector) as daemon:
        await credit(daemon, "1.5", "tx1")
        await daemon.rest()
        connector.script = None
        await credit(daemon, "0.25", "tx2")
        await daemon.until(lambda account: account.credited == Decimal("1.75"))
    by_key = defaultdict(set)
    for seen in connector.seen:
        by_key[seen.id].add(seen.amount)
    assert sorted(map(tuple, by_key.values())) == [(Decimal("0.25"),), (Decimal("1.5"),)]


async def test_an_ambiguous_credit_is_parked_before_the_connector_forgets_its_key(
    autojump_clock: MockClock,
) -> None:
    connector, store = ScriptedConnector(always(Ambiguous("no answer"))), memory_store()
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(), store, connector) as daemon:
        await credit(daemon, "5")
        await trio.sleep(100 * HOUR_S)
        account = await store.account("alice")
        assert (account.parked, account.credited, account.undelivered) == (5, 0, 0)
        (parked,) = await store.credits(state="parked")
        assert "settled credits resolve" in (parked.reason or "")
        await conserved(store)
    assert connector.times_s[-1] - connector.times_s[0] < 23 * HOUR_S
    assert connector.times_s[-1] - connector.times_s[0] > 21 * HOUR_S, "not given up early"


async def test_what_never_reached_the_connector_is_not_parked_by_a_late_ambiguity(
    autojump_clock: MockClock,
) -> None:
    """The 23 hours count from the first ambiguous attempt, not from the first attempt."""
    connector, store = ScriptedConnector(always(NotDelivered("down"))), memory_store()
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(), store, connector) as daemon:
        await credit(daemon, "5")
        await trio.sleep(200 * HOUR_S)
        connector.script = always(Ambiguous("no answer"))
        await trio.sleep(20 * HOUR_S)
        assert (await store.account("alice")).undelivered == 5
        connector.script = None
        await trio.sleep(HOUR_S)
        assert (await store.account("alice")).credited == 5


async def test_a_clear_refusal_does_not_undo_an_earlier_ambiguity(
    autojump_clock: MockClock,
) -> None:
    connector, store = ScriptedConnector(always(Ambiguous("no answer"))), memory_store()
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(), store, connector) as daemon:
        await credit(daemon, "5")
        await daemon.rest()
        connector.script = always(NotDelivered("404"))
        await trio.sleep(24 * HOUR_S)
        assert (await store.account("alice")).parked == 5


async def test_a_crash_while_sending_counts_as_ambiguous(autojump_clock: MockClock) -> None:
    async def hang(credit: Credit) -> DeliveryOutcome:
        await trio.sleep_forever()
        raise AssertionError

    connector, store = ScriptedConnector(hang), memory_store()
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(), store, connector) as daemon:
        await credit(daemon, "5")
        await daemon.rest()
    await trio.sleep(23 * HOUR_S)
    async with running(ScriptedEngine(), store, ScriptedConnector()) as daemon:
        account = await daemon.until(lambda account: not account.undelivered)
    assert (account.parked, account.credited) == (5, 0), "its key may be forgotten by now"


async def test_an_impatient_operator_does_not_stretch_the_23_hours(
    autojump_clock: MockClock,
) -> None:
    connector, store = ScriptedConnector(always(Ambiguous("no answer"))), memory_store()
    account = await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(), store, connector) as daemon:
        await credit(daemon, "5")
        for _ in range(12):
            await trio.sleep(2 * HOUR_S)
            (found,) = await store.credits()
            if found.state == "undelivered":
                await store.retry_credit(found.id)
                daemon.core.incoming.scheduler.wake(account.number)
        assert (await store.account("alice")).parked == 5
    assert connector.times_s[-1] - connector.times_s[0] < 23 * HOUR_S


@settings(max_examples=60, deadline=None, print_blob=True)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 14 * HOUR_MS),  # the time that passes
            st.sampled_from([0, 0, -1, 1, -HOUR_MS, HOUR_MS, -10 * YEAR_MS, 10 * YEAR_MS])
            | st.integers(-30 * HOUR_MS, 30 * HOUR_MS),  # by how much the clock is set then
            st.booleans(),  # whether the machine was started anew meanwhile
        ),
        min_size=1,
        max_size=12,
    )
)
def test_no_setting_of_the_clock_has_an_unclear_credit_sent_after_a_day(
    steps: list[tuple[int, int, bool]],
) -> None:
    clock = Clocks()

    async def main(path: Path) -> None:
        async with open_sqlite(
            path, exclusive=True, create=True, now_ms=clock.wall, uptime=clock.uptime
        ) as store:
            account = await unclear_credit(store)
            age_ms = 0
            for passed_ms, set_ms, reboot in steps:
                age_ms += passed_ms
                clock.go_on(passed_ms)
                await store.age_keys()
                clock.wall_ms += set_ms
                if reboot:
                    clock.reboot()
                step = await store.next_deliveries(account, 1)
                assert age_ms < 24 * HOUR_MS or not step.credits
                for sent in step.credits:
                    await store.record_delivery(sent, Ambiguous("no answer"))

    with tempfile.TemporaryDirectory() as directory:
        trio.run(main, Path(directory) / "settled.db")


async def test_a_clock_set_back_while_it_runs_neither_parks_nor_stretches_the_23_hours(
    tmp_path: Path,
) -> None:
    clock = Clocks()
    async with open_sqlite(
        tmp_path / "s.db", exclusive=True, create=True, now_ms=clock.wall, uptime=clock.uptime
    ) as store:
        account = await unclear_credit(store)
        clock.wall_ms -= 10 * YEAR_MS
        step = await store.next_deliveries(account, 1)
        assert (step.credits, step.parked) == ((), ()), "not before its hour"
        clock.go_on(HOUR_MS)
        (sent,) = (await store.next_deliveries(account, 1)).credits
        await store.record_delivery(sent, Ambiguous("no answer"))
        clock.go_on(22 * HOUR_MS - 1)
        (sent,) = (await store.next_deliveries(account, 1)).credits
        await store.record_delivery(sent, Ambiguous("no answer"))
        clock.go_on(1)
        (parked,) = (await store.next_deliveries(account, 1)).parked
        assert parked.state == "parked"


@pytest.mark.parametrize(
    ("set_ms", "parks"), [(-60_001, True), (-60_000, False), (1000, False), (23 * HOUR_MS, True)]
)
async def test_a_clock_that_is_wrong_after_a_reboot_parks_what_is_unclear(
    tmp_path: Path, set_ms: int, parks: bool
) -> None:
    """Then nobody can tell how old it is: the operator decides."""
    clock = Clocks()
    opened = partial(open_sqlite, tmp_path / "s.db", exclusive=True, create=True, now_ms=clock.wall)
    async with opened(uptime=clock.uptime) as store:
        account = await unclear_credit(store)
    clock.wall_ms += set_ms
    clock.reboot()
    async with opened(uptime=clock.uptime) as store:
        await store.interrupt_settlements()
        clock.go_on(HOUR_MS)  # whatever the clock says, that is the longest wait
        step = await store.next_deliveries(account, 1)
        assert (len(step.credits), len(step.parked)) == ((0, 1) if parks else (1, 0))


async def test_the_operator_can_have_a_parked_credit_sent_again_or_take_it_as_credited(
    autojump_clock: MockClock,
) -> None:
    connector, store = ScriptedConnector(always(Ambiguous("no answer"))), memory_store()
    account = await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(), store, connector) as daemon:
        await credit(daemon, "5", "tx1")
        await credit(daemon, "7", "tx2")
        await trio.sleep(24 * HOUR_S)
        connector.script = None
        second, first = await store.credits(state="parked")
        await store.resolve_credit(first.id, "seen in the connector's log")
        await store.retry_credit(second.id)
        daemon.core.incoming.scheduler.wake(account.number)
        await daemon.until(lambda account: account.credited == 12)
    assert connector.seen[-1].id == second.id
    assert connector.times_s[-1] >= 24 * HOUR_S


@settings(max_examples=40, deadline=None, print_blob=True)
@given(seed=st.integers(0, 2**32), cuts_s=st.lists(st.floats(0, 200), min_size=1, max_size=5))
def test_crashes_and_lost_replies_credit_exactly_what_was_received(
    seed: int, cuts_s: list[float]
) -> None:
    """Against a connector that keeps keys as real ones do, each payment counts once."""
    rng = random.Random(seed)
    books: dict[str, Decimal] = {}

    async def like_a_connector(credit: Credit) -> DeliveryOutcome:
        await trio.sleep(rng.uniform(0, 3))
        if rng.random() < 0.3:
            return NotDelivered("not reached")
        assert books.setdefault(credit.id, credit.amount) == credit.amount
        await trio.sleep(rng.uniform(0, 3))
        return Ambiguous("reply lost") if rng.random() < 0.4 else Delivered()

    async def main() -> None:
        store = memory_store()
        await store.open_account("alice", setup=False)
        for n, cut_s in enumerate([*cuts_s, 0.0]):
            async with running(ScriptedEngine(), store, ScriptedConnector(like_a_connector)) as d:
                for again in range(rng.randint(1, 3)):
                    assert await credit(d, str(n + 1), f"tx{n}") == (again == 0)
                if n < len(cuts_s):
                    await trio.sleep(cut_s)
                else:
                    account = await d.until(lambda account: not account.undelivered)
        await conserved(store)
        assert account.received == account.credited == sum(books.values())

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_the_wall_clock_of_the_harness_goes_with_virtual_time() -> None:
    async def main() -> int:
        before = clock_ms()
        await trio.sleep(5)
        return clock_ms() - before

    assert trio.run(main, clock=MockClock(autojump_threshold=0)) == 5000
