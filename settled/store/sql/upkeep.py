"""What keeps the store well: ageing and purging keys, and news from other processes."""

from sqlite3 import Connection

from settled import limits
from settled.store.sql.ledger import Tx
from settled.store.sql.steady import steady_ms


def age_keys(tx: Tx) -> None:
    """See ``Store.age_keys``."""
    tx.conn.execute("UPDATE counters SET value = value + 1 WHERE name = 'key_tick'")
    steady_ms(tx)  # marked often: what a reboot may hide of a clock set back is never much


def purge_keys(tx: Tx) -> int:
    """See ``Store.purge_keys``."""
    return tx.conn.execute(
        "DELETE FROM idempotency_keys "
        "WHERE tick <= (SELECT value FROM counters WHERE name = 'key_tick') - ? "
        "AND number IN (SELECT number FROM idempotency_keys ORDER BY number LIMIT ?)",
        (limits.KEY_LIFE_TICKS, limits.PURGE_BATCH_ROWS),
    ).rowcount


def are_nudged(conn: Connection) -> bool:
    """Return whether other processes touched an account."""
    return conn.execute("SELECT 1 FROM nudges LIMIT 1").fetchone() is not None


def take_nudges(tx: Tx) -> list[int]:
    """Return the accounts that other processes touched, and forget that they did."""
    rows = tx.conn.execute("SELECT DISTINCT account FROM nudges ORDER BY account").fetchall()
    if rows:
        tx.conn.execute("DELETE FROM nudges")
    return [account for (account,) in rows]
