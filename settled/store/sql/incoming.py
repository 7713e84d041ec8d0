"""Credits, and their delivery to the connector."""

from collections.abc import Collection
from dataclasses import replace
from decimal import Decimal
from sqlite3 import Connection
from typing import Any, Final

from settled import limits
from settled.amounts import checked, to_text
from settled.errors import (
    AccountNotFound,
    InvalidAmount,
    NotFound,
    NotResolvable,
    SettlementConflict,
)
from settled.ids import check_settlement_id, credit_key
from settled.store.records import (
    AddCredit,
    Bucket,
    Credit,
    Delivered,
    DeliveryOutcome,
    NextDeliveries,
    NotDelivered,
)
from settled.store.sql.ledger import (
    NEVER_MS,
    Tx,
    find_latest,
    load,
    nearer,
    shortened,
    wait_ms,
)
from settled.store.sql.restored import unclear_since
from settled.store.sql.steady import steady_ms

CREDITS: Final = """
    SELECT c.number, c.id, c.account, c.account_id, c.settlement_id, c.amount, c.state, c.reason,
        c.attempts, c.ambiguous_ms, c.ambiguous_steady_ms, c.retry_ms, c.created_ms, c.updated_ms
    FROM credits AS c
"""
_NO_ANSWER: Final = (
    "no clear answer for 23 h: find out whether the connector credited it, then "
    "`settled credits resolve` or `settled credits retry`"
)


def credit_record(row: tuple[Any, ...]) -> Credit:
    """Return a row of ``CREDITS`` as the store hands it out."""
    return Credit(
        number=row[0],
        id=row[1],
        account=row[2],
        account_id=row[3],
        settlement_id=row[4],
        amount=Decimal(row[5]),
        state=row[6],
        reason=row[7],
        attempts=row[8],
        ambiguous_ms=row[9],
        ambiguous_steady_ms=row[10],
        retry_ms=row[11],
        created_ms=row[12],
        updated_ms=row[13],
    )


def find_credit(conn: Connection, credit_id: str) -> Credit:
    """See ``IncomingStore.credit``."""
    row = conn.execute(f"{CREDITS} WHERE c.id = ?", (credit_id,)).fetchone()
    if row is None:
        raise NotFound(f"no credit {credit_id!r}: see `settled credits list`")
    return credit_record(row)


def add_credit(tx: Tx, change: AddCredit) -> int | None:
    """Record an incoming settlement; return its account's number, ``None`` if it is known."""
    amount = checked(change.amount)
    settlement_id = check_settlement_id(change.settlement_id)
    if not amount:
        raise InvalidAmount(f"account {change.account_id}: a credit of zero says nothing")
    known = tx.conn.execute(
        "SELECT amount FROM credits WHERE account_id = ? AND settlement_id = ?",
        (change.account_id, settlement_id),
    ).fetchone()
    if known is not None:
        if Decimal(known[0]) != amount:
            raise SettlementConflict(
                f"account {change.account_id}: settlement {settlement_id!r} was credited with "
                f"{known[0]} before and cannot be {to_text(amount)} now"
            )
        return None
    account = find_latest(tx.conn, change.account_id)
    if account is None:
        raise AccountNotFound(change.account_id)
    key = credit_key(change.account_id, settlement_id)
    tx.conn.execute(
        "INSERT INTO credits (id, account, account_id, settlement_id, amount, state, reason, "
        "ambiguous_ms, ambiguous_steady_ms, created_ms, updated_ms) "
        "VALUES (?, ?, ?, ?, ?, 'undelivered', ?, ?, ?, ?, ?)",
        (
            key,
            account.number,
            change.account_id,
            settlement_id,
            to_text(amount),
            *unclear_since(tx.conn),  # found again after a restore, it may have been delivered
            tx.now_ms,
            tx.now_ms,
        ),
    )
    account.move(tx, "received", "undelivered", amount, key)
    account.save(tx)
    tx.touch(account.number)
    return account.number


def next_deliveries(tx: Tx, number: int, limit: int, sending: Collection[int]) -> NextDeliveries:
    """See ``IncomingStore.next_deliveries``."""
    # A time beyond the longest delay was written by a clock that has gone back since.
    farthest_ms = nearer(NEVER_MS, tx.now_ms)
    tx.conn.execute(
        "UPDATE credits SET retry_ms = ? "
        "WHERE account = ? AND state = 'undelivered' AND retry_ms > ?",
        (farthest_ms, number, farthest_ms),
    )
    steady = steady_ms(tx)
    due: list[Credit] = []
    too_old: list[Credit] = []
    delay_ms = None
    rows = tx.conn.execute(
        f"{CREDITS} WHERE c.account = ? AND c.state = 'undelivered' ORDER BY c.retry_ms, c.number",
        (number,),
    )
    for credit in map(credit_record, rows):
        if credit.number in sending:
            continue
        delay_ms = wait_ms(credit.retry_ms, tx.now_ms)
        if delay_ms > 0 or len(due) == limit:
            break
        (too_old if _is_too_old(credit, steady) else due).append(credit)
        delay_ms = None
    rows.close()
    return NextDeliveries(
        tuple(_hand_out(tx, credit, steady) for credit in due),
        delay_ms,
        tuple(_park(tx, credit) for credit in too_old),
    )


