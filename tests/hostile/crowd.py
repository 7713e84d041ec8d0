"""Many clients at once."""

from collections.abc import Awaitable, Callable

import trio

# How much of each crowd comes.
share = 1.0

Attack = Callable[[int], Awaitable[None]]


async def crowd(size: int, visit: Callable[[], Awaitable[None]]) -> None:
    """Have ``size`` clients visit, each again and again, until cancelled."""

    async def come_again() -> None:
        while True:
            await visit()
            await trio.sleep(0.01)  # so that the clients, too, are bounded

    async with trio.open_nursery() as nursery:
        for _ in range(max(1, round(size * share))):
            nursery.start_soon(come_again)
