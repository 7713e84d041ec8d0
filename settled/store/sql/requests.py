"""Settlement requests: into the accounts' queues, once per idempotency key.

This is the hot path, so all the requests of a transaction go in together, with four statements
however many they are. Between statements Python's other threads run, and with several statements
for each request the writing thread would spend its time on waiting for its turn again. A request
that is alone goes in with four plainer ones, at half the price.
"""

from collections.abc import Collection, Sequence
from decimal import Decimal
from sqlite3 import Connection
from typing import Any, Final, NamedTuple

from settled import limits
from settled.amounts import EXACT, Quantity, to_text
from settled.errors import AccountNotFound, InvalidAmount, KeyReused, SettledError
from settled.store.records import Queued, Request
from settled.store.sql.arrays import as_json, select
from settled.store.sql.ledger import Tx

# Each of them takes its rows as one array in JSON.
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
_ADD_KEYS: Final = (
    "INSERT INTO idempotency_keys (account_id, key, account, amount, scale, tick) "
    "SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, ("
    "SELECT value FROM counters WHERE name = 'key_tick') FROM json_each(?)"
)
# The latest are the last: that is how the oldest are found.
_USE_AGAIN: Final = (
    "UPDATE idempotency_keys SET number = (SELECT max(number) FROM idempotency_keys) + 1, "
    "tick = (SELECT value FROM counters WHERE name = 'key_tick') WHERE account_id = ? AND key = ?"
)
_ADD_TO_JOURNAL: Final = (
    "INSERT INTO journal (at_ms, account, source, target, amount, ref) "
    "SELECT ?, value ->> 2, 'requested', 'queued', value ->> 5, value ->> 1 FROM json_each(?)"
)
_SAVE: Final = (
    "UPDATE accounts SET requested = now.value ->> 1, queued = now.value ->> 2, "
    "waiting = now.value ->> 3, retry_ms = now.value ->> 4 "
    "FROM json_each(?) AS now WHERE number = now.value ->> 0"
)

# The same for one request.
_FIND_ONE: Final = (
    "SELECT k.account, k.amount, k.scale, "
    "(SELECT value FROM counters WHERE name = 'key_tick') - k.tick, "
    "a.number, a.requested, a.queued, a.waiting, a.retry_ms, a.unknown <> '0' "
    "FROM (SELECT 1) LEFT JOIN idempotency_keys AS k ON k.account_id = ?1 AND k.key = ?2 "
    "LEFT JOIN accounts AS a ON a.id = ?1 AND a.closed_ms IS NULL"
)
_ADD_KEY: Final = (
    "INSERT INTO idempotency_keys (account_id, key, account, amount, scale, tick) "
    "VALUES (?, ?, ?, ?, ?, (SELECT value FROM counters WHERE name = 'key_tick'))"
)
_ADD_ENTRY: Final = (
    "INSERT INTO journal (at_ms, account, source, target, amount, ref) "
    "VALUES (?, ?, 'requested', 'queued', ?, ?)"
)
_SAVE_ONE: Final = (
    "UPDATE accounts SET requested = ?2, queued = ?3, waiting = ?4, retry_ms = ?5 WHERE number = ?1"
)


class _Known(NamedTuple):
    """What stands under a key, and how many ticks ago it was used."""

    account: int
    quantity: Quantity
    age: int


class _Added(NamedTuple):
    """What is written of a request; the statements count on the order."""

    account_id: str
    key: str
    account: int
    amount: str
    scale: int
    value: str


class _Account:
    """What a request reads and changes of an open account."""

    __slots__ = ("number", "queued", "requested", "retry_ms", "unknown", "waiting")

    def __init__(self, row: Sequence[Any]) -> None:
        self.number: int = row[0]
        self.requested = Decimal(row[1])
        self.queued = Decimal(row[2])
        self.waiting: str | None = row[3]
        self.retry_ms: int | None = row[4]
        self.unknown: int = row[5]

    def queue(self, value: Decimal) -> None:
        self.requested = EXACT.add(self.requested, value)
        self.queued = EXACT.add(self.queued, value)
        if self.retry_ms is None:
            self.retry_ms = 0
            if not self.unknown:
                self.waiting = None

    def row(self) -> tuple[object, ...]:
        requested, queued = to_text(self.requested), to_text(self.queued)
        return self.number, requested, queued, self.waiting, self.retry_ms