def _is_too_old(credit: Credit, steady: int) -> bool:
    """Return whether the connector may have seen the credit's key and forgotten it."""
    since = credit.ambiguous_steady_ms
    return since is not None and steady - since >= limits.AMBIGUOUS_AGE_MAX_MS


def _hand_out(tx: Tx, credit: Credit, steady: int) -> Credit:
    tx.conn.execute(
        "UPDATE credits SET attempts = attempts + 1, updated_ms = ?, "
        "ambiguous_ms = ifnull(ambiguous_ms, ?), "
        "ambiguous_steady_ms = ifnull(ambiguous_steady_ms, ?) WHERE number = ?",
        (tx.now_ms, tx.now_ms, steady, credit.number),
    )
    return replace(credit, attempts=credit.attempts + 1, updated_ms=tx.now_ms)


def _park(tx: Tx, credit: Credit) -> Credit:
    account = load(tx.conn, credit.account)
    account.move(tx, "undelivered", "parked", credit.amount, credit.id)
    account.save(tx)
    reason = _NO_ANSWER
    if credit.reason:
        # The advice must survive however long the connector's answer was.
        room = limits.REASON_CHARS_MAX - len(f"; {_NO_ANSWER}")
        reason = f"{credit.reason[:room]}; {_NO_ANSWER}"
    tx.conn.execute(
        "UPDATE credits SET state = 'parked', reason = ?, updated_ms = ? WHERE number = ?",
        (shortened(reason), tx.now_ms, credit.number),
    )
    return find_credit(tx.conn, credit.id)


def record_delivery(tx: Tx, credit: Credit, outcome: DeliveryOutcome) -> None:
    """See ``IncomingStore.record_delivery``."""
    stored = find_credit(tx.conn, credit.id)
    if isinstance(outcome, Delivered):
        if stored.state != "credited":
            _credited(tx, stored, None)
        return
    if stored.state != "undelivered":
        return  # the operator was faster
    since = stored
    if isinstance(outcome, NotDelivered):
        since = credit  # this attempt made it no less clear than it was
    elif stored.ambiguous_ms is None:  # the operator had it sent anew meanwhile
        since = replace(stored, ambiguous_ms=tx.now_ms, ambiguous_steady_ms=steady_ms(tx))
    tx.conn.execute(
        "UPDATE credits SET reason = ?, retry_ms = ?, ambiguous_ms = ?, ambiguous_steady_ms = ?, "
        "updated_ms = ? WHERE number = ?",
        (
            shortened(outcome.reason),
            tx.now_ms + outcome.retry_delay_ms,
            since.ambiguous_ms,
            since.ambiguous_steady_ms,
            tx.now_ms,
            credit.number,
        ),
    )


def _credited(tx: Tx, credit: Credit, reason: str | None) -> None:
    account = load(tx.conn, credit.account)
    source: Bucket = "parked" if credit.state == "parked" else "undelivered"
    account.move(tx, source, "credited", credit.amount, credit.id)
    account.save(tx)
    tx.conn.execute(
        "UPDATE credits SET state = 'credited', reason = ?, updated_ms = ? WHERE number = ?",
        (shortened(reason), tx.now_ms, credit.number),
    )


def retry_credit(tx: Tx, credit_id: str) -> Credit:
    """See ``IncomingStore.retry_credit``."""
    credit = _not_yet_credited(tx, credit_id)
    since = credit
    if credit.state == "parked":
        # The operator's word: the connector has not taken it.
        since = replace(credit, ambiguous_ms=None, ambiguous_steady_ms=None)
        account = load(tx.conn, credit.account)
        account.move(tx, "parked", "undelivered", credit.amount, credit.id)
        account.save(tx)
    tx.conn.execute(
        "UPDATE credits SET state = 'undelivered', reason = NULL, ambiguous_ms = ?, "
        "ambiguous_steady_ms = ?, retry_ms = 0, updated_ms = ? WHERE number = ?",
        (since.ambiguous_ms, since.ambiguous_steady_ms, tx.now_ms, credit.number),
    )
    tx.touch(credit.account)
    return find_credit(tx.conn, credit_id)


def resolve_credit(tx: Tx, credit_id: str, note: str) -> Credit:
    """See ``IncomingStore.resolve_credit``."""
    _credited(tx, _not_yet_credited(tx, credit_id), note)
    return find_credit(tx.conn, credit_id)


def _not_yet_credited(tx: Tx, credit_id: str) -> Credit:
    credit = find_credit(tx.conn, credit_id)
    if credit.state == "credited":
        raise NotResolvable(f"credit {credit_id} is credited: that is final")
    return credit
