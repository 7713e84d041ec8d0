"""What every store must make of the outcome of a settlement: settled, not sent, or unknown."""

from decimal import Decimal
from typing import Any

import pytest

from settled import limits
from settled.amounts import to_text
from settled.errors import InvalidAmount, NotFound, NotResolvable
from settled.store.protocol import Store
from settled.store.records import (
    NotSent,
    Parked,
    Settled,
    SettlementOutcome,
    Unknown,
)
from tests.store.steps import (
    OPEN_STATES,
    START_MS,
    Clock,
    asked,
    balances,
    begun,
    brought_to,
    opened,
    refused,
)


@pytest.mark.parametrize("state", OPEN_STATES)
@pytest.mark.parametrize(
    ("paid", "queued"),
    [("10", "0"), ("7.5", "2.5"), ("12", "-2"), ("0.0000000001", "9.9999999999")],
)
async def test_what_was_settled_leaves_the_rest_queued(
    store: Store, clock: Clock, state: str, paid: str, queued: str
) -> None:
    settlement = await brought_to(store, state)
    clock.ms += 3
    done = await store.record_outcome(settlement.id, Settled(Decimal(paid)))
    assert (done.state, done.settled, done.reason) == ("settled", Decimal(paid), None)
    assert done.amount == settlement.amount
    assert (done.created_ms, done.updated_ms) == (START_MS, START_MS + 3)
    assert await store.settlement(settlement.id) == done
    account = await store.account("alice")
    assert (account.settled, account.queued) == (Decimal(paid), Decimal(queued))
    assert account.in_flight == account.unknown == 0
    assert (account.retry_ms, account.waiting, account.failures) == (0, None, 0)


@pytest.mark.parametrize("state", OPEN_STATES)
async def test_settling_zero_lets_the_queue_rest(store: Store, state: str) -> None:
    settlement = await brought_to(store, state)
    done = await store.record_outcome(settlement.id, Settled(Decimal(0)))
    assert (done.state, done.settled) == ("settled", Decimal(0))
    account = await store.account("alice")
    assert balances(account) == {"requested": "10", "queued": "10"}
    assert account.retry_ms is None
    assert account.waiting == "the engine settled 0 of 10: it waits for more"
    assert await store.unfinished("settle") == []
    assert not (await store.next_settlement(account.number, "s-2")).begun


@pytest.mark.parametrize("state", OPEN_STATES)
async def test_a_request_that_came_meanwhile_keeps_the_queue_from_resting(
    store: Store, state: str
) -> None:
    settlement = await brought_to(store, state)
    before = (await store.account("alice")).waiting
    account = await asked(store, "90", "k2")
    assert account.waiting == before
    await store.record_outcome(settlement.id, Settled(Decimal(0)))
    account = await store.account("alice")
    assert (account.retry_ms, account.waiting) == (0, None)
    step = await store.next_settlement(account.number, "s-2")
    assert step.settlement is not None
    assert step.settlement.amount == 100


@pytest.mark.parametrize("state", OPEN_STATES)
async def test_not_sent_is_queued_again_with_backoff(
    store: Store, clock: Clock, state: str
) -> None:
    settlement = await brought_to(store, state)
    clock.ms += 3
    done = await store.record_outcome(settlement.id, NotSent("wallet is empty", 5000))
    assert (done.state, done.reason) == ("not_sent", "wallet is empty")
    assert done.settled == 0
    account = await store.account("alice")
    assert balances(account) == {"requested": "10", "queued": "10"}
    assert (account.retry_ms, account.failures) == (clock.ms + 5000, 1)
    assert account.waiting == "wallet is empty"


async def test_failures_in_a_row_are_counted_until_one_succeeds(store: Store) -> None:
    settlement = await begun(store, "10", "s-0")
    for n in range(3):
        await store.record_outcome(settlement.id, NotSent("empty"))
        assert (await store.account("alice")).failures == n + 1
        step = await store.next_settlement(settlement.account, f"s-{n + 1}")
        assert step.settlement is not None
        settlement = step.settlement
        assert settlement.failures == n + 1
    await store.record_outcome(settlement.id, Settled(Decimal(4)))
    assert (await store.account("alice")).failures == 0
    step = await store.next_settlement(settlement.account, "s-9")
    assert step.settlement is not None
    assert step.settlement.failures == 0


async def test_an_unknown_outcome_keeps_its_money_apart(store: Store, clock: Clock) -> None:
    settlement = await begun(store, "10")
    clock.ms += 3
    unknown = await store.record_outcome(settlement.id, Unknown("time-out", 5000))
    assert (unknown.state, unknown.reason, unknown.failures) == ("unknown", "time-out", 0)
    assert (unknown.retry_ms, unknown.updated_ms) == (clock.ms + 5000, clock.ms)
    account = await store.account("alice")
    assert balances(account) == {"requested": "10", "unknown": "10"}
    assert account.waiting == "time-out"
    assert await store.unfinished("settle") == [account.number]


