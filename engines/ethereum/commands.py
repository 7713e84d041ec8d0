"""``settled ethereum``: what the engine has sent, and what it was paid by nobody it knows."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from engines.ethereum.dismissals import PREFIX as DISMISSED
from engines.ethereum.dismissals import dismiss as dismiss_payment
from engines.ethereum.history import KEPT
from engines.ethereum.history import PREFIX as HISTORY
from engines.ethereum.transactions import from_state
from engines.ethereum.units import gwei
from settled import SettledError, State
from settled.commands import (
    change_state,
    db_option,
    debug_option,
    json_option,
    print_json,
    print_table,
    read_state,
)

_OF_UNCLAIMED: Final = ("address", "amount", "transfer", "block", "first_seen")
_REASON_CHARS_MAX: Final = 1000
_Rows = list[dict[str, Any]]


class NoTransaction(SettledError):
    """There is no transaction of a settlement on record."""

    exit_code = 3


@click.group()
def ethereum() -> None:
    """Transactions sent, and payments from unknown addresses.

    \b
    Examples:
      settled ethereum unclaimed
      settled ethereum transactions --json
      settled ethereum addresses
    """


@ethereum.command()
@click.option("--all", "everything", is_flag=True, help="Show those that were dismissed, too.")
@db_option
@json_option
@debug_option
def unclaimed(*, everything: bool, db: Path, as_json: bool) -> None:
    """List payments from unknown addresses.

    No account's peer has proved that they are its own. The oldest come first. They are credited as
    soon as one proves it, unless they were dismissed (`settled ethereum dismiss`).

    \b
    Examples:
      settled ethereum unclaimed
      settled ethereum unclaimed --all
      settled ethereum unclaimed --db /var/lib/settled/settled.db --json
    """
    kept, dismissed = read_state(db, _unclaimed_and_dismissed)
    rows = sorted([*kept, *(dismissed if everything else [])], key=lambda row: int(row["block"]))
    if not everything and not as_json:
        rows = [{name: row[name] for name in _OF_UNCLAIMED} for row in rows]
    nothing = "No payment is unclaimed."
    if dismissed:
        nothing += f" Dismissed: {len(dismissed)}, which --all shows."
    _print(rows, as_json, nothing=nothing)


@ethereum.command()
@click.argument("transfer")
@click.option("--reason", required=True, metavar="TEXT", help="What was done about it.")
@db_option
@json_option
@debug_option
def dismiss(*, transfer: str, reason: str, db: Path, as_json: bool) -> None:
    """Have an unclaimed payment never credited.

    That is for what was dealt with otherwise, such as sent back by hand. TRANSFER is as `settled
    ethereum unclaimed` shows it. This is final: whoever proves its sender's address later is not
    credited for it, and `settled ethereum unclaimed --all` shows it for ever. A daemon may be
    running.

    \b
    Examples:
      settled ethereum dismiss 1:0x5c50...e2f0:value --reason "sent back by 0x88df...2060"
    """
    if not 0 < len(reason.strip()) <= _REASON_CHARS_MAX:
        raise click.UsageError(f"--reason takes 1 to {_REASON_CHARS_MAX} characters")
    record = change_state(
        db, lambda state, changes: dismiss_payment(state, changes, transfer, reason)
    )
    row = _payment(transfer, record)
    if as_json:
        print_json(row)
    else:
        _print([row], as_json, nothing="")
    if record["reason"] != reason:
        click.echo("It was dismissed before: the first reason stands.", err=True)


async def _unclaimed_and_dismissed(state: State) -> tuple[_Rows, _Rows]:
    kept = []
    for key, note in await state.items("unclaimed:"):
        _, address, transfer = key.split(":", 2)
        kept.append(_payment(transfer, {"address": address, **note}))
    found = await state.items(DISMISSED)
    return kept, [_payment(key.removeprefix(DISMISSED), record) for key, record in found]


def _payment(transfer: str, note: dict[str, Any]) -> dict[str, Any]:
    return {
        "address": note["address"],
        "amount": note["amount"],
        "transfer": transfer,
        "block": note["block"],
        "first_seen": note["first_seen"],
        "dismissed_at": note.get("dismissed_at"),
        "reason": note.get("reason"),
    }


@ethereum.command()
@click.option("--all", "everything", is_flag=True, help="Show the latest 100,000.")
@click.option("--settlement", metavar="ID", help="Show that of this settlement alone.")
@db_option
@json_option
@debug_option
def transactions(*, everything: bool, settlement: str | None, db: Path, as_json: bool) -> None:
    """List transactions by nonce.

    Of each account that is the last one, unless --all is given.

    A pending transaction is not final yet: the engine watches it, sends it again, and raises its
    fee. SETTLED is what it moved, and MAX FEE the most that it pays for a unit of gas. When its fee
    was raised, HASH is that of the version that was mined, or, while it is pending, of the latest.

    \b
    Examples:
      settled ethereum transactions
      settled ethereum transactions --all --json
      settled ethereum transactions --settlement 3fd3a1f2-4a0b-4a5c-9d5e-1f0b8a6f2c11
    """
    found = read_state(db, lambda state: _transactions(state, everything or settlement is not None))
    if settlement is not None:
        found = [row for row in found if row["settlement"] == settlement]
        if not found:
            raise NoTransaction(
                f"no transaction of settlement {settlement} is on record: nothing was signed for "
                f"it, or it is older than the latest {KEPT:,}"
            )
    rows = sorted(found, key=lambda row: int(row["nonce"]))
    _print(rows, as_json, nothing="No transaction is on record.")


async def _transactions(state: State, everything: bool) -> _Rows:
    over = await state.items(HISTORY) if everything else []
    rows = [_transaction(line["settlement"], line["state"], line) for _, line in over]
    for key, kept in await state.items("tx:"):
        payment = from_state(key, kept)
        rows.append(_transaction(payment.settlement_id, payment.state, kept))
    return rows


@ethereum.command()
@db_option
@json_option
@debug_option
def addresses(db: Path, as_json: bool) -> None:
    """Show our own address, and those of the accounts' peers.

    A peer is paid at its current address. What it pays from a former one is credited, too; and so
    is what comes from that of a closed account, until another account's peer proves it.

    \b
    Examples:
      settled ethereum addresses
      settled ethereum addresses --json
    """
    _print(read_state(db, _addresses), as_json, nothing="No daemon has run the engine on it yet.")


async def _addresses(state: State) -> list[dict[str, Any]]:
    wallet = await state.get("wallet")
    rows = [] if wallet is None else [_address(None, "ours", wallet["address"])]
    for key, owner in await state.items("owner:"):
        address, account = key.partition(":")[2], owner["account"]
        peer = await state.get("peer", account)
        current = peer is not None and peer["address"] == address
        what = "closed" if owner["closed"] else "current" if current else "former"
        rows.append(_address(account, what, address))
    return rows


def _address(account: str | None, state: str, address: str) -> dict[str, Any]:
    return {"account": account, "state": state, "address": address}


def _print(rows: list[dict[str, Any]], as_json: bool, *, nothing: str) -> None:
    if as_json:
        print_json(rows)
    elif rows:
        headers = [name.replace("_", " ").upper() for name in rows[0]]
        print_table(headers, [["" if v is None else v for v in row.values()] for row in rows])
    else:
        click.echo(nothing)


def _transaction(settlement: str, state: str, kept: dict[str, Any]) -> dict[str, Any]:
    return {
        "settlement": settlement,
        "account": kept["account"],
        "state": state,
        "nonce": kept["nonce"],
        "settled": kept["settled"],
        "payee": kept["payee"],
        "max_fee": gwei(int(kept["max_fee"])),
        "sent_at": datetime.fromtimestamp(kept["begun_s"], UTC).isoformat(timespec="seconds"),
        "hash": kept["hashes"][-1],
    }
