"""``settled settlements``: the attempts to pay, and the operator's word on those in doubt."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from settled.amounts import from_text, to_text
from settled.cli.common import db_option, debug_option, json_option, with_store
from settled.cli.listing import list_options, print_list
from settled.cli.records import (
    SETTLEMENT_HEADERS,
    echo_record,
    settlement_json,
    settlement_row,
)
from settled.store.lock import holder_pid
from settled.store.records import NotSent, Settled, Settlement, SettlementState

if TYPE_CHECKING:
    from settled.store.protocol import Store

_STATES = ("in_flight", "unknown", "parked", "settled", "not_sent")


@click.group()
def settlements() -> None:
    """Look at outgoing settlements, and resolve those in doubt.

    \b
    Examples:
      settled settlements list --state parked
      settled settlements show 3fd3a1f2-4a0b-4a5c-9d5e-1f0b8a6f2c11
      settled settlements resolve 3fd3a1f2-4a0b-4a5c-9d5e-1f0b8a6f2c11 --not-sent
    """


@settlements.command("list")
@click.option("--account", "account_id", metavar="ACCOUNT", help="Only of this account.")
@click.option("--state", type=click.Choice(_STATES), help="Only in this state.")
@list_options
@db_option
@json_option
@debug_option
def list_settlements(
    *,
    account_id: str | None,
    state: SettlementState | None,
    limit: int,
    before: int | None,
    everything: bool,
    db: Path,
    as_json: bool,
) -> None:
    """List settlements, newest first.

    \b
    Examples:
      settled settlements list --account alice
      settled settlements list --state parked --json
      settled settlements list --limit 100 --before 4711
    """

    async def fetch(store: "Store", before: int | None, limit: int) -> list[Settlement]:
        return await store.settlements(
            account_id=account_id, state=state, before=before, limit=limit
        )

    print_list(
        db,
        fetch,
        headers=SETTLEMENT_HEADERS,
        to_row=settlement_row,
        to_json=settlement_json,
        before=before,
        limit=None if everything else limit,
        as_json=as_json,
    )


@settlements.command()
@click.argument("settlement_id", metavar="ID")
@db_option
@json_option
@debug_option
def show(settlement_id: str, db: Path, as_json: bool) -> None:
    """Show the settlement ID.

    \b
    Examples:
      settled settlements show 3fd3a1f2-4a0b-4a5c-9d5e-1f0b8a6f2c11 --json
    """
    found = with_store(db, lambda store: store.settlement(settlement_id))
    echo_record(settlement_json(found), as_json=as_json)


@settlements.command()
@click.argument("settlement_id", metavar="ID")
@click.option("--settled", "settled_text", metavar="AMOUNT", help="So much of it was paid.")
@click.option("--not-sent", is_flag=True, help="Nothing was paid, and nothing of it ever will be.")
@click.option("--more-than-asked", is_flag=True, help="AMOUNT is above what was to be paid.")
@db_option
@json_option
@debug_option
def resolve(
    *,
    settlement_id: str,
    settled_text: str | None,
    not_sent: bool,
    more_than_asked: bool,
    db: Path,
    as_json: bool,
) -> None:
    """Say what became of the settlement ID, when the engine cannot tell.

    Look it up on the ledger first: what is said here decides whether it is paid again. With
    --not-sent the amount is queued again and paid at once; so is what --settled leaves over.

    \b
    Examples:
      settled settlements resolve 3fd3a1f2-4a0b-4a5c-9d5e-1f0b8a6f2c11 --settled 12.50
      settled settlements resolve 3fd3a1f2-4a0b-4a5c-9d5e-1f0b8a6f2c11 --not-sent
    """
    import trio

    outcome: Settled | NotSent
    if settled_text is not None and not not_sent:
        outcome = Settled(from_text(settled_text))
    elif not_sent and settled_text is None:
        outcome = NotSent("")
    else:
        raise click.UsageError("give one of --settled AMOUNT and --not-sent")
    resolved = trio.run(_resolve, db, settlement_id, outcome, more_than_asked)
    echo_record(settlement_json(resolved), as_json=as_json)


async def _resolve(
    db: Path, settlement_id: str, outcome: Settled | NotSent, more_than_asked: bool
) -> Settlement:
    from settled.store.sqlite import open_sqlite

    async with open_sqlite(db, exclusive=False) as store:
        settlement = await store.settlement(settlement_id)
        above = isinstance(outcome, Settled) and outcome.amount > settlement.amount
        if above and not more_than_asked:
            raise click.UsageError(
                f"only {to_text(settlement.amount)} was to be paid, and this is final: "
                f"correct the amount, or add --more-than-asked"
            )
        if settlement.state != "in_flight" or holder_pid(db) is not None:
            return await store.resolve_settlement(settlement_id, outcome)
    # It was in flight when the daemon ended. Holding the database keeps a new one from asking the
    # engine about it at the same time.
    if isinstance(outcome, NotSent):
        outcome = NotSent("resolved by the operator")
    async with open_sqlite(db, exclusive=True) as store:
        return await store.record_outcome(settlement_id, outcome)
