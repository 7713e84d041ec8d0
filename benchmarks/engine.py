"""The engine of the benchmarks: it settles at once; ``peer/engine.js`` does the same in JavaScript.

With ``work`` a payment takes its time, one after the other: it waits, or it computes on a processor
of its own, in another process or in a thread of this one.

Messages make it work: ``echo`` is answered as it came, ``credit`` and ``send`` start as many
credits or messages to the connector as they ask for, a number of them at a time.
"""

import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import count
from typing import Any, Final

import trio

from settled import Connect, Services, option

_AMOUNT: Final = Decimal(1)
_WORK_S: Final = 0.5
_COMPUTE: Final = f"""
import time
end_s = time.monotonic() + {_WORK_S}
while time.monotonic() < end_s:
    sum(range(1000))
"""


@dataclass(frozen=True)
class Options:
    """What a benchmark may set."""

    accounts: int = option(default=100, minimum=1, help="accounts that credits and messages go to")
    work: str = option(
        default="none",
        choices=("none", "wait", "process", "thread"),
        help="what a payment does before it is made",
    )


def create_engine(options: Options) -> Connect:
    """Settle at once, and do what messages ask for."""

    async def connect(services: Services) -> "Engine":
        return Engine(services, options)

    return connect


class Engine:
    """An engine without a ledger."""

    def __init__(self, services: Services, options: Options) -> None:
        self._services = services
        self._accounts = options.accounts
        self._work = options.work
        self._turn = trio.Lock()
        self._ids = count()

    async def settle(self, account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
        if self._work != "none":
            async with self._turn:
                await _WORK[self._work]()
        return amount

    async def handle_message(self, account_id: str, message: Any) -> Any:
        match message:
            case {"type": "credit", "count": int(total), "at_once": int(at_once)}:
                self._start(self._credit, total, at_once)
            case {"type": "send", "count": int(total), "at_once": int(at_once)}:
                self._start(self._send, total, at_once)
        return message

    def _start(
        self, work: Callable[[Iterator[int]], Awaitable[None]], total: int, at_once: int
    ) -> None:
        numbers = iter(range(total))
        for _ in range(at_once):
            self._services.nursery.start_soon(work, numbers)

    async def _credit(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            account_id = f"a{number % self._accounts}"
            await self._services.credit_settlement(account_id, _AMOUNT, f"c{next(self._ids)}")

    async def _send(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            await self._services.send_message(f"a{number % self._accounts}", {"type": "echo"})


async def _wait() -> None:
    await trio.sleep(_WORK_S)


async def _in_process() -> None:
    await trio.run_process([sys.executable, "-c", _COMPUTE])


async def _in_thread() -> None:
    await trio.to_thread.run_sync(exec, _COMPUTE)


_WORK: Final = {"wait": _wait, "process": _in_process, "thread": _in_thread}
