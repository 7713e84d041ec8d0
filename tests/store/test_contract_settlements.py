"""What every store must do to begin settlements, one at a time per account."""

from decimal import Decimal

import pytest
import trio

from settled.errors import NotFound
from settled.store.protocol import Store
from settled.store.records import NextSettlement, NotSent, Parked, Settled, Unknown
from tests.store.steps import (
    HOUR_MS,
    START_MS,
    Clock,
    asked,
    balances,
    begun,
    opened,
    quantity,
    refused,
    snapshot,
)


async def test_all_that_is_queued_goes_in_flight_under_the_given_id(store: Store) -> None:
    account = await asked(store, "10", "k1")
    await asked(store, "0.5", "k2")
    step = await store.next_settlement(account.number, "s-1")
    assert step.begun
    assert step.delay_ms is None
    settlement = step.settlement
    assert settlement is not None
    assert (settlement.id, settlement.account, settlement.account_id) == (
        "s-1",
        account.number,
        "alice",
    )
    assert (settlement.amount, settlement.state, settlement.settled) == (
        Decimal("10.5"),
        "in_flight",
        Decimal(0),
    )
    assert (settlement.reason, settlement.failures) == (None, 0)
    assert (settlement.created_ms, settlement.updated_ms) == (START_MS, START_MS)
    assert await store.settlement("s-1") == settlement
    assert balances(await store.account("alice")) == {"requested": "10.5", "in_flight": "10.5"}


async def test_an_unknown_account_number_is_not_found(store: Store) -> None:
    await refused(store, NotFound, store.next_settlement(1, "s-1"))
    await refused(store, NotFound, store.settlement("s-1"))


async def test_while_one_is_in_flight_no_other_begins(store: Store) -> None:
    settlement = await begun(store, "10")
    await asked(store, "5", "k2")
    before = await snapshot(store)
    step = await store.next_settlement(settlement.account, "s-2")
    assert step == NextSettlement(settlement, begun=False, delay_ms=None)
    assert await snapshot(store) == before


async def test_of_many_that_begin_at_once_one_does(store: Store) -> None:
    account = await asked(store, "10")
    steps: list[NextSettlement] = []

    async def begin(settlement_id: str) -> None:
        steps.append(await store.next_settlement(account.number, settlement_id))

    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(begin, f"s-{n}")
    assert sum(step.begun for step in steps) == 1
    assert len({step.settlement.id for step in steps if step.settlement}) == 1
    assert len(await store.settlements()) == 1


async def test_the_payment_of_one_account_does_not_hold_back_another(store: Store) -> None:
    await begun(store)
    for name in ("bob", "carol"):
        account = await asked(store, "5", account_id=name)
        step = await store.next_settlement(account.number, f"s of {name}")
        assert step.begun


async def test_requests_that_arrive_meanwhile_are_netted_into_the_next(store: Store) -> None:
    settlement = await begun(store, "10")
    await asked(store, "5", "k2")
    await asked(store, "2", "k3")
    await store.record_outcome(settlement.id, Settled(Decimal(10)))
    step = await store.next_settlement(settlement.account, "s-2")
    assert step.begun
    assert step.settlement is not None
    assert step.settlement.amount == 7


async def test_one_whose_outcome_is_unknown_is_returned_until_it_is_found(
    store: Store, clock: Clock
) -> None:
    settlement = await begun(store, "10")
    await store.record_outcome(settlement.id, Unknown("time-out", 5000))
    step = await store.next_settlement(settlement.account, "s-2")
    assert (step.begun, step.delay_ms) == (False, 5000)
    assert step.settlement == await store.settlement("s-1")
    clock.ms += 5000
    assert (await store.next_settlement(settlement.account, "s-2")).delay_ms == 0
    clock.ms += 5000
    assert (await store.next_settlement(settlement.account, "s-2")).delay_ms == 0


