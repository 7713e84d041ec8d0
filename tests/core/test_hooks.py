"""When hooks run: by their backoff, or when the peer shows up; one life of an id at a time."""

import pytest
import trio
from trio.testing import MockClock

from settled.core import hooks
from tests.harness import ScriptedEngine, memory_store, running

HOUR_MS = 3_600_000


async def test_peers_whose_set_ups_fail_do_not_urge_each_other_on(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message from the peer has the set-up tried at once, but every 10 s at most."""
    monkeypatch.setattr(hooks, "retry_delay_ms", lambda _failures: HOUR_MS)
    tries_s: list[float] = []
    there = False

    async def set_up(account_id: str) -> None:
        tries_s.append(trio.current_time())
        if not there:
            raise OSError("the peer does not exist yet")

    async def reply(account_id: str, message: object) -> object:
        return {}

    engine = ScriptedEngine(setup_account=set_up, handle_message=reply)
    async with running(engine, memory_store()) as daemon:
        start_s = trio.current_time()
        await daemon.operations.open_account("alice")
        for _ in range(35):
            await trio.sleep(1)
            await daemon.operations.handle_message("alice", b"1")
        account = await daemon.store.account("alice")
        daemon.core.hooks.scheduler.wake(account.number)
        await trio.sleep(100)
        assert [time_s - start_s for time_s in tries_s] == [0, 10, 20, 30]
        there = True
        await daemon.operations.handle_message("alice", b"1")
        await daemon.rest()
        assert (await daemon.store.account("alice")).state == "open"
        assert await daemon.core.hooks._advance(account.number) is None
        kept = daemon.core.hooks
        assert (kept._last_s, kept._expedited, kept._busy_ids) == ({}, set(), set())


async def test_the_hooks_of_two_lives_of_an_id_never_run_at_the_same_time(
    autojump_clock: MockClock,
) -> None:
    begun_s: list[float] = []
    under_way = 0

    async def slowly(account_id: str) -> None:
        nonlocal under_way
        begun_s.append(trio.current_time())
        under_way += 1
        assert under_way == 1, "the engine would take one life for the other"
        await trio.sleep(5)
        under_way -= 1

    async with running(ScriptedEngine(setup_account=slowly), memory_store()) as daemon:
        await daemon.operations.open_account("alice")
        await daemon.rest()
        await daemon.operations.close_account("alice")
        await daemon.operations.open_account("alice")
        await daemon.until(lambda account: account.state == "open")
    assert len(begun_s) == 2
    assert 5 <= begun_s[1] - begun_s[0] < 6, "as soon as the other has ended"


async def test_a_hook_that_fails_is_due_again_after_its_delay(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[int] = []

    def delay_ms(failed: int) -> int:
        failures.append(failed)
        return 1000 << failed

    monkeypatch.setattr(hooks, "retry_delay_ms", delay_ms)
    times_s: list[float] = []

    async def set_up(account_id: str) -> None:
        times_s.append(trio.current_time())
        raise OSError("the peer does not exist yet")

    async with running(ScriptedEngine(setup_account=set_up), memory_store()) as daemon:
        start_s = trio.current_time()
        await daemon.operations.open_account("alice")
        await trio.sleep(20)
    assert [time_s - start_s for time_s in times_s] == pytest.approx([0, 1, 3, 7, 15], abs=0.01)
    assert failures == [0, 1, 2, 3, 4]


async def test_an_account_that_is_closed_is_closed_at_the_engine_at_once(
    autojump_clock: MockClock,
) -> None:
    closed: list[str] = []

    async def close(account_id: str) -> None:
        closed.append(account_id)

    engine = ScriptedEngine(close_account=close)
    async with running(engine, memory_store()) as daemon:
        await daemon.operations.open_account("alice")
        await daemon.rest()
        await daemon.operations.close_account("alice")
        await daemon.rest()
        assert closed == ["alice"]
        assert (await daemon.store.account("alice")).hook is None


async def test_what_queued_up_during_the_set_up_is_settled_right_after_it(
    autojump_clock: MockClock,
) -> None:
    async def set_up(account_id: str) -> None:
        await trio.sleep(1)

    engine = ScriptedEngine(setup_account=set_up)
    async with running(engine, memory_store()) as daemon:
        await daemon.operations.open_account("alice")
        await daemon.request("alice", "5", "k")
        await trio.sleep(1.5)
        assert (await daemon.store.account("alice")).settled == 5
