"""What every store must do to record credits, once each, and with the operator's word on them."""

from decimal import Decimal

import pytest
import trio

from settled import ids, limits
from settled.errors import (
    AccountNotFound,
    InvalidAmount,
    InvalidId,
    NotFound,
    NotResolvable,
    SettlementConflict,
)
from settled.store.protocol import Store
from settled.store.records import (
    AddCredit,
    Ambiguous,
)
from tests.store.steps import (
    HOUR_MS,
    START_MS,
    Clock,
    balances,
    credited,
    handed_out,
    opened,
    parked,
    refused,
    snapshot,
)


async def test_a_credit_is_recorded_for_delivery(store: Store) -> None:
    account = await opened(store)
    assert await store.commit([AddCredit("alice", "tx-1", Decimal("1.50"))]) == [account.number]
    (credit,) = await store.credits()
    assert credit.id == ids.credit_key("alice", "tx-1")
    assert (credit.account, credit.account_id, credit.settlement_id) == (
        account.number,
        "alice",
        "tx-1",
    )
    assert (credit.state, credit.reason, credit.attempts) == ("undelivered", None, 0)
    assert (str(credit.amount), credit.ambiguous_ms, credit.retry_ms) == ("1.5", None, 0)
    assert (credit.created_ms, credit.updated_ms) == (START_MS, START_MS)
    assert await store.credit(credit.id) == credit
    assert balances(await store.account("alice")) == {"received": "1.5", "undelivered": "1.5"}
    assert await store.unfinished("deliver") == [account.number]


async def test_the_same_settlement_again_changes_nothing(store: Store, clock: Clock) -> None:
    await credited(store, "1.5")
    before = await snapshot(store)
    clock.ms += 9
    for amount in ("1.5", "1.500"):
        assert await store.commit([AddCredit("alice", "tx-1", Decimal(amount))]) == [None]
    assert await snapshot(store) == before


async def test_the_same_settlement_with_another_amount_is_refused(store: Store) -> None:
    await credited(store, "1.5")
    error = await refused(
        store, SettlementConflict, store.commit([AddCredit("alice", "tx-1", Decimal("1.6"))])
    )
    for part in ("alice", "tx-1", "1.5", "1.6"):
        assert part in str(error)


async def test_one_settlement_twice_in_one_commit_counts_once(store: Store) -> None:
    account = await opened(store)
    change = AddCredit("alice", "tx-1", Decimal(3))
    assert await store.commit([change, change]) == [account.number, None]
    assert (await store.account("alice")).received == 3
    changes = [AddCredit("alice", "tx-2", Decimal(n)) for n in (3, 4)]
    await refused(store, SettlementConflict, store.commit(changes))


async def test_settlement_ids_of_two_accounts_are_apart(store: Store) -> None:
    await credited(store, "1", "tx-1", "alice")
    await credited(store, "2", "tx-1", "bob")
    assert [row.amount for row in await store.credits()] == [2, 1]


@pytest.mark.parametrize("amount", ["0", "-1", "NaN", "Infinity", "1E+1024", "1E-256"])
async def test_an_amount_that_cannot_be_credited_is_refused(store: Store, amount: str) -> None:
    await opened(store)
    change = AddCredit("alice", "tx-1", Decimal(amount))
    await refused(store, InvalidAmount, store.commit([change]))


async def test_a_float_is_no_amount(store: Store) -> None:
    await opened(store)
    change = AddCredit("alice", "tx-1", 1.5)  # type: ignore[arg-type]
    await refused(store, InvalidAmount, store.commit([change]))


@pytest.mark.parametrize("settlement_id", ["", " x", "x\n", "é", "x" * 256])
async def test_a_bad_settlement_id_is_refused(store: Store, settlement_id: str) -> None:
    await opened(store)
    change = AddCredit("alice", settlement_id, Decimal(1))
    await refused(store, InvalidId, store.commit([change]))


async def test_a_credit_needs_an_account_that_was_ever_opened(store: Store) -> None:
    await refused(store, AccountNotFound, store.commit([AddCredit("alice", "tx-1", Decimal(1))]))


async def test_a_credit_goes_to_the_latest_closed_life_else_to_the_open_one(store: Store) -> None:
    first = await opened(store)
    await store.close_account("alice")
    assert await store.commit([AddCredit("alice", "tx-1", Decimal(1))]) == [first.number]
    second = await opened(store)
    assert await store.commit([AddCredit("alice", "tx-2", Decimal(2))]) == [second.number]
    assert [row.received for row in await store.accounts()] == [2, 1]


