"""What every store must do with the delivery of credits: never lost, never made twice by guess."""

from decimal import Decimal

import pytest
from msgspec.structs import replace
from outcome import Error, Value

from settled import limits
from settled.errors import AccountNotFound, InvalidAmount, NotFound, SettlementConflict
from settled.ids import credit_key
from settled.store.protocol import Store
from settled.store.protocol_incoming import CreditLook, CreditSent
from settled.store.records import (
    AddCredit,
    Ambiguous,
    Credit,
    Delivered,
    NextDeliveries,
    NotDelivered,
)
from tests.store.steps import (
    HOUR_MS,
    KEPT_KEY_MS,
    Clock,
    balances,
    credited,
    handed_out,
    opened,
    parked,
    refused,
    snapshot,
)

ADVICE = (
    "no clear answer for 23 h: find out whether the connector credited it, "
    "then `settled credits resolve` or `settled credits retry`"
)


# --- handing out ---


async def test_a_credit_is_handed_out_once_while_it_is_being_sent(
    store: Store, clock: Clock
) -> None:
    credit = await credited(store)
    clock.ms += 3
    step = await store.next_deliveries(credit.account, 8)
    (sent,) = step.credits
    assert step.delay_ms is None
    assert (sent.id, sent.amount) == (credit.id, credit.amount)
    assert (sent.attempts, sent.ambiguous_ms) == (1, None)
    stored = await store.credit(credit.id)
    assert (stored.attempts, stored.ambiguous_ms) == (1, clock.ms)
    assert stored.updated_ms == clock.ms > stored.created_ms
    clock.ms += 1000
    again = await store.next_deliveries(credit.account, 8, sending={sent.number})
    assert again == NextDeliveries()


async def test_a_credit_whose_sender_died_is_handed_out_again(store: Store, clock: Clock) -> None:
    credit = await credited(store)
    await handed_out(store, credit)
    first_sent_ms = clock.ms
    clock.ms += 1
    sent = await handed_out(store, credit)
    assert (sent.attempts, sent.ambiguous_ms) == (2, first_sent_ms)


async def test_no_more_are_handed_out_than_asked_for_oldest_first(store: Store) -> None:
    for n in range(5):
        credit = await credited(store, "1", f"tx-{n}")
    step = await store.next_deliveries(credit.account, 2)
    assert [row.settlement_id for row in step.credits] == ["tx-0", "tx-1"]
    assert step.delay_ms == 0
    sending = {row.number for row in step.credits}
    step = await store.next_deliveries(credit.account, 9, sending=sending)
    assert [row.settlement_id for row in step.credits] == ["tx-2", "tx-3", "tx-4"]
    assert step.delay_ms is None


async def test_those_under_way_take_no_place_of_those_that_are_due(
    store: Store, clock: Clock
) -> None:
    for n in range(4):
        credit = await credited(store, "1", f"tx-{n}")
    (first,) = (await store.next_deliveries(credit.account, 1)).credits
    step = await store.next_deliveries(credit.account, 1, sending={first.number})
    assert [row.settlement_id for row in step.credits] == ["tx-1"]
    await store.record_delivery(first, NotDelivered("down", 5000))
    sending = {row.number for row in step.credits}
    step = await store.next_deliveries(credit.account, 8, sending=sending)
    assert [row.settlement_id for row in step.credits] == ["tx-2", "tx-3"]
    assert step.delay_ms == 5000


async def test_credits_are_handed_out_in_the_order_they_are_due(store: Store, clock: Clock) -> None:
    delays = {"tx-0": 3000, "tx-1": 1000, "tx-2": 2000, "tx-3": 1000}
    for settlement_id in delays:
        credit = await credited(store, "1", settlement_id)
    for sent in (await store.next_deliveries(credit.account, 9)).credits:
        await store.record_delivery(sent, NotDelivered("refused", delays[sent.settlement_id]))
    clock.ms += 5000
    step = await store.next_deliveries(credit.account, 9)
    order = [row.settlement_id for row in step.credits]
    assert order == ["tx-1", "tx-3", "tx-2", "tx-0"]


