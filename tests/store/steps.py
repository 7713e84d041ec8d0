"""Short forms of what the store tests do all the time."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar, get_args

import pytest

from settled.amounts import EXACT, Quantity, from_text, to_text
from settled.store.clock import Uptime
from settled.store.protocol import Store
from settled.store.records import (
    Account,
    AddCredit,
    Ambiguous,
    Bucket,
    Credit,
    NotSent,
    Parked,
    Settled,
    Settlement,
    SettlementOutcome,
    Unknown,
    Work,
)

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000
KEPT_KEY_MS = 23 * HOUR_MS
OPEN_STATES = ("in_flight", "unknown", "parked")
WORKS: tuple[Work, ...] = get_args(Work)

E = TypeVar("E", bound=BaseException)


@dataclass
class Clock:
    """A wall clock, and the time since boot, that only move when a test says so."""

    ms: int = START_MS
    uptime_ms: int = 0
    boot: str = "first"

    def __call__(self) -> int:
        return self.ms

    def uptime(self) -> Uptime:
        return Uptime(self.boot, self.uptime_ms)


class Watched:
    """A store that checks after each call that every account still adds up."""

    def __init__(self, store: Store) -> None:
        self.inner = store

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self.inner, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return await method(*args, **kwargs)
            finally:
                for account in await self.inner.accounts(limit=1000):
                    assert_conserved(account)

        return call


def assert_conserved(account: Account) -> None:
    """Check the two equations that hold for each account at every instant."""
    outgoing = (account.queued, account.in_flight, account.unknown, account.settled)
    incoming = (account.undelivered, account.parked, account.credited)
    assert account.requested == _total(outgoing), account
    assert account.received == _total(incoming), account
    assert min(outgoing[1:] + incoming) >= 0, account


def _total(parts: tuple[Decimal, ...]) -> Decimal:
    total = Decimal(0)
    for part in parts:
        total = EXACT.add(total, part)
    return total


def quantity(amount: str) -> Quantity:
    return Quantity.of(from_text(amount))


async def opened(store: Store, account_id: str = "alice") -> Account:
    """Open an account that needs no set-up."""
    return await store.open_account(account_id, setup=False)


async def asked(
    store: Store, amount: str = "10", key: str = "key-1", account_id: str = "alice"
) -> Account:
    """Open an account and queue a request for it."""
    await opened(store, account_id)
    await store.queue_settlement(account_id, quantity(amount), key)
    return await store.account(account_id)


async def begun(store: Store, amount: str = "10", settlement_id: str = "s-1") -> Settlement:
    """Bring alice's new settlement of ``amount`` in flight."""
    account = await asked(store, amount, f"key of {settlement_id}")
    step = await store.next_settlement(account.number, settlement_id)
    assert step.begun
    assert step.settlement is not None
    return step.settlement


async def brought_to(store: Store, state: str, amount: str = "10") -> Settlement:
    """Bring a new settlement of alice's into ``state``."""
    settlement = await begun(store, amount)
    outcomes: dict[str, SettlementOutcome] = {
        "unknown": Unknown("time-out", 5000),
        "parked": Parked("the engine cannot tell"),
        "settled": Settled(settlement.amount),
        "not_sent": NotSent("wallet is empty", 5000),
    }
    if state in outcomes:
        await store.record_outcome(settlement.id, outcomes[state])
    settlement = await store.settlement(settlement.id)
    assert settlement.state == state
    return settlement


async def credited(
    store: Store, amount: str = "10", settlement_id: str = "tx-1", account_id: str = "alice"
) -> Credit:
    """Record an incoming settlement for an account, opening it when there is none."""
    account = await opened(store, account_id)
    await store.commit([AddCredit(account_id, settlement_id, Decimal(amount))])
    (credit,) = (
        row
        for row in await store.credits(account_id=account_id)
        if row.account == account.number and row.settlement_id == settlement_id
    )
    return credit


async def handed_out(store: Store, credit: Credit) -> Credit:
    """Return the only credit that is due, marked as being sent."""
    step = await store.next_deliveries(credit.account, 1)
    assert [row.id for row in step.credits] == [credit.id]
    return step.credits[0]


async def parked(store: Store, clock: Clock, reason: str = "time-out") -> Credit:
    """Return a credit of alice's that has been ambiguous for too long."""
    credit = await credited(store)
    sent = await handed_out(store, credit)
    await store.record_delivery(sent, Ambiguous(reason))
    clock.ms += KEPT_KEY_MS
    await store.next_deliveries(credit.account, 1)
    credit = await store.credit(credit.id)
    assert credit.state == "parked"
    return credit


def balances(account: Account) -> dict[str, str]:
    """Return the balances of an account that are not zero."""
    texts = {bucket: to_text(getattr(account, bucket)) for bucket in get_args(Bucket)}
    return {name: text for name, text in texts.items() if text != "0"}


async def snapshot(store: Store) -> dict[str, Any]:
    """Return all that can be read from a small store."""
    accounts = await store.accounts(limit=1000)
    scopes: list[str | None] = [None, *sorted({account.id for account in accounts})]
    return {
        "accounts": accounts,
        "settlements": await store.settlements(limit=1000),
        "credits": await store.credits(limit=1000),
        "state": {scope: await store.list_state(scope) for scope in scopes},
        "unfinished": {work: await store.unfinished(work) for work in WORKS},
        "hooks": [await store.next_hook(account.number) for account in accounts],
    }


async def refused(store: Store, error: type[E], call: Awaitable[object]) -> E:
    """Check that ``call`` raises ``error`` and leaves no trace; return what it raised."""
    before = await snapshot(store)
    with pytest.raises(error) as caught:
        await call
    assert await snapshot(store) == before
    return caught.value
