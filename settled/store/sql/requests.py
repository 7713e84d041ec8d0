"""Settlement requests: into the accounts' queues, once per idempotency key.

This is the hot path. Between two statements Python's other threads run, and the writing thread
waits for its turn again, which takes as long as a statement. So all the requests of a transaction
are written by one, however many they are, and mostly nothing is read before: the accounts are
remembered from one transaction to the next, and every key is taken for new. The statement fails,
and undoes itself, where a key is known or an account is not as remembered, whoever has changed it;
then the database is asked, and the same is written for those that are new.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final, NamedTuple

from settled import limits
from settled.amounts import EXACT, Quantity, to_text
from settled.errors import AccountNotFound, InvalidAmount, KeyReused, SettledError
from settled.store.records import Queued, Request
from settled.store.sql.arrays import as_json, select
from settled.store.sql.ledger import Tx
from settled.store.sql.remembered import Remembered

# It takes its rows as two arrays in JSON.
_FIND: Final = (
    "SELECT json_array(json((SELECT json_group_array(json_array("
    "k.account_id, k.key, k.account, k.amount, k.scale, "
    "(SELECT value FROM counters WHERE name = 'key_tick') - k.tick)) "
    "FROM json_each(?1) AS asked CROSS JOIN idempotency_keys AS k "
    "ON k.account_id = asked.value ->> 0 AND k.key = asked.value ->> 1)), "
    "json((SELECT json_group_array(json_array("
    "a.id, a.number, a.requested, a.queued, a.waiting, a.retry_ms, a.unknown <> '0')) "
    "FROM json_each(?2) AS asked CROSS JOIN accounts AS a ON a.id = asked.value "
    "WHERE a.closed_ms IS NULL)))"
)
# The latest are the last: that is how the oldest are found.
_USE_AGAIN: Final = (
    "UPDATE idempotency_keys SET number = (SELECT max(number) FROM idempotency_keys) + 1, "
    "tick = (SELECT value FROM counters WHERE name = 'key_tick') WHERE account_id = ? AND key = ?"
)
# What is inserted into the view goes where its trigger puts it: one statement for all of it.
_PREPARE: Final = (
    "CREATE TEMP VIEW new_requests AS SELECT NULL AS requests, NULL AS accounts, NULL AS now_ms",
    """
    CREATE TEMP TRIGGER new_requests_insert INSTEAD OF INSERT ON new_requests BEGIN
        INSERT INTO idempotency_keys (account_id, key, account, amount, scale, tick)
            SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4,
                (SELECT value FROM counters WHERE name = 'key_tick')
            FROM json_each(NEW.requests);
        INSERT INTO journal (at_ms, account, source, target, amount, ref)
            SELECT NEW.now_ms, value ->> 2, 'requested', 'queued', value ->> 5, value ->> 1
            FROM json_each(NEW.requests);
        UPDATE accounts SET requested = is_now.value ->> 1, queued = is_now.value ->> 2,
            waiting = is_now.value ->> 3, retry_ms = is_now.value ->> 4
            FROM json_each(NEW.accounts) AS is_now
            WHERE number = is_now.value ->> 0 AND closed_ms IS NULL
            AND requested = is_now.value ->> 5 AND queued = is_now.value ->> 6
            AND waiting IS is_now.value ->> 7 AND retry_ms IS is_now.value ->> 8
            AND (unknown <> '0') = is_now.value ->> 9
            AND accounts.id = is_now.value ->> 10;
        SELECT RAISE(ABORT, 'an account is not as remembered')
            WHERE changes() <> json_array_length(NEW.accounts);
    END
    """,
)
_ADD: Final = "INSERT INTO new_requests VALUES (?, ?, ?)"

# The same for a request that is alone, at half the price: hardly anybody takes a turn then.
_ADD_KEY: Final = (
    "INSERT INTO idempotency_keys (account_id, key, account, amount, scale, tick) "
    "VALUES (?, ?, ?, ?, ?, (SELECT value FROM counters WHERE name = 'key_tick'))"
)
_TAKE_KEY_BACK: Final = "DELETE FROM idempotency_keys WHERE number = ?"
_ADD_ENTRY: Final = (
    "INSERT INTO journal (at_ms, account, source, target, amount, ref) "
    "VALUES (?, ?, 'requested', 'queued', ?, ?)"
)
_SAVE: Final = (
    "UPDATE accounts SET requested = ?2, queued = ?3, waiting = ?4, retry_ms = ?5 "
    "WHERE number = ?1 AND closed_ms IS NULL AND requested = ?6 AND queued = ?7 "
    "AND waiting IS ?8 AND retry_ms IS ?9 AND (unknown <> '0') = ?10 AND id = ?11"
)


class _Known(NamedTuple):
    """What stands under a key, and how many ticks ago it was used."""

    account: int
    quantity: Quantity
    age: int


class _Added(NamedTuple):
    """What is written of a request; the statement counts on the order."""

    account_id: str
    key: str
    account: int
    amount: str
    scale: int
    value: str


class _Account:
    """What a request reads and changes of an open account."""

    __slots__ = ("_id", "_kept", "number", "queued", "requested", "retry_ms", "unknown", "waiting")

    def __init__(self, account_id: str, row: Sequence[Any]) -> None:
        self._id = account_id  # its number may be another's once it is rolled back
        self.number, requested, queued, self.waiting, self.retry_ms, self.unknown = row
        self.requested = Decimal(requested)
        self.queued = Decimal(queued)
        self._kept: Sequence[object] = row[1:]  # as it is in the database

    def queue(self, value: Decimal) -> None:
        self.requested = EXACT.add(self.requested, value)
        self.queued = EXACT.add(self.queued, value)
        if self.retry_ms is None:
            self.retry_ms = 0
            if not self.unknown:
                self.waiting = None

    def change(self) -> Sequence[object]:
        """Return what is written of it: what it is now, and what it was."""
        now = (to_text(self.requested), to_text(self.queued), self.waiting, self.retry_ms)
        was, self._kept = self._kept, (*now, self.unknown)
        return self.number, *now, *was, self._id


class _TakesTransaction(Exception):
    """More is to be written than one statement does."""


class Requests:
    """Queues the requests that come on one connection, and remembers their accounts.

    Args:
        conn: the connection.
        remembered: what is remembered on it.
    """

    def __init__(self, conn: sqlite3.Connection, remembered: Remembered) -> None:
        for statement in _PREPARE:
            conn.execute(statement)
        self._remembered = remembered
        self._accounts: dict[str, _Account] = remembered.table()
        self._ids: dict[int, str] = remembered.table()  # of those, by number

    def queue(self, tx: Tx, requests: Sequence[Request]) -> list[Queued | SettledError]:
        """See ``OutgoingStore.queue_settlement``; what each request comes to, in their order.

        One that is refused leaves the others as they are.
        """
        self._remembered.check()
        try:
            results = self._queue_new(tx, requests) or self._look_and_queue(tx, requests)
        except BaseException:
            self._accounts.clear()
            raise
        self._remembered.written()
        return results

    def queue_at_once(
        self, tx: Tx, requests: Sequence[Request]
    ) -> list[Queued | SettledError] | None:
        """Do the same outside a transaction, where the one statement commits itself.

        Returns ``None`` if nothing was written, since it takes a transaction.
        """
        try:
            return self.queue(tx, requests)
        except (sqlite3.IntegrityError, _TakesTransaction):
            return None

    def _queue_new(self, tx: Tx, requests: Sequence[Request]) -> list[Queued | SettledError] | None:
        """Queue requests to accounts that are remembered, if all are new."""
        if any(request.account_id not in self._accounts for request in requests):
            return None
        try:
            return self._queue(tx, requests, {})
        except sqlite3.IntegrityError:
            return None

    def _look_and_queue(self, tx: Tx, requests: Sequence[Request]) -> list[Queued | SettledError]:
        """Ask the database for what is known of the requests, and queue those that are new."""
        for request in requests:
            self._accounts.pop(request.account_id, None)
        known, accounts = _find(tx.conn, requests)
        self._remembered.make_room()
        self._accounts |= accounts
        self._ids |= {account.number: account_id for account_id, account in accounts.items()}
        return self._queue(tx, requests, known)

    @contextmanager
    def beside(self) -> Iterator[set[int]]:
        """Within the block others write: nothing that is remembered, but of some accounts.

        They put the numbers of those accounts into the set.
        """
        self._remembered.check()
        accounts: set[int] = set()
        yield accounts
        for number in accounts:
            self._accounts.pop(self._ids.pop(number, ""), None)
        self._remembered.written()

    def _queue(
        self, tx: Tx, requests: Sequence[Request], known: dict[tuple[str, str], _Known]
    ) -> list[Queued | SettledError]:
        added: list[_Added] = []
        changed: dict[int, _Account] = {}
        results: list[Queued | SettledError] = []
        for request in requests:
            account_id, quantity, key = request
            value = quantity.value
            account = self._accounts.get(account_id)
            first = known.get((account_id, key))
            if not value:
                results.append(InvalidAmount("a settlement of zero moves nothing: ask for more"))
            elif first is not None:
                results.append(_replay(tx.conn, request, first))
            elif account is None:
                results.append(AccountNotFound(account_id))
            else:
                number, (amount, scale) = account.number, (quantity.amount, quantity.scale)
                account.queue(value)
                known[account_id, key] = _Known(number, quantity, 0)
                changed[number] = account
                added.append(_Added(account_id, key, number, amount, scale, to_text(value)))
                results.append(Queued(number, quantity, replayed=False))
        if added:
            changes = [account.change() for account in changed.values()]
            if len(added) == 1 and tx.conn.in_transaction:
                _add_one(tx, added[0], changes[0])
            else:
                rows = (as_json(added), as_json(changes), tx.now_ms)
                tx.conn.execute(_ADD, rows)
            for number in changed:
                tx.touch(number)
        return results


def _add_one(tx: Tx, added: _Added, change: Sequence[object]) -> None:
    key = tx.conn.execute(_ADD_KEY, added[:5]).lastrowid
    if not tx.conn.execute(_SAVE, change).rowcount:
        tx.conn.execute(_TAKE_KEY_BACK, (key,))
        raise sqlite3.IntegrityError("an account is not as remembered")
    entry = (tx.now_ms, added.account, added.value, added.key)
    tx.seq = tx.conn.execute(_ADD_ENTRY, entry).lastrowid


def is_requested(conn: sqlite3.Connection, account_id: str, key: str) -> bool:
    """See ``OutgoingStore.is_requested``."""
    known = conn.execute(
        "SELECT 1 FROM idempotency_keys WHERE account_id = ? AND key = ?", (account_id, key)
    )
    return known.fetchone() is not None


def _find(
    conn: sqlite3.Connection, requests: Sequence[Request]
) -> tuple[dict[tuple[str, str], _Known], dict[str, _Account]]:
    """Return the keys that are known, and the open accounts that are asked for, by id."""
    keys = as_json([(request.account_id, request.key) for request in requests])
    ids = as_json(list({request.account_id for request in requests}))
    known, accounts = select(conn, _FIND, keys, ids)
    return {
        (account_id, key): _Known(account, Quantity(amount, scale), age)
        for account_id, key, account, amount, scale, age in known
    }, {account_id: _Account(account_id, row) for account_id, *row in accounts}


def _replay(conn: sqlite3.Connection, request: Request, first: _Known) -> Queued | KeyReused:
    if first.quantity.value != request.quantity.value:
        return KeyReused(request.account_id, request.key, to_text(first.quantity.value))
    # Nothing is written for a key that lives long enough: a replay is answered on a full disk, too.
    if first.age >= limits.KEY_LIFE_TICKS // 2:
        if not conn.in_transaction:
            raise _TakesTransaction
        conn.execute(_USE_AGAIN, (request.account_id, request.key))
    return Queued(first.account, first.quantity, replayed=True)