async def test_nothing_to_deliver_means_no_wait(store: Store) -> None:
    account = await opened(store)
    assert await store.next_deliveries(account.number, 8) == NextDeliveries((), None)
    assert await store.unfinished("deliver") == []


async def test_the_credits_of_another_account_are_not_handed_out(store: Store) -> None:
    alice = await opened(store, "alice")
    await credited(store, "1", "tx-1", "bob")
    assert await store.next_deliveries(alice.number, 8) == NextDeliveries((), None)


async def test_a_closed_account_still_gets_its_credits(store: Store) -> None:
    credit = await credited(store)
    await store.close_account("alice")
    assert await store.unfinished("deliver") == [credit.account]
    sent = await handed_out(store, credit)
    await store.record_delivery(sent, Delivered())
    assert balances(await store.account("alice")) == {"received": "10", "credited": "10"}


# --- what became of the delivery ---


async def test_an_acknowledged_credit_is_credited(store: Store, clock: Clock) -> None:
    credit = await credited(store)
    sent = await handed_out(store, credit)
    clock.ms += 3
    await store.record_delivery(sent, Delivered())
    done = await store.credit(credit.id)
    assert (done.state, done.reason, done.updated_ms) == ("credited", None, clock.ms)
    assert balances(await store.account("alice")) == {"received": "10", "credited": "10"}
    assert await store.unfinished("deliver") == []
    assert await store.next_deliveries(credit.account, 8) == NextDeliveries((), None)


async def test_an_acknowledgement_clears_the_reason_of_earlier_failures(
    store: Store, clock: Clock
) -> None:
    credit = await credited(store)
    await store.record_delivery(await handed_out(store, credit), NotDelivered("down", 1000))
    clock.ms += 1000
    await store.record_delivery(await handed_out(store, credit), Delivered())
    done = await store.credit(credit.id)
    assert (done.state, done.reason, done.attempts) == ("credited", None, 2)


async def test_one_that_never_reached_the_connector_is_not_ambiguous(
    store: Store, clock: Clock
) -> None:
    credit = await credited(store)
    sent = await handed_out(store, credit)
    await store.record_delivery(sent, NotDelivered("no route", 5000))
    after = await store.credit(credit.id)
    assert (after.state, after.reason, after.attempts) == ("undelivered", "no route", 1)
    assert (after.retry_ms, after.ambiguous_ms) == (clock.ms + 5000, None)
    assert await store.next_deliveries(credit.account, 8) == NextDeliveries((), 5000)


async def test_one_that_never_reached_the_connector_is_tried_for_ever(
    store: Store, clock: Clock
) -> None:
    credit = await credited(store)
    for _ in range(60):
        sent = await handed_out(store, credit)
        assert sent.ambiguous_ms is None
        await store.record_delivery(sent, NotDelivered("no route", HOUR_MS))
        clock.ms += HOUR_MS
    assert (await handed_out(store, credit)).attempts == 61


async def test_an_unclear_answer_is_remembered_from_the_first_on(
    store: Store, clock: Clock
) -> None:
    credit = await credited(store)
    first_ms = clock.ms
    sent = await handed_out(store, credit)
    clock.ms += 500
    await store.record_delivery(sent, Ambiguous("time-out", 1000))
    after = await store.credit(credit.id)
    assert (after.reason, after.ambiguous_ms) == ("time-out", first_ms)
    assert after.retry_ms == clock.ms + 1000
    clock.ms += 1000
    sent = await handed_out(store, credit)
    assert sent.ambiguous_ms == first_ms
    await store.record_delivery(sent, NotDelivered("no route", 1000))
    assert (await store.credit(credit.id)).ambiguous_ms == first_ms


