"""``settled credits``: incoming settlements, and their delivery to the connector."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from settled.cli.accounts import tell_without_daemon
from settled.cli.common import db_option, debug_option, json_option, with_store
from settled.cli.listing import list_options, print_list
from settled.cli.records import CREDIT_HEADERS, credit_json, credit_row, echo_record
from settled.store.records import Credit, CreditState

if TYPE_CHECKING:
    from settled.store.protocol import Store

_STATES = ("undelivered", "credited", "parked")


@click.group()
def credits() -> None:
    """Look at incoming settlements, and resolve those in doubt.

    \b
    Examples:
      settled credits list --state parked
      settled credits retry 0a7c6b52-51d6-5d3a-8a5e-3d2f3b1c9e77
      settled credits resolve 0a7c6b52-51d6-5d3a-8a5e-3d2f3b1c9e77 --credited
    """


@credits.command("list")
@click.option("--account", "account_id", metavar="ACCOUNT", help="Only of this account.")
@click.option("--state", type=click.Choice(_STATES), help="Only in this state.")
@list_options
@db_option
@json_option
@debug_option
def list_credits(
    *,
    account_id: str | None,
    state: CreditState | None,
    limit: int,
    before: int | None,
    everything: bool,
    db: Path,
    as_json: bool,
) -> None:
    """List credits, newest first.

    \b
    Examples:
      settled credits list --account alice
      settled credits list --state undelivered --json
      settled credits list --limit 100 --before 4711
    """

    async def fetch(store: "Store", before: int | None, limit: int) -> list[Credit]:
        return await store.credits(account_id=account_id, state=state, before=before, limit=limit)

    print_list(
        db,
        fetch,
        headers=CREDIT_HEADERS,
        to_row=credit_row,
        to_json=credit_json,
        before=before,
        limit=None if everything else limit,
        as_json=as_json,
    )


@credits.command()
@click.argument("credit_id", metavar="ID")
@db_option
@json_option
@debug_option
def show(credit_id: str, db: Path, as_json: bool) -> None:
    """Show the credit ID.

    \b
    Examples:
      settled credits show 0a7c6b52-51d6-5d3a-8a5e-3d2f3b1c9e77 --json
    """
    found = with_store(db, lambda store: store.credit(credit_id))
    echo_record(credit_json(found), as_json=as_json)


@credits.command()
@click.argument("credit_id", metavar="ID")
@db_option
@json_option
@debug_option
def retry(credit_id: str, db: Path, as_json: bool) -> None:
    """Deliver the credit ID again, now, under its own key.

    Do this with a parked credit only when the connector has not credited it: it may have forgotten
    the key, and would credit it a second time.

    \b
    Examples:
      settled credits retry 0a7c6b52-51d6-5d3a-8a5e-3d2f3b1c9e77
    """
    credit = with_store(db, lambda store: store.retry_credit(credit_id))
    echo_record(credit_json(credit), as_json=as_json)
    tell_without_daemon(db, "it is delivered")


@credits.command()
@click.argument("credit_id", metavar="ID")
@click.option("--credited", is_flag=True, help="The connector has credited it.")
@click.option(
    "--note",
    metavar="TEXT",
    default="resolved by the operator",
    show_default=True,
    help="How that is known; it is kept with the credit.",
)
@db_option
@json_option
@debug_option
def resolve(credit_id: str, credited: bool, note: str, db: Path, as_json: bool) -> None:
    """Say that the connector has credited the credit ID; it is not delivered any more.

    \b
    Examples:
      settled credits resolve 0a7c6b52-51d6-5d3a-8a5e-3d2f3b1c9e77 --credited
      settled credits resolve 0a7c6b52-51d6-5d3a-8a5e-3d2f3b1c9e77 --credited --note "ticket 17"
    """
    if not credited:
        raise click.UsageError(
            "say --credited when the connector has credited it; "
            "otherwise `settled credits retry` delivers it again"
        )
    credit = with_store(db, lambda store: store.resolve_credit(credit_id, note))
    echo_record(credit_json(credit), as_json=as_json)
