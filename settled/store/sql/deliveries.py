"""What becomes of credits on the way to the connector, of all that a transaction has at once.

Ordinary credits take a few statements however many they are: see ``settled.store.sql.requests`` for
why. Those that need more thought, each in its own way, are left to ``settled.store.sql.incoming``.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from msgspec.structs import replace

from settled import limits
from settled.amounts import checked, to_text
from settled.errors import AccountNotFound, InvalidAmount, SettledError, SettlementConflict
from settled.ids import check_settlement_id, credit_key
from settled.store.protocol_incoming import CreditLook, CreditSent, NewCredit
from settled.store.records import (
    AddCredit,
    Bucket,
    Credit,
    Delivered,
    NextDeliveries,
)
from settled.store.sql import incoming
from settled.store.sql.arrays import as_json, select
from settled.store.sql.ledger import Tx, wait_ms
from settled.store.sql.moves import Moves
from settled.store.sql.restored import unclear_since
from settled.store.sql.steady import steady_ms

_KNOWN: Final = (
    "SELECT json_group_array(json_array(c.account_id, c.settlement_id, c.amount)) "
    "FROM json_each(?) AS asked CROSS JOIN credits AS c "
    "ON c.account_id = asked.value ->> 0 AND c.settlement_id = asked.value ->> 1"
)
_LATEST: Final = (
    "SELECT json_group_array(json_array(a.id, a.number, a.received, a.undelivered)) "
    "FROM json_each(?) AS asked CROSS JOIN accounts AS a "
    "ON a.number = (SELECT max(number) FROM accounts WHERE id = asked.value)"
)
# What is handed out as it comes may have been sent since now.
_ADD: Final = (
    "INSERT INTO credits (number, id, account, account_id, settlement_id, amount, state, attempts, "
    "retry_ms, reason, ambiguous_ms, ambiguous_steady_ms, created_ms, updated_ms) "
    "SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, "
    "'undelivered', value ->> 6, value ->> 7, ?2, iif(value ->> 6, ?5, ?3), "
    "iif(value ->> 6, ?6, ?4), ?5, ?5 FROM json_each(?1)"
)
_NEXT: Final = (
    "SELECT json_group_array(json_array(c.account, c.retry_ms, c.number, c.ambiguous_steady_ms)) "
    "FROM json_each(?) AS asked CROSS JOIN credits AS c "
    "ON c.number IN (SELECT number FROM credits WHERE account = asked.value "
    "AND state = 'undelivered' ORDER BY retry_ms, number LIMIT ?)"
)
_DUE: Final = (
    "SELECT json_group_array(json_array(c.number, c.id, c.account, c.account_id, c.settlement_id, "
    "c.amount, c.state, c.reason, c.attempts + 1, c.ambiguous_ms, c.ambiguous_steady_ms, "
    "c.retry_ms, c.created_ms, ?)) "
    "FROM json_each(?) AS asked CROSS JOIN credits AS c ON c.number = asked.value"
)
_HAND_OUT: Final = (
    "UPDATE credits SET attempts = attempts + 1, updated_ms = ?, "
    "ambiguous_ms = ifnull(ambiguous_ms, ?), ambiguous_steady_ms = ifnull(ambiguous_steady_ms, ?) "
    "WHERE number IN (SELECT value FROM json_each(?))"
)
_SENT: Final = (
    "SELECT json_group_array(json_array(c.id, c.number, c.account, c.amount, c.state)) "
    "FROM json_each(?) AS asked CROSS JOIN credits AS c ON c.id = asked.value"
)
_CREDITED: Final = (
    "UPDATE credits SET state = 'credited', reason = NULL, updated_ms = ? "
    "WHERE number IN (SELECT value FROM json_each(?))"
)

TO_ADD: Final[tuple[Bucket, Bucket]] = ("received", "undelivered")
TO_CREDIT: Final[tuple[Bucket, Bucket]] = ("undelivered", "credited")


def add_credits(tx: Tx, news: Sequence[NewCredit]) -> list[Credit | SettledError | None]:
    """See ``IncomingStore.add_credit``; what comes of each, in their order.

    One that is refused leaves the others as they are.
    """
    amounts = [amount_of(new.change) for new in news]
    sound = [
        new.change for new, amount in zip(news, amounts, strict=True) if isinstance(amount, Decimal)
    ]
    asked = as_json([(change.account_id, change.settlement_id) for change in sound])
    known = {
        (account_id, settlement_id): Decimal(amount)
        for account_id, settlement_id, amount in select(tx.conn, _KNOWN, asked)
    }
    ids = as_json(sorted({change.account_id for change in sound}))
    accounts: dict[str, int] = {}
    moves = Moves(tx, TO_ADD)
    for account_id, number, *balances in select(tx.conn, _LATEST, ids):
        accounts[account_id] = number
        moves.add(number, balances)
    adding = _Adding(tx)
    results: list[Credit | SettledError | None] = []
    for (change, hand_out), amount in zip(news, amounts, strict=True):
        if isinstance(amount, SettledError):
            results.append(amount)
            continue
        first = known.get((change.account_id, change.settlement_id))
        number = accounts.get(change.account_id)
        if first is not None:
            results.append(None if first == amount else _conflict(change, first, amount))
            continue
        if number is None:
            results.append(AccountNotFound(change.account_id))
            continue
        known[change.account_id, change.settlement_id] = amount
        credit = adding.add(change, number, amount, hand_out=hand_out)
        moves.move(number, "received", "undelivered", amount, credit.id)
        results.append(credit)
    adding.write()
    moves.write()
    return results


class _Adding:
    """The rows of new credits, and what each is as it is returned."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        # Found again after a restore, it may have been delivered: that is for a look to judge.
        self._unclear = unclear_since(tx.conn)
        (self._number,) = tx.conn.execute("SELECT ifnull(max(number), 0) FROM credits").fetchone()
        self._rows: list[tuple[object, ...]] = []
        self._accounts: set[int] = set()
        self._hands_out = False

    def add(self, change: AddCredit, account: int, amount: Decimal, *, hand_out: bool) -> Credit:
        self._number += 1
        reason, ambiguous_ms, ambiguous_steady_ms = self._unclear
        credit = replace(
            new_credit(
                self._tx,
                change,
                number=self._number,
                account=account,
                amount=amount,
                hand_out=hand_out and ambiguous_ms is None,
            ),
            reason=reason,
            ambiguous_ms=ambiguous_ms,
            ambiguous_steady_ms=ambiguous_steady_ms,
        )
        self._accounts.add(account)
        self._hands_out |= bool(credit.attempts)
        self._rows.append(row_of(credit))
        return credit

    def write(self) -> None:
        if not self._rows:
            return
        tx = self._tx
        steady = steady_ms(tx) if self._hands_out else None
        tx.conn.execute(_ADD, (as_json(self._rows), *self._unclear, tx.now_ms, steady))
        for account in self._accounts:
            tx.touch(account)