@pytest.mark.parametrize(("age_ms", "state"), [(-1, "undelivered"), (0, "parked")])
async def test_one_that_is_unclear_for_23_hours_is_parked(
    store: Store, clock: Clock, age_ms: int, state: str
) -> None:
    credit = await credited(store)
    await store.record_delivery(await handed_out(store, credit), Ambiguous("time-out"))
    clock.ms += KEPT_KEY_MS + age_ms
    step = await store.next_deliveries(credit.account, 8)
    assert len(step.credits) == (1 if state == "undelivered" else 0)
    after = await store.credit(credit.id)
    assert (after.state, after.attempts) == (state, 1 + len(step.credits))
    if state == "parked":
        assert (step.delay_ms, step.parked) == (None, (after,))
        assert after.reason == f"time-out; {ADVICE}"
        assert balances(await store.account("alice")) == {"received": "10", "parked": "10"}
        assert await store.unfinished("deliver") == []


async def test_one_whose_sender_died_and_that_was_left_for_a_day_is_parked(
    store: Store, clock: Clock
) -> None:
    credit = await credited(store)
    await handed_out(store, credit)
    clock.ms += KEPT_KEY_MS
    await store.next_deliveries(credit.account, 8)
    after = await store.credit(credit.id)
    assert (after.state, after.reason) == ("parked", ADVICE)


async def test_the_advice_stays_however_long_the_answer_was(store: Store, clock: Clock) -> None:
    credit = await parked(store, clock, "x" * 5000)
    assert credit.reason is not None
    assert len(credit.reason) == limits.REASON_CHARS_MAX
    assert credit.reason.startswith("xxx")
    assert credit.reason.endswith(f"; {ADVICE}")


async def test_the_parked_do_not_take_the_place_of_those_to_be_sent(
    store: Store, clock: Clock
) -> None:
    for n in range(4):
        credit = await credited(store, "1", f"tx-{n}")
    for sent in (await store.next_deliveries(credit.account, 3)).credits:
        await store.record_delivery(sent, Ambiguous("time-out"))
    clock.ms += KEPT_KEY_MS
    step = await store.next_deliveries(credit.account, 2)
    states = [row.state for row in await store.credits()]
    assert [row.settlement_id for row in step.credits] == ["tx-3"]
    assert [row.settlement_id for row in step.parked] == ["tx-0", "tx-1", "tx-2"]
    assert states == ["undelivered", "parked", "parked", "parked"]


@pytest.mark.parametrize(("age_ms", "state"), [(-1, "undelivered"), (0, "parked")])
async def test_a_clock_that_stands_or_is_set_back_makes_the_unclear_no_younger(
    store: Store, clock: Clock, age_ms: int, state: str
) -> None:
    credit = await credited(store)
    await store.record_delivery(await handed_out(store, credit), Ambiguous("time-out"))
    clock.uptime_ms += KEPT_KEY_MS - HOUR_MS
    sent = await handed_out(store, credit)
    clock.ms -= 100 * HOUR_MS
    await store.record_delivery(sent, Ambiguous("time-out"))
    await store.age_keys()
    clock.ms += HOUR_MS + age_ms
    clock.uptime_ms += 1
    await store.next_deliveries(credit.account, 8)
    assert (await store.credit(credit.id)).state == state


@pytest.mark.parametrize(("back_ms", "state"), [(60_000, "undelivered"), (60_001, "parked")])
async def test_a_clock_set_back_over_a_reboot_parks_the_unclear(
    store: Store, clock: Clock, back_ms: int, state: str
) -> None:
    credit = await credited(store)
    await store.record_delivery(await handed_out(store, credit), Ambiguous("time-out"))
    clock.ms -= back_ms
    clock.boot = "second"
    await store.interrupt_settlements()
    clock.ms += back_ms
    await store.next_deliveries(credit.account, 8)
    assert (await store.credit(credit.id)).state == state


async def test_a_clock_set_back_stalls_a_credit_for_an_hour_at_most(
    store: Store, clock: Clock
) -> None:
    credit = await credited(store)
    await store.record_delivery(await handed_out(store, credit), NotDelivered("x", HOUR_MS))
    clock.ms -= 1000 * HOUR_MS
    assert await store.next_deliveries(credit.account, 8) == NextDeliveries((), HOUR_MS)
    clock.ms += HOUR_MS
    assert (await handed_out(store, credit)).attempts == 2


