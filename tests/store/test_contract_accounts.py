"""What every store must do for the lives of accounts and their hooks."""

from dataclasses import replace
from decimal import Decimal

import pytest

from settled import limits
from settled.errors import AccountNotFound, NotFound
from settled.store.protocol import Store
from settled.store.records import AddCredit, NextHook, Settled
from tests.store.steps import (
    HOUR_MS,
    START_MS,
    WORKS,
    Clock,
    asked,
    balances,
    begun,
    opened,
    quantity,
    refused,
    snapshot,
)


async def test_a_new_account_waits_for_its_set_up(store: Store) -> None:
    account = await store.open_account("alice")
    assert (account.id, account.state, account.hook) == ("alice", "setup", "setup_account")
    assert (account.opened_ms, account.closed_ms) == (START_MS, None)
    assert (account.retry_ms, account.waiting, account.failures) == (0, None, 0)
    assert balances(account) == {}
    assert await store.next_hook(account.number) == NextHook("alice", "setup_account", 0, 0)


async def test_an_account_without_set_up_is_open_at_once(store: Store) -> None:
    account = await store.open_account("alice", setup=False)
    assert (account.state, account.hook) == ("open", None)
    assert await store.next_hook(account.number) is None


@pytest.mark.parametrize("setup", [True, False])
async def test_opening_again_returns_the_same_account(
    store: Store, clock: Clock, setup: bool
) -> None:
    first = await store.open_account("alice")
    clock.ms += 5
    assert await store.open_account("alice", setup=setup) == first
    assert await store.accounts() == [first]


async def test_ids_of_every_allowed_form_are_told_apart(store: Store) -> None:
    account_ids = ["a", "A", "~", "-._~", "0" * 255, "a.b", "..."]
    for account_id in account_ids:
        await store.open_account(account_id)
    assert [account.id for account in await store.accounts()] == account_ids[::-1]
    for account_id in account_ids:
        assert (await store.account(account_id)).id == account_id


async def test_closing_keeps_amounts_and_asks_for_the_close_hook(
    store: Store, clock: Clock
) -> None:
    account = await asked(store, "10")
    clock.ms += 7
    closed = await store.close_account("alice")
    assert (closed.number, closed.state, closed.closed_ms) == (
        account.number,
        "closed",
        START_MS + 7,
    )
    assert closed.waiting == "the account is closed"
    assert balances(closed) == {"requested": "10", "queued": "10"}
    assert await store.account("alice") == closed
    assert await store.next_hook(closed.number) == NextHook("alice", "close_account", 0, 0)


async def test_closing_an_account_that_owes_nothing_leaves_nothing_waiting(store: Store) -> None:
    await opened(store)
    assert (await store.close_account("alice")).waiting is None


async def test_only_an_open_account_can_be_closed(store: Store) -> None:
    error = await refused(store, AccountNotFound, store.close_account("alice"))
    assert error.account_id == "alice"
    await opened(store)
    await store.close_account("alice")
    await refused(store, AccountNotFound, store.close_account("alice"))


async def test_an_unknown_account_is_not_found(store: Store) -> None:
    await refused(store, AccountNotFound, store.account("alice"))
    await refused(store, NotFound, store.next_hook(1))
    await refused(store, NotFound, store.finish_hook(1, "setup_account"))


async def test_opening_a_closed_id_starts_a_new_life(store: Store) -> None:
    old = await asked(store, "10")
    await store.close_account("alice")
    before = await store.account("alice")
    new = await store.open_account("alice")
    assert new.number > old.number
    assert (new.state, balances(new), new.waiting) == ("setup", {}, None)
    assert await store.account("alice") == new
    # The engine would take the close of the former account for one of the new.
    assert await store.accounts(account_id="alice") == [new, replace(before, hook=None)]


async def test_an_old_life_takes_the_outcome_of_its_open_attempt(store: Store) -> None:
    settlement = await begun(store, "10")
    await store.close_account("alice")
    new = await store.open_account("alice")
    await store.record_outcome(settlement.id, Settled(settlement.amount))
    assert balances(await store.account("alice")) == {}
    old = (await store.accounts(account_id="alice"))[1]
    assert old.number == settlement.account != new.number
    assert balances(old) == {"requested": "10", "settled": "10"}


async def test_the_state_filter_tells_set_up_open_and_closed_apart(store: Store) -> None:
    await store.open_account("fresh")
    await opened(store, "ready")
    await opened(store, "gone")
    await store.close_account("gone")
    for state, account_id in (("setup", "fresh"), ("open", "ready"), ("closed", "gone")):
        rows = await store.accounts(state=state)  # type: ignore[arg-type]
        assert [row.id for row in rows] == [account_id]
        assert [row.state for row in rows] == [state]
    assert await store.accounts(account_id="ready", state="closed") == []


async def test_a_set_up_that_succeeds_opens_the_account(store: Store) -> None:
    account = await store.open_account("alice")
    await store.finish_hook(account.number, "setup_account")
    after = await store.account("alice")
    assert (after.state, after.hook, after.retry_ms) == ("open", None, account.retry_ms)
    assert await store.next_hook(account.number) is None


async def test_a_set_up_that_fails_shows_why_and_is_tried_again(store: Store, clock: Clock) -> None:
    account = await store.open_account("alice")
    await store.finish_hook(account.number, "setup_account", failure="no peer", retry_delay_ms=5000)
    after = await store.account("alice")
    assert (after.state, after.waiting, after.hook_failures) == ("setup", "set-up: no peer", 1)
    assert await store.next_hook(account.number) == NextHook("alice", "setup_account", 1, 5000)
    clock.ms += 5001
    assert await store.next_hook(account.number) == NextHook("alice", "setup_account", 1, 0)
    await store.finish_hook(account.number, "setup_account", failure="", retry_delay_ms=1)
    assert (await store.account("alice")).hook_failures == 2
    await store.finish_hook(account.number, "setup_account")
    after = await store.account("alice")
    assert (after.waiting, after.hook, after.hook_failures) == (None, None, 0)


