"""A core in a test: the state machines over a store, with an engine and a connector by script.

Everything runs on trio's mock clock with ``MemoryStore``, so that days pass in milliseconds; the
same harness takes a ``SqliteStore`` where the file matters.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from settled.amounts import EXACT, ZERO, Quantity
from settled.core.core import Core
from settled.core.operations import Operations
from settled.core.ports import ConnectorPort
from settled.errors import StoreBroken
from settled.http import handlers
from settled.http.replies import Reply
from settled.store.memory import MemoryStore
from settled.store.protocol import Store
from settled.store.records import Account, Credit, Delivered, DeliveryOutcome, Request

EPOCH_MS = 1_800_000_000_000


def clock_ms() -> int:
    """Return a wall clock that goes with trio's clock, virtual or not."""
    return EPOCH_MS + round(trio.current_time() * 1000)


@dataclass
class ScriptedEngine:
    """An engine whose ``settle`` does what the test says; it notes every call.

    ``script`` is called with (account id, amount, settlement id); by default all is paid.
    """

    script: Callable[[str, Decimal, str], Awaitable[object]] | None = None
    find_settlement: Callable[[str, str], Awaitable[object]] | None = None
    setup_account: Callable[[str], Awaitable[None]] | None = None
    close_account: Callable[[str], Awaitable[None]] | None = None
    handle_message: Callable[[str, Any], Awaitable[Any]] | None = None
    asset_scale: int | None = None
    raw_messages: bool = False
    calls: list[tuple[str, Decimal, str]] = field(default_factory=list)

    async def settle(self, account_id: str, amount: Decimal, settlement_id: str) -> object:
        self.calls.append((account_id, amount, settlement_id))
        if self.script is None:
            return amount
        return await self.script(account_id, amount, settlement_id)


@dataclass
class ScriptedConnector:
    """Takes deliveries and answers as ``script`` says; by default it acknowledges."""

    script: Callable[[Credit], Awaitable[DeliveryOutcome]] | None = None
    seen: list[Credit] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)

    async def deliver(self, credit: Credit) -> DeliveryOutcome:
        self.seen.append(credit)
        self.times_s.append(trio.current_time())
        if self.script is None:
            return Delivered()
        return await self.script(credit)

    def deliver_at_once(self, credit: Credit, told: Callable[[DeliveryOutcome], None]) -> bool:
        return False


async def post_in_a_round(
    operations: Operations, post: handlers.PostSettlement, *, in_thread: bool = False
) -> Reply:
    """Post a settlement as the short lane does.

    Args:
        operations: what takes it.
        post: the settlement.
        in_thread: the store tells of it in a thread.
    """
    if not operations.may_begin:
        return await handlers.post_settlement(operations, post)
    posts, done = handlers.PostSettlements(operations, [post]), trio.Event()
    token = trio.lowlevel.current_trio_token()
    posts.begin(partial(token.run_sync_soon, done.set) if in_thread else done.set)
    await done.wait()
    (reply,) = posts.replies()
    if reply is None:
        raise StoreBroken("nobody knows the outcome")
    return reply


@dataclass
class Running:
    """A core that runs, and what a test does with it."""

    store: Store
    core: Core
    operations: Operations

    async def request(self, account_id: str, amount: str, key: str, scale: int = 0) -> None:
        request = Request(account_id, Quantity(amount, scale), key)
        await self.operations.queue_settlement(request)

    async def rest(self) -> None:
        """Wait until every task waits for something: nothing more happens at this instant."""
        await wait_all_tasks_blocked()

    async def until(self, true: Callable[[Account], bool], account_id: str = "alice") -> Account:
        """Wait, some virtual hours at most, until the account is as the test wants it."""
        pause_s = 0.05
        with trio.fail_after(6 * 3600):
            while True:
                await conserved(self.store)
                account = await self.store.account(account_id)
                if true(account):
                    return account
                await trio.sleep(pause_s)
                pause_s = min(pause_s * 1.2, 60)


async def conserved(store: Store) -> None:
    """Promise 2: every amount of every account is where the equations say."""
    for account in await store.accounts(limit=1000):
        outgoing = (account.queued, account.in_flight, account.unknown, account.settled)
        assert account.requested == sum_exactly(outgoing), account
        incoming = (account.undelivered, account.parked, account.credited)
        assert account.received == sum_exactly(incoming), account
    assert await store.audit() == []


def sum_exactly(amounts: Iterable[Decimal]) -> Decimal:
    total = ZERO
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total


def memory_store() -> MemoryStore:
    return MemoryStore(now_ms=clock_ms)


@asynccontextmanager
async def running(
    engine: ScriptedEngine,
    store: Store,
    connector: ConnectorPort | None = None,
    *,
    settle_timeout_s: float | None = None,
) -> AsyncIterator[Running]:
    """Run a core as ``settled.serve`` does, without HTTP; leaving the block is a crash.

    What is under way is cut off at its next await, and nothing is drained, so that entering it
    again on the same store is a restart.
    """
    await store.interrupt_settlements()
    connector = connector or ScriptedConnector()
    async with trio.open_nursery() as nursery:
        core = Core(store, engine, connector, nursery, settle_timeout_s=settle_timeout_s)
        core.start()
        yield Running(store, core, Operations(store, core, engine))
        nursery.cancel_scope.cancel()
