"""Settlements: the attempts to pay what is queued."""

from dataclasses import replace
from decimal import Decimal
from sqlite3 import Connection
from typing import Any, Final

from settled.amounts import EXACT, ZERO, checked, payable, to_text
from settled.errors import NotFound, NotResolvable
from settled.store.records import (
    Bucket,
    NextSettlement,
    NotSent,
    Parked,
    Settled,
    Settlement,
    SettlementOutcome,
    SettlementState,
    Unknown,
)
from settled.store.sql.ledger import (
    CLOSED,
    AccountRow,
    Tx,
    load,
    nearer,
    shortened,
    wait_ms,
)
from settled.store.sql.restored import why_held

SETTLEMENTS: Final = """
    SELECT s.number, s.id, s.account, a.id, s.amount, s.state, s.settled, s.reason, s.failures,
        s.retry_ms, s.created_ms, s.updated_ms
    FROM settlements AS s JOIN accounts AS a ON a.number = s.account
"""
_FORMER_DELAY_MS: Final = 1000
OPEN_STATES: Final[tuple[SettlementState, ...]] = ("in_flight", "unknown", "parked")
# They have an index, which is used for nothing but this condition to the letter.
OPEN: Final = f"({', '.join(repr(state) for state in OPEN_STATES)})"


def settlement_record(row: tuple[Any, ...]) -> Settlement:
    """Return a row of ``SETTLEMENTS`` as the store hands it out."""
    return Settlement(
        number=row[0],
        id=row[1],
        account=row[2],
        account_id=row[3],
        amount=Decimal(row[4]),
        state=row[5],
        settled=Decimal(row[6]),
        reason=row[7],
        failures=row[8],
        retry_ms=row[9],
        created_ms=row[10],
        updated_ms=row[11],
    )


def find_settlement(conn: Connection, settlement_id: str) -> Settlement:
    """See ``OutgoingStore.settlement``."""
    row = conn.execute(f"{SETTLEMENTS} WHERE s.id = ?", (settlement_id,)).fetchone()
    if row is None:
        raise NotFound(f"no settlement {settlement_id!r}: see `settled settlements list`")
    return settlement_record(row)


def next_settlement(
    tx: Tx, number: int, settlement_id: str, asset_scale: int | None
) -> NextSettlement:
    """See ``OutgoingStore.next_settlement``."""
    account = load(tx.conn, number)
    row = tx.conn.execute(
        f"{SETTLEMENTS} WHERE s.account = ? AND s.state IN {OPEN}", (number,)
    ).fetchone()
    if row is not None:
        standing = settlement_record(row)
        if standing.state != "unknown":
            return NextSettlement(standing)
        if standing.retry_ms != (retry_ms := nearer(standing.retry_ms, tx.now_ms)):
            standing = replace(standing, retry_ms=retry_ms)
            tx.conn.execute(
                "UPDATE settlements SET retry_ms = ? WHERE id = ?", (retry_ms, standing.id)
            )
        return NextSettlement(standing, delay_ms=wait_ms(standing.retry_ms, tx.now_ms))
    queued = account.balance["queued"]
    if account.state != "open" or queued <= 0 or account.retry_ms is None:
        return NextSettlement()
    if (why := why_held(tx.conn, account)) is not None:
        if account.waiting != why:
            account.waiting = why
            account.save(tx)
        return NextSettlement()
    delay_ms = wait_ms(account.retry_ms, tx.now_ms)
    if delay_ms > 0:
        if account.retry_ms != (retry_ms := nearer(account.retry_ms, tx.now_ms)):
            account.retry_ms = retry_ms
            account.save(tx)
        return NextSettlement(delay_ms=delay_ms)
    if _former_is_being_paid(tx, account):
        return NextSettlement(delay_ms=_FORMER_DELAY_MS)
    amount = payable(queued, asset_scale)
    if not amount:
        account.retry_ms = None
        account.waiting = shortened(
            f"{to_text(queued)} is finer than asset scale {asset_scale}: it waits for more"
        )
        account.save(tx)
        return NextSettlement()
    left_ms = 0 if queued != amount else None
    return NextSettlement(_begin(tx, account, settlement_id, amount), begun=True, delay_ms=left_ms)


def _former_is_being_paid(tx: Tx, account: AccountRow) -> bool:
    """Return whether a payment of a former account of the same id is still under way."""
    row = tx.conn.execute(
        "SELECT 1 FROM accounts AS a JOIN settlements AS s ON s.account = a.number "
        "WHERE a.id = ? AND a.number < ? AND s.state IN ('in_flight', 'unknown') LIMIT 1",
        (account.id, account.number),
    ).fetchone()
    return row is not None


def _begin(tx: Tx, account: AccountRow, settlement_id: str, amount: Decimal) -> Settlement:
    tx.conn.execute(
        "INSERT INTO settlements (id, account, amount, state, failures, created_ms, updated_ms) "
        "VALUES (?, ?, ?, 'in_flight', ?, ?, ?)",
        (
            settlement_id,
            account.number,
            to_text(amount),
            account.failures,
            tx.now_ms,
            tx.now_ms,
        ),
    )
    account.move(tx, "queued", "in_flight", amount, settlement_id)
    account.waiting = None
    account.retry_ms = None  # until its outcome, or a request that must not be missed meanwhile
    account.save(tx)
    return find_settlement(tx.conn, settlement_id)


