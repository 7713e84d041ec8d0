"""An account's row while a transaction works on it: the one place where balances change."""

from dataclasses import dataclass
from decimal import Decimal
from sqlite3 import Connection
from typing import Any, Final, get_args

from settled import limits
from settled.amounts import EXACT, to_text
from settled.errors import NotFound, SettledError
from settled.store.clock import Uptime
from settled.store.records import Account, AccountState, Bucket, Hook

ORIGINS: Final[frozenset[Bucket]] = frozenset({"requested", "received"})
MAY_BE_NEGATIVE: Final[frozenset[Bucket]] = frozenset({"queued"})
BUCKETS: Final[tuple[Bucket, ...]] = get_args(Bucket)
NEVER_MS: Final = 2**62
CLOSED: Final = "the account is closed"

_MUTABLE: Final = (
    *BUCKETS,
    *("waiting", "retry_ms", "failures", "hook", "hook_failures", "hook_retry_ms", "closed_ms"),
)
COLUMNS: Final = ", ".join(("number", "id", "opened_ms", *_MUTABLE))
_SAVE: Final = f"UPDATE accounts SET {', '.join(f'{c} = ?' for c in _MUTABLE)} WHERE number = ?"
_MOVE: Final = (
    "INSERT INTO journal (at_ms, account, source, target, amount, ref) VALUES (?, ?, ?, ?, ?, ?)"
)


@dataclass(slots=True)
class Tx:
    """An open transaction: its connection, its instant, and whether a daemon must be told of it.

    Attributes:
        seq: the number of the journal's last entry, where whoever wrote it happens to know it.
    """

    conn: Connection
    now_ms: int
    uptime: Uptime
    nudge: bool = False
    seq: int | None = None

    def touch(self, account: int) -> None:
        """Tell the daemon, if another process holds it, to look at this account."""
        if self.nudge:
            self.conn.execute("INSERT INTO nudges (account) VALUES (?)", (account,))


class AccountRow:
    """One row of ``accounts``, read, changed and saved within a transaction."""

    __slots__ = (
        "balance",
        "closed_ms",
        "failures",
        "hook",
        "hook_failures",
        "hook_retry_ms",
        "id",
        "number",
        "opened_ms",
        "retry_ms",
        "waiting",
    )

    def __init__(self, row: tuple[Any, ...]) -> None:
        self.number: int = row[0]
        self.id: str = row[1]
        self.opened_ms: int = row[2]
        self.balance: dict[Bucket, Decimal] = {
            bucket: Decimal(text) for bucket, text in zip(BUCKETS, row[3:12], strict=True)
        }
        self.waiting: str | None = row[12]
        self.retry_ms: int | None = row[13]
        self.failures: int = row[14]
        self.hook: Hook | None = row[15]
        self.hook_failures: int = row[16]
        self.hook_retry_ms: int = row[17]
        self.closed_ms: int | None = row[18]

    def move(self, tx: Tx, source: Bucket, target: Bucket, amount: Decimal, ref: str) -> None:
        """Move ``amount`` (zero: nothing happens) between two buckets and write it down."""
        if not amount:
            return
        shift(self.balance, source, target, amount, f"account {self.id}")
        tx.conn.execute(_MOVE, (tx.now_ms, self.number, source, target, to_text(amount), ref))

    def save(self, tx: Tx) -> None:
        """Write the row back."""
        tx.conn.execute(
            _SAVE,
            (
                *(to_text(self.balance[bucket]) for bucket in BUCKETS),
                self.waiting,
                self.retry_ms,
                self.failures,
                self.hook,
                self.hook_failures,
                self.hook_retry_ms,
                self.closed_ms,
                self.number,
            ),
        )

    @property
    def state(self) -> AccountState:
        if self.closed_ms is not None:
            return "closed"
        return "setup" if self.hook == "setup_account" else "open"

    def record(self) -> Account:
        """Return the row as the store hands it out."""
        return Account(
            number=self.number,
            id=self.id,
            state=self.state,
            **self.balance,
            waiting=self.waiting,
            retry_ms=self.retry_ms,
            failures=self.failures,
            hook=self.hook,
            hook_failures=self.hook_failures,
            opened_ms=self.opened_ms,
            closed_ms=self.closed_ms,
        )


def shift(
    balance: dict[Bucket, Decimal], source: Bucket, target: Bucket, amount: Decimal, whose: str
) -> None:
    """Move ``amount`` between two buckets of a balance.

    Raises:
        SettledError: when so much is not there.
    """
    grow = EXACT.add if source in ORIGINS else EXACT.subtract
    balance[source] = grow(balance[source], amount)
    balance[target] = EXACT.add(balance[target], amount)
    if balance[source] < 0 and source not in MAY_BE_NEGATIVE:
        raise SettledError(
            f"{whose}: moving {to_text(amount)} out of {source} would leave "
            f"{to_text(balance[source])}: run `settled audit`"
        )


def load(conn: Connection, number: int) -> AccountRow:
    """Return the account with this number.

    Raises:
        NotFound: when there is none.
    """
    row = conn.execute(f"SELECT {COLUMNS} FROM accounts WHERE number = ?", (number,)).fetchone()
    if row is None:
        raise NotFound(f"no account has the number {number}")
    return AccountRow(row)


def find_open(conn: Connection, account_id: str) -> AccountRow | None:
    """Return the open account of this id, if any."""
    row = conn.execute(
        f"SELECT {COLUMNS} FROM accounts WHERE id = ? AND closed_ms IS NULL", (account_id,)
    ).fetchone()
    return None if row is None else AccountRow(row)


def find_latest(conn: Connection, account_id: str) -> AccountRow | None:
    """Return the open account of this id, else its latest closed life, if any."""
    row = conn.execute(
        f"SELECT {COLUMNS} FROM accounts WHERE id = ? ORDER BY number DESC LIMIT 1", (account_id,)
    ).fetchone()
    return None if row is None else AccountRow(row)


def nearer(retry_ms: int, now_ms: int) -> int:
    """Return ``retry_ms``, or the longest delay from now if a clock that has gone back wrote it.

    Callers store it, so that the wait ends however far the clock went.
    """
    return min(retry_ms, now_ms + round(limits.RETRY_DELAY_MAX_S * 1000))


def wait_ms(retry_ms: int, now_ms: int) -> int:
    """Return how long until ``retry_ms``: an hour at most, so that no clock can stall a retry."""
    return min(max(retry_ms - now_ms, 0), round(limits.RETRY_DELAY_MAX_S * 1000))


def shortened(reason: str | None) -> str | None:
    """Return ``reason`` cut to the length that is kept."""
    return None if reason is None else reason[: limits.REASON_CHARS_MAX]
