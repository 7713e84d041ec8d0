"""A restored backup: it has forgotten what happened since it was made.

What is queued in it may have been paid meanwhile, and a credit may have been delivered. So a backup
carries a mark. From a database with that mark nothing is paid that is queued, until the operator
has compared it with the ledger; and a credit counts as unclear since the backup was made.
"""

from datetime import UTC, datetime
from decimal import Decimal
from sqlite3 import Connection
from typing import Final

from settled import ids
from settled.amounts import EXACT, ZERO, to_text
from settled.errors import AccountNotFound, NotResolvable
from settled.store.records import Held
from settled.store.sql.ledger import CLOSED, COLUMNS, AccountRow, Tx, find_latest
from settled.store.sql.steady import steady_ms

# In ``counters``: when the backup was made, by the wall clock and by the steady clock, that no
# daemon has run on it yet, and a row for each account that was released since. An account that a
# restored backup had released before it was backed up itself has a moment of its own: the latter's.
TAKEN: Final = "backup_ms"
_TAKEN_STEADY: Final = "backup_steady_ms"
_UNUSED: Final = "backup_unused"
_RELEASED: Final = "released "
_TAKEN_OF: Final = "backup_ms "

_UNCLEAR: Final = "it may have been delivered since the backup that was restored"
_PAID: Final = "paid since the backup that was restored, by the operator's word"


def mark(tx: Tx) -> None:
    """Make of a copy a backup that is taken now.

    Of a restored backup, what is still held stays of the first moment: what the lost database did,
    it may have done since then. What was paid to a released account is known up to now.
    """
    tx.conn.execute(
        "INSERT OR REPLACE INTO counters SELECT ? || substr(name, ?), ? FROM counters "
        "WHERE name GLOB ?",
        (_TAKEN_OF, len(_RELEASED) + 1, tx.now_ms, f"{_RELEASED}*"),
    )
    tx.conn.execute("DELETE FROM counters WHERE name GLOB ?", (f"{_RELEASED}*",))
    tx.conn.execute(
        "INSERT OR IGNORE INTO counters (name, value) VALUES (?, ?), (?, ?), (?, 1)",
        (TAKEN, tx.now_ms, _TAKEN_STEADY, steady_ms(tx), _UNUSED),
    )
    # It is to be seen before a daemon has looked at the accounts.
    taken_ms = _counter(tx.conn, TAKEN) or tx.now_ms
    held_accounts = tx.conn.execute(
        "SELECT number, id FROM accounts WHERE closed_ms IS NULL AND hook IS NULL "
        "AND queued <> '0' AND queued NOT GLOB '-*'"
    ).fetchall()
    tx.conn.executemany(
        "UPDATE accounts SET waiting = ? WHERE number = ?",
        (
            (_why_held(_taken_of(tx.conn, number, taken_ms), account_id), number)
            for number, account_id in held_accounts
        ),
    )
    tx.conn.execute(
        "UPDATE credits SET reason = ifnull(reason, ?), ambiguous_ms = ?, ambiguous_steady_ms = ? "
        "WHERE state = 'undelivered' AND ambiguous_ms IS NULL",
        unclear_since(tx.conn),
    )


def unclear_since(conn: Connection) -> tuple[str | None, int | None, int | None]:
    """Return why every credit is unclear, and since when by the wall clock and the steady clock.

    They are ``None`` in a database that is no restored backup, or of which all is released.
    """
    since_ms = _counter(conn, TAKEN)
    if since_ms is None:
        return None, None, None
    return _UNCLEAR, since_ms, _counter(conn, _TAKEN_STEADY)


def is_marked(conn: Connection) -> bool:
    """Return whether it is a backup, or was restored from one and not yet released."""
    return _counter(conn, TAKEN) is not None


def is_unused(conn: Connection) -> bool:
    """Return whether it is a backup that no daemon has run on; released or not."""
    return _counter(conn, _UNUSED) is not None


def use(conn: Connection, *, undo: bool = False) -> None:
    """Note that a daemon runs on it from now on, or take that back."""
    if undo:
        conn.execute("INSERT INTO counters VALUES (?, 1)", (_UNUSED,))
    else:
        conn.execute("DELETE FROM counters WHERE name = ?", (_UNUSED,))


