"""Pages of accounts, settlements and credits, and the lists that work starts from."""

from sqlite3 import Connection
from typing import Any, Final, get_args

from settled import limits
from settled.errors import AccountNotFound
from settled.store.records import Account, Credit, CreditState, Settlement, Work
from settled.store.sql.incoming import CREDITS, credit_record
from settled.store.sql.ledger import COLUMNS, AccountRow, find_latest
from settled.store.sql.outgoing import OPEN, OPEN_STATES, SETTLEMENTS, settlement_record

_ACCOUNT_STATES: Final = {
    "setup": "closed_ms IS NULL AND hook = 'setup_account'",
    "open": "closed_ms IS NULL AND hook IS NULL",
    "closed": "closed_ms IS NOT NULL",
}
# Conditions that name the index of those that are few.
_SETTLEMENT_STATES: Final[dict[str, str]] = {
    **{state: f"s.state = '{state}' AND s.state IN {OPEN}" for state in OPEN_STATES},
    "not_sent": "s.state = 'not_sent'",
    "settled": "s.state = 'settled'",
}
_CREDIT_STATES: Final = {state: f"c.state = '{state}'" for state in get_args(CreditState)}
_CREDIT_INDEXES: Final[dict[str | None, str]] = {
    "undelivered": "INDEXED BY credits_undelivered",
    "parked": "INDEXED BY credits_parked",
}
_UNFINISHED: Final[dict[Work, str]] = {
    "settle": f"""
        SELECT number FROM accounts INDEXED BY accounts_queued
            WHERE queued <> '0' AND queued NOT LIKE '-%' AND retry_ms IS NOT NULL
                AND closed_ms IS NULL AND number > :after
        UNION SELECT account FROM settlements INDEXED BY settlements_one_open
            WHERE state IN {OPEN} AND state <> 'parked'
                AND account > :after
        ORDER BY 1 LIMIT :limit
    """,
    "deliver": """
        SELECT DISTINCT account FROM credits INDEXED BY credits_undelivered
            WHERE state = 'undelivered' AND account > :after
        ORDER BY account LIMIT :limit
    """,
    "hook": """
        SELECT number FROM accounts INDEXED BY accounts_hook
            WHERE hook IS NOT NULL AND number > :after
        ORDER BY number LIMIT :limit
    """,
}


def account(conn: Connection, account_id: str) -> Account:
    """See ``AccountStore.account``."""
    row = find_latest(conn, account_id)
    if row is None:
        raise AccountNotFound(account_id)
    return row.record()


def accounts(
    conn: Connection, account_id: str | None, state: str | None, before: int | None, limit: int
) -> list[Account]:
    """See ``AccountStore.accounts``."""
    where, values = _page("number", before, limit)
    if account_id is not None:
        where.append("id = ?")
        values.append(account_id)
    if state is not None:
        where.append(_ACCOUNT_STATES[state])
    rows = conn.execute(
        f"SELECT {COLUMNS} FROM accounts WHERE {' AND '.join(where)} ORDER BY number DESC LIMIT ?",
        (*values, limit),
    )
    return [AccountRow(row).record() for row in rows]


def settlements(
    conn: Connection, account_id: str | None, state: str | None, before: int | None, limit: int
) -> list[Settlement]:
    """See ``OutgoingStore.settlements``."""
    # For the sake of an order that is there already, SQLite would look at all that have ended.
    number = "+s.number" if state in OPEN_STATES else "s.number"
    where, values = _page(number, before, limit)
    if account_id is not None:
        where.append("s.account IN (SELECT number FROM accounts WHERE id = ?)")
        values.append(account_id)
    if state is not None:
        where.append(_SETTLEMENT_STATES[state])
    rows = conn.execute(
        f"{SETTLEMENTS} WHERE {' AND '.join(where)} ORDER BY {number} DESC LIMIT ?",
        (*values, limit),
    )
    return [settlement_record(row) for row in rows]


def credits(
    conn: Connection, account_id: str | None, state: str | None, before: int | None, limit: int
) -> list[Credit]:
    """See ``IncomingStore.credits``."""
    where, values = _page("c.number", before, limit)
    if account_id is not None:
        where.append("c.account IN (SELECT number FROM accounts WHERE id = ?)")
        values.append(account_id)
    if state is not None:
        where.append(_CREDIT_STATES[state])
    rows = conn.execute(
        f"{CREDITS} {_CREDIT_INDEXES.get(state, '')} WHERE {' AND '.join(where)} "
        "ORDER BY c.number DESC LIMIT ?",
        (*values, limit),
    )
    return [credit_record(row) for row in rows]


def _page(number: str, before: int | None, limit: int) -> tuple[list[str], list[Any]]:
    if not 1 <= limit <= limits.PAGE_ROWS_MAX:
        raise ValueError(f"a page has 1 to {limits.PAGE_ROWS_MAX} rows")
    if before is None:
        return ["TRUE"], []
    return [f"{number} < ?"], [before]


def unfinished(conn: Connection, work: Work, after: int, limit: int) -> list[int]:
    """See ``Store.unfinished``."""
    rows = conn.execute(_UNFINISHED[work], {"after": after, "limit": limit})
    return [number for (number,) in rows]


def size_bytes(conn: Connection) -> int:
    """Return how large the database is as ``conn`` sees it, its log included."""
    (pages,) = conn.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = conn.execute("PRAGMA page_size").fetchone()
    return int(pages) * int(page_bytes)


def last_seq(conn: Connection) -> int:
    """Return the number of the journal's last entry; 0 if it has none."""
    (seq,) = conn.execute("SELECT max(seq) FROM journal").fetchone()
    return int(seq or 0)
