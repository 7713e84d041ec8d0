"""What every store must do with settlement requests and their idempotency keys."""

from decimal import Decimal

import pytest
import trio
from outcome import Error, Maybe, Value

from settled import limits
from settled.amounts import EXACT, Quantity
from settled.errors import AccountNotFound, InvalidAmount, KeyReused
from settled.store.protocol import Store
from settled.store.records import NotSent, Queued, Request, Settled
from tests.store.steps import (
    HOUR_MS,
    Clock,
    asked,
    balances,
    begun,
    opened,
    quantity,
    refused,
    snapshot,
)


async def test_a_request_joins_the_queue(store: Store) -> None:
    account = await opened(store)
    request = Quantity("150", 2)
    answer = await store.queue_settlement("alice", request, "k")
    assert answer == Queued(account.number, request, replayed=False)
    assert balances(await store.account("alice")) == {"requested": "1.5", "queued": "1.5"}
    assert await store.unfinished("settle") == [account.number]


async def test_many_requests_are_queued_together_and_each_is_told_what_came_of_it(
    store: Store,
) -> None:
    account = await opened(store)
    one, all_told, token = Quantity("1", 0), trio.Event(), trio.lowlevel.current_trio_token()
    results: list[Maybe[Queued]] = []

    def done(told: list[Maybe[Queued]]) -> None:
        results.extend(told)
        token.run_sync_soon(all_told.set)

    inner: Store = store.inner  # type: ignore[attr-defined]
    inner.begin_settlements(
        [Request(*asked_for) for asked_for in (("alice", one, "k"), ("nobody", one, "k"))], done
    )
    await all_told.wait()
    assert results[0] == Value(Queued(account.number, one, replayed=False))
    assert isinstance(results[1], Error)
    assert isinstance(results[1].error, AccountNotFound)
    assert (await store.account("alice")).queued == 1


async def test_requests_are_netted_exactly(store: Store) -> None:
    await opened(store)
    for n, amount in enumerate(["0.1", "0.2", "1" + "0" * 700, "0." + "0" * 254 + "1"]):
        await store.queue_settlement("alice", quantity(amount), f"k{n}")
    queued = (await store.account("alice")).queued
    assert str(queued) == "1" + "0" * 700 + ".3" + "0" * 253 + "1"


@pytest.mark.parametrize("scale", [0, 1, 2, 9, 18, 127, 254, 255])
async def test_any_scale_and_a_thousand_digits_survive(store: Store, scale: int) -> None:
    request = Quantity("9" * limits.AMOUNT_DIGITS_MAX, scale)
    await opened(store)
    for key in ("k1", "k2"):
        assert (await store.queue_settlement("alice", request, key)).quantity == request
    account = await store.account("alice")
    assert account.queued == EXACT.multiply(request.value, Decimal(2)) == account.requested


async def test_a_request_of_zero_is_refused_before_anything_else(store: Store) -> None:
    for zero in (Quantity("0", 0), Quantity("000", 255)):
        await refused(store, InvalidAmount, store.queue_settlement("nobody", zero, "k"))
    await asked(store, "5", "k")
    await refused(store, InvalidAmount, store.queue_settlement("alice", Quantity("0", 3), "k"))


async def test_a_request_needs_an_open_account(store: Store) -> None:
    await refused(store, AccountNotFound, store.queue_settlement("alice", quantity("1"), "k"))
    await opened(store)
    await store.close_account("alice")
    await refused(store, AccountNotFound, store.queue_settlement("alice", quantity("1"), "k"))


async def test_a_refused_request_leaves_its_key_free(store: Store) -> None:
    await refused(store, AccountNotFound, store.queue_settlement("alice", quantity("1"), "k"))
    await opened(store)
    assert not (await store.queue_settlement("alice", quantity("2"), "k")).replayed


async def test_the_same_key_and_value_has_one_effect(store: Store) -> None:
    await opened(store)
    first = await store.queue_settlement("alice", Quantity("100", 2), "k")
    before = await snapshot(store)
    for again in (Quantity("100", 2), Quantity("1", 0), Quantity("0001000", 3)):
        answer = await store.queue_settlement("alice", again, "k")
        assert answer == Queued(first.account, Quantity("100", 2), replayed=True)
    assert await snapshot(store) == before


