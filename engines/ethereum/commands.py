"""``settled ethereum``: what the engine has sent, and what it was paid by nobody it knows."""

import time
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from engines.ethereum.units import gwei
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
    """Look at the transactions of the Ethereum engine, and at payments that are nobody's.

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
    """List payments to us from addresses that no account has told, oldest first.

    They are credited as soon as an account's peer proves that the address is its own.

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
    """List what was signed for settlements, by nonce; the last of each account stays on record.

    A pending transaction is not final yet: the engine watches it, sends it again, and raises its
    fee. FEE is the most that it pays for a unit of gas.

    \b
    Examples:
      settled ethereum transactions
      settled ethereum transactions --json
    """
    found = read_state(db, lambda state: state.items("tx:"))
    rows = sorted((_transaction(key, kept) for key, kept in found), key=lambda row: row["nonce"])
    _print(rows, as_json, nothing="No transaction is on record.")


def _print(rows: list[dict[str, Any]], as_json: bool, *, nothing: str) -> None:
    if as_json:
        print_json(rows)
    elif rows:
        headers = [name.replace("_", " ").upper() for name in rows[0]]
        print_table(headers, [list(row.values()) for row in rows])
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
    state = "pending"
    if kept["settled"] is not None:
        state = "settled" if Decimal(kept["settled"]) else "not sent"
    return {
        "settlement": key.partition(":")[2],
        "account": kept["account"],
        "state": state,
        "nonce": kept["nonce"],
        "fee": gwei(int(kept["max_fee"])),
        "hash": kept["hashes"][-1],
        "age": str(timedelta(seconds=max(0, round(time.time() - kept["begun_s"])))),
    }
