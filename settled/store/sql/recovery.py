"""Going on: what a start, or the operator, makes due again."""

from settled.errors import AccountNotFound, SettledError
from settled.store.records import Account
from settled.store.sql.ledger import Tx, find_open, load
from settled.store.sql.outgoing import OPEN, SETTLEMENTS, into_doubt, settlement_record
from settled.store.sql.steady import steady_ms


def retry_settlement(tx: Tx, account_id: str) -> Account:
    """See ``OutgoingStore.retry_settlement``."""
    account = find_open(tx.conn, account_id)
    if account is None:
        raise AccountNotFound(account_id)
    account.retry_ms = 0
    standing = tx.conn.execute(
        f"SELECT count(*) FROM settlements WHERE account = ? AND state IN {OPEN}",
        (account.number,),
    ).fetchone()[0]
    if not standing:
        account.waiting = None
    tx.conn.execute(
        "UPDATE settlements SET retry_ms = 0 WHERE account = ? AND state = 'unknown'",
        (account.number,),
    )
    account.save(tx)
    tx.touch(account.number)
    return account.record()


def interrupt_settlements(tx: Tx) -> int:
    """See ``OutgoingStore.interrupt_settlements``."""
    steady_ms(tx)  # a clock that was set back over a reboot shows now, or never
    interrupted = tx.conn.execute(
        f"{SETTLEMENTS} WHERE s.state = 'in_flight' AND s.state IN {OPEN} ORDER BY +s.number"
    ).fetchall()
    for row in interrupted:
        try:
            settlement = settlement_record(row)
            account = load(tx.conn, settlement.account)
            reason = "the daemon stopped while it was in flight"
            into_doubt(tx, account, settlement, reason, 0)
        except (SettledError, ArithmeticError):
            continue  # it does not add up: the audit shows it, and the others go on
        account.save(tx)
    tx.conn.execute(
        "UPDATE settlements SET state = 'unknown', retry_ms = 0 "
        f"WHERE state IN {OPEN} AND state <> 'in_flight'"
    )
    tx.conn.execute("UPDATE accounts SET retry_ms = 0 WHERE queued <> '0' AND retry_ms IS NULL")
    return len(interrupted)