async def test_an_answer_to_no_credit_is_refused(store: Store) -> None:
    credit = await credited(store)
    stranger = Credit(
        number=99,
        id="no such",
        account=credit.account,
        account_id="alice",
        settlement_id="tx-9",
        amount=Decimal(1),
        state="undelivered",
        created_ms=0,
        updated_ms=0,
    )
    await refused(store, NotFound, store.record_delivery(stranger, Delivered()))
    await refused(store, NotFound, store.credit("no such"))


async def test_a_late_answer_changes_nothing_once_the_credit_is_credited(store: Store) -> None:
    credit = await credited(store)
    sent = await handed_out(store, credit)
    await store.resolve_credit(credit.id, "seen in the connector's books")
    before = await snapshot(store)
    for outcome in (Delivered(), NotDelivered("x"), Ambiguous("x")):
        await store.record_delivery(sent, outcome)
    assert await snapshot(store) == before


async def test_a_late_acknowledgement_credits_what_was_parked(store: Store, clock: Clock) -> None:
    credit = await credited(store)
    sent = await handed_out(store, credit)
    clock.ms += KEPT_KEY_MS
    await store.next_deliveries(credit.account, 8)
    before = await snapshot(store)
    await store.record_delivery(sent, NotDelivered("x"))
    await store.record_delivery(sent, Ambiguous("x"))
    assert await snapshot(store) == before
    await store.record_delivery(sent, Delivered())
    after = await store.credit(credit.id)
    assert (after.state, after.reason) == ("credited", None)
    assert balances(await store.account("alice")) == {"received": "10", "credited": "10"}


async def test_a_long_answer_is_cut_to_what_is_kept(store: Store) -> None:
    credit = await credited(store)
    await store.record_delivery(await handed_out(store, credit), NotDelivered("x" * 5000))
    assert (await store.credit(credit.id)).reason == "x" * limits.REASON_CHARS_MAX


# --- handed out as they come ---


async def added(store: Store, settlement_id: str = "tx", *, hand_out: bool = True) -> Credit:
    change = AddCredit("alice", settlement_id, Decimal(1))
    credit = await store.add_credit(change, hand_out=hand_out)
    assert credit is not None
    return credit


@pytest.mark.parametrize("hand_out", [False, True])
async def test_a_credit_is_added_once(store: Store, hand_out: bool) -> None:
    account = await opened(store)
    credit = await added(store, hand_out=hand_out)
    assert credit.account == account.number
    assert credit.id == credit_key("alice", "tx")
    assert (credit.amount, credit.state, credit.attempts) == (1, "undelivered", int(hand_out))
    again = AddCredit("alice", "tx", Decimal("1.0"))
    assert await store.add_credit(again, hand_out=hand_out) is None
    assert (await store.account("alice")).undelivered == 1
    other = AddCredit("alice", "tx", Decimal(2))
    await refused(store, SettlementConflict, store.add_credit(other, hand_out=hand_out))
    for amount in (Decimal(0), Decimal(-1), Decimal("NaN")):
        bad = AddCredit("alice", "other", amount)
        await refused(store, InvalidAmount, store.add_credit(bad, hand_out=hand_out))
    nobody = AddCredit("nobody", "tx", Decimal(1))
    await refused(store, AccountNotFound, store.add_credit(nobody, hand_out=hand_out))


async def test_a_credit_goes_to_the_latest_life_of_its_account(store: Store) -> None:
    await opened(store)
    await store.close_account("alice")
    assert (await added(store, "closed")).account == 1
    await opened(store)
    assert (await added(store, "open")).account == 2


async def test_what_is_handed_out_as_it_comes_counts_as_sent(store: Store, clock: Clock) -> None:
    await opened(store)
    credit = await added(store)
    assert credit.ambiguous_ms is None, "before, it was not sent"
    stored = await store.credit(credit.id)
    assert (stored.attempts, stored.ambiguous_ms) == (1, clock.ms)
    assert stored.ambiguous_steady_ms is not None
    await store.record_delivery(credit, NotDelivered("not reached", 5000))
    assert (await store.credit(credit.id)).ambiguous_ms is None
    clock.ms += 5000
    (again,) = (await store.next_deliveries(credit.account, 8)).credits
    assert (again.id, again.attempts) == (credit.id, 2)
    await store.record_delivery(again, Delivered())
    assert (await store.account("alice")).credited == 1


