"""What a daemon does while it crashes, one scenario each.

A scenario is prepared once, run from a copy of that again and again with a crash in it, and after
each crash run once more to its end, where the books must be those that it names.
"""

import logging
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import structlog
import trio

from settled import ids, limits
from settled.amounts import Quantity, to_text
from settled.cli.group import report
from settled.store import copies, file
from settled.store.backup import back_up
from settled.store.records import Parked, Unknown
from tests.crashes import old_schema
from tests.crashes.hooks import crash_at
from tests.crashes.lab import Hook
from tests.crashes.parts import accepted, at_rest, credited, idle, opened, pass_on, receive
from tests.crashes.world import (
    REQUESTS,
    FileConnector,
    Request,
    World,
    ledger_engine,
)
from tests.harness import running

# Those of accounts that a recovery finds in other states than alice's and bob's.
MORE_REQUESTS: Final = tuple(
    Request(name, f"{name}-1", Quantity("25", 1)) for name in ("carol", "dave", "erin")
)
OLD_REQUESTS: Final = tuple(Request("alice", f"old-{n}", Quantity("1", 0)) for n in range(50))

Run = Callable[[World, Hook | None], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    """One thing that a daemon does.

    Args:
        prepare: makes the files that it starts from.
        run: does it; called again on the files of a crash, it goes on.
        requests: what the connector has asked for at the end.
        pruned: those of them whose keys are forgotten at the end.
        pays: whether all that was asked for is paid at the end.
        parks: whether the operator is left with what is in doubt.
        receives: whether the peer's payments are recorded at the end.
        delivers: whether the connector has credited them at the end.
        days: on how many days it is run; all but on the last it does not come to rest.
        backs_up: whether a backup was made at the end.
    """

    prepare: Callable[[World], Awaitable[None]]
    run: Run
    requests: Sequence[Request] = REQUESTS
    pruned: Sequence[Request] = ()
    pays: bool = False
    parks: bool = False
    receives: bool = False
    delivers: bool = False
    backs_up: bool = False
    days: int = 1


async def _nothing(world: World) -> None:
    pass


def _accepting(*, checkpoints: bool = False) -> Run:
    """Return a run that opens accounts and takes requests, through the verbs of HTTP."""

    async def run(world: World, hook: Hook | None) -> None:
        async with opened(world, hook) as store, idle(store) as operations:
            if checkpoints:  # at every commit, so that it crashes in those too
                writer = cast(Any, store)._writer
                await writer.write(lambda tx: tx.conn.execute("PRAGMA wal_autocheckpoint = 1"))
            for account_id in ("alice", "bob"):
                await world.open_account(operations, account_id)
            await world.ask_all(operations)

    return run


def _going_on(
    *,
    requests: Sequence[Request] = (),
    lookup: bool = True,
    delay_s: float = 0.0,
    silent: int = 0,
    passes_on: bool = False,
) -> Run:
    """Return a run of a whole daemon, but for its sockets, until it is at rest."""

    async def run(world: World, hook: Hook | None) -> None:
        if hook is not None:
            for method, notes in (("pay", world.ledger), ("credit", world.connector)):
                if hook.method == method:
                    crash_at(notes, hook)
        engine = ledger_engine(world, lookup=lookup, delay_s=delay_s)
        connector = FileConnector(world, silent)
        async with (
            opened(world, hook) as store,
            running(engine, store, connector) as daemon,
        ):
            if requests:
                await world.ask_all(daemon.operations, requests)
            if passes_on:
                await credited(world, pass_on(daemon))
            await at_rest(world, store, parks=not lookup)

    return run


async def _with_accounts(world: World) -> None:
    async with opened(world) as store:
        for account_id in ("alice", "bob"):
            await store.open_account(account_id, setup=False)


async def _crediting(world: World, hook: Hook | None) -> None:
    async with opened(world, hook) as store:
        await credited(world, receive(store))


async def _with_credits(world: World) -> None:
    await _with_accounts(world)
    async with opened(world) as store:
        await receive(store)


async def _interrupted(world: World) -> None:
    """Leave what a daemon leaves that was killed: every state, and a log that is not folded in."""
    live = World(world.directory / "live")
    live.directory.mkdir()
    async with opened(live) as store:
        await accepted(live, store, (*REQUESTS, *MORE_REQUESTS))
        await receive(store)
        accounts = await store.accounts()
        for account in accounts:
            await store.next_deliveries(account.number, 1)  # sent, it seems
            if account.id == "erin":
                continue
            step = await store.next_settlement(account.number, ids.mint())
            assert step.settlement is not None
            paid = step.settlement
            if account.id in ("alice", "carol"):
                live.ledger.add(id=paid.id, account=account.id, amount=to_text(paid.amount))
            if account.id == "carol":
                await store.record_outcome(paid.id, Unknown("it hung up"))
            if account.id == "dave":
                await store.record_outcome(paid.id, Parked("the engine cannot tell"))
        for found in live.directory.iterdir():
            shutil.copy(found, world.directory)
    shutil.rmtree(live.directory)


async def _with_old_keys(world: World) -> None:
    async with opened(world) as store:
        unnoted = World(world.directory / "unnoted")
        unnoted.directory.mkdir()
        await accepted(unnoted, store, OLD_REQUESTS)
        shutil.rmtree(unnoted.directory)
        with closing(sqlite3.connect(world.db)) as conn, conn:
            conn.execute("UPDATE counters SET value = ?", (limits.KEY_LIFE_TICKS,))
        await accepted(world, store, REQUESTS[:3])


async def _pruning(world: World, hook: Hook | None) -> None:
    limits.PURGE_BATCH_ROWS = 20  # type: ignore[misc]
    async with opened(world, hook) as store, idle(store) as operations:
        while await store.purge_keys():
            pass
        await accepted(world, store, REQUESTS[:1])
        await world.ask_all(operations)


async def _of_the_first_schema(world: World) -> None:
    old_schema.make(world.db)
    for request in REQUESTS[:2]:
        world.acks.add(key=request.key, status="201", body=request.body.decode())


async def _migrating(world: World, hook: Hook | None) -> None:
    old_schema.add_migrations()
    async with opened(world, hook) as store:
        await accepted(world, store, REQUESTS)


async def _backing_up(world: World, hook: Hook | None) -> None:
    async with opened(world, hook) as store:
        await accepted(world, store, REQUESTS[:3])
        with closing(file.connect(world.db)) as conn:
            await trio.to_thread.run_sync(copies.leave, world.db, conn, "backup")
        await accepted(world, store, REQUESTS)


async def _backing_up_by_command(world: World, hook: Hook | None) -> None:
    target = world.directory / "copy.backup"
    async with opened(world, hook) as store:
        await accepted(world, store, REQUESTS[:3])
        await trio.to_thread.run_sync(partial(back_up, world.db, target, force=True))
        await accepted(world, store, REQUESTS)


SCENARIOS: Final = {
    "accept": Scenario(_nothing, _accepting()),
    "checkpoint": Scenario(_nothing, _accepting(checkpoints=True)),
    "settle": Scenario(_with_accounts, _going_on(requests=REQUESTS), pays=True),
    "settle slowly": Scenario(
        _with_accounts, _going_on(requests=REQUESTS, delay_s=0.01), pays=True
    ),
    "settle blindly": Scenario(
        _with_accounts, _going_on(requests=REQUESTS, lookup=False), pays=True, parks=True
    ),
    "credit": Scenario(_with_accounts, _crediting, requests=(), receives=True),
    "pass on": Scenario(
        _with_accounts, _going_on(passes_on=True), requests=(), receives=True, delivers=True
    ),
    "pass on unheard": Scenario(
        _with_accounts,
        _going_on(passes_on=True, silent=2),
        requests=(),
        receives=True,
        delivers=True,
    ),
    "deliver": Scenario(_with_credits, _going_on(), requests=(), receives=True, delivers=True),
    "deliver unheard": Scenario(
        _with_credits, _going_on(silent=2), requests=(), receives=True, delivers=True
    ),
    "deliver to the mute": Scenario(
        _with_credits,
        _going_on(silent=1000),
        requests=(),
        receives=True,
        delivers=True,
        parks=True,
        days=2,
    ),
    "recover": Scenario(
        _interrupted,
        _going_on(),
        requests=(*REQUESTS, *MORE_REQUESTS),
        pays=True,
        receives=True,
        delivers=True,
    ),
    "prune": Scenario(
        _with_old_keys, _pruning, requests=(*OLD_REQUESTS, *REQUESTS), pruned=OLD_REQUESTS
    ),
    "migrate": Scenario(_of_the_first_schema, _migrating, backs_up=True),
    "back up": Scenario(_nothing, _backing_up, backs_up=True),
    "back up by command": Scenario(_nothing, _backing_up_by_command, backs_up=True),
}


def run_scenario(name: str, directory: Path, *, hook: Hook | None, patience_s: float) -> int:
    """Run a scenario in this process; return the exit code that a command would end with."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    # The pauses after a full disk, made short.
    limits.DISK_FULL_PAUSE_S = limits.DISK_POLL_S = 0.05  # type: ignore[misc]
    try:
        trio.run(SCENARIOS[name].run, World(directory, patience_s), hook)
    except BaseException as error:
        return report(error, debug=False)
    return 0
