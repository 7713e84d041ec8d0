"""Short forms of what the tests of the data commands do all the time."""

import json
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import trio
from click.testing import CliRunner, Result

from settled import ids
from settled.amounts import Quantity
from settled.cli import main
from settled.store.protocol import Store
from settled.store.records import (
    AddCredit,
    Ambiguous,
    SettlementOutcome,
)
from settled.store.sqlite import open_sqlite

T = TypeVar("T")


def cli(db: Path, *args: str, code: int = 0) -> Result:
    """Run a command and check its exit code."""
    result = CliRunner().invoke(main, [*args, "--db", str(db)])
    assert result.exit_code == code, result.output
    assert not any(char in result.output for char in "\x1b\x07\x7f\x9b\u202e\r"), result.output
    return result


def cli_json(db: Path, *args: str, code: int = 0) -> Any:
    return json.loads(cli(db, *args, "--json", code=code).stdout)


def daemon(db: Path, action: Callable[[Store], Awaitable[T]]) -> T:
    """Do something in the place of a daemon."""

    async def run() -> T:
        async with open_sqlite(db, exclusive=True, create=True) as store:
            return await action(store)

    return trio.run(run)


def begun(
    db: Path, outcome: SettlementOutcome | None = None, *, settlement_id: str = "s-1"
) -> None:
    """Leave alice with a settlement of 10 that was begun, and had this outcome."""

    async def act(store: Store) -> None:
        account = await store.open_account("alice", setup=False)
        await store.queue_settlement("alice", Quantity("10", 0), f"key of {settlement_id}")
        await store.next_settlement(account.number, settlement_id)
        if outcome is not None:
            await store.record_outcome(settlement_id, outcome)

    daemon(db, act)


def credited(db: Path, *, parked: bool = False) -> str:
    """Leave alice with a credit of 2.5; return its id."""

    async def act(store: Store) -> None:
        account = await store.open_account("alice", setup=False)
        await store.commit([AddCredit("alice", "tx-1", Decimal("2.5"))])
        if parked:
            (credit,) = (await store.next_deliveries(account.number, 1)).credits
            await store.record_delivery(credit, Ambiguous("time-out"))

    daemon(db, act)
    credit_id = ids.credit_key("alice", "tx-1")
    if parked:
        with closing(sqlite3.connect(db)) as conn, conn:
            conn.execute("UPDATE credits SET ambiguous_ms = 0, ambiguous_steady_ms = 0")

        async def park(store: Store) -> None:
            await store.next_deliveries((await store.account("alice")).number, 1)

        daemon(db, park)
    return credit_id