async def test_the_same_key_with_another_value_is_refused(store: Store) -> None:
    await asked(store, "1.50", "k")
    error = await refused(store, KeyReused, store.queue_settlement("alice", quantity("1.51"), "k"))
    assert "1.5;" in str(error)
    assert (await store.queue_settlement("alice", quantity("1.5"), "k")).replayed


async def test_whether_a_key_is_on_record_can_be_asked(store: Store) -> None:
    await asked(store, "1", "k", "alice")
    await opened(store, "bob")
    assert await store.is_requested("alice", "k") is True
    for account_id, key in (("alice", "K"), ("bob", "k"), ("nobody", "k")):
        assert await store.is_requested(account_id, key) is False
    await store.close_account("alice")
    assert await store.is_requested("alice", "k") is True


async def test_keys_of_two_accounts_are_apart(store: Store) -> None:
    await asked(store, "1", "k", "alice")
    await asked(store, "2", "k", "bob")
    assert [row.requested for row in await store.accounts()] == [2, 1]


async def test_keys_are_compared_to_the_letter(store: Store) -> None:
    await opened(store)
    for key in ("k", "K", "k k", "k  k", "'", "%", "_", "k" * 255):
        assert not (await store.queue_settlement("alice", quantity("1"), key)).replayed
    assert (await store.account("alice")).requested == 8


async def test_a_key_survives_closing_and_a_new_life(store: Store) -> None:
    account = await asked(store, "5", "k")
    await store.close_account("alice")
    replay = Queued(account.number, quantity("5"), replayed=True)
    assert await store.queue_settlement("alice", quantity("5"), "k") == replay
    await refused(store, KeyReused, store.queue_settlement("alice", quantity("6"), "k"))
    await opened(store)
    assert await store.queue_settlement("alice", quantity("5"), "k") == replay
    await refused(store, KeyReused, store.queue_settlement("alice", quantity("6"), "k"))
    assert balances(await store.account("alice")) == {}


async def test_a_hundred_posts_of_one_key_at_once_have_one_effect(store: Store) -> None:
    await opened(store)
    answers: list[Queued] = []

    async def post() -> None:
        answers.append(await store.queue_settlement("alice", quantity("7"), "k"))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(post)
    assert sum(not answer.replayed for answer in answers) == 1
    assert (await store.account("alice")).requested == 7


async def test_requests_at_once_are_all_counted(store: Store) -> None:
    await opened(store)
    async with trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(store.queue_settlement, "alice", Quantity("1", n), f"k{n}")
    assert (await store.account("alice")).requested == Decimal("1." + "1" * 99)


async def test_a_refusal_beside_other_requests_refuses_only_itself(store: Store) -> None:
    await asked(store, "1", "taken")
    refusals: list[str] = []

    async def post(account_id: str, key: str) -> None:
        try:
            await store.queue_settlement(account_id, quantity("2"), key)
        except (KeyReused, AccountNotFound) as error:
            refusals.append(type(error).__name__)

    async with trio.open_nursery() as nursery:
        for n in range(10):
            nursery.start_soon(post, "alice", f"k{n}")
            nursery.start_soon(post, "alice", "taken")
            nursery.start_soon(post, "nobody", f"k{n}")
    assert sorted(refusals) == ["AccountNotFound"] * 10 + ["KeyReused"] * 10
    assert (await store.account("alice")).requested == 21


async def test_a_request_that_is_cancelled_before_it_starts_is_not_recorded(store: Store) -> None:
    await opened(store)
    before = await snapshot(store)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.queue_settlement("alice", quantity("1"), "k")
    assert scope.cancelled_caught
    assert await snapshot(store) == before


async def test_a_request_ends_the_rest_of_a_queue(store: Store) -> None:
    settlement = await begun(store, "10")
    await store.record_outcome(settlement.id, Settled(Decimal(0)))
    assert (await store.account("alice")).retry_ms is None
    assert await store.unfinished("settle") == []
    account = await asked(store, "1", "k2")
    assert (account.retry_ms, account.waiting) == (0, None)
    assert await store.unfinished("settle") == [account.number]


async def test_a_request_does_not_end_a_backoff(store: Store, clock: Clock) -> None:
    settlement = await begun(store, "10")
    await store.record_outcome(settlement.id, NotSent("wallet is empty", HOUR_MS))
    account = await asked(store, "1", "k2")
    assert (account.retry_ms, account.waiting) == (clock.ms + HOUR_MS, "wallet is empty")


