"""The audit: every balance recomputed from the journal, and the file's own integrity."""

from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from itertools import groupby
from operator import itemgetter
from sqlite3 import Connection
from typing import Final, cast

from settled.amounts import EXACT, ZERO, to_text
from settled.store.records import Bucket, Difference
from settled.store.sql.ledger import BUCKETS, COLUMNS, ORIGINS, AccountRow
from settled.store.sql.reads import size_bytes
from settled.text import describe_error

_PROGRESS_ROWS: Final = 10_000
_SORTED_IN_MEMORY_BYTES_MAX: Final = 64 * 1024 * 1024
# The balances that the rows of settlements and credits must add up to.
_OF_ROWS: Final[tuple[Bucket, ...]] = (
    "in_flight",
    "unknown",
    "settled",
    "undelivered",
    "parked",
    "credited",
)
Balance = dict[Bucket, Decimal]


def audit(conn: Connection, progress: Callable[[int, int], None]) -> list[Difference]:
    """See ``Store.audit``. All is read from one snapshot."""
    # A full disk, or a temporary directory that is read-only, must not stand in the way.
    small = size_bytes(conn) <= _SORTED_IN_MEMORY_BYTES_MAX
    conn.execute(f"PRAGMA temp_store = {'MEMORY' if small else 'DEFAULT'}")
    conn.execute("BEGIN")
    try:
        found = list(_integrity(conn))
        for books in (_balances(conn, progress), _records(conn), _misplaced(conn)):
            try:
                found.extend(books)
            except (KeyError, InvalidOperation) as error:  # no such state, or no such number
                what = "a row that cannot be read"
                found.append(Difference("database", what, "none", describe_error(error)))
        return found
    finally:
        if conn.in_transaction:  # SQLite itself may have rolled back already
            conn.execute("ROLLBACK")


def _integrity(conn: Connection) -> Iterator[Difference]:
    for (finding,) in conn.execute("PRAGMA integrity_check"):
        if finding != "ok":
            yield Difference("database", "integrity", "ok", finding)
    for table, row, parent, _ in conn.execute("PRAGMA foreign_key_check"):
        yield Difference("database", f"row {row} of {table}", f"a row of {parent}", "none")


def _balances(conn: Connection, progress: Callable[[int, int], None]) -> Iterator[Difference]:
    (total,) = conn.execute("SELECT count(*) FROM journal").fetchone()
    folded = _fold(conn, total, progress)
    pending = next(folded, None)
    for row in conn.execute(f"SELECT {COLUMNS} FROM accounts ORDER BY number"):
        account = AccountRow(row)
        expected = dict.fromkeys(BUCKETS, ZERO)
        if pending is not None and pending[0] == account.number:
            expected = pending[1]
            pending = next(folded, None)
        for bucket in BUCKETS:
            if expected[bucket] != account.balance[bucket]:
                yield Difference(
                    account.id, bucket, to_text(expected[bucket]), to_text(account.balance[bucket])
                )
        yield from _conservation(account)
    progress(total, total)


def _conservation(account: AccountRow) -> Iterator[Difference]:
    balance = account.balance
    for origin, parts in (
        ("requested", ("queued", "in_flight", "unknown", "settled")),
        ("received", ("undelivered", "parked", "credited")),
    ):
        total = ZERO
        for part in parts:
            total = EXACT.add(total, balance[cast(Bucket, part)])
        if total != balance[cast(Bucket, origin)]:
            yield Difference(
                account.id,
                f"{origin} = {' + '.join(parts)}",
                to_text(balance[cast(Bucket, origin)]),
                to_text(total),
            )


def _fold(
    conn: Connection, total: int, progress: Callable[[int, int], None]
) -> Iterator[tuple[int, Balance]]:
    """Yield each account's number and its balances by the journal, in the order of the numbers.

    SQLite sorts outside of memory, so that the audit of a large file stays small.
    """
    rows = conn.execute("SELECT account, source, target, amount FROM journal ORDER BY account")
    done = 0
    for number, entries in groupby(rows, key=itemgetter(0)):
        balance: Balance = dict.fromkeys(BUCKETS, ZERO)
        for _, source, target, text in entries:
            amount = Decimal(text)
            grow = EXACT.add if source in ORIGINS else EXACT.subtract
            balance[source] = grow(balance[source], amount)
            balance[target] = EXACT.add(balance[target], amount)
            done += 1
            if done % _PROGRESS_ROWS == 0:
                progress(done, total)
        yield number, balance


def _records(conn: Connection) -> Iterator[Difference]:
    """Compare the rows of settlements and credits with the balances they add up to."""
    added = _added_up(conn)
    pending = next(added, None)
    for row in conn.execute(f"SELECT {COLUMNS} FROM accounts ORDER BY number"):
        account = AccountRow(row)
        expected: Balance = {}
        if pending is not None and pending[0] == account.number:
            expected = pending[1]
            pending = next(added, None)
        for bucket in _OF_ROWS:
            total = expected.get(bucket, ZERO)
            if total != account.balance[bucket]:
                found = to_text(account.balance[bucket])
                yield Difference(account.id, f"{bucket}, by its rows", to_text(total), found)


def _misplaced(conn: Connection) -> Iterator[Difference]:
    """Look for what lies with an account of another id than it was meant for."""
    for table in ("idempotency_keys", "credits"):
        for account_id, id_, count in conn.execute(
            f"SELECT t.account_id, a.id, count(*) FROM {table} AS t "
            "LEFT JOIN accounts AS a ON a.number = t.account "
            "WHERE a.id IS NOT t.account_id GROUP BY t.account_id, a.id"
        ):
            what = f"{table} that lie with {'no account' if id_ is None else id_}"
            yield Difference(account_id, what, "0", str(count))


def _added_up(conn: Connection) -> Iterator[tuple[int, Balance]]:
    """Yield each account's number and what its settlements and credits add up to."""
    rows = conn.execute(
        "SELECT account, state, amount, settled FROM settlements "
        "UNION ALL SELECT account, state, amount, NULL FROM credits ORDER BY account"
    )
    for number, records in groupby(rows, key=itemgetter(0)):
        balance: Balance = dict.fromkeys(_OF_ROWS, ZERO)
        for _, state, amount, settled in records:
            if state == "not_sent":
                continue
            if settled is None:
                bucket, text = state, amount
            else:
                bucket = "unknown" if state == "parked" else state
                text = settled if state == "settled" else amount
            balance[bucket] = EXACT.add(balance[bucket], Decimal(text))
        yield number, balance
