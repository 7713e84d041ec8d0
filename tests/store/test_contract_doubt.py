"""What every store must do with settlements in doubt: the operator's word, closing, a restart."""

from decimal import Decimal

import pytest

from settled.errors import AccountNotFound, NotResolvable
from settled.store.protocol import Store
from settled.store.records import (
    NotSent,
    Settled,
    Unknown,
)
from tests.store.steps import (
    HOUR_MS,
    OPEN_STATES,
    Clock,
    asked,
    balances,
    begun,
    brought_to,
    refused,
    snapshot,
)

CLOSED = "the account is closed"


# --- the operator's word ---


@pytest.mark.parametrize("state", ["unknown", "parked"])
@pytest.mark.parametrize(("paid", "queued"), [("10", "0"), ("4", "6"), ("11", "-1")])
async def test_the_operator_may_say_what_was_settled(
    store: Store, clock: Clock, state: str, paid: str, queued: str
) -> None:
    settlement = await brought_to(store, state)
    clock.ms += 3
    done = await store.resolve_settlement(settlement.id, Settled(Decimal(paid)))
    assert (done.state, done.settled) == ("settled", Decimal(paid))
    assert (done.reason, done.updated_ms) == ("resolved by the operator", clock.ms)
    assert await store.settlement(settlement.id) == done
    account = await store.account("alice")
    assert (account.settled, account.queued) == (Decimal(paid), Decimal(queued))
    assert (account.retry_ms, account.waiting) == (0, None)


@pytest.mark.parametrize("state", ["unknown", "parked"])
@pytest.mark.parametrize(
    ("said", "kept"), [("", "resolved by the operator"), ("not on the ledger", "not on the ledger")]
)
async def test_the_operator_may_say_that_nothing_was_sent(
    store: Store, state: str, said: str, kept: str
) -> None:
    settlement = await brought_to(store, state)
    done = await store.resolve_settlement(settlement.id, NotSent(said))
    assert (done.state, done.reason) == ("not_sent", kept)
    assert done.settled == 0
    account = await store.account("alice")
    assert balances(account) == {"requested": "10", "queued": "10"}
    assert account.failures == 0
    step = await store.next_settlement(account.number, "s-2")
    assert step.begun


async def test_the_operator_may_say_that_zero_was_settled(store: Store) -> None:
    settlement = await brought_to(store, "parked")
    await store.resolve_settlement(settlement.id, Settled(Decimal(0)))
    account = await store.account("alice")
    assert balances(account) == {"requested": "10", "queued": "10"}
    assert account.retry_ms is None


async def test_the_operator_may_not_overtake_an_attempt_in_flight(store: Store) -> None:
    settlement = await begun(store)
    for outcome in (Settled(Decimal(10)), NotSent("")):
        error = await refused(
            store, NotResolvable, store.resolve_settlement(settlement.id, outcome)
        )
        assert "in flight now; wait for its outcome" in str(error)


@pytest.mark.parametrize("state", ["settled", "not_sent"])
async def test_the_operator_may_not_change_a_final_outcome(store: Store, state: str) -> None:
    settlement = await brought_to(store, state)
    for outcome in (Settled(Decimal(10)), NotSent("")):
        error = await refused(
            store, NotResolvable, store.resolve_settlement(settlement.id, outcome)
        )
        assert state in str(error)


# --- closed accounts ---


@pytest.mark.parametrize("state", OPEN_STATES)
@pytest.mark.parametrize(
    ("outcome", "queued"),
    [(Settled(Decimal(4)), 6), (Settled(Decimal(0)), 10), (NotSent("empty"), 10)],
)
async def test_what_a_closed_account_still_owes_waits_in_sight(
    store: Store, state: str, outcome: Settled | NotSent, queued: int
) -> None:
    settlement = await brought_to(store, state)
    await store.close_account("alice")
    await store.record_outcome(settlement.id, outcome)
    account = await store.account("alice")
    assert (account.queued, account.waiting) == (Decimal(queued), CLOSED)
    assert await store.unfinished("settle") == []
    assert not (await store.next_settlement(account.number, "s-2")).begun


@pytest.mark.parametrize("outcome", [Settled(Decimal(4)), NotSent("")])
async def test_the_operator_resolves_for_a_closed_account_too(
    store: Store, outcome: Settled | NotSent
) -> None:
    settlement = await brought_to(store, "parked")
    await store.close_account("alice")
    await store.resolve_settlement(settlement.id, outcome)
    account = await store.account("alice")
    assert account.waiting == CLOSED
    assert not (await store.next_settlement(account.number, "s-2")).begun


async def test_a_closed_account_that_settled_all_waits_for_nothing(store: Store) -> None:
    settlement = await begun(store)
    await store.close_account("alice")
    await store.record_outcome(settlement.id, Settled(Decimal(10)))
    account = await store.account("alice")
    assert balances(account) == {"requested": "10", "settled": "10"}
    assert account.waiting is None


@pytest.mark.parametrize("state", ["in_flight", "unknown"])
async def test_an_open_attempt_of_a_closed_account_is_still_work(store: Store, state: str) -> None:
    settlement = await brought_to(store, state)
    await store.close_account("alice")
    assert await store.unfinished("settle") == [settlement.account]
    step = await store.next_settlement(settlement.account, "s-2")
    assert step.settlement is not None
    assert step.settlement.id == settlement.id


# --- due again ---


async def test_trying_now_ends_a_backoff(store: Store) -> None:
    settlement = await begun(store)
    await store.record_outcome(settlement.id, NotSent("empty", HOUR_MS))
    account = await store.retry_settlement("alice")
    assert (account.retry_ms, account.waiting, account.failures) == (0, None, 1)
    assert await store.account("alice") == account
    assert (await store.next_settlement(account.number, "s-2")).begun


