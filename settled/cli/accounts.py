"""``settled accounts``: the accounts, their balances, and what each waits for."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from settled import ids, limits
from settled.cli.common import db_option, debug_option, json_option, with_store
from settled.cli.listing import list_options, print_list
from settled.cli.records import ACCOUNT_HEADERS, account_json, account_row, echo_record
from settled.store.lock import holder_pid
from settled.store.records import Account, AccountState

if TYPE_CHECKING:
    from settled.store.protocol import Store


_RESOLVE: Final = "settled settlements resolve"


@click.group()
def accounts() -> None:
    """Look at accounts, add and remove them.

    \b
    Examples:
      settled accounts list
      settled accounts show alice --json
      settled accounts add alice
      settled accounts retry alice
      settled accounts remove alice
    """


@accounts.command("list")
@click.option("--account", "account_id", metavar="ACCOUNT", help="Only this id, in all its lives.")
@click.option("--state", type=click.Choice(["setup", "open", "closed"]), help="Only this state.")
@list_options
@db_option
@json_option
@debug_option
def list_accounts(
    *,
    account_id: str | None,
    state: AccountState | None,
    limit: int,
    before: int | None,
    everything: bool,
    db: Path,
    as_json: bool,
) -> None:
    """List accounts, newest first.

    An id that was removed and added again has a row for each of its lives. PARKED is what of the
    peer's payments is parked; a settlement that is parked is UNKNOWN, and WAITING names it.

    \b
    Examples:
      settled accounts list
      settled accounts list --state setup
      settled accounts list --all --json
    """

    parked: dict[int, str] = {}

    async def fetch(store: "Store", before: int | None, limit: int) -> list[Account]:
        found = await store.accounts(account_id=account_id, state=state, before=before, limit=limit)
        for account in () if as_json else found:
            if account.unknown:
                parked.update(await _parked(store, account))
        return found

    print_list(
        db,
        fetch,
        headers=ACCOUNT_HEADERS,
        to_row=lambda account: account_row(_naming(account, parked.get(account.number))),
        to_json=account_json,
        before=before,
        limit=None if everything else limit,
        as_json=as_json,
    )


async def _parked(store: "Store", account: Account) -> dict[int, str]:
    """Return the id of the account's parked settlement, if it has one, by the account's number."""
    found = await store.settlements(
        account_id=account.id, state="parked", limit=limits.PAGE_ROWS_MAX
    )
    return {row.account: row.id for row in found if row.account == account.number}


def _naming(account: Account, settlement_id: str | None) -> Account:
    """Return the account with the settlement that is parked in what it waits for."""
    if settlement_id is None:
        return account
    why = (account.waiting or "").replace(_RESOLVE, f"{_RESOLVE} {settlement_id}")
    return replace(account, waiting=f"parked {settlement_id}: {why}")


@accounts.command()
@click.argument("account")
@db_option
@json_option
@debug_option
def show(account: str, db: Path, as_json: bool) -> None:
    """Show the balances of ACCOUNT and what it waits for.

    \b
    Examples:
      settled accounts show alice
      settled accounts show alice --json
    """
    found = with_store(db, lambda store: store.account(account))
    echo_record(account_json(found), as_json=as_json)


@accounts.command()
@click.argument("account", required=False)
@db_option
@json_option
@debug_option
def add(account: str | None, db: Path, as_json: bool) -> None:
    """Add ACCOUNT, or one with a new id, as a connector does with POST /accounts.

    The engine sets it up in the background. Adding one that is there changes nothing. The
    database is created if there is none.

    \b
    Examples:
      settled accounts add alice
      settled accounts add --json
    """
    import trio

    from settled.store.sqlite import open_sqlite

    account_id = ids.mint() if account is None else ids.check_account_id(account)

    async def run() -> Account:
        async with open_sqlite(db, exclusive=False, create=True) as store:
            return await store.open_account(account_id)

    opened = trio.run(run)
    echo_record(account_json(opened), as_json=as_json)
    if opened.state == "setup":
        tell_without_daemon(db, "its set-up runs")


@accounts.command()
@click.argument("account")
@db_option
@json_option
@debug_option
def remove(account: str, db: Path, as_json: bool) -> None:
    """Close ACCOUNT, as a connector does with DELETE /accounts/ACCOUNT.

    Its amounts and history stay visible. What is queued is not paid any more; a payment that is
    under way is seen to its end, and credits are still delivered.

    \b
    Examples:
      settled accounts remove alice
    """
    closed = with_store(db, lambda store: store.close_account(account))
    echo_record(account_json(closed), as_json=as_json)
    tell_without_daemon(db, "the engine is told")


@accounts.command()
@click.argument("account")
@db_option
@json_option
@debug_option
def retry(account: str, db: Path, as_json: bool) -> None:
    """Try to settle what ACCOUNT owes now, not when its backoff ends.

    For when the reason that it waits for is mended, such as a wallet that was empty.

    \b
    Examples:
      settled accounts retry alice
    """
    found = with_store(db, lambda store: store.retry_settlement(account))
    echo_record(account_json(found), as_json=as_json)
    tell_without_daemon(db, "it is tried")


def tell_without_daemon(db: Path, what: str) -> None:
    """Say that ``what`` has to wait, when no daemon runs on the database."""
    if holder_pid(db) is None:
        click.echo(f"No daemon runs on {db}: {what} when `settled run` starts.", err=True)