async def test_a_hook_that_was_overtaken_by_closing_is_ignored(store: Store) -> None:
    account = await store.open_account("alice")
    await store.close_account("alice")
    before = await snapshot(store)
    await store.finish_hook(account.number, "setup_account")
    await store.finish_hook(account.number, "setup_account", failure="no peer")
    assert await snapshot(store) == before
    await store.finish_hook(account.number, "close_account")
    assert (await store.account("alice")).hook is None
    before = await snapshot(store)
    await store.finish_hook(account.number, "close_account", failure="late")
    assert await snapshot(store) == before


async def test_a_close_hook_keeps_what_the_queue_waits_for(store: Store) -> None:
    account = await asked(store)
    await store.close_account("alice")
    await store.finish_hook(account.number, "close_account", failure="no peer", retry_delay_ms=9)
    after = await store.account("alice")
    assert (after.waiting, after.hook_failures) == ("the account is closed", 1)
    assert await store.next_hook(account.number) == NextHook("alice", "close_account", 1, 9)
    await store.finish_hook(account.number, "close_account")
    assert (await store.account("alice")).waiting == "the account is closed"


async def test_closing_forgets_the_failures_of_the_set_up(store: Store) -> None:
    account = await store.open_account("alice")
    await store.finish_hook(
        account.number, "setup_account", failure="no peer", retry_delay_ms=HOUR_MS
    )
    await store.close_account("alice")
    assert await store.next_hook(account.number) == NextHook("alice", "close_account", 0, 0)


async def test_a_clock_set_back_delays_a_hook_by_an_hour_at_most(
    store: Store, clock: Clock
) -> None:
    account = await store.open_account("alice")
    await store.finish_hook(account.number, "setup_account", failure="x", retry_delay_ms=HOUR_MS)
    clock.ms -= 1000 * HOUR_MS
    assert await store.next_hook(account.number) == NextHook("alice", "setup_account", 1, HOUR_MS)
    clock.ms += HOUR_MS
    assert await store.next_hook(account.number) == NextHook("alice", "setup_account", 1, 0)


async def test_a_reason_is_cut_to_what_is_kept(store: Store) -> None:
    account = await store.open_account("alice")
    await store.finish_hook(account.number, "setup_account", failure="x" * 5000)
    waiting = (await store.account("alice")).waiting
    assert waiting == ("set-up: " + "x" * 5000)[: limits.REASON_CHARS_MAX]


async def test_pages_go_from_new_to_old_without_a_gap(store: Store) -> None:
    for n in range(7):
        await opened(store, f"a{n}")
    seen: list[str] = []
    before = None
    while page := await store.accounts(before=before, limit=3):
        assert len(page) <= 3
        seen += [row.id for row in page]
        before = page[-1].number
    assert seen == [f"a{n}" for n in reversed(range(7))]


@pytest.mark.parametrize("limit", [-1, 0, limits.PAGE_ROWS_MAX + 1])
async def test_a_page_has_one_to_a_thousand_rows(store: Store, limit: int) -> None:
    await refused(store, ValueError, store.accounts(limit=limit))
    await refused(store, ValueError, store.settlements(limit=limit))
    await refused(store, ValueError, store.credits(limit=limit))


async def test_work_is_listed_by_number_in_pages(store: Store) -> None:
    numbers = [(await store.open_account(f"a{n}")).number for n in range(5)]
    assert await store.unfinished("hook") == numbers
    assert await store.unfinished("hook", limit=2) == numbers[:2]
    assert await store.unfinished("hook", after=numbers[1], limit=2) == numbers[2:4]
    assert await store.unfinished("hook", after=numbers[-1]) == []


async def test_a_hook_is_work_until_it_is_done(store: Store) -> None:
    account = await store.open_account("alice")
    await store.finish_hook(account.number, "setup_account", failure="x", retry_delay_ms=HOUR_MS)
    assert await store.unfinished("hook") == [account.number]
    await store.finish_hook(account.number, "setup_account")
    assert await store.unfinished("hook") == []
    await store.close_account("alice")
    assert await store.unfinished("hook") == [account.number]


async def test_a_request_is_taken_while_the_account_is_being_set_up(store: Store) -> None:
    await store.open_account("alice")
    await store.queue_settlement("alice", quantity("3"), "k")
    assert balances(await store.account("alice")) == {"requested": "3", "queued": "3"}


async def test_a_page_of_work_begins_after_the_account_that_is_named(store: Store) -> None:
    """Of every kind; a start that takes up page by page would never end otherwise."""
    for name in ("alice", "bob", "carol"):
        account = await store.open_account(name)
        await store.finish_hook(account.number, "setup_account")
        await store.queue_settlement(name, quantity("5"), "k")
        await store.commit([AddCredit(name, "tx", Decimal(1))])
    await store.next_settlement(account.number, "in flight")
    for name in ("dave", "erin"):
        await store.open_account(name)
    for work in WORKS:
        numbers = await store.unfinished(work)
        assert numbers == sorted(numbers)
        assert len(numbers) == (2 if work == "hook" else 3)
        for n, number in enumerate(numbers):
            assert await store.unfinished(work, after=number) == numbers[n + 1 :]
            assert await store.unfinished(work, limit=n + 1) == numbers[: n + 1]
