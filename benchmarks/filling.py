"""Large databases, made fast: rows are written in bulk, by SQL, into the schema of settled.

The books of what is made are in order: every key has its entry in the journal, every account has
been paid what was asked for, and what is undelivered stands in its balance.
"""

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
from sqlite_utils import Database

from settled import limits
from settled.store.sql.schema import MIGRATIONS
from settled.store.sqlite import open_sqlite

_CHUNK_ACCOUNTS: Final = 100_000
# Nothing else looks at the file meanwhile, and it is made anew if that fails.
_FAST: Final = (
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA cache_size = -400000",
)
_NUMBERS: Final = (
    "WITH RECURSIVE numbers (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers "
    "WHERE n + 1 < :end)"
)
_ACCOUNTS: Final = f"""
    INSERT INTO accounts (number, id, requested, settled, received, undelivered, opened_ms)
    {_NUMBERS} SELECT n + 1, 'a' || n, :keys, :keys, credits, credits, :now
    FROM (SELECT n, CAST(:credits / :accounts + (n < :credits % :accounts) AS TEXT) AS credits
          FROM numbers)
"""
# By the order of the ids, as they stand in the table of keys.
_KEYS: Final = """
    INSERT INTO idempotency_keys (account_id, key, account, amount, scale, tick)
    WITH RECURSIVE times (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM times WHERE k < :keys)
    SELECT id, lower(hex(randomblob(16))), number, '100', 2, 0
    FROM (SELECT id, number FROM accounts WHERE id > :after ORDER BY id LIMIT :chunk)
    CROSS JOIN times
"""
_LAST_ID: Final = """
    SELECT max(id) FROM (SELECT id FROM accounts WHERE id > :after ORDER BY id LIMIT :chunk)
"""
_REQUESTED: Final = """
    INSERT INTO journal (at_ms, account, source, target, amount, ref)
    SELECT :now, account, 'requested', 'queued', '1', key FROM idempotency_keys
    WHERE account_id > :after AND account_id <= :last
"""
_SETTLEMENTS: Final = f"""
    INSERT INTO settlements (id, account, amount, state, settled, created_ms, updated_ms)
    {_NUMBERS} SELECT printf('s%d-%s', n, hex(randomblob(8))), n + 1, :keys, 'settled', :keys,
        :now, :now FROM numbers
"""
_PAID: Final = """
    INSERT INTO journal (at_ms, account, source, target, amount, ref)
    SELECT :now, account, {source}, {target}, amount, id FROM settlements
    WHERE account > :first AND account <= :end
"""
_CREDITS: Final = f"""
    INSERT INTO credits (number, id, account, account_id, settlement_id, amount, state,
        created_ms, updated_ms)
    {_NUMBERS} SELECT n + 1, printf('credit-%d', n), n % :accounts + 1, 'a' || (n % :accounts),
        'paid-' || n, '1', 'undelivered', :now, :now FROM numbers
"""
_RECEIVED: Final = """
    INSERT INTO journal (at_ms, account, source, target, amount, ref)
    SELECT :now, account, 'received', 'undelivered', amount, id FROM credits
"""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is in a database.

    Attributes:
        accounts: how many; they are called a0, a1, ...
        keys: how many idempotency keys each of them has, and so many settled requests of 1.
        credits: how many credits of 1 are undelivered, over the accounts in turn.
        expired: whether the keys have had their time when the clock of keys ticks next.
    """

    accounts: int
    keys: int = 0
    credits: int = 0
    expired: bool = False


def fill(path: Path, size: Size, say: Callable[[str], None]) -> None:
    """Make a database of this size at ``path``, where there is none."""
    making = path.with_name(f"{path.name}.making")
    for old in path.parent.glob(f"{making.name}*"):
        old.unlink()
    trio.run(_make, making)
    with closing(sqlite3.connect(making, isolation_level=None)) as conn:
        for pragma in _FAST:
            conn.execute(pragma)
        conn.execute("BEGIN")
        _fill(conn, size, say)
        conn.execute("COMMIT")
    for old in path.parent.glob(f"{path.name}*"):
        if not old.name.startswith(making.name):
            old.unlink()
    for left in path.parent.glob(f"{making.name}-*"):
        left.unlink()
    making.with_name(f"{making.name}.lock").unlink(missing_ok=True)
    with making.open("rb") as made:
        os.fsync(made.fileno())  # lest the disk is busy with it while a daemon starts on it
    making.rename(path)


async def _make(path: Path) -> None:
    async with open_sqlite(path, exclusive=False, create=True):
        pass


def _fill(conn: sqlite3.Connection, size: Size, say: Callable[[str], None]) -> None:
    values = {
        "now": time.time_ns() // 1_000_000,
        "accounts": size.accounts,
        "credits": size.credits,
        "keys": size.keys,
        "chunk": _CHUNK_ACCOUNTS,
    }
    conn.execute(_ACCOUNTS, values | {"first": 0, "end": size.accounts, "keys": str(size.keys)})
    if size.keys:
        _fill_keys(conn, size, values, say)
    if size.credits:
        conn.execute(_CREDITS, values | {"first": 0, "end": size.credits})
        conn.execute(_RECEIVED, values)
    if size.expired:
        conn.execute(
            "UPDATE counters SET value = ? WHERE name = 'key_tick'", (limits.KEY_LIFE_TICKS - 1,)
        )


def _fill_keys(
    conn: sqlite3.Connection,
    size: Size,
    values: dict[str, int],
    say: Callable[[str], None],
) -> None:
    after, done = "", 0
    while done < size.accounts:
        chunk = values | {"after": after}
        (last,) = conn.execute(_LAST_ID, chunk).fetchone()
        conn.execute(_KEYS, chunk)
        conn.execute(_REQUESTED, chunk | {"last": last})
        first, done = done, min(done + _CHUNK_ACCOUNTS, size.accounts)
        between = values | {"first": first, "end": done}
        conn.execute(_SETTLEMENTS, between | {"keys": str(size.keys)})
        for source, target in (("'queued'", "'in_flight'"), ("'in_flight'", "'settled'")):
            conn.execute(_PAID.format(source=source, target=target), between)
        after = last
        say(f"filling: {done * size.keys:,} of {size.accounts * size.keys:,} keys")


def schema_name() -> str:
    """Return what a file of today's schema is called, so that none of yesterday's is used."""
    return [migration.name for migration in MIGRATIONS.pending(Database(memory=True))][-1]
