"""The ledger of the loopback engines: one small SQLite file that they all share.

It stands in for what a real engine finds elsewhere: a chain, a bank, a payment network. Wallets
hold balances, transfers have ids that are used once, and no money appears or goes but by `mint`.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation
from pathlib import Path
from typing import Final, TypeVar

import trio

T = TypeVar("T")

# Wide enough for any sum of amounts that settled hands out; it raises rather than round.
_EXACT: Final = Context(prec=4096, traps=[Inexact, InvalidOperation])
_BUSY_TIMEOUT_S: Final = 5.0
_MINT: Final = "mint"

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS wallets (name TEXT PRIMARY KEY, balance TEXT NOT NULL) STRICT",
    # Transfers commit one after the other, so in the order of n.
    """CREATE TABLE IF NOT EXISTS transfers (
        n INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE CHECK (length(id) <= 255 AND id NOT GLOB '*[^!-~]*'),
        source TEXT NOT NULL,
        target TEXT NOT NULL,
        tag INTEGER NOT NULL,
        amount TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX IF NOT EXISTS transfers_by_target ON transfers (target, n)",
)


class InsufficientFunds(Exception):
    """A wallet holds less than it was to pay; nothing was paid."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A payment on the ledger. ``tag`` is what the payee told the payer to put on it."""

    n: int
    id: str
    source: str
    target: str
    tag: int
    amount: Decimal


class Ledger:
    """A ledger file. Every call is one transaction in a thread, and is never left half-way.

    A call that is cancelled while its thread runs still waits for the thread: once it has
    returned or raised, nothing more happens on the ledger.

    Args:
        path: the file; it is created when it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """What tells this ledger from any other: the whole path of its file."""
        return str(self.path.resolve())

    @property
    def exists(self) -> bool:
        """Whether there is such a ledger already."""
        return self.path.exists()

    async def open_wallet(self, wallet: str, funds: Decimal) -> None:
        """Create the wallet with its opening funds, unless it exists."""

        def call(db: sqlite3.Connection) -> None:
            with _transaction(db):
                for statement in _SCHEMA:
                    db.execute(statement)
                if db.execute("SELECT 1 FROM wallets WHERE name = ?", (wallet,)).fetchone() is None:
                    _add(db, wallet, Decimal(0))
                    if funds > 0:
                        _move(db, f"{_MINT}:{wallet}", _MINT, wallet, tag=0, amount=funds)

        await self._run(call)

    async def pay(
        self, transfer_id: str, source: str, target: str, tag: int, amount: Decimal
    ) -> Decimal:
        """Pay, or find that this id is paid already; return the amount of the transfer.

        Raises:
            InsufficientFunds: when the source wallet holds less.
            ValueError: when the amount is not above zero.
        """
        if amount <= 0:
            raise ValueError(f"cannot pay {amount:f}")

        def call(db: sqlite3.Connection) -> Decimal:
            with _transaction(db):
                paid = _amount(db, transfer_id)
                if paid:
                    return paid
                if (balance := _balance(db, source)) < amount:
                    raise InsufficientFunds(f"wallet {source} holds {balance:f}, not {amount:f}")
                _move(db, transfer_id, source, target, tag=tag, amount=amount)
            return amount

        return await self._run(call)

    async def amount(self, transfer_id: str) -> Decimal:
        """Return the amount of a transfer, 0 if there is no such transfer."""
        return await self._run(lambda db: _amount(db, transfer_id))

    async def balance(self, wallet: str) -> Decimal:
        """Return what a wallet holds."""
        return await self._run(lambda db: _balance(db, wallet))

    async def transfers_to(self, wallet: str, *, after: int, limit: int) -> list[Transfer]:
        """Return payments to the wallet with ``n`` above ``after``, in order."""

        def call(db: sqlite3.Connection) -> list[Transfer]:
            rows = db.execute(
                "SELECT n, id, source, target, tag, amount FROM transfers"
                " WHERE target = ? AND n > ? AND source <> 'mint' ORDER BY n LIMIT ?",
                (wallet, after, limit),
            )
            return [
                Transfer(n, transfer_id, source, target, tag, Decimal(amount))
                for n, transfer_id, source, target, tag, amount in rows
            ]

        return await self._run(call)

    async def _run(self, call: Callable[[sqlite3.Connection], T]) -> T:
        def work() -> T:
            with closing(
                sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            ) as db:
                db.execute("PRAGMA synchronous = EXTRA")
                return call(db)

        return await trio.to_thread.run_sync(work)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _amount(db: sqlite3.Connection, transfer_id: str) -> Decimal:
    row = db.execute("SELECT amount FROM transfers WHERE id = ?", (transfer_id,)).fetchone()
    return Decimal(row[0]) if row else Decimal(0)


def _balance(db: sqlite3.Connection, wallet: str) -> Decimal:
    row = db.execute("SELECT balance FROM wallets WHERE name = ?", (wallet,)).fetchone()
    return Decimal(row[0]) if row else Decimal(0)


def _add(db: sqlite3.Connection, wallet: str, amount: Decimal) -> None:
    balance = _EXACT.add(_balance(db, wallet), amount)
    db.execute(
        "INSERT INTO wallets VALUES (?, ?) ON CONFLICT DO UPDATE SET balance = excluded.balance",
        (wallet, f"{balance:f}"),
    )


def _move(
    db: sqlite3.Connection, transfer_id: str, source: str, target: str, *, tag: int, amount: Decimal
) -> None:
    db.execute(
        "INSERT INTO transfers (id, source, target, tag, amount) VALUES (?, ?, ?, ?, ?)",
        (transfer_id, source, target, tag, f"{amount:f}"),
    )
    _add(db, source, amount.copy_negate())
    _add(db, target, amount)
