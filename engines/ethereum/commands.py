"""``settled ethereum``: what the engine has sent, and what it was paid by nobody it knows."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from engines.ethereum.transactions import from_state
from engines.ethereum.units import gwei
from settled import State
from settled.commands import (
    db_option,
    debug_option,
    json_option,
    print_json,
    print_table,
    read_state,
)


@click.group()
def ethereum() -> None:
    """Transactions sent, and payments from unknown addresses.

    \b
    Examples:
      settled ethereum unclaimed
      settled ethereum transactions --json
    """


@ethereum.command()
@db_option
@json_option
@debug_option
def unclaimed(db: Path, as_json: bool) -> None:
    """List payments from addresses that no account's peer has proved.

    The oldest come first. They are credited as soon as an account's peer proves that the address is
    its own.

    \b
    Examples:
      settled ethereum unclaimed
      settled ethereum unclaimed --db /var/lib/settled/settled.db --json
    """
    found = read_state(db, lambda state: state.items("unclaimed:"))
    rows = sorted((_unclaimed(key, note) for key, note in found), key=lambda row: int(row["block"]))
    _print(rows, as_json, nothing="No payment is unclaimed.")


@ethereum.command()
@db_option
@json_option
@debug_option
def transactions(db: Path, as_json: bool) -> None:
    """List transactions by nonce; of each account the last stays.

    A pending transaction is not final yet: the engine watches it, sends it again, and raises its
    fee. MAX FEE is the most that it pays for a unit of gas.

    \b
    Examples:
      settled ethereum transactions
      settled ethereum transactions --json
    """
    found = read_state(db, lambda state: state.items("tx:"))
    rows = sorted((_transaction(key, kept) for key, kept in found), key=lambda row: row["nonce"])
    _print(rows, as_json, nothing="No transaction is on record.")


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


def _unclaimed(key: str, note: dict[str, Any]) -> dict[str, Any]:
    _, address, transfer = key.split(":", 2)
    return {
        "address": address,
        "amount": note["amount"],
        "transfer": transfer,
        "block": note["block"],
        "first_seen": note["first_seen"],
    }


def _transaction(key: str, kept: dict[str, Any]) -> dict[str, Any]:
    return {
        "settlement": key.partition(":")[2],
        "account": kept["account"],
        "state": from_state(key, kept).state,
        "nonce": kept["nonce"],
        "payee": kept["payee"],
        "max_fee": gwei(int(kept["max_fee"])),
        "sent_at": datetime.fromtimestamp(kept["begun_s"], UTC).isoformat(timespec="seconds"),
        "hash": kept["hashes"][-1],
    }
