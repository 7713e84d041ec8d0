"""One task an account, at the time that it asked for, and again for every wake-up."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from outcome import Error, Maybe, Value
from trio.testing import MockClock

from settled.core import backoff
from settled.core.backoff import retry_delay_ms
from settled.core.scheduler import JointScheduler, Scheduler
from settled.errors import StoreBroken, StoreBusy

Work = Callable[[int], Awaitable[int | None]]
JointWork = Callable[[Sequence[int]], Awaitable[Sequence[Maybe[int | None]]]]


class Worker:
    """Notes when each account was worked on; ``delays_ms`` says what each time returns."""

    def __init__(self, *delays_ms: int | None, takes_s: float = 0) -> None:
        self._delays_ms = list(delays_ms)
        self._takes_s = takes_s
        self._start_s = trio.current_time()
        self.calls: list[tuple[int, float]] = []

    async def __call__(self, account: int) -> int | None:
        self.calls.append((account, round(trio.current_time() - self._start_s, 3)))
        await trio.sleep(self._takes_s)
        return self._delays_ms.pop(0) if self._delays_ms else None

    def times_s(self, account: int = 1) -> list[float]:
        return [time_s for number, time_s in self.calls if number == account]


@asynccontextmanager
async def scheduling(work: Work, *, tasks_max: int = 100) -> AsyncIterator[Scheduler]:
    async with trio.open_nursery() as nursery:
        scheduler = Scheduler(work, tasks_max=tasks_max)
        nursery.start_soon(scheduler.run)
        yield scheduler
        nursery.cancel_scope.cancel()


async def test_an_account_is_worked_on_when_it_asked_for_it(autojump_clock: MockClock) -> None:
    worker = Worker(500, 0, 2000)
    async with scheduling(worker) as scheduler:
        scheduler.wake(1)
        await trio.sleep(100)
    assert worker.times_s() == [0, 0.5, 0.5, 2.5]


async def test_an_account_that_rests_is_worked_on_when_that_is_over(
    autojump_clock: MockClock,
) -> None:
    worker = Worker()
    async with scheduling(worker) as scheduler:
        scheduler.rest_until(1, trio.current_time() + 1)
        scheduler.wake(1)
        scheduler.wake(2)
        await trio.sleep(0.5)
        scheduler.wake(1)
        await trio.sleep(5)
        assert worker.times_s(1) == [1]
        assert worker.times_s(2) == [0]
        for account in range(10, 20):
            scheduler.rest_until(account, trio.current_time() + 1)
        scheduler.rest_until(10, trio.current_time() + 2)
        await trio.sleep(1.5)
        scheduler.wake(10)
        scheduler.wake(11)
        await trio.sleep(5)
        assert worker.times_s(10) == [7.5]
        assert worker.times_s(11) == [7]
        scheduler.rest_until(1, trio.current_time() + 1)
        assert list(scheduler._rested_s) == [1], "what is over is forgotten"


async def test_the_earlier_of_two_times_counts(autojump_clock: MockClock) -> None:
    worker = Worker(10_000, 10_000)
    async with scheduling(worker) as scheduler:
        scheduler.wake(1)
        await trio.sleep(3)
        scheduler.wake(1)
        scheduler.wake(1)
        await trio.sleep(9)
        assert worker.times_s() == [0, 3], "the time that it asked for before counts no more"
        await trio.sleep(100)
    assert worker.times_s() == [0, 3, 13]


@pytest.mark.parametrize("delay_ms", [None, 3_600_000])
async def test_a_wake_up_during_the_work_is_not_lost(
    delay_ms: int | None, autojump_clock: MockClock
) -> None:
    worker = Worker(delay_ms, takes_s=2)
    async with scheduling(worker) as scheduler:
        scheduler.wake(1)
        await trio.sleep(1)
        scheduler.wake(1)
        scheduler.wake(1)
        await trio.sleep(100)
    assert worker.times_s() == [0, 2], "once more, right after it"


async def test_who_finds_no_place_is_next(autojump_clock: MockClock) -> None:
    worker = Worker(takes_s=1)
    async with scheduling(worker, tasks_max=2) as scheduler:
        for account in range(1, 6):
            await trio.sleep(0.001)
            scheduler.wake(account)
        await trio.sleep(100)
    starts_s = [round(time_s) for _, time_s in worker.calls]
    assert [account for account, _ in worker.calls] == [1, 2, 3, 4, 5]
    assert starts_s == [0, 0, 1, 1, 2]


async def test_who_is_woken_again_while_he_waits_for_a_place_keeps_his_turn(
    autojump_clock: MockClock,
) -> None:
    worker = Worker(takes_s=1)
    async with scheduling(worker, tasks_max=1) as scheduler:
        for account in (1, 2, 3, 2, 3, 2):
            scheduler.wake(account)
            await trio.sleep(0.1)
        await trio.sleep(100)
    assert [account for account, _ in worker.calls] == [1, 2, 3]


@pytest.mark.parametrize(
    ("error", "again_s"), [(StoreBusy("another process writes"), 1), (ValueError("broken"), 60)]
)
async def test_what_fails_is_tried_again_later(
    error: Exception, again_s: float, autojump_clock: MockClock
) -> None:
    worker = Worker()

    async def fail_once(account: int) -> int | None:
        await worker(account)
        if account == 1 and len(worker.times_s(1)) == 1:
            raise error
        return None

    async with scheduling(fail_once) as scheduler:
        scheduler.wake(1)
        scheduler.wake(2)
        await trio.sleep(0.5)
        scheduler.wake(2)
        await trio.sleep(200)
    assert worker.times_s(1) == [0, again_s]
    assert worker.times_s(2) == [0, 0.5], "the others go on"


async def test_a_drain_ends_with_the_work(autojump_clock: MockClock) -> None:
    worker = Worker(0, takes_s=2)
    async with scheduling(worker, tasks_max=1) as scheduler:
        scheduler.wake(1)
        scheduler.wake(2)
        await trio.sleep(1)
        with trio.fail_after(100):
            await scheduler.drain()
        assert worker.times_s(1) == [0]
        assert trio.current_time() - worker._start_s == 2
        scheduler.wake(3)
        await trio.sleep(100)
        with trio.fail_after(1):
            await scheduler.drain()
    assert len(worker.calls) == 1


def test_the_delay_doubles_up_to_an_hour_with_full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []

    class Highest:
        def uniform(self, low: float, high: float) -> float:
            asked.append((low, high))
            return high

    monkeypatch.setattr(backoff, "_RANDOM", Highest())
    assert [retry_delay_ms(failures) for failures in (0, 1, 2, 3)] == [100, 200, 400, 800]
    assert [retry_delay_ms(failures) for failures in (15, 16, 39, 40, 41, 10**9)] == [
        3_276_800,
        *(3_600_000,) * 5,
    ]
    assert {low for low, _ in asked} == {0}


async def test_work_that_becomes_due_while_it_drains_holds_up_nothing(
    autojump_clock: MockClock,
) -> None:
    async def work(account: int) -> int | None:
        if account == 2:
            return 1000
        await trio.sleep(3)
        return None

    async with trio.open_nursery() as nursery:
        scheduler = Scheduler(work, tasks_max=10)
        nursery.start_soon(scheduler.run)
        scheduler.wake(2)
        await trio.sleep(0.1)
        scheduler.wake(1)
        await trio.sleep(0.1)
        with trio.fail_after(10):
            await scheduler.drain()
        nursery.cancel_scope.cancel()


# --- many accounts together ---


@asynccontextmanager
async def joint(work: JointWork, *, tasks_max: int = 100) -> AsyncIterator[JointScheduler]:
    async with trio.open_nursery() as nursery:
        scheduler = JointScheduler(work, tasks_max=tasks_max)
        nursery.start_soon(scheduler.run)
        yield scheduler
        nursery.cancel_scope.cancel()


async def test_all_that_is_due_is_worked_on_at_once(autojump_clock: MockClock) -> None:
    calls: list[tuple[list[int], float]] = []
    start_s = trio.current_time()

    async def work(accounts: Sequence[int]) -> list[Maybe[int | None]]:
        calls.append((sorted(accounts), round(trio.current_time() - start_s, 3)))
        await trio.sleep(1)
        return [Value(5000 if account == 1 else None) for account in accounts]

    async with joint(work, tasks_max=3) as scheduler:
        for account in (1, 2, 3, 4):
            scheduler.wake(account)
        await trio.sleep(0.5)
        scheduler.wake(2)
        await trio.sleep(8)
    assert calls == [([1, 2, 3], 0), ([2, 4], 1), ([1], 6)]


async def test_what_one_account_comes_to_is_its_own_matter(autojump_clock: MockClock) -> None:
    errors = {1: StoreBusy("another process writes"), 2: ValueError("broken")}
    calls: list[tuple[int, float]] = []
    start_s = trio.current_time()

    async def work(accounts: Sequence[int]) -> list[Maybe[int | None]]:
        await trio.lowlevel.checkpoint()
        calls.extend((account, round(trio.current_time() - start_s, 3)) for account in accounts)
        return [Error(errors.pop(n)) if n in errors else Value(None) for n in accounts]

    async with joint(work) as scheduler:
        for account in (1, 2, 3):
            scheduler.wake(account)
        await trio.sleep(100)
    assert sorted(calls) == [(1, 0), (1, 1), (2, 0), (2, 60), (3, 0)]


async def test_what_fails_for_all_is_tried_again_for_all(autojump_clock: MockClock) -> None:
    calls: list[tuple[list[int], float]] = []
    start_s = trio.current_time()

    async def work(accounts: Sequence[int]) -> list[Maybe[int | None]]:
        await trio.lowlevel.checkpoint()
        calls.append((sorted(accounts), round(trio.current_time() - start_s, 3)))
        if len(calls) == 1:
            raise StoreBusy("another process writes")
        return [Value(None)] * len(accounts)

    async with joint(work) as scheduler:
        scheduler.wake(1)
        scheduler.wake(2)
        await trio.sleep(100)
    assert calls == [([1, 2], 0), ([1, 2], 1)]


@pytest.mark.parametrize("of_all", [False, True])
async def test_a_store_that_is_broken_is_the_end(of_all: bool, autojump_clock: MockClock) -> None:
    async def work(accounts: Sequence[int]) -> list[Maybe[int | None]]:
        await trio.lowlevel.checkpoint()
        if of_all:
            raise StoreBroken("the disk is gone")
        return [Error(StoreBroken("the disk is gone")) for _ in accounts]

    with pytest.RaisesGroup(StoreBroken, flatten_subgroups=True):
        async with joint(work) as scheduler:
            scheduler.wake(1)
            await trio.sleep(100)
