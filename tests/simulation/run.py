"""One run: the hosts and their peerings, the traffic, the operator, the end, and the verdict."""

import gc
import logging
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
import trio
from trio.testing import MockClock

from settled import ids, limits
from settled.amounts import Quantity
from settled.core import backoff
from settled.http import handlers
from settled.store.records import NotSent, Settled
from settled.store.sql import incoming, outgoing
from settled.store.sql.ledger import Tx
from tests.simulation.connector import Connector, Request
from tests.simulation.engine import Ability
from tests.simulation.host import Host
from tests.simulation.ledger import Ledger
from tests.simulation.model import Model
from tests.simulation.network import Answer, Network, NoAnswer, NotReached, Transport
from tests.simulation.world import HOST, HOUR_S, Violation, World

REST_S: Final = 12 * HOUR_S
_RAM: Final = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one run.

    Attributes:
        failure: the promise that was broken, ``None`` if none was.
        trace: what happened, one line each; only the last ones unless all were asked for.
    """

    seed: int
    failure: str | None
    simulated_s: float
    steps: int
    checks: int
    transfers: int
    injected: Counter[str]
    fingerprint: str
    trace: list[str]


def simulate(seed: int, *, keep_trace: bool = False) -> Report:
    """Run the simulation of ``seed`` and return what became of it."""
    world = World(seed, keep_trace=keep_trace)
    run = _Run(world)
    failure = None
    with _deterministic(world), tempfile.TemporaryDirectory(dir=_ram()) as directory:
        try:
            trio.run(
                run.main,
                Path(directory),
                clock=MockClock(autojump_threshold=0),
                instruments=[run],
                strict_exception_groups=True,
            )
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failure = _described(error)
    return Report(
        seed,
        failure,
        run.ended_s,
        world.steps,
        run.model.checks,
        len(run.ledger.transfers),
        world.injected,
        world.fingerprint(),
        world.trace(),
    )


def _ram() -> Path | None:
    return _RAM if _RAM.is_dir() else None


def _described(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        violations = error.subgroup(Violation)
        error = (violations or error).exceptions[0]
    return f"{type(error).__name__}: {error}"


@contextmanager
def _deterministic(world: World) -> Iterator[None]:
    """Have all chance come from the seed: trio's scheduler, ids and the jitter of retries."""

    def mint() -> str:
        return str(uuid.UUID(int=world.dice.getrandbits(128), version=4))

    scheduler: Any = trio._core._run
    was_enabled = gc.isenabled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
        patch.setattr(backoff, "_RANDOM", world.dice)
        patch.setattr(ids, "mint", mint)
        # A poll costs a step; the operator's writes are looked for often enough.
        patch.setattr(limits, "FOREIGN_WRITE_POLL_S", world.horizon_s / 200)
        patch.setattr(limits, "DISK_POLL_S", world.horizon_s / 100)
        scheduler._r.seed(world.seed)
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        gc.disable()  # what is collected, and when, must change nothing
        try:
            yield
        finally:
            if was_enabled:
                gc.enable()


