"""Movements of incoming money on many accounts at once, with three statements however many.

The same rules as ``AccountRow.move``, for what a whole group of credits does together: see
``settled.store.sql.requests`` for why.
"""

from collections.abc import Collection
from decimal import Decimal
from typing import Final, Literal

from settled.amounts import to_text
from settled.errors import NotFound
from settled.store.records import Bucket
from settled.store.sql.arrays import as_json, select
from settled.store.sql.ledger import Tx, shift

_Side = Literal["received", "undelivered", "credited"]
_SIDES: Final[tuple[_Side, ...]] = ("received", "undelivered", "credited")

_LOAD: Final = (
    "SELECT json_group_array(json_array("
    "a.number, a.received, a.undelivered, a.credited)) "
    "FROM json_each(?) AS asked CROSS JOIN accounts AS a ON a.number = asked.value"
)
_ADD_TO_JOURNAL: Final = (
    "INSERT INTO journal (at_ms, account, source, target, amount, ref) "
    "SELECT ?, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?)"
)
_SAVE: Final = (
    "UPDATE accounts SET received = now.value ->> 1, undelivered = now.value ->> 2, "
    "credited = now.value ->> 3 "
    "FROM json_each(?) AS now WHERE number = now.value ->> 0"
)


class Moves:
    """Movements within one transaction; nothing of them is written before ``write``.

    Args:
        tx: the transaction.
        accounts: the numbers of all accounts that something may be moved on.
    """

    def __init__(self, tx: Tx, accounts: Collection[int]) -> None:
        self._tx = tx
        self._balances = {
            number: dict[Bucket, Decimal](zip(_SIDES, map(Decimal, amounts), strict=True))
            for number, *amounts in select(tx.conn, _LOAD, as_json(sorted(set(accounts))))
        }
        self._journal: list[tuple[object, ...]] = []
        self._moved: set[int] = set()

    def move(self, account: int, source: _Side, target: _Side, amount: Decimal, ref: str) -> None:
        """Move ``amount``, which is more than zero, between two buckets of an account.

        Raises:
            NotFound: when there is no such account.
            SettledError: when so much is not there.
        """
        balance = self._balances.get(account)
        if balance is None:
            raise NotFound(f"no account has the number {account}")
        shift(balance, source, target, amount, f"account number {account}")
        self._journal.append((account, source, target, to_text(amount), ref))
        self._moved.add(account)

    def write(self) -> None:
        """Write the movements down, and the balances that they lead to."""
        if not self._journal:
            return
        conn = self._tx.conn
        conn.execute(_ADD_TO_JOURNAL, (self._tx.now_ms, as_json(self._journal)))
        rows = [(number, *map(to_text, self._balances[number].values())) for number in self._moved]
        conn.execute(_SAVE, (as_json(rows),))
