"""The parts of a daemon that the scenarios are made of."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import trio

from settled.connector import Connector
from settled.core.core import Core
from settled.core.operations import Operations
from settled.engine.services import Services
from settled.errors import StoreBusy
from settled.store.clock import wall_ms
from settled.store.protocol import Store
from settled.store.sqlite import open_sqlite
from tests.crashes.hooks import CrashingStore
from tests.crashes.lab import Hook
from tests.crashes.world import NOT_DONE, PAYMENTS, Request, World
from tests.harness import Running, ScriptedConnector, ScriptedEngine


@asynccontextmanager
async def opened(world: World, hook: Hook | None = None) -> AsyncIterator[Store]:
    def now_ms() -> int:
        return wall_ms() + world.day * 24 * 3600 * 1000

    async with open_sqlite(world.db, exclusive=True, create=True, now_ms=now_ms) as store:
        yield store if hook is None else cast(Store, CrashingStore(store, hook))


@asynccontextmanager
async def idle(store: Store) -> AsyncIterator[Operations]:
    """Take requests, and begin nothing."""
    async with trio.open_nursery() as nursery:
        engine = ScriptedEngine()
        yield Operations(store, Core(store, engine, ScriptedConnector(), nursery), engine)


async def accepted(world: World, store: Store, requests: Sequence[Request]) -> None:
    for account_id in dict.fromkeys(request.account_id for request in requests):
        await store.open_account(account_id, setup=False)
    async with idle(store) as operations:
        await world.ask_all(operations, requests)


async def credited(world: World, crediting: Awaitable[None]) -> None:
    """What an engine credits waits for a busy store, however long: not here."""
    with trio.move_on_after(world.patience_s) as waiting:
        await crediting
    if waiting.cancelled_caught:
        raise StoreBusy(NOT_DONE)


async def receive(store: Store) -> None:
    """Credit the peer's payments as an engine that scans its ledger does: with a cursor."""
    async with trio.open_nursery() as nursery:
        services = Services(store, cast(Connector, None), nursery)
        first = await services.state.get("cursor") or 0
        for n, payment in enumerate(PAYMENTS[first:], first + 1):
            async with services.transaction() as transaction:
                transaction.credit_settlement(payment.account_id, payment.amount, payment.id)
                transaction.set_state("cursor", n)


async def pass_on(daemon: Running) -> None:
    """Credit the peer's payments as an engine does that hears of each: one by one, all at once."""
    async with trio.open_nursery() as nursery:
        services = Services(daemon.store, cast(Connector, None), nursery)
        services.attach(daemon.core)
        for payment in PAYMENTS:
            nursery.start_soon(
                services.credit_settlement, payment.account_id, payment.amount, payment.id
            )


async def at_rest(world: World, store: Store, *, parks: bool) -> None:
    """Wait until nothing is under way; what is parked rests, if it may."""
    with trio.move_on_after(world.patience_s):
        while True:
            accounts = await store.accounts(limit=1000)
            parked = {s.account for s in await store.settlements(state="parked")} if parks else ()
            if not any(
                a.in_flight or a.undelivered or ((a.queued or a.unknown) and a.number not in parked)
                for a in accounts
            ):
                return
            await trio.sleep(0.005)
    raise StoreBusy(NOT_DONE)
