"""What is entered once stays entered once, whatever is seen afterwards: without a chain."""

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal

import pytest
import trio

from engines.ethereum.entries import Entries
from engines.ethereum.trail import Trail
from engines.ethereum.transfers import Crediting, Transfer
from tests.engines.ethereum.sides import KEYS, Side

FRIEND = "0x" + "f1" * 20
PAID = Transfer("1:0x01:0", FRIEND, Decimal("1.5"), 10)


def trail(number: int, reach: int = 0) -> Trail:
    return Trail(((reach, None), (number, f"0x{number:064x}")))


class Desk:
    """The entries of an engine whose account ``a`` is a friend's."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.entries = Entries(side.services, side.peers, Crediting(None))

    async def enter(self, *paid: Transfer, last: int = 10, reach: int = 0) -> None:
        await self.entries.enter([*paid], before=trail(last - 1), after=trail(last, reach))

    async def restart(self) -> None:
        self.entries = Entries(self.side.services, self.side.peers, Crediting(None))
        await self.entries.load()

    async def credits(self) -> list[tuple[str, Decimal]]:
        return await self.side.credits("a")

    def said(self, level: str) -> list[str]:
        return self.side.log.events(level)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with trio.open_nursery() as nursery:
        side = Side(KEYS[0], nursery)
        await side.store.open_account("a")
        await side.peers.learn("a", FRIEND)
        yield Desk(side)
        nursery.cancel_scope.cancel()


async def test_the_end_of_the_trail_is_committed_along(desk: Desk) -> None:
    await desk.enter(PAID)
    assert await desk.side.services.state.get("trail") == trail(10).stored()
    assert await desk.credits() == [(PAID.id, PAID.amount)]
    assert desk.said("info") == ["ethereum_payment"]


async def test_another_amount_of_the_same_payment_is_told_and_not_credited(desk: Desk) -> None:
    await desk.enter(PAID)
    await desk.enter(PAID)
    assert desk.said("error") == []
    await desk.enter(replace(PAID, amount=Decimal(2)))
    assert desk.said("error") == ["ethereum_payment_changed"]
    assert await desk.credits() == [(PAID.id, PAID.amount)]


async def test_a_credited_payment_that_has_gone_is_told_once_and_known_for_good(
    desk: Desk,
) -> None:
    await desk.enter(PAID)
    for _time in range(3):
        await desk.enter()
        await desk.restart()
    assert desk.said("error") == ["ethereum_payment_gone"]
    await desk.enter(last=500, reach=400)
    await desk.enter(replace(PAID, block=501), last=501, reach=401)
    assert await desk.credits() == [(PAID.id, PAID.amount)]
    # It is there again: were it to go once more, that would be told.
    await desk.enter(last=501, reach=401)
    assert desk.said("error") == ["ethereum_payment_gone"] * 2


async def test_a_payment_that_moved_is_told_of_only_when_it_is_gone_from_its_new_block(
    desk: Desk,
) -> None:
    await desk.enter(PAID)
    await desk.enter(replace(PAID, block=12), last=12)
    await desk.enter(last=10)
    assert desk.said("error") == []
    await desk.restart()
    await desk.enter(last=12)
    assert desk.said("error") == ["ethereum_payment_gone"]


async def test_what_was_kept_of_a_stranger_goes_when_the_chain_takes_it_back(desk: Desk) -> None:
    stranger = replace(PAID, sender="0x" + "5a" * 20)
    await desk.enter(stranger)
    assert len(await desk.side.services.state.items("unclaimed:")) == 1
    await desk.enter()
    assert await desk.side.services.state.items("unclaimed:") == []
    assert desk.said("error") == []
    await desk.enter(replace(stranger, block=11), last=11)
    assert len(await desk.side.services.state.items("unclaimed:")) == 1
