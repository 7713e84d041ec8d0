"""The engine of a simulated host: written against the public API, and not a reliable one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import trio

from settled import AccountNotFound, NotSettled, Services
from settled.amounts import EXACT, floor
from tests.simulation.ledger import Ledger, Transfer
from tests.simulation.world import World

_HANG_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Ability:
    """What an engine of this run can do."""

    finds: bool
    asset_scale: int | None


class SimulatedEngine:
    """Pays over the ledger; the peers' engines tell each other their names first.

    Args:
        world: the run.
        name: its host.
        services: what it was handed.
        ledger: where it pays.
        check_alive: raises when its host is dead.
    """

    def __init__(
        self,
        world: World,
        name: str,
        services: Services,
        ledger: Ledger,
        check_alive: Callable[[], None],
    ) -> None:
        self._world = world
        self._name = name
        self._services = services
        self._ledger = ledger
        self._check_alive = check_alive

    async def setup_account(self, account_id: str) -> None:
        reply = await self._services.send_message(account_id, {"who": [self._name, account_id]})
        self._check_alive()
        await self._services.state.set("peer", reply["who"], account_id)

    async def handle_message(self, account_id: str, message: Any) -> Any:
        await self._services.state.set("peer", message["who"], account_id)
        return {"who": [self._name, account_id]}

    async def settle(self, account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
        rate = self._world.rates.engine
        peer = await self._services.state.get("peer", account_id)
        self._check_alive()
        if peer is None or self._world.fault("not settled", rate / 2):
            raise NotSettled("no peer, or no funds")
        if self._world.fault("engine raises before it pays", rate / 8):
            raise RuntimeError("a bug")
        if self._world.fault("engine pays in part", rate / 4):
            amount = floor(EXACT.divide_int(amount, Decimal(2)), 0) or amount
        elif self._world.fault("engine pays too much", rate / 20):
            amount = EXACT.add(amount, Decimal(1))
        payer, payee = (self._name, account_id), (peer[0], peer[1])
        await self._ledger.submit(settlement_id, payer, payee, amount)
        self._check_alive()
        if self._world.fault("engine hangs after it paid", rate / 10):
            await trio.sleep(_HANG_S)
        if self._world.fault("engine raises after it paid", rate / 8):
            raise RuntimeError("a bug")
        return amount

    async def watch(self) -> None:
        """Credit what arrives, from a cursor on; now and then from an older one."""
        period_s = self._world.horizon_s / 300
        while True:
            await trio.sleep(self._world.delay_s(period_s))
            cursor = await self._services.state.get("cursor") or 0
            if self._world.fault("rescan", self._world.rates.replay / 5):
                cursor = self._world.dice.randint(0, cursor)
            try:
                arrived = await self._ledger.incoming(self._name, cursor)
            except ConnectionError:
                continue
            self._check_alive()
            if not arrived:
                continue
            credit = self._credit_together if self._world.dice.random() < 0.5 else self._credit_each
            try:
                await credit(arrived)
            except AccountNotFound:
                continue  # not opened yet: the peer was faster

    async def _credit_together(self, arrived: Sequence[Transfer]) -> None:
        async with self._services.transaction() as transaction:
            for transfer in arrived:
                account_id = transfer.payee[1]
                transaction.credit_settlement(account_id, transfer.amount, transfer.id)
            transaction.set_state("cursor", arrived[-1].number)

    async def _credit_each(self, arrived: Sequence[Transfer]) -> None:
        for transfer in arrived:
            account_id = transfer.payee[1]
            await self._services.credit_settlement(account_id, transfer.amount, transfer.id)
        await self._services.state.set("cursor", arrived[-1].number)


class FindingEngine(SimulatedEngine):
    """One that can look up what became of a settlement."""

    async def find_settlement(self, account_id: str, settlement_id: str) -> Decimal | None:
        found = await self._ledger.find(settlement_id)
        self._check_alive()
        if self._world.fault("look-up raises", self._world.rates.engine / 4):
            raise RuntimeError("a bug")
        return found


def make_engine(ability: Ability, **parts: Any) -> SimulatedEngine:
    """Return an engine with that ability, made of the arguments of ``SimulatedEngine``."""
    engine: Any = (FindingEngine if ability.finds else SimulatedEngine)(**parts)
    engine.asset_scale = ability.asset_scale
    return engine  # type: ignore[no-any-return]