async def test_each_vain_question_about_an_unknown_outcome_is_counted(
    store: Store, clock: Clock
) -> None:
    settlement = await brought_to(store, "unknown")
    for n in (1, 2, 3):
        clock.ms += 10_000
        asked_again = await store.record_outcome(settlement.id, Unknown(f"reason {n}", n))
        assert (asked_again.failures, asked_again.retry_ms) == (n, clock.ms + n)
        assert (await store.account("alice")).waiting == f"reason {n}"
    assert balances(await store.account("alice")) == {"requested": "10", "unknown": "10"}


@pytest.mark.parametrize("state", OPEN_STATES)
async def test_parking_keeps_the_money_unknown(store: Store, state: str) -> None:
    settlement = await brought_to(store, state)
    parked = await store.record_outcome(settlement.id, Parked("the engine cannot tell"))
    assert (parked.state, parked.reason) == ("parked", "the engine cannot tell")
    account = await store.account("alice")
    assert balances(account) == {"requested": "10", "unknown": "10"}
    assert account.waiting == "the engine cannot tell"


async def test_a_parked_outcome_may_become_unknown_again(store: Store) -> None:
    settlement = await brought_to(store, "parked")
    unknown = await store.record_outcome(settlement.id, Unknown("asked again", 7))
    assert (unknown.state, unknown.failures) == ("unknown", 1)
    assert balances(await store.account("alice")) == {"requested": "10", "unknown": "10"}


@pytest.mark.parametrize("state", ["settled", "not_sent"])
@pytest.mark.parametrize("outcome", [Settled(Decimal(10)), NotSent("x"), Unknown("x"), Parked("x")])
async def test_a_final_outcome_stands(store: Store, state: str, outcome: SettlementOutcome) -> None:
    settlement = await brought_to(store, state)
    error = await refused(store, NotResolvable, store.record_outcome(settlement.id, outcome))
    assert state in str(error)
    assert settlement.id in str(error)


async def test_an_outcome_of_no_settlement_is_refused(store: Store) -> None:
    await opened(store)
    await refused(store, NotFound, store.record_outcome("s-1", Settled(Decimal(1))))
    await refused(store, NotFound, store.resolve_settlement("s-1", Settled(Decimal(1))))


@pytest.mark.parametrize(
    "amount", [1.5, "1", None, True, Decimal("-1"), Decimal("NaN"), Decimal("Infinity")]
)
@pytest.mark.parametrize("state", OPEN_STATES)
async def test_an_amount_that_is_none_is_refused(store: Store, state: str, amount: Any) -> None:
    settlement = await brought_to(store, state)
    await refused(store, InvalidAmount, store.record_outcome(settlement.id, Settled(amount)))
    if state != "in_flight":
        await refused(
            store, InvalidAmount, store.resolve_settlement(settlement.id, Settled(amount))
        )


@pytest.mark.parametrize("amount", ["1E+1024", "1E-256", "0." + "1" * 256])
async def test_an_amount_beyond_the_limits_is_refused(store: Store, amount: str) -> None:
    settlement = await begun(store)
    outcome = Settled(Decimal(amount))
    await refused(store, InvalidAmount, store.record_outcome(settlement.id, outcome))


async def test_amounts_of_a_thousand_digits_settle_to_the_last_one(store: Store) -> None:
    asked_for = "1" + "0" * 999 + "." + "0" * 23 + "1"
    settlement = await begun(store, asked_for)
    paid = Decimal("9" * 999 + "." + "9" * 24)
    await store.record_outcome(settlement.id, Settled(paid))
    account = await store.account("alice")
    assert account.settled == paid
    assert to_text(account.queued) == "0." + "0" * 23 + "2"
    step = await store.next_settlement(account.number, "s-2")
    assert step.settlement is not None
    await store.record_outcome("s-2", Settled(Decimal("1" + "0" * 1000)))
    account = await store.account("alice")
    assert to_text(account.queued) == "-" + "9" * 1000 + "." + "9" * 23 + "8"
    assert account.in_flight == 0


@pytest.mark.parametrize("kind", [NotSent, Unknown, Parked])
async def test_a_long_reason_is_cut_to_what_is_kept(store: Store, kind: Any) -> None:
    settlement = await begun(store)
    after = await store.record_outcome(settlement.id, kind("x" * 5000))
    kept = "x" * limits.REASON_CHARS_MAX
    assert after.reason == kept
    assert (await store.account("alice")).waiting == kept


async def test_the_longest_amounts_still_give_a_reason_that_is_kept(store: Store) -> None:
    amount = "1" + "0" * 1000 + ".1"
    settlement = await begun(store, amount)
    await store.record_outcome(settlement.id, Settled(Decimal(0)))
    waiting = (await store.account("alice")).waiting
    assert waiting is not None
    assert len(waiting) <= limits.REASON_CHARS_MAX
