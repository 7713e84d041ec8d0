"""What was signed for a settlement, as it is kept in the engine's state.

A payment is written down before it is sent for the first time, together with the nonce that it
takes. The chain takes a nonce once, so whatever happens afterwards, the settlement is paid once or
not at all: with a higher fee it is another transaction, but the same payment.
"""

import time
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final, Literal

from engines.ethereum.fees import Fees

PREFIX: Final = "tx:"

TOLD: Final = "its outcome was told by the operator"
UNDONE: Final = "it was settled, and undone by a reorganisation"

State = Literal["pending", "settled", "not sent", "resolved"]


@dataclass(frozen=True, slots=True)
class UnsignedTransaction:
    """A transaction of type 2 (EIP-1559); amounts are in wei."""

    chain_id: int
    nonce: int
    to: str
    value: int
    data: bytes
    gas: int
    max_fee: int
    max_priority_fee: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """The transaction of one settlement, with every fee that it was signed with.

    Attributes:
        settlement_id: what it pays.
        account_id: whose settlement that is.
        payee: the address that is paid.
        to: where the transaction goes: the payee, or the token.
        value: wei that go with it.
        data: what it calls.
        units: what is paid, in the asset's smallest units.
        gas: the most gas that it may take.
        fees: of the latest version.
        head: the chain's newest block when the first was signed.
        nonce: the place among our transactions that it holds for ever, once it has one.
        raw: the latest version, signed.
        hashes: of all versions, the latest last, and when it is over the one that was mined.
        begun_s: when that was, Unix time.
        settled: what it settled, 0 if it moved nothing and never will, ``None`` while it is open.
        reason: why it moved nothing.
    """

    settlement_id: str
    account_id: str
    payee: str
    to: str
    value: int
    data: str
    units: int
    gas: int
    fees: Fees
    head: int
    nonce: int = -1
    raw: str = ""
    hashes: tuple[str, ...] = ()
    begun_s: float = field(default_factory=time.time)
    settled: Decimal | None = None
    reason: str | None = None

    @property
    def key(self) -> str:
        """Where it is in the engine's state."""
        return PREFIX + self.settlement_id

    @property
    def state(self) -> State:
        """What has become of it."""
        if self.settled is None:
            return "pending"
        if self.reason == TOLD:
            return "resolved"
        return "settled" if self.settled else "not sent"

    @property
    def cost(self) -> int:
        """The most wei that it takes from us."""
        return self.value + self.gas * self.fees.max_fee

    def unsigned(self, chain_id: int, fees: Fees) -> UnsignedTransaction:
        """Return what to sign for it at these fees."""
        return UnsignedTransaction(
            chain_id=chain_id,
            nonce=self.nonce,
            to=self.to,
            value=self.value,
            data=bytes.fromhex(self.data[2:]),
            gas=self.gas,
            max_fee=fees.max_fee,
            max_priority_fee=fees.priority_fee,
        )

    def signed(self, raw: str, transaction_hash: str, fees: Fees) -> "Payment":
        """Return it with one more version, signed at these fees."""
        hashes = (*self.hashes, transaction_hash)
        return replace(self, raw=raw, hashes=hashes, fees=fees)

    def mined(self, transaction_hash: str) -> "Payment":
        """Return it with the version last that is in a block: that is what it is known by."""
        others = (version for version in self.hashes if version != transaction_hash)
        return replace(self, hashes=(*others, transaction_hash))

    def to_state(self) -> dict[str, Any]:
        """Return it as JSON can hold it, where whole numbers end at 64 bits."""
        return {
            "account": self.account_id,
            "nonce": self.nonce,
            "payee": self.payee,
            "to": self.to,
            "value": str(self.value),
            "data": self.data,
            "units": str(self.units),
            "gas": self.gas,
            "max_fee": str(self.fees.max_fee),
            "priority_fee": str(self.fees.priority_fee),
            "raw": self.raw,
            "hashes": list(self.hashes),
            "head": self.head,
            "begun_s": self.begun_s,
            "settled": None if self.settled is None else f"{self.settled:f}",
            "reason": self.reason,
        }


def from_state(key: str, kept: Any) -> Payment:
    """Return the payment that is kept under a key of the state."""
    return Payment(
        settlement_id=key.removeprefix(PREFIX),
        account_id=kept["account"],
        nonce=kept["nonce"],
        payee=kept["payee"],
        to=kept["to"],
        value=int(kept["value"]),
        data=kept["data"],
        units=int(kept["units"]),
        gas=kept["gas"],
        fees=Fees(int(kept["max_fee"]), int(kept["priority_fee"])),
        raw=kept["raw"],
        hashes=tuple(kept["hashes"]),
        head=kept["head"],
        begun_s=kept["begun_s"],
        settled=None if kept["settled"] is None else Decimal(kept["settled"]),
        reason=kept["reason"],
    )
