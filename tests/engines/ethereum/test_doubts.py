"""How long doubt lasts, and what it leaves behind."""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import trio
import trio.testing

from engines.ethereum.doubts import Doubts
from engines.ethereum.payments import Payments
from settled import Services
from settled.testing import MemoryStore
from tests.engines.ethereum.sides import Log

HOUR_S = 3600


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    async with trio.open_nursery() as nursery:
        services = Services(MemoryStore(), cast(Any, None), nursery)
        services.log = cast(Any, Log())
        yield services
        nursery.cancel_scope.cancel()


async def begun(services: Services) -> Doubts:
    """Return the doubts of one life of the daemon."""
    doubts = Doubts(services, Payments(services), "0xaa")
    await doubts.load()
    services.nursery.start_soon(doubts.watch)
    return doubts


async def test_it_ends_two_hours_after_it_began_last(
    autojump_clock: trio.testing.MockClock, services: Services
) -> None:
    doubts = await begun(services)
    await trio.sleep(5 * HOUR_S)
    assert not await doubts.concerns("a", "s0")
    for _round in range(2):
        await doubts.note()
        await trio.sleep(HOUR_S)
        await doubts.begin(ours=1, chain=3, next_nonce=2)
        await trio.sleep(2 * HOUR_S - 1)
        assert doubts.present
        await trio.sleep(2)
        assert not doubts.present
        assert await services.state.get("doubt") is None


async def test_it_is_taken_up_by_the_next_life_and_counted_from_its_start(
    autojump_clock: trio.testing.MockClock, services: Services
) -> None:
    await (await begun(services)).begin(ours=1, chain=3, next_nonce=2)
    await trio.sleep(HOUR_S)
    doubts = await begun(services)
    await trio.sleep(2 * HOUR_S - 1)
    assert doubts.present
    await trio.sleep(2)
    assert not doubts.present


async def test_what_was_asked_for_meanwhile_stays_in_doubt(
    autojump_clock: trio.testing.MockClock, services: Services
) -> None:
    doubts = await begun(services)
    await doubts.begin(ours=1, chain=3, next_nonce=2)
    assert await services.state.get("next_nonce") == 2
    assert (await services.state.get("doubt"))["seen"] == 3
    assert await doubts.concerns("a", "s1")
    assert await doubts.concerns("a", "s1")
    await trio.sleep(3 * HOUR_S)
    assert await doubts.concerns("a", "s1")
    assert not await doubts.concerns("a", "s2")
    assert cast(Log, services.log).events("error") == [
        "transactions_unknown",
        "settlement_unknown_since_restore",
    ]


@pytest.mark.parametrize("noted", [True, False])
async def test_doubt_that_begins_while_another_ends_lasts_as_long_as_any(
    autojump_clock: trio.testing.MockClock,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    noted: bool,
) -> None:
    doubts = await begun(services)
    await doubts.begin(ours=1, chain=2, next_nonce=2)
    delete = services.state.delete

    async def again() -> None:
        if noted:
            await doubts.note()
        else:
            await doubts.begin(ours=2, chain=3, next_nonce=3)

    async def slowly(key: str) -> None:
        services.nursery.start_soon(again)
        await trio.sleep(1)
        await delete(key)

    monkeypatch.setattr(services.state, "delete", slowly)
    await trio.sleep(2 * HOUR_S + 2)
    monkeypatch.undo()
    assert await services.state.get("doubt") is not None
    assert doubts.present
    assert await doubts.concerns("a", "s1")
    await trio.sleep(2 * HOUR_S)
    assert not doubts.present
    assert await services.state.get("doubt") is None


async def test_what_is_asked_for_in_the_moment_in_which_doubt_ends_is_in_doubt(
    autojump_clock: trio.testing.MockClock, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubts = await begun(services)
    await doubts.begin(ours=1, chain=2, next_nonce=2)
    get = services.state.get

    async def slowly(key: str) -> Any:
        await trio.sleep(2 * HOUR_S)
        return await get(key)

    monkeypatch.setattr(services.state, "get", slowly)
    await trio.sleep(HOUR_S)
    assert await doubts.concerns("a", "s1")
    assert not doubts.present