async def test_one_that_is_parked_waits_for_the_operator(store: Store) -> None:
    settlement = await begun(store, "10")
    await store.record_outcome(settlement.id, Parked("the engine cannot tell"))
    step = await store.next_settlement(settlement.account, "s-2")
    assert step == NextSettlement(await store.settlement("s-1"), begun=False, delay_ms=None)
    assert await store.unfinished("settle") == []


async def test_nothing_queued_begins_nothing(store: Store) -> None:
    account = await opened(store)
    assert await store.next_settlement(account.number, "s-1") == NextSettlement()
    assert await store.settlements() == []
    assert await store.unfinished("settle") == []


async def test_a_negative_queue_begins_nothing_until_requests_outweigh_it(store: Store) -> None:
    settlement = await begun(store, "10")
    await store.record_outcome(settlement.id, Settled(Decimal("12.5")))
    assert (await store.account("alice")).queued == Decimal("-2.5")
    assert await store.next_settlement(settlement.account, "s-2") == NextSettlement()
    assert await store.unfinished("settle") == []
    await asked(store, "2.5", "k2")
    assert await store.next_settlement(settlement.account, "s-2") == NextSettlement()
    assert await store.unfinished("settle") == []
    await asked(store, "0.01", "k3")
    step = await store.next_settlement(settlement.account, "s-2")
    assert step.settlement is not None
    assert step.settlement.amount == Decimal("0.01")


async def test_an_account_in_set_up_begins_nothing_but_is_listed_as_work(store: Store) -> None:
    account = await store.open_account("alice")
    await store.queue_settlement("alice", quantity("3"), "k")
    assert await store.next_settlement(account.number, "s-1") == NextSettlement()
    assert await store.unfinished("settle") == [account.number]
    await store.finish_hook(account.number, "setup_account")
    assert (await store.next_settlement(account.number, "s-1")).begun


async def test_a_closed_account_begins_nothing(store: Store) -> None:
    account = await asked(store, "10")
    await store.close_account("alice")
    assert await store.next_settlement(account.number, "s-1") == NextSettlement()
    assert await store.unfinished("settle") == []


@pytest.mark.parametrize(
    ("queued", "scale", "amount"),
    [
        ("10.129", 2, "10.12"),
        ("10.129", 3, "10.129"),
        ("10.129", 9, "10.129"),
        ("10.129", 0, "10"),
        ("10.129", None, "10.129"),
        ("1" + "0" * 600 + "." + "9" * 200, 0, "1" + "0" * 600),
        ("0." + "0" * 254 + "1", 255, "0." + "0" * 254 + "1"),
    ],
)
async def test_the_amount_is_rounded_down_to_the_asset_scale(
    store: Store, queued: str, scale: int | None, amount: str
) -> None:
    account = await asked(store, queued)
    step = await store.next_settlement(account.number, "s-1", asset_scale=scale)
    assert step.settlement is not None
    assert step.settlement.amount == Decimal(amount)
    after = await store.account("alice")
    assert after.in_flight == Decimal(amount)


async def test_the_amount_has_no_needless_digit(store: Store) -> None:
    account = await asked(store, "10.5")
    step = await store.next_settlement(account.number, "s-1", asset_scale=6)
    assert step.settlement is not None
    assert str(step.settlement.amount) == "10.5"
    assert str((await store.account("alice")).queued) == "0"


async def test_a_queue_finer_than_the_asset_scale_rests_until_more_comes(store: Store) -> None:
    account = await asked(store, "0.009", "k1")
    step = await store.next_settlement(account.number, "s-1", asset_scale=2)
    assert step == NextSettlement()
    resting = await store.account("alice")
    assert resting.retry_ms is None
    assert resting.waiting == "0.009 is finer than asset scale 2: it waits for more"
    assert await store.unfinished("settle") == []
    assert await store.next_settlement(account.number, "s-1", asset_scale=2) == NextSettlement()
    await asked(store, "0.001", "k2")
    step = await store.next_settlement(account.number, "s-1", asset_scale=2)
    assert step.settlement is not None
    assert step.settlement.amount == Decimal("0.01")
    assert (await store.account("alice")).waiting is None


