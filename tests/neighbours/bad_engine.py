"""An engine for ``settled run`` that commits one misdeed, named by its option.

It leaves a file ``under_way`` behind when it begins, and one in ``ledger`` for each payment.
"""

import contextlib
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import trio

from settled import Connect, Services, option


@dataclass(frozen=True)
class Options:
    misdeed: str = option(default="", help="what to do wrong")


async def hangs() -> None:
    await trio.sleep_forever()


async def none() -> None:
    pass


async def shielded() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def in_a_thread() -> None:
    await trio.to_thread.run_sync(time.sleep, 60)


async def blocking() -> None:
    time.sleep(60)  # noqa: ASYNC251  # the very thing not to do


async def blocking_for_a_while() -> None:
    time.sleep(2)  # noqa: ASYNC251


async def spinning() -> None:
    while True:
        pass


async def stubborn() -> None:
    while True:
        with contextlib.suppress(trio.Cancelled):  # the very thing not to do
            await trio.sleep_forever()


async def exiting() -> None:
    sys.exit(0)


async def leaving_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(60,)).start()
    await trio.sleep_forever()


async def crashing() -> None:
    raise RuntimeError("the ledger is gone")


class Engine:
    def __init__(self, services: Services, place: str, misdeed: str) -> None:
        self.services = services
        self.place = place
        self.misdeed = misdeed

    async def at(self, place: str) -> None:
        if place == self.place:
            if self.misdeed == "crediting":
                await self.services.credit_settlement("alice", Decimal(7), "tx")
            else:
                Path("under_way").touch()
                await globals()[self.misdeed]()

    async def settle(self, account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
        if account_id == "alice":
            Path("ledger", settlement_id).write_text(str(amount))
            await self.at("settle")
        return amount

    async def find_settlement(self, account_id: str, settlement_id: str) -> Decimal:
        paid = Path("ledger", settlement_id)
        return Decimal(paid.read_text() if paid.exists() else 0)

    async def setup_account(self, account_id: str) -> None:
        await self.at("setup")

    async def handle_message(self, account_id: str, message: Any) -> Any:
        await self.at("message")

    async def disconnect(self) -> None:
        await self.at("disconnect")


def create_engine(options: Options) -> Connect:
    place, _, misdeed = options.misdeed.partition(" ")

    async def connect(services: Services) -> Engine:
        engine = Engine(services, place, misdeed)
        Path("ledger").mkdir(exist_ok=True)
        services.nursery.start_soon(engine.at, "task")
        if options.misdeed == "task crashing":
            services.nursery.start_soon(shielded)
        await engine.at("connect")
        return engine

    @asynccontextmanager
    async def managed(services: Services) -> AsyncIterator[Engine]:
        yield await connect(services)
        Path("under_way").touch()
        await shielded()

    return managed if place == "manager" else connect
