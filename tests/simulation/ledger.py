"""The simulated ledger: transfers that arrive late, or never, and are never taken back."""

from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import trio

from settled.amounts import EXACT, ZERO, to_text
from tests.simulation.world import HOST, Violation, World

_LANDING_S: Final = 5.0
_REPLY_S: Final = 0.2

# One side of a peering: a host, and the id of the account that it has the peer under.
Side = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Transfer:
    """A payment that is final."""

    number: int
    settlement_id: str
    payer: Side
    payee: Side
    amount: Decimal

    @property
    def id(self) -> str:
        return f"tx{self.number}"


class Ledger:
    """All payments of a run; submitting twice pays twice, as on any real ledger.

    Attributes:
        transfers: what is final, in its order.
    """

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self._world = world
        self._nursery = nursery
        self._pending: dict[str, trio.Event] = {}
        self._by_id: dict[str, Transfer] = {}
        self.transfers: list[Transfer] = []
        self.paid: defaultdict[Side, Decimal] = defaultdict(lambda: ZERO)
        self.received: defaultdict[Side, Decimal] = defaultdict(lambda: ZERO)

    async def submit(self, settlement_id: str, payer: Side, payee: Side, amount: Decimal) -> None:
        """Pay; return once it is final.

        Raises:
            ConnectionError: whether it was or will be paid, the caller cannot tell.
        """
        rates = self._world.rates
        await trio.sleep(self._world.delay_s(_REPLY_S))
        if self._world.fault("transfer lost on its way", rates.loss / 3):
            raise ConnectionError("the node does not answer")
        if settlement_id in self._pending or settlement_id in self._by_id:
            raise Violation(f"settlement {settlement_id} is paid twice")
        landed = self._pending[settlement_id] = trio.Event()
        self._nursery.start_soon(self._land, settlement_id, payer, payee, amount)
        if self._world.fault("reply of the node lost", rates.loss / 2):
            raise ConnectionError("the node went away")
        await landed.wait()
        if self._world.fault("confirmation lost", rates.loss / 3):
            raise ConnectionError("the node went away after the payment")
        if settlement_id not in self._by_id:
            raise ConnectionError("the node knows of no such payment")

    async def _land(self, settlement_id: str, payer: Side, payee: Side, amount: Decimal) -> None:
        HOST.set(None)
        slow = self._world.fault("clogged ledger", self._world.rates.clog * 5)
        await trio.sleep(self._world.delay_s(self._world.horizon_s / 20 if slow else _LANDING_S))
        if not self._world.fault("transfer dropped by the ledger", self._world.rates.loss / 5):
            transfer = Transfer(len(self.transfers) + 1, settlement_id, payer, payee, amount)
            self.transfers.append(transfer)
            self._by_id[settlement_id] = transfer
            self.paid[payer] = EXACT.add(self.paid[payer], amount)
            self.received[payee] = EXACT.add(self.received[payee], amount)
            self._world.note(
                "paid", payer=payer, payee=payee, amount=to_text(amount), settlement=settlement_id
            )
        self._pending.pop(settlement_id).set()

    def outcome(self, settlement_id: str) -> Decimal | None:
        """Return what was paid, 0 if nothing was and will be, ``None`` while that is open."""
        if settlement_id in self._pending:
            return None
        transfer = self._by_id.get(settlement_id)
        return ZERO if transfer is None else transfer.amount

    @property
    def pending(self) -> int:
        """How many payments are neither final nor lost."""
        return len(self._pending)

    async def find(self, settlement_id: str) -> Decimal | None:
        """As ``outcome``, asked over a network.

        Raises:
            ConnectionError: when there is no answer.
        """
        await trio.sleep(self._world.delay_s(_REPLY_S))
        if self._world.fault("look-up lost", self._world.rates.loss):
            raise ConnectionError("the node does not answer")
        return self.outcome(settlement_id)

    async def incoming(self, host: str, after: int) -> list[Transfer]:
        """Return the payments to this host with numbers above ``after``.

        Raises:
            ConnectionError: when there is no answer.
        """
        await trio.sleep(self._world.delay_s(_REPLY_S))
        if self._world.fault("scan lost", self._world.rates.loss):
            raise ConnectionError("the node does not answer")
        return [transfer for transfer in self.transfers[after:] if transfer.payee[0] == host]