async def test_a_replay_ends_no_rest(store: Store) -> None:
    settlement = await begun(store, "10")
    await store.record_outcome(settlement.id, Settled(Decimal(0)))
    assert (await store.queue_settlement("alice", quantity("10"), "key of s-1")).replayed
    assert (await store.account("alice")).retry_ms is None


async def test_a_key_outlives_any_jump_of_the_clock(store: Store, clock: Clock) -> None:
    await asked(store, "5", "k")
    clock.ms += 10_000 * HOUR_MS
    assert await store.purge_keys() == 0
    clock.ms -= 20_000 * HOUR_MS
    assert await store.purge_keys() == 0
    assert (await store.queue_settlement("alice", quantity("5"), "k")).replayed


async def test_a_key_is_purged_after_its_life_in_ticks(store: Store) -> None:
    await asked(store, "5", "k")
    for _ in range(limits.KEY_LIFE_TICKS - 1):
        await store.age_keys()
    assert await store.purge_keys() == 0
    await store.age_keys()
    before = await snapshot(store)
    assert await store.purge_keys() == 1
    assert await store.purge_keys() == 0
    assert await snapshot(store) == before
    assert not (await store.queue_settlement("alice", quantity("6"), "k")).replayed
    assert (await store.account("alice")).requested == 11


async def test_each_use_of_a_key_begins_its_life_anew(store: Store) -> None:
    await asked(store, "5", "used")
    await store.queue_settlement("alice", quantity("5"), "idle")
    await store.queue_settlement("alice", quantity("5"), "misused")
    for _ in range(limits.KEY_LIFE_TICKS - 1):
        await store.age_keys()
    await store.queue_settlement("alice", quantity("5"), "used")
    with pytest.raises(KeyReused):
        await store.queue_settlement("alice", quantity("6"), "misused")
    await store.age_keys()
    assert await store.purge_keys() == 2
    assert (await store.queue_settlement("alice", quantity("5"), "used")).replayed
    assert not (await store.queue_settlement("alice", quantity("5"), "idle")).replayed
    assert not (await store.queue_settlement("alice", quantity("6"), "misused")).replayed


@pytest.mark.parametrize("late", [-1, 0, 1])
async def test_a_key_is_known_for_half_its_life_after_any_use(store: Store, late: int) -> None:
    """That is 24 h of running time; nothing need be written for an earlier use."""
    half = limits.KEY_LIFE_TICKS // 2
    await asked(store, "5", "k")
    for _ in range(half + late):
        await store.age_keys()
    assert (await store.queue_settlement("alice", quantity("5"), "k")).replayed
    for _ in range(half):
        await store.age_keys()
    await store.purge_keys()
    assert (await store.queue_settlement("alice", quantity("5"), "k")).replayed


async def test_the_life_of_a_key_is_that_of_its_account_alone(store: Store) -> None:
    """Two accounts may use the same key: neither its use nor its end touches the other's."""
    await asked(store, "5", "k")
    for _ in range(limits.KEY_LIFE_TICKS - 1):
        await store.age_keys()
    await asked(store, "5", "k", account_id="bob")
    await store.age_keys()
    await asked(store, "5", "k", account_id="bob")
    assert await store.purge_keys() == 1
    assert (await store.queue_settlement("bob", quantity("5"), "k")).replayed
    assert not (await store.queue_settlement("alice", quantity("5"), "k")).replayed


async def test_a_purge_deletes_a_batch_at_a_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PURGE_BATCH_ROWS", 3)
    await opened(store)
    for n in range(7):
        await store.queue_settlement("alice", quantity("1"), f"k{n}")
    for _ in range(limits.KEY_LIFE_TICKS):
        await store.age_keys()
    assert [await store.purge_keys() for _ in range(4)] == [3, 3, 1, 0]


async def test_a_key_that_lives_holds_up_no_purge(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PURGE_BATCH_ROWS", 1)
    await asked(store, "5", "used")
    for n in range(3):
        await store.queue_settlement("alice", quantity("1"), f"idle-{n}")
    for _ in range(limits.KEY_LIFE_TICKS - 1):
        await store.age_keys()
    await store.queue_settlement("alice", quantity("5"), "used")
    await store.age_keys()
    assert [await store.purge_keys() for _ in range(4)] == [1, 1, 1, 0]
    assert (await store.queue_settlement("alice", quantity("5"), "used")).replayed
