"""``settled accounts``: the accounts, their balances, and what each waits for."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from settled import ids
from settled.cli.common import db_option, debug_option, json_option, with_store
from settled.cli.listing import list_options, print_list
from settled.cli.records import ACCOUNT_HEADERS, account_json, account_row, echo_record
from settled.store.lock import holder_pid
from settled.store.records import Account, AccountState

if TYPE_CHECKING:
    from settled.store.protocol import Store


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

    An id that was removed and added again has a row for each of its lives.

    \b
    Examples:
      settled accounts list
      settled accounts list --state setup
      settled accounts list --all --json
    """

    async def fetch(store: "Store", before: int | None, limit: int) -> list[Account]:
        return await store.accounts(account_id=account_id, state=state, before=before, limit=limit)

    print_list(
        db,
        fetch,
        headers=ACCOUNT_HEADERS,
        to_row=account_row,
        to_json=account_json,
        before=before,
        limit=None if everything else limit,
        as_json=as_json,
    )


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