async def test_a_backoff_delays_the_next_attempt(store: Store, clock: Clock) -> None:
    settlement = await begun(store, "10")
    await store.record_outcome(settlement.id, NotSent("wallet is empty", 5000))
    assert await store.next_settlement(settlement.account, "s-2") == NextSettlement(delay_ms=5000)
    assert await store.unfinished("settle") == [settlement.account]
    clock.ms += 4999
    assert await store.next_settlement(settlement.account, "s-2") == NextSettlement(delay_ms=1)
    clock.ms += 1
    step = await store.next_settlement(settlement.account, "s-2")
    assert step.begun
    assert step.settlement is not None
    assert step.settlement.failures == 1
    assert (await store.account("alice")).waiting is None


@pytest.mark.parametrize("outcome", [NotSent("empty", HOUR_MS), Unknown("time-out", HOUR_MS)])
async def test_a_clock_set_back_stalls_an_account_for_an_hour_at_most(
    store: Store, clock: Clock, outcome: NotSent | Unknown
) -> None:
    settlement = await begun(store, "10")
    await store.record_outcome(settlement.id, outcome)
    clock.ms -= 1000 * HOUR_MS
    assert (await store.next_settlement(settlement.account, "s-2")).delay_ms == HOUR_MS
    clock.ms += HOUR_MS
    step = await store.next_settlement(settlement.account, "s-2")
    assert step.begun if isinstance(outcome, NotSent) else step.delay_ms == 0


async def test_a_clock_set_forward_only_makes_things_due(store: Store, clock: Clock) -> None:
    settlement = await begun(store, "10")
    await store.record_outcome(settlement.id, NotSent("empty", HOUR_MS))
    clock.ms += 100_000 * HOUR_MS
    assert (await store.next_settlement(settlement.account, "s-2")).begun


async def test_settlements_are_listed_by_account_and_state_newest_first(store: Store) -> None:
    for n, account_id in enumerate(["alice", "bob", "alice"]):
        account = await asked(store, "1", f"k{n}", account_id)
        await store.next_settlement(account.number, f"s-{n}")
        if n < 2:
            await store.record_outcome(f"s-{n}", Settled(Decimal(1)))

    async def listed(**filters: object) -> list[str]:
        return [row.id for row in await store.settlements(**filters)]  # type: ignore[arg-type]

    assert await listed() == ["s-2", "s-1", "s-0"]
    assert await listed(account_id="alice") == ["s-2", "s-0"]
    assert await listed(state="settled") == ["s-1", "s-0"]
    assert await listed(account_id="alice", state="in_flight") == ["s-2"]
    assert await listed(account_id="nobody") == []
    assert await listed(limit=1) == ["s-2"]
    newest = (await store.settlements(limit=1))[0]
    assert await listed(before=newest.number) == ["s-1", "s-0"]


async def test_the_settlements_of_every_life_of_an_id_are_listed(store: Store) -> None:
    for n in range(2):
        settlement = await begun(store, "1", f"s-{n}")
        await store.record_outcome(settlement.id, Settled(Decimal(1)))
        await store.close_account("alice")
    rows = await store.settlements(account_id="alice")
    assert [row.id for row in rows] == ["s-1", "s-0"]
    assert rows[0].account != rows[1].account


async def test_a_settlement_that_is_cancelled_before_it_begins_does_not(store: Store) -> None:
    account = await asked(store, "10")
    before = await snapshot(store)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.next_settlement(account.number, "s-1")
    assert scope.cancelled_caught
    assert await snapshot(store) == before


async def test_an_id_of_an_earlier_settlement_is_never_taken_again(store: Store) -> None:
    settlement = await begun(store, "10", "s-1")
    await store.record_outcome("s-1", Settled(settlement.amount))
    await asked(store, "5", "k2")
    await refused(store, Exception, store.next_settlement(settlement.account, "s-1"))
    assert (await store.next_settlement(settlement.account, "s-2")).begun
