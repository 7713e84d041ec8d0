"""Payments of strangers that the operator has dealt with otherwise, and that are never credited.

In the engine's state each is ``dismissed:<transfer id>``, for ever: the chain may show it again.
Whoever would credit or keep a payment requires, in the same transaction, that it is not there. So
it is one or the other, though the operator's command and the daemon are two processes.
"""

from datetime import UTC, datetime
from typing import Any, Final

from settled import SettledError, State, Transaction

PREFIX: Final = "dismissed:"


class NotUnclaimed(SettledError):
    """No payment with this id waits for somebody to claim it."""

    exit_code = 3


def require_open(changes: Transaction, transfer_id: str) -> None:
    """Have nothing done if the payment was dismissed (``StateChanged``)."""
    changes.require_state(PREFIX + transfer_id, None)


async def dismissed(state: State, transfer_id: str) -> dict[str, Any] | None:
    """Return what is on record of a payment that was dismissed; ``None`` if it was not."""
    record: dict[str, Any] | None = await state.get(PREFIX + transfer_id)
    return record


async def dismiss(
    state: State, changes: Transaction, transfer_id: str, reason: str
) -> dict[str, Any]:
    """Note that an unclaimed payment was dealt with; return the record of it, which stands.

    Raises:
        NotUnclaimed: when there is no such payment.
    """
    known = await dismissed(state, transfer_id)
    if known is not None:
        return known
    unclaimed = await state.items("unclaimed:")
    found = [item for item in unclaimed if item[0].split(":", 2)[2] == transfer_id]
    if not found:
        raise NotUnclaimed(
            f"no payment {transfer_id} is unclaimed: see `settled ethereum unclaimed`; if its "
            f"sender was found, it is in `settled credits list`"
        )
    ((key, note),) = found
    now = datetime.now(UTC).isoformat(timespec="seconds")
    address = key.split(":", 2)[1]
    record = {"address": address, **note, "dismissed_at": now, "reason": reason}
    changes.require_state(key, note)
    changes.delete_state(key)
    changes.set_state(PREFIX + transfer_id, record)
    return record
