"""What waits when a daemon starts: keys whose time is over, and credits that are undelivered."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from benchmarks import books, load
from benchmarks.figures import Figures, Limit, Ratio
from benchmarks.filling import Size, fill
from benchmarks.hurried import KEY_TICK_S
from benchmarks.measures import asking
from benchmarks.plan import Plan, directory
from benchmarks.sides import NO_CONNECTOR
from benchmarks.sides.daemon import DB, daemon

MEASURE: Final = "growth"
PRUNING: Final = "32 connections, 1,000,000 keys expire"
UNDELIVERED: Final = "100,000 undelivered credits"
SIDE: Final = "settled"
RATE: Final = "requests/s"
P99: Final = "p99 ms"
REMOVED: Final = "keys removed/s"
DELIVERED: Final = "credits/s"
START: Final = "s until it listens"

_EXPIRED: Final = Size(accounts=100_000, keys=10, expired=True)
_CREDITS: Final = Size(accounts=1000, credits=100_000)
_CONNECTIONS: Final = 32


def run(plan: Plan) -> None:
    """Start on a backlog of either kind, once a round."""
    for _ in range(plan.rounds):
        for work in (_prune, _deliver):
            with directory() as empty:
                work(empty, plan)


def _prune(where: Path, plan: Plan) -> None:
    """Put it under load when the clock of keys has ticked, and see how many keys go meanwhile."""
    db = where / DB
    fill(db, _EXPIRED, plan.say)
    with daemon(where, NO_CONNECTOR, db=db, module="benchmarks.hurried") as process:
        plan.figures.add(MEASURE, PRUNING, SIDE, START, process.started_s)
        time.sleep(KEY_TICK_S)
        before, began_s = _expired(db), time.monotonic()
        seen = load.run(
            process.url,
            kind="settlements",
            prefix="pruning-",
            accounts=load.Accounts(100, _EXPIRED.accounts // 100),
            connections=_CONNECTIONS,
            seconds=plan.seconds,
        )
        removed = (before - _expired(db)) / (time.monotonic() - began_s)
        books.check(seen, books.kept(db, "pruning-"), _CONNECTIONS, SIDE)
    plan.figures.add(MEASURE, PRUNING, SIDE, RATE, seen.rate)
    plan.figures.add(MEASURE, PRUNING, SIDE, P99, seen.p99_ms)
    plan.figures.add(MEASURE, PRUNING, SIDE, REMOVED, removed)
    plan.say(
        f"{MEASURE}, pruning: {seen.rate:,.0f} {RATE}, p99 {seen.p99_ms:.1f} ms, "
        f"{removed:,.0f} {REMOVED}"
    )


def _expired(db: Path) -> int:
    with closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as conn:
        (count,) = conn.execute("SELECT count(*) FROM idempotency_keys WHERE tick = 0").fetchone()
        return int(count)


def _deliver(where: Path, plan: Plan) -> None:
    """Start on credits that nobody has delivered, beside a connector that answers at once."""
    db = where / DB
    fill(db, _CREDITS, plan.say)
    with (
        asking.connector(where) as connector,
        daemon(where, connector.url, db=db) as process,
    ):
        plan.figures.add(MEASURE, UNDELIVERED, SIDE, START, process.started_s)
        rate = asking.heard_in(connector, plan.seconds)
    books.audit(db)
    plan.figures.add(MEASURE, UNDELIVERED, SIDE, DELIVERED, rate)
    plan.say(
        f"{MEASURE}, {UNDELIVERED}: {process.started_s:.2f} {START}, then {rate:,.0f} {DELIVERED}"
    )


def bars(figures: Figures) -> Iterator[Ratio | Limit]:
    """Yield what must hold of every start."""
    for case in (PRUNING, UNDELIVERED):
        for series in figures.of(MEASURE, case, START).values():
            yield Limit(f"start until it listens, {case}", series, 1)