def new_credit(
    tx: Tx, change: AddCredit, *, number: int, account: int, amount: Decimal, hand_out: bool
) -> Credit:
    """Return a credit as it is added, in a database that is no restored backup."""
    return Credit(
        number=number,
        id=credit_key(change.account_id, change.settlement_id),
        account=account,
        account_id=change.account_id,
        settlement_id=change.settlement_id,
        amount=amount,
        state="undelivered",
        attempts=int(hand_out),
        retry_ms=tx.now_ms + limits.HANDED_OUT_S * 1000 if hand_out else 0,
        created_ms=tx.now_ms,
        updated_ms=tx.now_ms,
    )


def row_of(credit: Credit) -> tuple[object, ...]:
    """Return what is written of a new credit; the statements count on the order."""
    return (
        *(credit.number, credit.id, credit.account, credit.account_id, credit.settlement_id),
        *(to_text(credit.amount), credit.attempts, credit.retry_ms),
    )


def amount_of(change: AddCredit) -> Decimal | SettledError:
    """Return the amount of a credit, or what is wrong with the credit by itself."""
    try:
        amount = checked(change.amount)
        check_settlement_id(change.settlement_id)
    except SettledError as error:
        return error
    if not amount:
        return InvalidAmount(f"account {change.account_id}: a credit of zero says nothing")
    return amount


