"""Credits, one at a time; ``deliveries`` has what many of them do at once."""

from collections.abc import Collection, Sequence
from decimal import Decimal
from sqlite3 import Connection
from typing import Any, Final

from msgspec.structs import replace

from settled import limits
from settled.errors import (
    NotFound,
    NotResolvable,
)
from settled.store.records import (
    Bucket,
    Credit,
    Delivered,
    DeliveryOutcome,
    NextDeliveries,
    NotDelivered,
)
from settled.store.sql.arrays import as_json
from settled.store.sql.ledger import (
    NEVER_MS,
    Tx,
    load,
    nearer,
    shortened,
    wait_ms,
)
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


def next_deliveries(tx: Tx, number: int, limit: int, sending: Collection[int]) -> NextDeliveries:
    """See ``IncomingStore.next_deliveries``; of one account, with all that may be found there."""
    bring_nearer(tx, [number])
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
        (too_old if is_too_old(credit.ambiguous_steady_ms, steady) else due).append(credit)
        delay_ms = None
    rows.close()
    return NextDeliveries(
        tuple(_hand_out(tx, credit, steady) for credit in due),
        delay_ms,
        tuple(_park(tx, credit) for credit in too_old),
    )


def bring_nearer(tx: Tx, accounts: Sequence[int]) -> None:
    """Mend times beyond the longest delay: a clock that has gone back since has written them."""
    farthest_ms = nearer(NEVER_MS, tx.now_ms)
    tx.conn.execute(
        "UPDATE credits SET retry_ms = ?1 WHERE state = 'undelivered' AND retry_ms > ?1 "
        "AND account IN (SELECT value FROM json_each(?2))",
        (farthest_ms, as_json(accounts)),
    )


def is_too_old(since: int | None, steady: int) -> bool:
    """Return whether the connector may have seen a credit's key since then, and forgotten it."""
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
