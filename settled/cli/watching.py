"""Waiting for a settlement request to be paid, in sight of whoever waits."""

import math
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from settled import limits
from settled.amounts import EXACT, to_text
from settled.store.lock import holder_pid
from settled.store.records import Account, Queued
from settled.text import one_line, printable

if TYPE_CHECKING:
    from settled.store.protocol import Store

_POLL_S: Final = 0.1
_LINE_CHARS: Final = 200

Outcome = Literal["settled", "settled in part", "not settled", "parked", "closed"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How the wait ended, the command's exit code, and what to tell the operator."""

    outcome: Outcome
    exit_code: int
    note: str | None = None


async def watch(
    store: "Store", db: Path, account_id: str, queued: Queued, *, timeout_s: float | None
) -> Ending:
    """Wait until all that was requested up to now is settled, or until it cannot go on.

    Progress goes to standard error: one line that is written over on a terminal, otherwise a line
    for each change. Cancelling it leaves the request as it is.

    Args:
        store: where the request was queued.
        db: the database's file, to tell whether a daemon runs on it.
        account_id: the account.
        queued: the answer to the request; its life of the account is watched.
        timeout_s: how long to wait, in seconds; ``None``: for ever.
    """
    import trio

    target = (await _account(store, account_id, queued.account)).requested
    progress = _Progress(db)
    try:
        with trio.move_on_after(math.inf if timeout_s is None else timeout_s):
            while True:
                account = await _account(store, account_id, queued.account)
                progress.show(account, target)
                ending = await _ending(store, account, target, queued)
                if ending is not None:
                    return ending
                await trio.sleep(_POLL_S)
        return Ending("not settled", 1, "It is not settled yet. It stays queued.")
    finally:
        progress.end()


async def _account(store: "Store", account_id: str, number: int) -> Account:
    """Return one life of an account; a later one may have taken its id meanwhile."""
    (account,) = await store.accounts(account_id=account_id, before=number + 1, limit=1)
    return account


async def _ending(
    store: "Store", account: Account, target: Decimal, queued: Queued
) -> Ending | None:
    """Return how the wait has ended, ``None`` while it goes on."""
    if account.settled >= target:
        return Ending("settled", 0)
    if account.unknown:
        return await _parked(store, account)
    return None if account.in_flight else _resting(account, target, queued)


def _resting(account: Account, target: Decimal, queued: Queued) -> Ending | None:
    if account.state == "closed":
        return Ending("closed", 1, f"Account {account.id} is closed: what is queued is not paid.")
    if account.retry_ms is not None:
        return None
    why = one_line(account.waiting or "it waits for more")
    # The older requests are paid first; what exceeds them is of this one.
    if account.settled > EXACT.subtract(target, queued.quantity.value):
        return Ending("settled in part", 0, f"The rest stays queued: {why}.")
    return Ending("not settled", 1, f"It stays queued: {why}.")


async def _parked(store: "Store", account: Account) -> Ending | None:
    found = await store.settlements(
        account_id=account.id, state="parked", limit=limits.PAGE_ROWS_MAX
    )
    for settlement in found:
        if settlement.account == account.number:
            return Ending(
                "parked",
                1,
                f"Settlement {printable(settlement.id)} of {to_text(settlement.amount)} is parked: "
                f"{one_line(settlement.reason or 'its outcome is unknown')}. Find out on the "
                f"ledger what was paid, then `settled settlements resolve "
                f"{printable(settlement.id)} --settled AMOUNT`, or `--not-sent`.",
            )
    return None


class _Progress:
    """Tells how far it is, whenever that changes."""

    def __init__(self, db: Path) -> None:
        self._db = db
        self._on_terminal = sys.stderr.isatty()
        self._shown = ""

    def show(self, account: Account, target: Decimal) -> None:
        """Show the account as it is now."""
        line = f"{account.id}: settled {to_text(account.settled)} of {to_text(target)}"
        for name, amount in (
            ("in flight", account.in_flight),
            ("unknown", account.unknown),
            ("queued", account.queued),
        ):
            if amount:
                line += f", {name} {to_text(amount)}"
        if account.waiting:
            line += f" ({account.waiting}{_next_try(account)})"
        if account.settled < target and holder_pid(self._db) is None:
            line += f"; no daemon runs on {self._db}: start `settled run`"
        columns = shutil.get_terminal_size().columns - 1 if self._on_terminal else _LINE_CHARS
        line = one_line(line, columns)
        if line != self._shown:
            self._shown = line
            click.echo(
                f"\r\x1b[2K{line}" if self._on_terminal else line,
                err=True,
                nl=not self._on_terminal,
            )

    def end(self) -> None:
        """Leave the terminal's line as it is, and go to the next."""
        if self._on_terminal and self._shown:
            click.echo(err=True)


def _next_try(account: Account) -> str:
    if not account.retry_ms:
        return ""
    at = datetime.fromtimestamp(account.retry_ms // 1000, UTC)
    return f"; tried again at {at:%H:%M:%S} UTC, or now by `settled accounts retry {account.id}`"
