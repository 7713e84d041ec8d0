"""Movements of money on many accounts at once, with two statements however many.

The same rules as ``AccountRow.move``, for what a whole group of credits or settlements does
together: see ``settled.store.sql.requests`` for why.
"""

from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import Final

from settled.amounts import to_text
from settled.errors import NotFound
from settled.store.records import Bucket
from settled.store.sql.arrays import as_json, select
from settled.store.sql.ledger import Tx, shift

_ADD_TO_JOURNAL: Final = (
    "INSERT INTO journal (at_ms, account, source, target, amount, ref) "
    "SELECT ?, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?)"
)


class Moves:
    """Movements within one transaction; nothing of them is written before ``write``.

    Args:
        tx: the transaction.
        buckets: those that something may be moved out of or into.

    Example::

        moves = Moves(tx, ("received", "undelivered"))
        moves.load([account])
        moves.move(account, "received", "undelivered", amount, key)
        moves.write()
    """

    def __init__(self, tx: Tx, buckets: tuple[Bucket, ...]) -> None:
        self._tx = tx
        self._buckets = buckets
        self._balances: dict[int, dict[Bucket, Decimal]] = {}
        self._journal: list[tuple[object, ...]] = []
        self._moved: set[int] = set()

    def load(self, accounts: Collection[int]) -> None:
        """Read the balances of the accounts with these numbers, as far as there are any."""
        columns = ", ".join(f"a.{bucket}" for bucket in self._buckets)
        found = select(
            self._tx.conn,
            f"SELECT json_group_array(json_array(a.number, {columns})) FROM json_each(?) AS asked "
            "CROSS JOIN accounts AS a ON a.number = asked.value",
            as_json(sorted(set(accounts))),
        )
        for number, *amounts in found:
            self.add(number, amounts)

    def add(self, account: int, amounts: Sequence[str]) -> None:
        """Take an account's balances, which this transaction has read, in the buckets' order."""
        self._balances[account] = dict(zip(self._buckets, map(Decimal, amounts), strict=True))

    def move(self, account: int, source: Bucket, target: Bucket, amount: Decimal, ref: str) -> None:
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

    def write(self, also: str = "") -> None:
        """Write the movements down, and the balances that they lead to.

        Args:
            also: what else is set in each row of ``accounts`` that something was moved on, such as
                ``failures = 0``.
        """
        if not self._journal:
            return
        conn = self._tx.conn
        conn.execute(_ADD_TO_JOURNAL, (self._tx.now_ms, as_json(self._journal)))
        rows = [(number, *map(to_text, self._balances[number].values())) for number in self._moved]
        assignments = [
            f"{bucket} = now.value ->> {1 + i}" for i, bucket in enumerate(self._buckets)
        ]
        conn.execute(
            f"UPDATE accounts SET {', '.join(filter(None, (*assignments, also)))} "
            "FROM json_each(?) AS now WHERE number = now.value ->> 0",
            (as_json(rows),),
        )