def _counter(conn: Connection, name: str) -> int | None:
    row = conn.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
    return None if row is None else int(row[0])


def why_held(conn: Connection, account: AccountRow) -> str | None:
    """Return why nothing may be paid that is queued for the account, ``None``: it may."""
    taken = _counter(conn, TAKEN)
    if taken is None or _is_released(conn, account.number):
        return None
    return _why_held(_taken_of(conn, account.number, taken), account.id)


def _taken_of(conn: Connection, number: int, taken_ms: int) -> int:
    """Return since when payments to the account may be unknown."""
    own = _counter(conn, f"{_TAKEN_OF}{number}")
    return taken_ms if own is None else own


def _why_held(taken_ms: int, account_id: str) -> str:
    at = datetime.fromtimestamp(taken_ms // 1000, UTC)
    return (
        f"held: a backup of {at:%Y-%m-%d %H:%M:%S} UTC was restored; see on the ledger what was "
        f"paid since, then `settled release {account_id} --paid AMOUNT`, or `--nothing-paid`"
    )


def _is_released(conn: Connection, number: int) -> bool:
    return _counter(conn, f"{_RELEASED}{number}") is not None


def held(conn: Connection) -> Held | None:
    """See ``SqliteStore.held``."""
    taken = _counter(conn, TAKEN)
    if taken is None:
        return None
    # Closed ones too, and former ones of an id: what was paid to them is to be written down.
    rows = conn.execute(
        "SELECT id, queued, closed_ms IS NULL FROM accounts "
        "WHERE queued <> '0' AND queued NOT GLOB '-*' "
        "AND NOT EXISTS (SELECT 1 FROM counters WHERE name = ? || number) ORDER BY id, number",
        (_RELEASED,),
    ).fetchall()
    owed = {
        is_open: [(row[0], Decimal(row[1])) for row in rows if row[2] == is_open]
        for is_open in (0, 1)
    }
    own = conn.execute(
        "SELECT id, value FROM counters JOIN accounts AS latest ON name = ? || number "
        "WHERE NOT EXISTS (SELECT 1 FROM accounts WHERE id = latest.id AND number > latest.number)",
        (_TAKEN_OF,),
    )
    return Held(taken, tuple(owed[1]), tuple(owed[0]), dict(own.fetchall()))


def release(tx: Tx, account_id: str, paid: Decimal) -> None:
    """See ``SqliteStore.release``."""
    account = find_latest(tx.conn, account_id)
    if account is None:
        raise AccountNotFound(account_id)
    if _counter(tx.conn, TAKEN) is None or _is_released(tx.conn, account.number):
        raise NotResolvable(f"account {account_id} is not held: see `settled release`")
    former = _former_owing(tx.conn, account)
    if paid:
        _record_paid(tx, former, account, paid)
    elif account.balance["queued"] <= 0:
        # Released now, it would be paid without a look what a connector only sends again.
        raise NotResolvable(
            f"account {account_id} has nothing queued that could be released; what is requested "
            f"later is held, until it is released or all is (`settled release --all`)"
        )
    for life in (*former, account):
        owes = life.closed_ms is not None and life.balance["queued"]
        life.waiting = CLOSED if owes else None
        life.save(tx)
        tx.conn.execute("INSERT INTO counters VALUES (?, 1)", (f"{_RELEASED}{life.number}",))
    account.retry_ms = 0
    account.save(tx)
    tx.touch(account.number)


def _former_owing(conn: Connection, account: AccountRow) -> list[AccountRow]:
    """Return the closed accounts of the same id that still owed, the oldest first."""
    rows = conn.execute(
        f"SELECT {COLUMNS} FROM accounts WHERE id = ? AND number < ? "
        "AND queued <> '0' AND queued NOT GLOB '-*' "
        "AND NOT EXISTS (SELECT 1 FROM counters WHERE name = ? || number) ORDER BY number",
        (account.id, account.number, _RELEASED),
    )
    return [AccountRow(row) for row in rows.fetchall()]


def _record_paid(tx: Tx, former: list[AccountRow], account: AccountRow, paid: Decimal) -> None:
    """Take off what was paid to a peer, from what he was owed first."""
    rest, queued = paid, ZERO
    for life in (*former, account):
        _check_clear(life)
        queued = EXACT.add(queued, life.balance["queued"])
    if paid > queued:
        raise NotResolvable(_too_much(account, paid, queued))
    for life in former:
        part = min(rest, life.balance["queued"])
        _record(tx, life, part)
        rest = EXACT.subtract(rest, part)
    _record(tx, account, rest)


def _check_clear(account: AccountRow) -> None:
    doubtful = EXACT.add(account.balance["in_flight"], account.balance["unknown"])
    if doubtful:
        raise NotResolvable(
            f"account {account.id}: whether {to_text(doubtful)} was paid is still open; wait for "
            f"the outcome, or give it with `settled settlements resolve`, then release the account"
        )


def _too_much(account: AccountRow, paid: Decimal, queued: Decimal) -> str:
    missing = to_text(EXACT.subtract(paid, queued))
    by_hand = "reckon with the peer by hand"
    if queued > 0:
        by_hand += f", and give --paid {to_text(queued)}"
    if account.closed_ms is None:
        advice = (
            f"queue them with `settled settle {account.id} {missing} --key "
            f"THE-CONNECTORS-KEY`, then release the account"
        )
        if queued > 0:
            advice += f"; if the connector asked for no more, the engine paid too much: {by_hand}"
    else:
        advice = f"it is closed: {by_hand}"
    return (
        f"account {account.id}: {to_text(paid)} was paid but only {to_text(queued)} is queued, "
        f"so requests for {missing} or more were lost with the old database: {advice}"
    )


def _record(tx: Tx, account: AccountRow, paid: Decimal) -> None:
    if not paid:
        return
    settlement_id, amount = ids.mint(), to_text(paid)
    tx.conn.execute(
        "INSERT INTO settlements (id, account, amount, state, settled, reason, created_ms, "
        "updated_ms) VALUES (?, ?, ?, 'settled', ?, ?, ?, ?)",
        (settlement_id, account.number, amount, amount, _PAID, tx.now_ms, tx.now_ms),
    )
    account.move(tx, "queued", "settled", paid, settlement_id)


def release_all(tx: Tx, nothing_paid: bool) -> Held:
    """See ``SqliteStore.release_all``."""
    free = held(tx.conn)
    if free is None:
        raise NotResolvable("nothing is held: this database is no restored backup")
    if free.accounts and not nothing_paid:
        first = ", ".join(f"{name} ({to_text(queued)})" for name, queued in free.accounts[:3])
        more = ", ..." if len(free.accounts) > 3 else ""
        raise NotResolvable(
            f"with a queue and held: {first}{more}; release each with --paid AMOUNT or "
            f"--nothing-paid, or say of all of them that nothing was paid, "
            f"`settled release --all --nothing-paid`"
        )
    if not nothing_paid:
        _check_no_doubt(tx.conn)
    for account_id, _ in free.accounts:
        tx.conn.execute(
            "UPDATE accounts SET retry_ms = 0, waiting = NULL WHERE id = ? AND closed_ms IS NULL",
            (account_id,),
        )
        account = find_latest(tx.conn, account_id)
        assert account is not None  # noqa: S101 - it is held
        tx.touch(account.number)
    tx.conn.execute(
        "DELETE FROM counters WHERE name IN (?, ?) OR name GLOB ? OR name GLOB ?",
        (TAKEN, _TAKEN_STEADY, f"{_RELEASED}*", f"{_TAKEN_OF}*"),
    )
    return free


def _check_no_doubt(conn: Connection) -> None:
    """Refuse while a payment is in doubt: what it leaves over may have been paid since, too."""
    doubtful = conn.execute(
        "SELECT id FROM accounts WHERE closed_ms IS NULL "
        "AND (in_flight <> '0' OR unknown <> '0') "
        "AND NOT EXISTS (SELECT 1 FROM counters WHERE name = ? || accounts.number) ORDER BY id",
        (_RELEASED,),
    ).fetchone()
    if doubtful is not None:
        raise NotResolvable(
            f"account {doubtful[0]}: a payment is still in doubt, and what it leaves over is not "
            f"to be paid before you have seen it: wait for the outcome, or give it with "
            f"`settled settlements resolve`"
        )
