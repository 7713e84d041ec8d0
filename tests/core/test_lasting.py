"""Trouble that lasts is told when it begins, when it changes, and now and then."""

from decimal import Decimal
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from settled import NotSettled, limits
from settled.core.lasting import Lasting
from tests.harness import ScriptedEngine, memory_store, running


async def test_the_same_is_told_again_after_a_while_and_a_change_soon(
    autojump_clock: MockClock,
) -> None:
    lasting = Lasting()
    assert lasting.is_news("alice", "holds 3.50, needs 4")
    assert not lasting.is_news("alice", "holds 3.75, needs 5")
    assert lasting.is_news("bob", "holds 3.75, needs 5")
    assert not lasting.is_news("alice", "no node answers"), "a change that comes too soon"
    await trio.sleep(limits.TELL_CHANGE_S)
    assert lasting.is_news("alice", "no node answers")
    assert not lasting.is_news("alice", "no node answers")
    await trio.sleep(limits.TELL_AGAIN_S - 1)
    assert not lasting.is_news("alice", "no node answers")
    await trio.sleep(1)
    assert lasting.is_news("alice", "no node answers")
    lasting.over("alice")
    assert lasting.is_news("alice", "no node answers")


async def test_no_number_of_subjects_makes_it_grow(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("settled.core.lasting._SUBJECTS_MAX", 3)
    lasting = Lasting()
    for number in range(10):
        assert lasting.is_news(number, "x")
        assert len(lasting._kinds) == len(lasting._told_s) <= 3
    assert not lasting.is_news(9, "x")


async def test_a_refusal_to_pay_is_logged_when_it_begins_when_it_changes_and_when_it_is_back(
    autojump_clock: MockClock, log: list[Any]
) -> None:
    why: list[str] = ["holds"]

    async def settle(account_id: str, amount: Decimal, settlement_id: str) -> object:
        if why:
            raise NotSettled(f"{why[0]} {len(engine.calls)}")
        return amount

    engine, store = ScriptedEngine(settle), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:

        async def try_for_a_minute() -> list[str]:
            before = len(log), len(engine.calls)
            for part in range(30):
                await daemon.request("alice", "5", f"{before}-{part}")
                await store.retry_settlement("alice")
                daemon.core.outgoing.scheduler.wake(1)
                await trio.sleep(2)
            assert len(engine.calls) >= before[1] + 20
            told = [entry for entry in log[before[0] :] if "account" in entry]
            return [entry.get("reason", entry["event"]) for entry in told]

        assert await try_for_a_minute() == ["holds 1"]
        why[:] = ["no node answers"]
        (told,) = await try_for_a_minute()
        assert told.startswith("no node answers")
        why.clear()
        assert set(await try_for_a_minute()) == {"settled"}
        why[:] = ["no node answers"]
        assert len(await try_for_a_minute()) == 1


async def test_a_set_up_that_fails_again_and_again_is_logged_once(
    autojump_clock: MockClock, log: list[Any]
) -> None:
    tries: list[str] = []

    async def no_peer(account_id: str) -> None:
        tries.append(account_id)
        if len(tries) < 8:
            raise OSError("no peer")

    engine, store = ScriptedEngine(setup_account=no_peer), memory_store()
    async with running(engine, store) as daemon:
        await daemon.operations.open_account("alice")
        await daemon.until(lambda account: account.state == "open")
    events = [entry["event"] for entry in log if entry.get("hook") == "setup_account"]
    assert len(tries) == 8
    assert events == ["hook_failed", "hook_done"]
