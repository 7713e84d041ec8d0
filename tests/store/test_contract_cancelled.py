"""Each call of a store is a checkpoint first: cancelled, it does nothing at all."""

from collections.abc import Awaitable, Callable
from decimal import Decimal

import trio

from settled.store.protocol import Store
from settled.store.protocol_incoming import CreditLook, CreditSent
from settled.store.records import AddCredit, Delivered, NotSent, Settled
from settled.store.sqlite import SqliteStore
from tests.store.steps import asked, credited, opened, quantity, snapshot

CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "open_account": lambda store: store.open_account("new"),
    "close_account": lambda store: store.close_account("alice"),
    "account": lambda store: store.account("alice"),
    "accounts": lambda store: store.accounts(),
    "next_hook": lambda store: store.next_hook(1),
    "finish_hook": lambda store: store.finish_hook(1, "setup_account"),
    "queue_settlement": lambda store: store.queue_settlement("alice", quantity("1"), "new"),
    "is_requested": lambda store: store.is_requested("alice", "k"),
    "next_settlement": lambda store: store.next_settlement(1, "new"),
    "record_outcome": lambda store: store.record_outcome("none", Settled(Decimal(1))),
    "resolve_settlement": lambda store: store.resolve_settlement("none", NotSent("no")),
    "retry_settlement": lambda store: store.retry_settlement("alice"),
    "interrupt_settlements": lambda store: store.interrupt_settlements(),
    "settlements": lambda store: store.settlements(),
    "settlement": lambda store: store.settlement("none"),
    "add_credit": lambda store: store.add_credit(AddCredit("alice", "new", Decimal(1))),
    "next_deliveries": lambda store: store.next_deliveries(1, 8),
    "next_deliveries_of": lambda store: store.next_deliveries_of([CreditLook(1, 8, ())]),
    "retry_credit": lambda store: store.retry_credit("none"),
    "resolve_credit": lambda store: store.resolve_credit("none", "it is there"),
    "credits": lambda store: store.credits(),
    "credit": lambda store: store.credit("none"),
    "commit": lambda store: store.commit([AddCredit("alice", "new", Decimal(1))]),
    "get_state": lambda store: store.get_state(None, "k"),
    "list_state": lambda store: store.list_state(None),
    "unfinished": lambda store: store.unfinished("settle"),
    "wait_foreign_writes": lambda store: store.wait_foreign_writes(),
    "age_keys": lambda store: store.age_keys(),
    "purge_keys": lambda store: store.purge_keys(),
    "audit": lambda store: store.audit(),
    "space": lambda store: store.space(),
    "look_over": lambda store: store.look_over(),
}


async def test_a_call_that_is_cancelled_before_it_starts_changes_nothing(store: Store) -> None:
    await asked(store)
    credit = await credited(store)
    before = await snapshot(store)
    inner: Store = store.inner  # type: ignore[attr-defined]
    for name, call in (
        *CALLS.items(),
        ("record_delivery", lambda store: store.record_delivery(credit, Delivered())),
        (
            "record_deliveries",
            lambda store: store.record_deliveries([CreditSent(credit, Delivered())]),
        ),
    ):
        with trio.CancelScope() as scope:
            scope.cancel()
            await call(inner)
        assert scope.cancelled_caught, name
        assert await snapshot(store) == before, name


async def test_a_write_that_has_begun_is_not_cancelled(store: Store) -> None:
    inner: Store = store.inner  # type: ignore[attr-defined]
    account = await opened(store)
    for key in ("k1", "k2", "k3", "k4"):  # the two tasks run in an order that nobody knows
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel, nursery)
            await inner.queue_settlement(account.id, quantity("1"), key)
    assert (await store.account(account.id)).requested == 4


async def _cancel(nursery: trio.Nursery) -> None:
    nursery.cancel_scope.cancel()


def test_no_call_is_missing_here() -> None:
    calls = {name for name in dir(SqliteStore) if not name.startswith("_")}
    others = {"aclose", "begin_settlements", "record_delivery", "record_deliveries"}
    of_files = {"held", "release", "release_all"}
    assert calls - others - of_files == CALLS.keys()
