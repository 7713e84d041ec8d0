"""All payments that are not forgotten yet: on disk, and the same in memory.

Memory never runs ahead of the disk: a payment is here as it was committed.
"""

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal

import trio

from engines.ethereum import history
from engines.ethereum.transactions import PREFIX, Payment, from_state
from settled import Services

_NEXT_NONCE = "next_nonce"


class Payments:
    """The payments of one key.

    Attributes:
        added: set when there is a new one; whoever waits for that puts a new event there.
    """

    def __init__(self, services: Services) -> None:
        self.added = trio.Event()
        self._services = services
        self._all: dict[str, Payment] = {}
        self._done: dict[str, trio.Event] = {}

    async def load(self) -> None:
        """Read what earlier lives of the daemon left."""
        for key, kept in await self._services.state.items(PREFIX):
            self._take(from_state(key, kept))

    def _take(self, payment: Payment) -> None:
        self._all[payment.settlement_id] = payment
        if payment.settled is None:
            self.added.set()

    def pending(self) -> list[Payment]:
        """Return those whose outcome is open, in the order of their nonces."""
        pending = (payment for payment in self._all.values() if payment.settled is None)
        return sorted(pending, key=lambda payment: payment.nonce)

    def from_nonce(self, count: int) -> list[Payment]:
        """Return those with this nonce or a higher one."""
        return [payment for payment in self._all.values() if payment.nonce >= count]

    async def find(self, settlement_id: str) -> Payment | None:
        """Return the payment of a settlement, as it is on disk, if one was ever signed.

        That it is not in memory can only be when the task that wrote it down was torn off right
        then: from now on it is looked after.
        """
        payment = self._all.get(settlement_id)
        if payment is None:
            kept = await self._services.state.get(PREFIX + settlement_id)
            if kept is not None and settlement_id not in self._all:
                self._take(from_state(PREFIX + settlement_id, kept))
            payment = self._all.get(settlement_id)
        return payment

    async def next_nonce(self) -> int | None:
        """Return the nonce of our next transaction, ``None`` if there never was one."""
        nonce: int | None = await self._services.state.get(_NEXT_NONCE)
        return nonce

    async def set_next_nonce(self, nonce: int, **marks: object) -> None:
        """Go on from another nonce, and set other keys of the state along with it."""
        async with self._services.transaction() as changes:
            changes.set_state(_NEXT_NONCE, nonce)
            for key, value in marks.items():
                changes.set_state(key, value)

    async def add(self, payment: Payment, count: int) -> None:
        """Write down a new payment and that its nonce is taken; it may be sent when this returns.

        Of settlements of the account that are over, a line is kept: a new one begins only when the
        outcome of the last is in settled's own books. But one that the chain has undone, of whose
        transactions it has ``count``, may have to be sent again.
        """
        over = [
            other
            for other in self._all.values()
            if other.account_id == payment.account_id
            and other.settled is not None
            and other.nonce < count
        ]
        async with self._services.transaction() as changes:
            changes.set_state(payment.key, payment.to_state())
            changes.set_state(_NEXT_NONCE, payment.nonce + 1)
            history.forget(changes, payment.nonce)
            for other in over:
                history.remember(changes, other, newest_nonce=payment.nonce)
                changes.delete_state(other.key)
        for other in over:
            self._all.pop(other.settlement_id, None)
            self._done.pop(other.settlement_id, None)
        self._take(payment)

    async def change(self, payments: Iterable[Payment]) -> None:
        """Write down what has become of payments."""
        changed = list(payments)
        async with self._services.transaction() as changes:
            for payment in changed:
                changes.set_state(payment.key, payment.to_state())
        for payment in changed:
            self._all[payment.settlement_id] = payment
            if payment.settled is not None and payment.settlement_id in self._done:
                self._done[payment.settlement_id].set()

    def latest(self, payment: Payment) -> Payment:
        """Return the payment as it is now."""
        return self._all.get(payment.settlement_id, payment)

    async def outcome(self, settlement_id: str) -> Payment:
        """Wait until the outcome of a payment is known and written down."""
        payment = self._all[settlement_id]
        if payment.settled is None:
            await self._done.setdefault(settlement_id, trio.Event()).wait()
        return self._all[settlement_id]


def settle(payment: Payment, amount: Decimal) -> Payment:
    """Return the payment as one that has settled ``amount``."""
    return replace(payment, settled=amount)


def fail(payment: Payment, reason: str) -> Payment:
    """Return the payment as one that has moved nothing, and never will."""
    return replace(payment, settled=Decimal(0), reason=reason)
