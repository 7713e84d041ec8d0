"""The books of an accounting system: what it owes, what it is owed, what it was told. No I/O."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from settled.amounts import EXACT, ZERO, Quantity, floor
from settled.testing.faults import Rounding

# Real connectors count from a key's first use, whatever RFC 0038 asks for.
KEY_LIFE_S: Final = 24 * 3600


@dataclass(slots=True, kw_only=True)
class PeerAccount:
    """One account as an accounting system keeps it: one peer in one asset.

    Amounts are exact, in the standard unit. ``owed = payable + requested`` holds at every instant.

    Args:
        id: what this accounting system and its engine call the account.
        asset_scale: decimals of the smallest unit that this accounting system counts.
        settle_threshold: a settlement is requested as soon as ``payable`` is this much.
        payable: what we owe the peer and have not asked the engine to settle yet.
        receivable: what the peer owes us still; below zero when it paid ahead.
        owed: all that we ever owed the peer.
        requested: all that we ever asked the engine to settle.
        credited: all that the engine told us came in, as far as our asset scale can hold it.
        remainder: digits finer than the asset scale that wait to make up a whole unit.
    """

    id: str
    asset_scale: int
    settle_threshold: Decimal
    payable: Decimal = ZERO
    receivable: Decimal = ZERO
    owed: Decimal = ZERO
    requested: Decimal = ZERO
    credited: Decimal = ZERO
    remainder: Decimal = ZERO

    def owe(self, amount: Decimal) -> None:
        """Record a debt to the peer."""
        self.owed = EXACT.add(self.owed, amount)
        self.payable = EXACT.add(self.payable, amount)

    def lend(self, amount: Decimal) -> None:
        """Record a debt of the peer to us."""
        self.receivable = EXACT.add(self.receivable, amount)

    def request(self, amount: Decimal) -> None:
        """Move a debt from payable to requested (a negative amount: back again)."""
        self.payable = EXACT.subtract(self.payable, amount)
        self.requested = EXACT.add(self.requested, amount)

    def credit(self, amount: Decimal, rounding: Rounding) -> Decimal:
        """Book what the engine says came in; return how much of it was credited."""
        credited = amount
        if rounding != "exact":
            total = EXACT.add(self.remainder, amount)
            credited = floor(total, self.asset_scale)
            if rounding == "keep_remainder":
                self.remainder = EXACT.subtract(total, credited)
        self.credited = EXACT.add(self.credited, credited)
        self.receivable = EXACT.subtract(self.receivable, credited)
        return credited

    def quantity(self, amount: Decimal) -> Quantity:
        """Return an amount as this accounting system sends it: at the account's asset scale."""
        units = amount.scaleb(self.asset_scale, EXACT).to_integral_exact(context=EXACT)
        return Quantity(format(units, "f"), self.asset_scale)


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What was asked and answered under an idempotency key, and when for the first time."""

    account_id: str
    amount: Decimal
    credited: Decimal
    first_s: float


class KeyMemory:
    """The idempotency keys that an accounting system still knows."""

    def __init__(self) -> None:
        self._kept: dict[str, KeptAnswer] = {}

    def find(self, key: str, now_s: float) -> KeptAnswer | None:
        """Return what was answered under the key, unless its first use is 24 h ago."""
        kept = self._kept.get(key)
        if kept is None or now_s - kept.first_s >= KEY_LIFE_S:
            return None
        return kept

    def keep(self, key: str, answer: KeptAnswer) -> None:
        """Remember an answer."""
        self._kept[key] = answer