class _Run(trio.abc.Instrument):
    """One run. As an instrument it counts the steps of each host's tasks."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hosts: dict[str, Host] = {}
        self._connectors: dict[str, Connector] = {}
        self._asking = 0
        self.ended_s = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        name = task.context.get(HOST)
        if name is not None:
            self._hosts[name].step()

    async def main(self, directory: Path) -> None:
        world = self._world
        async with trio.open_nursery() as nursery:
            self._network = Network(world, nursery)
            self.ledger = Ledger(world, nursery)
            self.model = Model(self.ledger, self._connectors)
            self._make_hosts(directory)
            try:
                for one in self._hosts.values():
                    nursery.start_soon(one.live)
                for host, account_id in self._peerings():
                    nursery.start_soon(self._traffic, nursery, host, account_id)
                nursery.start_soon(self._operate)
                await trio.sleep(world.horizon_s)
                world.note("faults end")
                world.faulty = False
                await self._come_to_rest(nursery)
            finally:
                self.ended_s = trio.current_time()
            nursery.cancel_scope.cancel()

    # --- who there is ---

    def _make_hosts(self, directory: Path) -> None:
        dice = self._world.dice
        names = ["A", "B", "C"][: dice.choice([2, 2, 3])]
        for name in names:
            ability = Ability(dice.random() < 0.7, dice.choice([None, 2, 6]))
            host = Host(self._world, name, directory / name, ability, self.ledger)
            connector = Connector(
                self._world, name, self._network, host.answer, partial(self._carry, name)
            )
            host.check = self.model.check
            host.check_whole = self.model.check_whole
            host.transport = Transport(self._network, f"{name} engine-connector", connector.serve)
            self._hosts[name], self._connectors[name] = host, connector
        self._pairs = list(combinations(names, 2)) * dice.choice([1, 2])

    def _peerings(self) -> list[tuple[str, str]]:
        sides = []
        for n, (one, other) in enumerate(self._pairs):
            sides += [(one, f"{other}{n}"), (other, f"{one}{n}")]
        return sides

    async def _carry(self, sender: str, account_id: str, body: bytes) -> Answer | None:
        """Carry a message from one connector to the other, and on to its engine."""
        peer, number = account_id[0], account_id[1:]
        receiver = self._hosts[peer]
        try:
            return await self._network.call(
                f"{sender}-{peer}",
                lambda: receiver.answer(
                    lambda operations: handlers.post_message(
                        operations,
                        f"{sender}{number}",
                        content_type="application/octet-stream",
                        body=body,
                    )
                ),
            )
        except (NotReached, NoAnswer):
            return Answer(502)

    # --- what they do ---

    async def _traffic(self, nursery: trio.Nursery, host: str, account_id: str) -> None:
        world, dice = self._world, self._world.dice
        connector = self._connectors[host]
        await trio.sleep(world.delay_s(world.horizon_s / 50))
        await connector.open_account(account_id)
        count = dice.randint(3, 25)
        for _ in range(count):
            await trio.sleep(world.delay_s(world.horizon_s / count / 2))
            if not world.faulty:
                break
            if world.fault("account closed and opened again", 0.01):
                await connector.close_account(account_id)
                await connector.open_account(account_id)
            nursery.start_soon(self._ask, connector, account_id)

    async def _ask(self, connector: Connector, account_id: str) -> None:
        dice = self._world.dice
        key = f"{connector.name}-{account_id}-{len(connector.requests)}"
        amount = str(dice.randint(1, 10 ** dice.choice([1, 3, 12])))
        quantity = Quantity(amount, dice.choice([0, 2, 9]))
        self._asking += 1
        await connector.ask(Request(account_id, key, quantity))
        self._asking -= 1

    async def _operate(self) -> None:
        """Do for every host what an operator does who looks at the ledger and the connector."""
        while True:
            await trio.sleep(self._world.horizon_s / 20)
            for host in self._hosts.values():
                if host.store is not None:
                    self._resolve(host)

    def _resolve(self, host: Host) -> None:
        assert host.store is not None
        reader = host.store.reader
        for (settlement_id,) in reader.execute(
            "SELECT id FROM settlements WHERE state = 'parked'"
        ).fetchall():
            paid = self.ledger.outcome(settlement_id)
            if paid is not None:
                word = Settled(paid) if paid else NotSent("not on the ledger", 0)
                host.by_hand(partial(_resolve_settlement, settlement_id, word))
        for (credit_id,) in reader.execute(
            "SELECT id FROM credits WHERE state = 'parked'"
        ).fetchall():
            taken = self._connectors[host.name].effects[credit_id] > 0
            host.by_hand(partial(_resolve_credit, credit_id, taken))

    # --- how it ends ---

    async def _come_to_rest(self, nursery: trio.Nursery) -> None:
        """With no faults any more, everything is paid, credited and known before long."""
        deadline_s = trio.current_time() + REST_S
        for host, account_id in self._peerings():
            nursery.start_soon(self._ask, self._connectors[host], account_id)
        while True:
            await trio.sleep(60)
            unfinished = self.model.unfinished(self._hosts.values())
            if self._asking:
                unfinished = f"{self._asking} requests without an answer"
            if unfinished is None:
                break
            if trio.current_time() > deadline_s:
                raise Violation(f"after {REST_S / HOUR_S:g} h without faults: {unfinished}")
        for one in self._hosts.values():
            self.model.check_whole(one)


def _resolve_settlement(settlement_id: str, word: Settled | NotSent, tx: Tx) -> Decimal:
    return outgoing.resolve_settlement(tx, settlement_id, word).settled


def _resolve_credit(credit_id: str, taken: bool, tx: Tx) -> Decimal:
    if taken:
        return incoming.resolve_credit(tx, credit_id, "it is in the connector's books").amount
    return incoming.retry_credit(tx, credit_id).amount
