"""``settled settle``: ask for a settlement, and watch it being paid."""

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from settled import ids
from settled.amounts import Quantity, from_text, to_text
from settled.cli.common import db_option, debug_option, json_option, with_store
from settled.cli.records import json_text
from settled.cli.watching import Ending, watch
from settled.store.lock import holder_pid
from settled.store.records import Queued
from settled.text import one_line

if TYPE_CHECKING:
    from settled.store.protocol import Store


class _Settle(click.Command):
    """Takes what begins with a minus and a digit for the amount that it is, though a wrong one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name[1:2] not in set("0123456789."):
                raise
            raise click.UsageError("AMOUNT must be more than zero", ctx) from None


@click.command(cls=_Settle)
@click.argument("account")
@click.argument("amount")
@click.option("--key", help="The idempotency key of this request; a new one if not given.")
@click.option("--wait", is_flag=True, help="Wait until it is settled, and exit by the outcome.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Wait so long at most; then the exit code is 1, and it stays queued.",
)
@db_option
@json_option
@debug_option
def settle(
    *,
    account: str,
    amount: str,
    key: str | None,
    wait: bool,
    timeout: float | None,
    db: Path,
    as_json: bool,
) -> None:
    """Queue a settlement of AMOUNT, in the standard unit, to the peer of ACCOUNT.

    It is in the file when the command returns. A running daemon pays it at once, a stopped one
    when it starts. The same command again with the same --key has no second effect.

    With --wait, the exit code is 0 when it is settled, or settled in part while the rest waits for
    more. It is 1 when it rests, is parked, or its account is closed: what to do is shown. What is
    tried again with backoff is waited for, for ever unless there is a --timeout.

    \b
    Examples:
      settled settle alice 12.50
      settled settle alice 12.50 --key invoice-17
      settled settle alice 12.50 --wait --timeout 60
    """
    quantity = Quantity.of(from_text(amount))
    minted = key is None
    key = ids.mint() if key is None else ids.check_key(key)

    async def act(store: "Store") -> tuple[Queued, Ending | None]:
        if minted:
            await store.account(account)  # refuses one that is unknown
            # Before it is queued: whoever is cut off here can repeat the request safely.
            click.echo(f"Key: {key}", err=True)
        return await _settle(
            store, account, quantity, key, wait_on=db if wait else None, timeout_s=timeout
        )

    answer: tuple[Queued, Ending | None] = with_store(db, act)
    queued, ending = answer
    _report(account, key, queued, ending, as_json=as_json)
    if ending is None and holder_pid(db) is None:
        click.echo(f"No daemon runs on {db}: it is paid when `settled run` starts.", err=True)
    if ending is not None:
        if ending.note:
            click.echo(ending.note, err=True)
        click.get_current_context().exit(ending.exit_code)


async def _settle(
    store: "Store",
    account_id: str,
    quantity: Quantity,
    key: str,
    *,
    wait_on: Path | None,
    timeout_s: float | None,
) -> tuple[Queued, Ending | None]:
    queued = await store.queue_settlement(account_id, quantity, key)
    if wait_on is None:
        return queued, None
    return queued, await watch(store, wait_on, account_id, queued, timeout_s=timeout_s)


def _report(
    account_id: str, key: str, queued: Queued, ending: Ending | None, *, as_json: bool
) -> None:
    value: Decimal = queued.quantity.value
    if as_json:
        record = {
            "account": account_id,
            "amount": to_text(value),
            "key": key,
            "replayed": queued.replayed,
            "outcome": "queued" if ending is None else ending.outcome,
        }
        click.echo(json_text(record))
        return
    what = "Was queued before" if queued.replayed else "Queued"
    shown = one_line(f"{to_text(value)} for {account_id}", 2000)
    outcome = "" if ending is None else f"; {ending.outcome}"
    click.echo(f"{what}: {shown}, key {key}{outcome}.")
