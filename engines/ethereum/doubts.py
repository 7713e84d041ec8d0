"""Doubt: our key may have sent what this database does not know.

That is so when the chain has more of our transactions than we know of: a backup was restored, or
the key is used elsewhere, too. Then nobody here can tell of a settlement that is not written down
whether it was sent. Each that is asked for while doubt lasts is noted, in the engine's state as
``doubt:<settlement id>``, and stays the operator's to resolve.
"""

import time
from typing import Final

import trio

from engines.ethereum.payments import Payments
from settled import Services

# Unknown settlements are asked for once an hour at least; with this, each was asked for twice.
_LASTS_S: Final = 2 * 3600.0
_DOUBT: Final = "doubt"


class Doubts:
    """The doubt of one key.

    Args:
        services: of the engine.
        payments: where every transaction that we know of is written down.
        address: of the key.
    """

    def __init__(self, services: Services, payments: Payments, address: str) -> None:
        self._services = services
        self._payments = payments
        self._address = address
        self._began = trio.Event()
        self._began_s = 0.0
        self._lock = trio.Lock()  # it begins or it ends

    @property
    def present(self) -> bool:
        """Whether a settlement that is asked for now may have been sent by what is forgotten."""
        return self._began.is_set()

    async def load(self) -> None:
        """Go on with the doubt of an earlier life of the daemon."""
        if await self._services.state.get(_DOUBT) is not None:
            self._begin()

    def _begin(self) -> None:
        self._began_s = trio.current_time()
        self._began.set()

    async def begin(self, *, ours: int, chain: int, next_nonce: int) -> None:
        """Note that the chain knows more of our transactions than we do, and go on from there.

        Args:
            ours: how many we know of.
            chain: how many there are.
            next_nonce: of our next transaction from now on.
        """
        self._begin()  # at once: whoever asks while that is written down is told of it
        mark = {"since": time.time(), "kept": ours, "seen": chain}
        async with self._lock:
            self._begin()  # again, should the doubt of before have ended right then
            await self._payments.set_next_nonce(next_nonce, **{_DOUBT: mark})
        self._services.log.error(
            "transactions_unknown",
            address=self._address,
            ours=ours,
            chain=chain,
            reason="the chain has transactions of our key that this database does not know: a "
            "backup was restored, or the key is used elsewhere too. Look on the ledger what they "
            "paid; use the key nowhere else",
        )

    async def note(self) -> None:
        """Note that a transaction that this database does not know has used a nonce of ours."""
        async with self._lock:
            self._begin()
            await self._services.state.set(_DOUBT, {"since": time.time()})

    async def concerns(self, account_id: str, settlement_id: str) -> bool:
        """Say whether a settlement that is not written down may have been sent all the same."""
        key, was_present = f"{_DOUBT}:{settlement_id}", self.present
        if await self._services.state.get(key) is not None:
            return True
        if not (was_present or self.present):  # it may begin or end meanwhile
            return False
        await self._services.state.set(key, True)
        self._services.log.error(
            "settlement_unknown_since_restore",
            settlement=settlement_id,
            account=account_id,
            reason="our key has sent transactions that this database does not know: look on the "
            f"ledger whether one paid this, then `settled settlements resolve {settlement_id}`",
        )
        return True

    async def watch(self) -> None:
        """End it whenever every settlement that it could touch has been asked for."""
        while True:
            await self._began.wait()
            await trio.sleep_until(self._began_s + _LASTS_S)
            async with self._lock:
                if trio.current_time() >= self._began_s + _LASTS_S:
                    await self._services.state.delete(_DOUBT)
                    self._began = trio.Event()
