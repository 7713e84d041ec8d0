"""The books of the in-memory store: its rows, the journal, and the one way that money moves."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec
import trio

from settled import limits
from settled.amounts import EXACT, Quantity, to_text
from settled.errors import AccountNotFound, NotFound
from settled.store.clock import Mark, Uptime
from settled.store.records import Account, Bucket, Credit, Settlement

CLOSED: Final = "the account is closed"
DELAY_MAX_MS: Final = int(limits.RETRY_DELAY_MAX_S * 1000)

ORIGINS: Final[frozenset[Bucket]] = frozenset({"requested", "received"})

Row = TypeVar("Row", Account, Settlement, Credit)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal: ``amount`` of an account went from ``source`` to ``target``."""

    account: int
    source: Bucket
    target: Bucket
    amount: Decimal
    ref: str


@dataclass(frozen=True, slots=True)
class Key:
    """An idempotency key: what it was first used for, and the tick of its latest use."""

    account: int
    quantity: Quantity
    tick: int


def plain(value: Decimal) -> Decimal:
    """Return ``value`` with no needless digit, as a database that keeps texts would give it."""
    return Decimal(to_text(value))


def nearer(retry_ms: int, now: int) -> int:
    """Return ``retry_ms``, unless it is further ahead than any backoff reaches.

    Then the clock has gone back since it was written, and it is taken for the longest backoff;
    callers store that, so that the wait ends however far the clock went.
    """
    return min(retry_ms, now + DELAY_MAX_MS)


def cut(reason: str) -> str:
    """Return ``reason``, no longer than a store keeps."""
    return reason[: limits.REASON_CHARS_MAX]


def page(rows: Iterable[Row], before: int | None, limit: int) -> list[Row]:
    """Return the first ``limit`` of ``rows``, which come newest first, numbered below ``before``.

    Raises:
        ValueError: unless ``limit`` is 1 to ``limits.PAGE_ROWS_MAX``.
    """
    if not 1 <= limit <= limits.PAGE_ROWS_MAX:
        raise ValueError(f"a page has 1 to {limits.PAGE_ROWS_MAX} rows, not {limit}")
    return list(islice((row for row in rows if before is None or row.number < before), limit))


async def called() -> None:
    """Let others run, as each call of a store does.

    A cancellation is noticed before that or at the next call, so that it never undoes this one.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    await trio.lowlevel.cancel_shielded_checkpoint()


class Books:
    """Rows and journal, and the changes that every part of the store is made of.

    Each row is a frozen record that a change replaces, so what was handed out never changes.
    """

    def __init__(self, now_ms: Callable[[], int], uptime: Callable[[], Uptime]) -> None:
        self._now_ms = now_ms
        self._uptime = uptime
        self._mark: Mark | None = None
        self._journal: list[Entry] = []
        self._accounts: dict[int, Account] = {}
        self._lives: dict[str, list[int]] = {}
        self._hook_retry_ms: dict[int, int] = {}
        self._settlements: dict[str, Settlement] = {}
        self._open_settlements: dict[int, str] = {}
        self._credits: dict[str, Credit] = {}
        self._undelivered: dict[int, set[str]] = {}
        self._keys: dict[tuple[str, str], Key] = {}
        self._tick = 0
        self._state: dict[tuple[str | None, str], bytes] = {}

    def _steady_ms(self) -> int:
        """Read the steady clock (see ``settled.store.clock``)."""
        now, uptime = self._now_ms(), self._uptime()
        self._mark = (self._mark or Mark(now, now, uptime)).advanced(now, uptime)
        return self._mark.steady_ms

    # --- looking up ---

    def _latest(self, account_id: str) -> Account:
        """Return the open account of this id, which is always the latest, or the latest closed."""
        lives = self._lives.get(account_id)
        if not lives:
            raise AccountNotFound(account_id)
        return self._accounts[lives[-1]]

    def _open(self, account_id: str) -> Account:
        account = self._latest(account_id)
        if account.state == "closed":
            raise AccountNotFound(account_id)
        return account

    def _numbered(self, number: int) -> Account:
        try:
            return self._accounts[number]
        except KeyError:
            raise NotFound(f"no account has the number {number}") from None

    def _open_settlement(self, account: int) -> Settlement | None:
        """Return the settlement of this account that has no outcome yet."""
        settlement_id = self._open_settlements.get(account)
        return None if settlement_id is None else self._settlements[settlement_id]

    # --- changing ---

    def _set_account(self, number: int, **changes: Any) -> Account:
        """Replace fields of an account; its state follows from them."""
        account = replace(self._accounts[number], **changes)
        if account.closed_ms is not None:
            account = replace(account, state="closed")
        else:
            account = replace(account, state="setup" if account.hook == "setup_account" else "open")
        self._accounts[number] = account
        return account

    def _set_settlement(self, settlement: Settlement, **changes: Any) -> Settlement:
        """Replace a settlement, and note whether its account may begin another."""
        settlement = replace(settlement, **changes)
        self._settlements[settlement.id] = settlement
        if settlement.state in ("settled", "not_sent"):
            self._open_settlements.pop(settlement.account, None)
        else:
            self._open_settlements[settlement.account] = settlement.id
        return settlement

    def _set_credit(self, credit: Credit, **changes: Any) -> Credit:
        """Replace a credit, and note whether it is still to be delivered."""
        credit = msgspec.structs.replace(credit, **changes)
        self._credits[credit.id] = credit
        undelivered = self._undelivered.setdefault(credit.account, set())
        if credit.state == "undelivered":
            undelivered.add(credit.id)
        else:
            undelivered.discard(credit.id)
        return credit

    def _move(
        self, account: int, source: Bucket, target: Bucket, amount: Decimal, ref: str
    ) -> None:
        """Move money of an account, on the record: nothing else changes a balance."""
        if not amount:
            return
        self._journal.append(Entry(account, source, target, amount, ref))
        row = self._accounts[account]
        change = EXACT.add if source in ORIGINS else EXACT.subtract
        balances: dict[str, Decimal] = {
            source: plain(change(getattr(row, source), amount)),
            target: plain(EXACT.add(getattr(row, target), amount)),
        }
        self._set_account(account, **balances)
