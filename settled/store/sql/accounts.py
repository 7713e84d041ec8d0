"""Opening and closing accounts, and the engine hooks that they wait for."""

from settled.errors import AccountNotFound
from settled.store.records import Account, NextHook
from settled.store.sql.ledger import CLOSED, Tx, find_open, load, nearer, shortened, wait_ms

_SETUP = "set-up: "


def open_account(tx: Tx, account_id: str, setup: bool) -> Account:
    """See ``AccountStore.open_account``."""
    found = find_open(tx.conn, account_id)
    if found is not None:
        return found.record()
    # The engine would take the close of the former account for one of this.
    tx.conn.execute(
        "UPDATE accounts SET hook = NULL WHERE id = ? AND hook IS NOT NULL", (account_id,)
    )
    cursor = tx.conn.execute(
        "INSERT INTO accounts (id, hook, retry_ms, opened_ms) VALUES (?, ?, 0, ?)",
        (account_id, "setup_account" if setup else None, tx.now_ms),
    )
    number = cursor.lastrowid
    assert number is not None  # noqa: S101 - an INSERT has a rowid
    tx.touch(number)
    return load(tx.conn, number).record()


def close_account(tx: Tx, account_id: str) -> Account:
    """See ``AccountStore.close_account``."""
    account = find_open(tx.conn, account_id)
    if account is None:
        raise AccountNotFound(account_id)
    account.closed_ms = tx.now_ms
    account.hook = "close_account"
    account.hook_failures = 0
    account.hook_retry_ms = 0
    if account.balance["queued"]:
        account.waiting = CLOSED
    account.save(tx)
    tx.touch(account.number)
    return account.record()


def next_hook(tx: Tx, number: int) -> NextHook | None:
    """See ``AccountStore.next_hook``."""
    account = load(tx.conn, number)
    if account.hook is None:
        return None
    if account.hook_retry_ms != (retry_ms := nearer(account.hook_retry_ms, tx.now_ms)):
        account.hook_retry_ms = retry_ms
        account.save(tx)
    return NextHook(
        account.id,
        account.hook,
        account.hook_failures,
        wait_ms(account.hook_retry_ms, tx.now_ms),
    )


def finish_hook(tx: Tx, number: int, hook: str, failure: str | None, retry_delay_ms: int) -> None:
    """See ``AccountStore.finish_hook``."""
    account = load(tx.conn, number)
    if account.hook != hook:
        return  # closed while it was being set up
    if failure is None:
        account.hook = None
        account.hook_failures = 0
        if account.waiting is not None and account.waiting.startswith(_SETUP):
            account.waiting = None
    else:
        account.hook_failures += 1
        account.hook_retry_ms = tx.now_ms + retry_delay_ms
        if hook == "setup_account":
            account.waiting = shortened(_SETUP + failure)
    account.save(tx)
