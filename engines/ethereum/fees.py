"""What to pay per unit of gas (EIP-1559): enough for the next blocks, never more than the cap."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fees:
    """Wei per unit of gas: the most in all, and the tip within it for whoever makes the block."""

    max_fee: int
    priority_fee: int


def offer(base_fee: int, tip: int, cap: int) -> Fees | None:
    """Return what to offer for a new transaction, ``None`` if the next block takes more than cap.

    The base fee rises by an eighth a block at most, so twice as much holds for six full blocks.
    """
    if base_fee + base_fee // 8 + tip > cap:
        return None
    return Fees(min(2 * base_fee + tip, cap), tip)


def bump(old: Fees, now: Fees | None, cap: int) -> Fees | None:
    """Return what replaces an offer that was too low, ``None`` when the cap leaves no room.

    Nodes take another transaction of the same nonce only if it offers a tenth more of both fees.
    We give an eighth, or what is offered ``now`` if that is more.
    """
    max_fee, priority_fee = _eighth_more(old.max_fee), _eighth_more(old.priority_fee)
    if max_fee > cap or priority_fee > max_fee:
        return None
    if now is not None:
        max_fee = max(max_fee, now.max_fee)
        priority_fee = max(priority_fee, now.priority_fee)
    max_fee = min(max_fee, cap)
    return Fees(max_fee, min(priority_fee, max_fee))


def _eighth_more(fee: int) -> int:
    return fee + fee // 8 + 1
