"""Which transaction was whose, long after: of each payment that is over, a line.

In the engine's state each is ``paid:<nonce>``, from when its account's next payment begins. The
latest are kept; how many is bounded, so that the state does not grow without end.
"""

from typing import Any, Final

from engines.ethereum.transactions import Payment
from settled import Transaction

PREFIX: Final = "paid:"
KEPT: Final = 100_000  # some 400 bytes each
_DIGITS: Final = 20  # so that the keys are in the order of the nonces


def remember(changes: Transaction, over: Payment, *, newest_nonce: int) -> None:
    """Note a payment that is over, unless it is too old already."""
    if over.nonce > newest_nonce - KEPT:
        changes.set_state(_key(over.nonce), _line(over))


def forget(changes: Transaction, newest_nonce: int) -> None:
    """Forget what is too old once this nonce is taken."""
    if newest_nonce >= KEPT:
        changes.delete_state(_key(newest_nonce - KEPT))


def _key(nonce: int) -> str:
    return f"{PREFIX}{nonce:0{_DIGITS}}"


def _line(payment: Payment) -> dict[str, Any]:
    """Return as much of its record as the operator is shown, under the same names."""
    record = payment.to_state()
    line = {name: record[name] for name in ("account", "nonce", "payee", "max_fee", "begun_s")}
    return line | {
        "settlement": payment.settlement_id,
        "state": payment.state,
        "settled": record["settled"],
        "hashes": record["hashes"][-1:],
    }
