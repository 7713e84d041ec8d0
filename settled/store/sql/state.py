"""The engine's own small durable state, and the changes that it commits together."""

from collections.abc import Sequence
from sqlite3 import Connection
from typing import Final

from settled import limits
from settled.errors import SettledError, StateChanged
from settled.store.protocol_incoming import NewCredit
from settled.store.records import AddCredit, Change, RequireState, SetState
from settled.store.sql.deliveries import add_credits
from settled.store.sql.ledger import Tx

_LAST: Final = "\U0010ffff" * limits.STATE_KEY_CHARS_MAX  # what no key of a prefix comes after


def commit(tx: Tx, changes: Sequence[Change]) -> list[int | None]:
    """See ``StateStore.commit``."""
    for change in changes:
        if isinstance(change, RequireState):
            _require(tx, change)
    credits_ = [change for change in changes if isinstance(change, AddCredit)]
    news = [NewCredit(change, hand_out=False) for change in credits_]
    added = iter(add_credits(tx, news) if news else [])
    results: list[int | None] = []
    for change in changes:
        if not isinstance(change, AddCredit):
            if isinstance(change, SetState):
                _set(tx, change)
            results.append(None)
            continue
        credit = next(added)
        if isinstance(credit, SettledError):
            raise credit
        results.append(None if credit is None else credit.account)
    return results


def _require(tx: Tx, change: RequireState) -> None:
    if get_state(tx.conn, change.account_id, change.key) != change.value:
        raise StateChanged(f"state {change.key!r} was changed meanwhile: nothing was done")


def _set(tx: Tx, change: SetState) -> None:
    if not 0 < len(change.key) <= limits.STATE_KEY_CHARS_MAX:
        raise ValueError(f"a state key has 1 to {limits.STATE_KEY_CHARS_MAX} characters")
    scope = change.account_id or ""
    if change.value is None:
        tx.conn.execute(
            "DELETE FROM engine_state WHERE account_id = ? AND key = ?", (scope, change.key)
        )
        return
    if len(change.value) > limits.STATE_VALUE_BYTES_MAX:
        raise ValueError(
            f"state {change.key!r}: a value has {limits.STATE_VALUE_BYTES_MAX} bytes at most"
        )
    tx.conn.execute(
        "INSERT INTO engine_state (account_id, key, value) VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET value = excluded.value",
        (scope, change.key, change.value),
    )


def get_state(conn: Connection, account_id: str | None, key: str) -> bytes | None:
    """See ``StateStore.get_state``."""
    row = conn.execute(
        "SELECT value FROM engine_state WHERE account_id = ? AND key = ?", (account_id or "", key)
    ).fetchone()
    return None if row is None else bytes(row[0])


def list_state(conn: Connection, account_id: str | None, prefix: str) -> list[tuple[str, bytes]]:
    """See ``StateStore.list_state``."""
    rows = conn.execute(
        "SELECT key, value FROM engine_state "
        "WHERE account_id = ? AND key BETWEEN ? AND ? ORDER BY key",
        (account_id or "", prefix, prefix + _LAST),
    )
    return [(key, bytes(value)) for key, value in rows]