def record_outcome(tx: Tx, settlement_id: str, outcome: SettlementOutcome) -> Settlement:
    """See ``OutgoingStore.record_outcome``."""
    settlement = find_settlement(tx.conn, settlement_id)
    if settlement.state in ("settled", "not_sent"):
        raise NotResolvable(f"settlement {settlement_id} is {settlement.state}: that is final")
    account = load(tx.conn, settlement.account)
    match outcome:
        case Settled(amount):
            _settled(tx, account, settlement, checked(amount))
        case NotSent(reason, retry_delay_ms):
            _not_sent(tx, account, settlement, reason)
            account.failures += 1
            account.retry_ms = tx.now_ms + retry_delay_ms
        case Unknown(reason, retry_delay_ms):
            into_doubt(tx, account, settlement, reason, retry_delay_ms)
        case Parked(reason):
            _park(tx, account, settlement, reason)
    return _finish(tx, account, settlement_id)


def resolve_settlement(tx: Tx, settlement_id: str, outcome: Settled | NotSent) -> Settlement:
    """See ``OutgoingStore.resolve_settlement``."""
    settlement = find_settlement(tx.conn, settlement_id)
    if settlement.state == "in_flight":
        raise NotResolvable(f"settlement {settlement_id} is in flight now; wait for its outcome")
    if settlement.state not in ("unknown", "parked"):
        raise NotResolvable(f"settlement {settlement_id} is {settlement.state}: that is final")
    account = load(tx.conn, settlement.account)
    by_operator = "resolved by the operator"
    match outcome:
        case Settled(amount):
            _settled(tx, account, settlement, checked(amount), by_operator)
        case NotSent(reason):
            _not_sent(tx, account, settlement, reason or by_operator)
            account.retry_ms = 0
            account.waiting = None
    tx.touch(account.number)
    return _finish(tx, account, settlement_id)


def _bucket(settlement: Settlement) -> Bucket:
    return "in_flight" if settlement.state == "in_flight" else "unknown"


def _settled(
    tx: Tx,
    account: AccountRow,
    settlement: Settlement,
    amount: Decimal,
    reason: str | None = None,
) -> None:
    asked, ref = settlement.amount, settlement.id
    account.move(tx, _bucket(settlement), "settled", min(amount, asked), ref)
    if amount < asked:
        account.move(tx, _bucket(settlement), "queued", EXACT.subtract(asked, amount), ref)
    else:
        account.move(tx, "queued", "settled", EXACT.subtract(amount, asked), ref)
    _write(tx, settlement, "settled", reason, settled=amount)
    account.failures = 0
    account.waiting = None
    if amount:
        account.retry_ms = 0
    elif account.retry_ms is None:
        waiting = f"the engine settled 0 of {to_text(asked)}: it waits for more"
        account.waiting = shortened(waiting)


def _not_sent(tx: Tx, account: AccountRow, settlement: Settlement, reason: str) -> None:
    account.move(tx, _bucket(settlement), "queued", settlement.amount, settlement.id)
    _write(tx, settlement, "not_sent", reason)
    account.waiting = shortened(reason)


def into_doubt(
    tx: Tx, account: AccountRow, settlement: Settlement, reason: str, retry_delay_ms: int
) -> None:
    fresh = settlement.state == "in_flight"
    if fresh:
        account.move(tx, "in_flight", "unknown", settlement.amount, settlement.id)
    failures = 0 if fresh else settlement.failures + 1
    retry_ms = tx.now_ms + retry_delay_ms
    _write(tx, settlement, "unknown", reason, failures=failures, retry_ms=retry_ms)
    account.waiting = shortened(reason)


def _park(tx: Tx, account: AccountRow, settlement: Settlement, reason: str) -> None:
    if settlement.state == "in_flight":
        account.move(tx, "in_flight", "unknown", settlement.amount, settlement.id)
    _write(tx, settlement, "parked", reason, failures=settlement.failures)
    account.waiting = shortened(reason)


def _write(
    tx: Tx,
    settlement: Settlement,
    state: str,
    reason: str | None,
    *,
    settled: Decimal = ZERO,
    failures: int = 0,
    retry_ms: int = 0,
) -> None:
    tx.conn.execute(
        "UPDATE settlements SET state = ?, reason = ?, settled = ?, failures = ?, retry_ms = ?, "
        "updated_ms = ? WHERE id = ?",
        (
            state,
            shortened(reason),
            to_text(settled),
            failures,
            retry_ms,
            tx.now_ms,
            settlement.id,
        ),
    )


def _finish(tx: Tx, account: AccountRow, settlement_id: str) -> Settlement:
    settlement = find_settlement(tx.conn, settlement_id)
    final = settlement.state in ("settled", "not_sent")
    if final and account.closed_ms is not None and account.balance["queued"]:
        account.waiting = CLOSED
    account.save(tx)
    return settlement