async def test_trying_now_ends_a_rest(store: Store) -> None:
    settlement = await begun(store)
    await store.record_outcome(settlement.id, Settled(Decimal(0)))
    account = await store.retry_settlement("alice")
    assert (account.retry_ms, account.waiting) == (0, None)
    assert await store.unfinished("settle") == [account.number]


async def test_trying_now_concerns_one_account(store: Store) -> None:
    """What another account waits for changes nothing, and is not changed."""
    await brought_to(store, "unknown")
    other = await store.account("alice")
    bob = await asked(store, "5", account_id="bob")
    await store.next_settlement(bob.number, "s of bob")
    await store.record_outcome("s of bob", Settled(Decimal(0)))
    assert (await store.account("bob")).waiting
    before = await store.settlement("s-1")
    assert (await store.retry_settlement("bob")).waiting is None
    assert await store.settlement("s-1") == before
    assert await store.account("alice") == other


async def test_trying_now_asks_for_an_unknown_outcome_at_once(store: Store) -> None:
    settlement = await begun(store)
    await store.record_outcome(settlement.id, Unknown("time-out", HOUR_MS))
    account = await store.retry_settlement("alice")
    assert (account.retry_ms, account.waiting) == (0, "time-out")
    assert (await store.settlement(settlement.id)).retry_ms == 0
    assert (await store.next_settlement(account.number, "s-2")).delay_ms == 0


async def test_trying_now_leaves_the_parked_to_the_operator(store: Store) -> None:
    settlement = await brought_to(store, "parked")
    account = await store.retry_settlement("alice")
    assert account.waiting == "the engine cannot tell"
    assert await store.settlement(settlement.id) == settlement


async def test_trying_now_needs_an_open_account(store: Store) -> None:
    await refused(store, AccountNotFound, store.retry_settlement("alice"))
    await asked(store)
    await store.close_account("alice")
    await refused(store, AccountNotFound, store.retry_settlement("alice"))


# --- the start of a daemon ---


async def test_at_start_what_was_in_flight_is_unknown(store: Store, clock: Clock) -> None:
    settlement = await begun(store)
    clock.ms += 3
    assert await store.interrupt_settlements() == 1
    after = await store.settlement(settlement.id)
    assert (after.state, after.failures, after.updated_ms) == ("unknown", 0, clock.ms)
    assert after.reason == "the daemon stopped while it was in flight"
    account = await store.account("alice")
    assert balances(account) == {"requested": "10", "unknown": "10"}
    assert account.waiting == after.reason
    assert (await store.next_settlement(account.number, "s-2")).delay_ms == 0
    assert await store.interrupt_settlements() == 0


@pytest.mark.parametrize("state", ["unknown", "parked"])
async def test_at_start_what_is_unknown_or_parked_is_asked_for_again(
    store: Store, state: str
) -> None:
    settlement = await brought_to(store, state)
    assert await store.interrupt_settlements() == 0
    after = await store.settlement(settlement.id)
    assert (after.state, after.retry_ms) == ("unknown", 0)
    assert after.reason == settlement.reason
    assert balances(await store.account("alice")) == {"requested": "10", "unknown": "10"}
    assert await store.unfinished("settle") == [settlement.account]


async def test_at_start_a_rest_ends_but_a_backoff_stays(store: Store, clock: Clock) -> None:
    await begun(store)
    await store.record_outcome("s-1", Settled(Decimal(0)))
    bob = await asked(store, "5", "k", "bob")
    await store.next_settlement(bob.number, "s-2")
    await store.record_outcome("s-2", NotSent("empty", 5000))
    assert await store.interrupt_settlements() == 0
    assert (await store.account("alice")).retry_ms == 0
    assert len(await store.unfinished("settle")) == 2
    bob = await store.account("bob")
    assert (bob.retry_ms, bob.waiting, bob.failures) == (clock.ms + 5000, "empty", 1)


@pytest.mark.parametrize("state", ["settled", "not_sent"])
async def test_at_start_final_outcomes_stay(store: Store, state: str) -> None:
    await brought_to(store, state)
    before = await snapshot(store)
    assert await store.interrupt_settlements() == 0
    assert await snapshot(store) == before


async def test_at_start_closed_accounts_stay_closed(store: Store) -> None:
    settlement = await begun(store)
    await store.close_account("alice")
    assert await store.interrupt_settlements() == 1
    await store.record_outcome(settlement.id, Settled(Decimal(0)))
    await store.interrupt_settlements()
    account = await store.account("alice")
    assert (account.state, account.waiting) == ("closed", CLOSED)
    assert await store.unfinished("settle") == []


async def test_a_clock_that_was_set_back_changes_only_the_turn_of_the_account_that_is_looked_at(
    store: Store, clock: Clock
) -> None:
    settlement = await begun(store)
    await store.record_outcome(settlement.id, Unknown("time-out", HOUR_MS))
    clock.ms -= 1000 * HOUR_MS
    bob = await asked(store, "5", "k of bob", "bob")
    assert (await store.next_settlement(bob.number, "s-2")).begun
    await store.record_outcome("s-2", Unknown("time-out", 5000))
    assert (await store.next_settlement(settlement.account, "none")).delay_ms == HOUR_MS
    assert (await store.next_settlement(bob.number, "none")).delay_ms == 5000


async def test_trying_now_leaves_the_history_alone(store: Store) -> None:
    settlement = await begun(store)
    await store.record_outcome(settlement.id, Unknown("time-out", 5000))
    await store.record_outcome(settlement.id, Settled(Decimal(4)))
    before = await store.settlement(settlement.id)
    await store.retry_settlement("alice")
    assert await store.settlement(settlement.id) == before