async def test_what_is_handed_out_as_it_comes_is_not_found_until_its_taker_knows_it(
    store: Store, clock: Clock
) -> None:
    await opened(store)
    credit = await added(store)
    other = await added(store, "other", hand_out=False)
    assert await numbers_of(store, other.account) == [other.number]
    clock.ms += limits.HANDED_OUT_S * 1000 - 1
    assert await numbers_of(store, credit.account) == [other.number]
    clock.ms += 1
    assert await numbers_of(store, credit.account) == [other.number, credit.number]


async def test_what_was_handed_out_as_it_came_is_parked_when_it_is_too_old(
    store: Store, clock: Clock
) -> None:
    await opened(store)
    credit = await added(store)
    clock.uptime_ms += limits.AMBIGUOUS_AGE_MAX_MS
    clock.ms += limits.AMBIGUOUS_AGE_MAX_MS
    assert [c.id for c in (await store.next_deliveries(credit.account, 8)).parked] == [credit.id]


async def numbers_of(store: Store, account: int) -> list[int]:
    return [credit.number for credit in (await store.next_deliveries(account, 8)).credits]


# --- many at once ---


async def test_many_are_handed_out_at_once_as_one_by_one(store: Store, clock: Clock) -> None:
    for account_id in ("alice", "bob", "carol"):
        for n in range(3):
            credit = await credited(store, "1", f"tx-{n}", account_id)
    await store.next_deliveries(credit.account, 1)
    clock.ms += limits.AMBIGUOUS_AGE_MAX_MS
    alice, bob, carol = sorted(account.number for account in await store.accounts())
    (first,) = (await store.next_deliveries(alice, 1)).credits
    looks = [
        CreditLook(alice, 8, {first.number}),
        CreditLook(carol, 8, ()),
        CreditLook(bob, 2, ()),
        CreditLook(99, 8, ()),
        CreditLook(bob, 8, ()),
    ]
    found = [step.unwrap() for step in await store.next_deliveries_of(looks)]
    names = [[credit.settlement_id for credit in step.credits] for step in found]
    assert names == [
        ["tx-1", "tx-2"],
        ["tx-1", "tx-2"],
        ["tx-0", "tx-1"],
        [],
        ["tx-0", "tx-1", "tx-2"],
    ]
    assert [step.delay_ms for step in found] == [None, None, 0, None, None]
    assert [credit.settlement_id for credit in found[1].parked] == ["tx-0"]
    for credit in found[0].credits:
        assert (await store.credit(credit.id)).ambiguous_ms == clock.ms, "marked as sent"


async def test_many_outcomes_are_recorded_at_once_as_one_by_one(store: Store, clock: Clock) -> None:
    for n in range(4):
        credit = await credited(store, "1", f"tx-{n}")
    sent = (await store.next_deliveries(credit.account, 8)).credits
    unknown = replace(sent[0], id="none", number=99)
    results = await store.record_deliveries(
        [
            CreditSent(sent[0], Delivered()),
            CreditSent(sent[1], NotDelivered("refused", 1000)),
            CreditSent(unknown, Delivered()),
            CreditSent(sent[2], Ambiguous("500", 2000)),
            CreditSent(sent[0], Delivered()),
        ]
    )
    assert [type(result) for result in results] == [Value, Value, Error, Value, Value]
    with pytest.raises(NotFound):
        results[2].unwrap()
    found = [await store.credit(credit.id) for credit in sent]
    assert [credit.state for credit in found] == ["credited", *["undelivered"] * 3]
    assert [credit.reason for credit in found] == [None, "refused", "500", None]
    assert [credit.ambiguous_ms for credit in found] == [clock.ms, None, clock.ms, clock.ms]
    assert (await store.accounts())[0].credited == 1
    assert await store.record_deliveries([]) == []
    assert await store.next_deliveries_of([]) == []