def _conflict(change: AddCredit, first: Decimal, amount: Decimal) -> SettlementConflict:
    return SettlementConflict(
        f"account {change.account_id}: settlement {change.settlement_id!r} was credited with "
        f"{to_text(first)} before and cannot be {to_text(amount)} now"
    )


def next_deliveries(tx: Tx, looks: Sequence[CreditLook]) -> list[NextDeliveries]:
    """See ``IncomingStore.next_deliveries``; what each look finds, in their order."""
    numbers = list(dict.fromkeys(look.account for look in looks))
    incoming.bring_nearer(tx, numbers)
    steady = steady_ms(tx)
    rows_max = max(look.limit + len(look.sending) for look in looks) + 1
    waiting: dict[int, list[_Waiting]] = {number: [] for number in numbers}
    for account, *row in select(tx.conn, _NEXT, as_json(numbers), rows_max):
        waiting[account].append(_Waiting(*row))
    # Two looks for one account at once would find the same.
    found = [_due(tx, look, waiting.pop(look.account, None), steady) for look in looks]
    due = as_json([number for step in found if step is not None for number in step.numbers])
    # As they will be, but for since when they may have been sent: before, they were not.
    handed_out = {
        row[0]: incoming.credit_record(row) for row in select(tx.conn, _DUE, tx.now_ms, due)
    }
    if handed_out:
        tx.conn.execute(_HAND_OUT, (tx.now_ms, tx.now_ms, steady, due))
    return [
        incoming.next_deliveries(tx, *look)
        if step is None
        else NextDeliveries(tuple(handed_out[number] for number in step.numbers), step.delay_ms)
        for look, step in zip(looks, found, strict=True)
    ]


class _Waiting(NamedTuple):
    """A credit that is not delivered; it sorts as it is due."""

    retry_ms: int
    number: int
    ambiguous_steady_ms: int | None


class _Due(NamedTuple):
    """What an ordinary look finds: the numbers of credits, and when to look again."""

    numbers: list[int]
    delay_ms: int | None


def _due(tx: Tx, look: CreditLook, waiting: list[_Waiting] | None, steady: int) -> _Due | None:
    """Return what is due; ``None`` if there is more to it, such as a credit to be parked."""
    if waiting is None:
        return None
    due: list[int] = []
    for credit in sorted(waiting):
        if credit.number in look.sending:
            continue
        delay_ms = wait_ms(credit.retry_ms, tx.now_ms)
        if delay_ms > 0 or len(due) == look.limit:
            return _Due(due, delay_ms)
        if incoming.is_too_old(credit.ambiguous_steady_ms, steady):
            return None
        due.append(credit.number)
    return _Due(due, None)


def record_deliveries(tx: Tx, deliveries: Sequence[CreditSent]) -> list[None]:
    """See ``IncomingStore.record_delivery``."""
    ids = {sent.credit.id for sent in deliveries if isinstance(sent.outcome, Delivered)}
    found = select(tx.conn, _SENT, as_json(sorted(ids)))
    # One that is parked, or not there, is somewhat less than ordinary.
    found = [row for row in found if row[4] == "undelivered"]
    moves = Moves(tx, TO_CREDIT)
    moves.load([account for _, _, account, _, _ in found])
    for credit_id, _, account, amount, _ in found:
        moves.move(account, "undelivered", "credited", Decimal(amount), credit_id)
    moves.write()
    if found:
        numbers = as_json([number for _, number, _, _, _ in found])
        tx.conn.execute(_CREDITED, (tx.now_ms, numbers))
    done = {credit_id for credit_id, *_ in found}
    for credit, outcome in deliveries:
        if credit.id not in done:
            incoming.record_delivery(tx, credit, outcome)
    return [None for _ in deliveries]