_Found = tuple[dict[tuple[str, str], _Known], dict[str, _Account]]


def queue_settlements(tx: Tx, requests: Sequence[Request]) -> list[Queued | SettledError]:
    """See ``OutgoingStore.queue_settlement``; what each request comes to, in their order.

    One that is refused leaves the others as they are.
    """
    alone = len(requests) == 1
    known, accounts = (_find_one if alone else _find)(tx.conn, requests)
    added: list[_Added] = []
    changed: dict[int, _Account] = {}
    results: list[Queued | SettledError] = []
    for request in requests:
        account_id, quantity, key = request
        value = quantity.value
        account = accounts.get(account_id)
        first = known.get((account_id, key))
        if not value:
            results.append(InvalidAmount("a settlement of zero moves nothing: ask for more"))
        elif first is not None:
            results.append(_replay(tx.conn, request, first))
        elif account is None:
            results.append(AccountNotFound(account_id))
        else:
            account.queue(value)
            known[account_id, key] = _Known(account.number, quantity, 0)
            changed[account.number] = account
            added.append(
                _Added(
                    account_id,
                    key,
                    account.number,
                    quantity.amount,
                    quantity.scale,
                    to_text(value),
                )
            )
            results.append(Queued(account.number, quantity, replayed=False))
    if added:
        (_add_one if alone else _add)(tx, added, changed.values())
        for number in changed:
            tx.touch(number)
    return results


def _add(tx: Tx, added: Sequence[_Added], changed: Collection[_Account]) -> None:
    rows = as_json(added)
    tx.conn.execute(_ADD_KEYS, (rows,))
    tx.conn.execute(_ADD_TO_JOURNAL, (tx.now_ms, rows))
    tx.conn.execute(_SAVE, (as_json([account.row() for account in changed]),))


def _add_one(tx: Tx, added: Sequence[_Added], changed: Collection[_Account]) -> None:
    (row,), (account,) = added, changed
    tx.conn.execute(_ADD_KEY, row[:5])
    tx.conn.execute(_ADD_ENTRY, (tx.now_ms, row.account, row.value, row.key))
    tx.conn.execute(_SAVE_ONE, account.row())


def is_requested(conn: Connection, account_id: str, key: str) -> bool:
    """See ``OutgoingStore.is_requested``."""
    known = conn.execute(
        "SELECT 1 FROM idempotency_keys WHERE account_id = ? AND key = ?", (account_id, key)
    )
    return known.fetchone() is not None


def _find(conn: Connection, requests: Sequence[Request]) -> _Found:
    """Return the keys that are known, and the open accounts that are asked for, by id."""
    keys = as_json([(request.account_id, request.key) for request in requests])
    ids = as_json(list({request.account_id for request in requests}))
    known, accounts = select(conn, _FIND, keys, ids)
    return {
        (account_id, key): _Known(account, Quantity(amount, scale), age)
        for account_id, key, account, amount, scale, age in known
    }, {account_id: _Account(row) for account_id, *row in accounts}


def _find_one(conn: Connection, requests: Sequence[Request]) -> _Found:
    ((account_id, _, key),) = requests
    account, amount, scale, age, *open_ = conn.execute(_FIND_ONE, (account_id, key)).fetchone()
    known = (
        {}
        if account is None
        else {(account_id, key): _Known(account, Quantity(amount, scale), age)}
    )
    return known, {} if open_[0] is None else {account_id: _Account(open_)}


def _replay(conn: Connection, request: Request, first: _Known) -> Queued | KeyReused:
    if first.quantity.value != request.quantity.value:
        return KeyReused(request.account_id, request.key, to_text(first.quantity.value))
    # Nothing is written for a key that lives long enough: a replay is answered on a full disk, too.
    if first.age >= limits.KEY_LIFE_TICKS // 2:
        conn.execute(_USE_AGAIN, (request.account_id, request.key))
    return Queued(first.account, first.quantity, replayed=True)