async def test_a_settlement_of_an_earlier_life_is_not_credited_again(store: Store) -> None:
    await credited(store, "1", "tx-1")
    await store.close_account("alice")
    await opened(store)
    assert await store.commit([AddCredit("alice", "tx-1", Decimal(1))]) == [None]
    await refused(store, SettlementConflict, store.commit([AddCredit("alice", "tx-1", Decimal(2))]))
    assert balances(await store.account("alice")) == {}


async def test_a_credit_of_many_digits_is_kept_to_the_last(store: Store) -> None:
    amount = "1" * 769 + "." + "7" * 255
    credit = await credited(store, amount)
    assert credit.amount == Decimal(amount)
    assert (await store.account("alice")).undelivered == Decimal(amount)


async def test_one_settlement_reported_many_times_at_once_is_credited_once(store: Store) -> None:
    await opened(store)
    answers: list[list[int | None]] = []

    async def report() -> None:
        answers.append(await store.commit([AddCredit("alice", "tx-1", Decimal(7))]))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(report)
    assert sum(answer != [None] for answer in answers) == 1
    assert (await store.account("alice")).received == 7


# --- the operator's word ---


async def test_the_operator_may_have_a_parked_credit_sent_again_under_its_key(
    store: Store, clock: Clock
) -> None:
    credit = await parked(store, clock)
    clock.ms += 3
    after = await store.retry_credit(credit.id)
    assert (after.id, after.amount, after.attempts) == (credit.id, credit.amount, 1)
    assert (after.state, after.reason, after.ambiguous_ms) == ("undelivered", None, None)
    assert (after.retry_ms, after.updated_ms) == (0, clock.ms)
    assert await store.credit(credit.id) == after
    assert balances(await store.account("alice")) == {"received": "10", "undelivered": "10"}
    assert (await handed_out(store, credit)).ambiguous_ms is None


async def test_the_operator_may_end_the_backoff_of_a_credit_but_not_renew_its_23_hours(
    store: Store, clock: Clock
) -> None:
    credit = await credited(store)
    since_ms = clock.ms
    await store.record_delivery(await handed_out(store, credit), Ambiguous("down", HOUR_MS))
    clock.ms += 5
    after = await store.retry_credit(credit.id)
    assert (after.retry_ms, after.ambiguous_ms, after.reason) == (0, since_ms, None)
    assert (await handed_out(store, credit)).attempts == 2


async def test_the_operator_may_say_that_it_was_credited(store: Store, clock: Clock) -> None:
    credit = await parked(store, clock)
    clock.ms += 3
    after = await store.resolve_credit(credit.id, "seen in the connector's books")
    assert (after.state, after.reason) == ("credited", "seen in the connector's books")
    assert after.updated_ms == clock.ms
    assert await store.credit(credit.id) == after
    assert balances(await store.account("alice")) == {"received": "10", "credited": "10"}


async def test_the_operator_may_say_so_of_one_that_is_not_parked(store: Store) -> None:
    credit = await credited(store)
    await store.resolve_credit(credit.id, "y" * 5000)
    assert (await store.credit(credit.id)).reason == "y" * limits.REASON_CHARS_MAX
    assert balances(await store.account("alice")) == {"received": "10", "credited": "10"}


async def test_what_is_credited_can_neither_be_resolved_nor_sent_again(store: Store) -> None:
    credit = await credited(store)
    await store.resolve_credit(credit.id, "")
    for call in (store.retry_credit(credit.id), store.resolve_credit(credit.id, "again")):
        error = await refused(store, NotResolvable, call)
        assert credit.id in str(error)


async def test_the_operator_must_name_a_credit_that_exists(store: Store) -> None:
    await opened(store)
    await refused(store, NotFound, store.retry_credit("no such"))
    await refused(store, NotFound, store.resolve_credit("no such", ""))


async def test_credits_are_listed_by_account_and_state_newest_first(store: Store) -> None:
    for n, account_id in enumerate(["alice", "bob", "alice"]):
        credit = await credited(store, "1", f"tx-{n}", account_id)
    await store.resolve_credit(credit.id, "")

    async def listed(**filters: object) -> list[str]:
        return [row.settlement_id for row in await store.credits(**filters)]  # type: ignore[arg-type]

    assert await listed() == ["tx-2", "tx-1", "tx-0"]
    assert await listed(account_id="alice") == ["tx-2", "tx-0"]
    assert await listed(state="credited") == ["tx-2"]
    assert await listed(account_id="alice", state="undelivered") == ["tx-0"]
    assert await listed(state="parked") == []
    assert await listed(limit=2) == ["tx-2", "tx-1"]
    assert await listed(before=credit.number) == ["tx-1", "tx-0"]
