"""``settled release``: the operator's word that a restored backup may pay again."""

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from settled.amounts import ZERO, from_text, to_text
from settled.cli.accounts import tell_without_daemon
from settled.cli.common import db_option, debug_option, json_option, print_json, print_table
from settled.cli.records import account_json, echo_record, iso

if TYPE_CHECKING:
    from settled.store.records import Account, Held


@click.command()
@click.argument("account", required=False)
@click.option(
    "--paid",
    metavar="AMOUNT",
    help="What the ledger says was paid to the peer of ACCOUNT since the backup.",
)
@click.option("--nothing-paid", is_flag=True, help="Nothing was paid since the backup.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="End it, when no account is held any more; with --nothing-paid, release those that are.",
)
@db_option
@json_option
@debug_option
def release(
    *,
    account: str | None,
    paid: str | None,
    nothing_paid: bool,
    everything: bool,
    db: Path,
    as_json: bool,
) -> None:
    """Let a restored backup pay what is queued for ACCOUNT, or show what is held.

    A backup has forgotten the payments that were made after it: they are queued in it again. So a
    daemon on a restored backup takes requests and credits, but pays nothing that is queued until
    the account is released. Find out on the ledger what was paid since, in payments whose ids
    `settled settlements show` does not know, and give their sum with --paid: it is taken off the
    queue, and the rest is paid at once. What is said here decides whether it is paid again.

    \b
    Examples:
      settled release
      settled release alice --paid 12.50
      settled release bob --nothing-paid
      settled release --all
    """
    import trio

    if account is None and paid is not None:
        raise click.UsageError("--paid goes with an ACCOUNT")
    if account is not None and everything:
        raise click.UsageError("give an ACCOUNT or --all, not both")
    if account is not None:
        if (paid is None) is not nothing_paid:
            raise click.UsageError(
                "see on the ledger what was paid since the backup, and give one of --paid AMOUNT "
                "and --nothing-paid"
            )
        amount = ZERO if paid is None else from_text(paid)
        released = trio.run(_release, db, account, amount)
        echo_record(account_json(released), as_json=as_json)
        if released.state == "closed":
            click.echo("The account is closed: pay by hand what is still queued.", err=True)
        else:
            tell_without_daemon(db, "it is paid")
    elif everything:
        _show_free(trio.run(_release_all, db, nothing_paid), as_json=as_json)
        tell_without_daemon(db, "all is paid")
    elif nothing_paid:
        raise click.UsageError("--nothing-paid goes with an ACCOUNT or --all")
    else:
        _show(trio.run(_held, db), as_json=as_json)


async def _release(db: Path, account_id: str, paid: Any) -> "Account":
    from settled.store.sqlite import open_sqlite

    async with open_sqlite(db, exclusive=False) as store:
        await store.release(account_id, paid)
        return await store.account(account_id)


async def _release_all(db: Path, nothing_paid: bool) -> "Held":
    from settled.store.sqlite import open_sqlite

    async with open_sqlite(db, exclusive=False) as store:
        return await store.release_all(nothing_paid=nothing_paid)


async def _held(db: Path) -> "Held | None":
    from settled.store.sqlite import open_sqlite

    async with open_sqlite(db, exclusive=False) as store:
        return await store.held()


def _show_free(free: "Held", *, as_json: bool) -> None:
    if as_json:
        print_json({"released": _rows(free.accounts)})
        return
    if free.accounts:
        print_table(("ACCOUNT", "SET FREE"), free.accounts)
    click.echo("Nothing is held any more.")


def _show(held: "Held | None", *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "backup_taken_at": None if held is None else iso(held.taken_ms),
                "held": [] if held is None else _rows_since(held, held.accounts),
                "closed": [] if held is None else _rows_since(held, held.closed),
            }
        )
    elif held is None:
        click.echo("Nothing is held.")
    else:
        click.echo(
            f"A backup of {iso(held.taken_ms)} was restored. Nothing that is queued is paid, and "
            f"credits are unclear since then, until `settled release --all`."
        )
        if held.accounts or held.closed:
            click.echo(
                "See on the ledger what was paid since, then of each account "
                "`settled release ACCOUNT --paid AMOUNT`, or `--nothing-paid`."
            )
            rows = [(*row, "") for row in held.accounts]
            rows += [(*row, "closed: the rest is paid by hand") for row in held.closed]
            print_table(
                ("ACCOUNT", "QUEUED", "PAID SINCE", ""),
                [
                    (name, queued, iso(held.since_ms.get(name, held.taken_ms)), note)
                    for name, queued, note in rows
                ],
            )


def _rows(accounts: tuple[tuple[str, Decimal], ...]) -> list[dict[str, str]]:
    return [{"account": account_id, "queued": to_text(queued)} for account_id, queued in accounts]


def _rows_since(held: "Held", accounts: tuple[tuple[str, Decimal], ...]) -> list[dict[str, str]]:
    """Return the accounts, each with the moment from which on its payments may be unknown."""
    return [
        {**row, "paid_since": iso(held.since_ms.get(row["account"], held.taken_ms))}
        for row in _rows(accounts)
    ]
