"""Accounts, settlements and credits as the commands show them: JSON objects and table rows."""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import click

from settled import limits
from settled.amounts import to_text
from settled.store.records import Account, Credit, Settlement
from settled.text import one_line, printable

_REASON_CHARS: Final = 60
_MS_MAX: Final = 253_402_300_799_999  # the end of the year 9999, where dates end

ACCOUNT_HEADERS: Final = (
    "NUMBER",
    "ACCOUNT",
    "STATE",
    "REQUESTED",
    "QUEUED",
    "IN FLIGHT",
    "UNKNOWN",
    "SETTLED",
    "RECEIVED",
    "CREDITED",
    "PARKED",
    "WAITING",
)
SETTLEMENT_HEADERS: Final = (
    "NUMBER",
    "SETTLEMENT",
    "ACCOUNT",
    "STATE",
    "AMOUNT",
    "SETTLED",
    "CREATED",
    "REASON",
)
CREDIT_HEADERS: Final = (
    "NUMBER",
    "CREDIT",
    "ACCOUNT",
    "LEDGER PAYMENT",
    "STATE",
    "AMOUNT",
    "ATTEMPTS",
    "CREATED",
    "REASON",
)


def account_json(account: Account) -> dict[str, Any]:
    """Return the JSON object of an account; amounts are decimal strings in the standard unit."""
    return {
        "id": account.id,
        "state": account.state,
        "requested": to_text(account.requested),
        "queued": to_text(account.queued),
        "in_flight": to_text(account.in_flight),
        "unknown": to_text(account.unknown),
        "settled": to_text(account.settled),
        "received": to_text(account.received),
        "credited": to_text(account.credited),
        "parked": to_text(account.parked),
        "waiting": account.waiting,
        "retry_at": iso(account.retry_ms) if account.failures and account.retry_ms else None,
        "opened_at": iso(account.opened_ms),
        "closed_at": None if account.closed_ms is None else iso(account.closed_ms),
        "number": account.number,
    }


def account_row(account: Account) -> tuple[object, ...]:
    """Return the cells of an account below ``ACCOUNT_HEADERS``."""
    balances = (
        account.requested,
        account.queued,
        account.in_flight,
        account.unknown,
        account.settled,
        account.received,
        account.credited,
        account.parked,
    )
    return (account.number, account.id, account.state, *balances, _short(account.waiting))


def settlement_json(settlement: Settlement) -> dict[str, Any]:
    """Return the JSON object of an outgoing settlement."""
    due = settlement.retry_ms if settlement.state == "unknown" else None
    return {
        "id": settlement.id,
        "account": settlement.account_id,
        "state": settlement.state,
        "amount": to_text(settlement.amount),
        "settled": to_text(settlement.settled),
        "reason": settlement.reason,
        "failures": settlement.failures,
        "retry_at": iso(due) if due else None,
        "created_at": iso(settlement.created_ms),
        "updated_at": iso(settlement.updated_ms),
        "number": settlement.number,
    }


def settlement_row(settlement: Settlement) -> tuple[object, ...]:
    """Return the cells of a settlement below ``SETTLEMENT_HEADERS``."""
    return (
        settlement.number,
        settlement.id,
        settlement.account_id,
        settlement.state,
        settlement.amount,
        settlement.settled,
        iso(settlement.created_ms),
        _short(settlement.reason),
    )


def credit_json(credit: Credit) -> dict[str, Any]:
    """Return the JSON object of a credit; ``id`` is the key that it carries to the connector."""
    due = credit.retry_ms if credit.state == "undelivered" else None
    since = credit.ambiguous_ms
    return {
        "id": credit.id,
        "account": credit.account_id,
        "settlement_id": credit.settlement_id,
        "state": credit.state,
        "amount": to_text(credit.amount),
        "reason": credit.reason,
        "attempts": credit.attempts,
        "ambiguous_since": None if since is None else iso(since),
        "retry_at": iso(due) if due else None,
        "created_at": iso(credit.created_ms),
        "updated_at": iso(credit.updated_ms),
        "number": credit.number,
    }


def credit_row(credit: Credit) -> tuple[object, ...]:
    """Return the cells of a credit below ``CREDIT_HEADERS``."""
    return (
        credit.number,
        credit.id,
        credit.account_id,
        credit.settlement_id,
        credit.state,
        credit.amount,
        credit.attempts,
        iso(credit.created_ms),
        _short(credit.reason),
    )


def echo_record(record: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one record: as JSON, or as a line for each of its fields."""
    if as_json:
        click.echo(json_text(record))
        return
    width = max(len(name) for name in record)
    for name, value in record.items():
        text = "-" if value is None else printable(str(value))
        click.echo(f"{name:<{width}}  {text}")


def json_text(value: object, *, indent: int | None = 2) -> str:
    """Return ``value`` as JSON that no terminal can be driven with.

    JSON leaves DEL as it is; everything else beyond printable ASCII is escaped already.
    """
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def iso(ms: int) -> str:
    """Return a time in milliseconds since 1970 as ISO 8601 in UTC.

    Example::

        >>> iso(1_700_000_000_123)
        '2023-11-14T22:13:20.123Z'
    """
    seconds, rest_ms = divmod(min(max(ms, 0), _MS_MAX), 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ms:03d}Z"


def _short(reason: str | None) -> str | None:
    """Return a reason as one line: cut on a terminal, where it would break the table."""
    if reason is None:
        return None
    return one_line(reason, _REASON_CHARS if sys.stdout.isatty() else limits.REASON_CHARS_MAX)
