"""The engine is stopped wherever it waits while it pays: paid once, and the books say so.

A crash is what kill -9 leaves: the database as it was at that instant, and a chain that has seen
whatever had been sent. A time-out is one settlement that is cut off, while the engine lives on.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest
import trio

from engines.ethereum.sending import Sender
from settled import NotSettled
from tests.engines.ethereum.anvil import ETHER, GWEI, Chain
from tests.engines.ethereum.bench import Bench, Settling, eventually, found
from tests.engines.ethereum.steps import Place, Recorder, Stopper

AMOUNT = Decimal("1.5")
PAID = 15 * ETHER // 10

# One in so many of the places is tried; ETHEREUM=all tries every one.
EVERY = 1 if os.environ.get("ETHEREUM") == "all" else 4

Drive = Callable[[Bench], Awaitable[None]]


@asynccontextmanager
async def instrument(instrument: trio.abc.Instrument) -> AsyncIterator[None]:
    trio.lowlevel.add_instrument(instrument)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(instrument)


async def mined(bench: Bench) -> None:
    """Have blocks made, one after the other."""
    while True:
        await bench.chain.mine(1)
        await trio.sleep(0.03)


async def dear(bench: Bench) -> None:
    """Have blocks made in which nothing is cheap, until a fee was raised."""
    await bench.chain.automine(False)
    await bench.wait_kept()
    while True:
        raised = any(payment.fees.max_fee >= 20 * GWEI for payment in await bench.kept())
        fee = GWEI if raised else 20 * GWEI
        await bench.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(fee))
        await bench.chain.mine(1)
        await trio.sleep(0.03)


async def life(bench: Bench, drive: Drive, use: Callable[[Sender], Awaitable[None]]) -> None:
    """Run the engine once, with ``drive`` on the chain beside it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drive, bench)
        async with bench.engine() as sender:
            await use(sender)
        nursery.cancel_scope.cancel()


async def settle(sender: Sender) -> None:
    assert await sender.settle("bob", AMOUNT, "s1") == AMOUNT


async def resolve(sender: Sender) -> None:
    """Do what settled does with a settlement whose outcome is unknown."""
    amount = await eventually(lambda: found(sender, "s1"), lambda amount: amount is not None)
    with trio.fail_after(10):
        assert amount == AMOUNT or await sender.settle("bob", AMOUNT, "s2")


async def paid(bench: Bench) -> int:
    """Return what was paid when nothing more can come."""
    await bench.chain.mine(3)
    if bench.options.token is None:
        return await bench.chain.balance(bench.peers["bob"])
    return await bench.chain.token_balance(bench.options.token, bench.peers["bob"])


async def places(bench: Bench, drive: Drive) -> list[Place]:
    """Return where the engine waits in an ordinary life."""
    recorder = Recorder()
    async with instrument(recorder):
        await life(bench, drive, settle)
    assert await paid(bench) == PAID
    return list(recorder.places)


@pytest.fixture(params=["ether", "token", "stuck"])
async def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Scene:
    """Benches that are alike, one after the other, and what goes on on the chain."""

    def __init__(self, chain: Chain, kind: str) -> None:
        self.chain = chain
        self.drive: Drive = dear if kind == "stuck" else mined
        self._is_token = kind == "token"
        self._token: str | None = None
        self._count = 0

    async def bench(self) -> Bench:
        await self.chain.rpc("anvil_dropAllTransactions")
        await self.chain.automine(True)
        await self.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        await self.chain.mine(1)
        signer = await self.chain.signer()
        if self._is_token:
            self._token = self._token or await self.chain.deploy_token()
            await self.chain.mint(self._token, signer.address, 100 * ETHER)
        options = {"poll_s": 0.01, "bump_after_s": 0.05, "confirmations": 2, "token": self._token}
        bench = Bench(self.chain, signer, **options)
        self._count += 1
        await bench.store.open_account("bob")
        bench.peers["bob"] = f"0x{self._count:040x}".replace("0x0", "0xb")
        return bench


async def test_a_crash_anywhere_pays_once(chain: Chain, kind: str) -> None:
    scene = Scene(chain, kind)
    where = await places(await scene.bench(), scene.drive)
    tried = 0
    for at in where[::EVERY]:
        bench = await scene.bench()
        scope = trio.CancelScope()

        def crash(bench: Bench = bench, scope: trio.CancelScope = scope) -> None:
            bench.store = bench.copy()
            scope.cancel()

        stopper = Stopper(at, crash)
        with scope:
            async with instrument(stopper):
                await life(bench, scene.drive, settle)
        tried += stopper.reached
        await life(bench, scene.drive, resolve)
        assert await paid(bench) == PAID, at
    assert tried > len(where) // EVERY // 2


async def test_a_time_out_anywhere_pays_once(chain: Chain, kind: str) -> None:
    scene = Scene(chain, kind)
    where = await places(await scene.bench(), scene.drive)
    tried = 0
    for at in [at for at in where if at[0].startswith("sending:settle")][::EVERY]:
        bench = await scene.bench()
        task = Settling()
        stopper = Stopper(at, task.scope.cancel)

        async def use(sender: Sender, task: Settling = task, stopper: Stopper = stopper) -> None:
            async with instrument(stopper):
                await task.run(sender, "bob", str(AMOUNT), "s1")
            if isinstance(task.outcome, NotSettled):
                raise task.outcome
            if task.outcome is None:
                await resolve(sender)

        await life(bench, scene.drive, use)
        tried += stopper.reached
        assert await paid(bench) == PAID, at
    assert tried
