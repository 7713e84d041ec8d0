"""The look over the books after a start: what it finds is told, what hinders it ends nothing."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from settled.errors import ConfigError
from settled.store.records import Difference
from tests.harness import ScriptedEngine, memory_store, running


async def test_a_look_that_fails_is_made_again_and_the_daemon_goes_on(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, looks_s = memory_store(), list[float]()

    async def look_over() -> list[Difference]:
        looks_s.append(trio.current_time())
        if len(looks_s) < 3:
            raise ConfigError("no temporary file could be made")
        return []

    monkeypatch.setattr(store, "look_over", look_over)
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(), store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.settled == 5)
        await trio.sleep(3600)
    assert [look_s - looks_s[0] for look_s in looks_s] == pytest.approx([0, 600, 1200], abs=5)


async def test_what_it_finds_is_told(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    wrong = Difference("alice", "settled", "5", "6")
    store = memory_store()

    async def look_over() -> list[Difference]:
        return [wrong]

    monkeypatch.setattr(store, "look_over", look_over)
    monkeypatch.setattr("settled.core.core.log.error", lambda event, **facts: told.append(facts))
    async with running(ScriptedEngine(), store):
        await trio.sleep(1)
    assert [(facts["subject"], facts["found"]) for facts in told] == [("alice", "6")]
