"""Settlement requests: into the account's queue, once per idempotency key."""

from decimal import Decimal
from sqlite3 import Connection

from settled import limits
from settled.amounts import Quantity, to_text
from settled.errors import AccountNotFound, InvalidAmount, KeyReused
from settled.store.records import Queued
from settled.store.sql.ledger import Tx, find_open


def queue_settlement(tx: Tx, account_id: str, quantity: Quantity, key: str) -> Queued:
    """See ``OutgoingStore.queue_settlement``."""
    value = quantity.value
    if not value:
        raise InvalidAmount("a settlement of zero moves nothing: ask for more")
    known = tx.conn.execute(
        "SELECT account, amount, scale, tick FROM idempotency_keys "
        "WHERE account_id = ? AND key = ?",
        (account_id, key),
    ).fetchone()
    if known is not None:
        return _replay(tx, account_id, value, key, known)
    account = find_open(tx.conn, account_id)
    if account is None:
        raise AccountNotFound(account_id)
    tx.conn.execute(
        "INSERT INTO idempotency_keys (account_id, key, account, amount, scale, tick) "
        "VALUES (?, ?, ?, ?, ?, (SELECT value FROM counters WHERE name = 'key_tick'))",
        (account_id, key, account.number, quantity.amount, quantity.scale),
    )
    account.move(tx, "requested", "queued", value, key)
    if account.retry_ms is None:
        account.retry_ms = 0
        if not account.balance["unknown"]:
            account.waiting = None
    account.save(tx)
    tx.touch(account.number)
    return Queued(account.number, quantity, replayed=False)


def is_requested(conn: Connection, account_id: str, key: str) -> bool:
    """See ``OutgoingStore.is_requested``."""
    known = conn.execute(
        "SELECT 1 FROM idempotency_keys WHERE account_id = ? AND key = ?", (account_id, key)
    )
    return known.fetchone() is not None


def _replay(
    tx: Tx, account_id: str, value: Decimal, key: str, known: tuple[int, str, int, int]
) -> Queued:
    number, amount, scale, tick = known
    first = Quantity(amount, scale)
    if first.value != value:
        raise KeyReused(account_id, key, to_text(first.value))
    (now,) = tx.conn.execute("SELECT value FROM counters WHERE name = 'key_tick'").fetchone()
    # Nothing is written for a key that lives long enough: a replay is answered on a full disk, too.
    if now - tick >= limits.KEY_LIFE_TICKS // 2:
        tx.conn.execute(
            "UPDATE idempotency_keys SET tick = ? WHERE account_id = ? AND key = ?",
            (now, account_id, key),
        )
    return Queued(number, first, replayed=True)
