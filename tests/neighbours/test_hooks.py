"""Whatever an engine's hooks and its handler do: all else goes on."""

import asyncio
from contextlib import suppress
from decimal import Decimal

import pytest
import trio
from trio.testing import MockClock

from settled.errors import HandlerFailed
from tests.harness import ScriptedEngine, conserved, memory_store, running
from tests.neighbours import engines
from tests.neighbours.engines import NOT_SETTLED, RAISING, Misdeed, any_arguments

DAY_S = 86_400

MISDEEDS = RAISING | {
    "NotSettled": engines.raises(NOT_SETTLED["plain"]),
    "NotSettled in a group": engines.raises(NOT_SETTLED["group"]),
    "hangs": engines.hangs,
    "swallows cancellation": engines.swallows_cancellation,
}


def only_for_alice(misdeed: Misdeed) -> object:
    async def hook(account_id: str, *_more: object) -> object:
        return await misdeed() if account_id == "alice" else None

    return hook


@pytest.mark.parametrize("name", MISDEEDS)
async def test_a_hook_that_fails_for_ever_is_tried_for_ever_and_holds_back_nobody(
    name: str, autojump_clock: MockClock
) -> None:
    hook = only_for_alice(MISDEEDS[name])
    engine, store = ScriptedEngine(), memory_store()
    engine.setup_account = engine.close_account = hook  # type: ignore[assignment]
    async with running(engine, store) as daemon:
        await daemon.operations.open_account("alice")
        await daemon.request("alice", "5", "k")
        await trio.sleep(DAY_S)
        alice = await store.account("alice")
        assert (alice.state, alice.queued) == ("setup", 5)
        assert 20 < alice.hook_failures < 200, "at most an hour apart, and no storm"
        assert (alice.waiting or "").isprintable()
        await daemon.operations.close_account("alice")
        await trio.sleep(DAY_S)
        assert (await store.account("alice")).hook == "close_account"
        await daemon.operations.open_account("bob")
        await daemon.request("bob", "5", "k")
        await daemon.until(lambda account: account.settled == 5, "bob")
    assert [call[0] for call in engine.calls] == ["bob"]
    await conserved(store)


@pytest.mark.parametrize("name", MISDEEDS)
@pytest.mark.parametrize("raw", [False, True])
async def test_a_handler_that_fails_is_answered_as_such(
    name: str, raw: bool, autojump_clock: MockClock
) -> None:
    engine = ScriptedEngine(handle_message=any_arguments(MISDEEDS[name]), raw_messages=raw)
    store = memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        started_s = trio.current_time()
        with pytest.raises(HandlerFailed, match="account alice") as caught:
            await daemon.operations.handle_message("alice", b'"hello"')
        assert trio.current_time() - started_s <= 4
        assert str(caught.value).isprintable()
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.settled == 5)


BAD_REPLIES = {
    "object": object(),
    "set of objects": {object()},
    "function": engines.hangs,
    "NaN key": {Decimal("NaN"): 1, (): 2},
    "coroutine": asyncio.Event(),
}


@pytest.mark.parametrize("name", BAD_REPLIES)
async def test_a_reply_that_is_no_message_is_a_failure_of_the_handler(
    name: str, autojump_clock: MockClock
) -> None:
    handle = any_arguments(engines.returns(BAD_REPLIES[name]))
    store = memory_store()
    await store.open_account("alice", setup=False)
    for raw in (False, True):
        engine = ScriptedEngine(handle_message=handle, raw_messages=raw)
        async with running(engine, store) as daemon:
            with pytest.raises(HandlerFailed):
                await daemon.operations.handle_message("alice", b"1")


async def test_a_reply_that_holds_itself_is_a_failure_of_the_handler(
    autojump_clock: MockClock,
) -> None:
    endless: list[object] = []
    endless.append(endless)
    engine = ScriptedEngine(handle_message=any_arguments(engines.returns(endless)))
    store = memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        with pytest.raises(HandlerFailed):
            await daemon.operations.handle_message("alice", b"1")


async def test_a_client_who_hangs_up_on_a_handler_cancels_it_and_nothing_else(
    autojump_clock: MockClock,
) -> None:
    for misdeed in (engines.hangs, engines.swallows_cancellation, engines.pays_though_cancelled):
        engine = ScriptedEngine(handle_message=any_arguments(misdeed))
        store = memory_store()
        await store.open_account("alice", setup=False)
        async with running(engine, store) as daemon:
            with trio.move_on_after(1) as hung_up:
                with suppress(HandlerFailed):  # what it made of its cancellation
                    await daemon.operations.handle_message("alice", b"1")
                await trio.lowlevel.checkpoint()
            assert hung_up.cancelled_caught
            await daemon.request("alice", "5", "k")
            await daemon.until(lambda account: account.settled == 5)
