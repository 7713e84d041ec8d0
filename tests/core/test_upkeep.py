"""What the core does beside payments: keys age and go, and other processes are heeded."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from settled import limits
from settled.core import core
from settled.errors import StoreBroken, StoreBusy
from tests.harness import ScriptedEngine, memory_store, running


async def test_keys_age_with_the_running_time_and_go_when_they_are_old(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, steps = memory_store(), list[str]()
    left = [2, 1, 0]

    async def age_keys() -> None:
        steps.append("age")
        if len(steps) == 1:
            raise StoreBusy("another process writes")

    async def purge_keys() -> int:
        steps.append("purge")
        return left.pop(0) if left else 0

    monkeypatch.setattr(store, "age_keys", age_keys)
    monkeypatch.setattr(store, "purge_keys", purge_keys)
    async with running(ScriptedEngine(), store):
        await trio.sleep(limits.KEY_TICK_S - 1)
        assert steps == []
        await trio.sleep(2)
        assert steps == ["age"], "the store is busy: at the next tick again"
        await trio.sleep(limits.KEY_TICK_S)
        assert steps == ["age", "age", "purge", "purge", "purge"], "batch by batch, to the last"
        await trio.sleep(limits.KEY_TICK_S)
        assert steps[5:] == ["age", "purge"]


async def test_an_account_that_another_process_touched_is_looked_at_in_every_way(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = memory_store()
    news = [[3, 5]]

    async def wait_foreign_writes() -> list[int]:
        await trio.sleep(1)
        if not news:
            await trio.sleep_forever()
        return news.pop()

    woken: list[tuple[str, int]] = []
    monkeypatch.setattr(store, "wait_foreign_writes", wait_foreign_writes)
    async with running(ScriptedEngine(), store) as daemon:
        for work, scheduler in daemon.core._schedulers.items():
            monkeypatch.setattr(
                scheduler, "wake", lambda account, work=work: woken.append((work, account))
            )
        await trio.sleep(10)
    assert sorted(woken) == [(work, n) for work in ("deliver", "hook", "settle") for n in (3, 5)]


@pytest.mark.parametrize("where", ["wait_foreign_writes", "look_over", "age_keys"])
async def test_a_store_that_breaks_ends_all(
    where: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, told = memory_store(), list[str]()

    async def broken(*_arguments: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise StoreBroken("the disk is gone")

    monkeypatch.setattr(store, where, broken)
    monkeypatch.setattr(core.log, "exception", lambda event, **_facts: told.append(event))
    with pytest.raises(BaseExceptionGroup) as caught:
        async with running(ScriptedEngine(), store):
            await trio.sleep(10 * limits.KEY_TICK_S)
    assert caught.group_contains(StoreBroken)
    assert told == ["store_broken"] * (where == "wait_foreign_writes"), "at once, not at the end"
