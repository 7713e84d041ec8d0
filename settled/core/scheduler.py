"""Runs one kind of work for each account that has some: of one account never twice at a time."""

import heapq
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio
from outcome import Error, Maybe

from settled.errors import StoreBroken, StoreBusy

log = structlog.get_logger()

_BUSY_DELAY_MS = 1000
_FAILED_DELAY_MS = 60_000


class Agenda:
    """What accounts are to be worked on, and when; how is for ``Scheduler`` and its like to say.

    Args:
        tasks_max: how many accounts are worked on at the same time.

    Attributes:
        draining: set when no more work is started, for work that only waits.
    """

    def __init__(self, *, tasks_max: int) -> None:
        self._tasks_max = tasks_max
        self._due: dict[int, float] = {}  # account -> trio time
        self._heap: list[tuple[float, int]] = []
        self._running: set[int] = set()
        self._woken: set[int] = set()  # while running
        self._rested_s: OrderedDict[int, float] = OrderedDict()  # account -> trio time
        self._changed = trio.Event()
        self.draining = trio.Event()

    def wake(self, account: int) -> None:
        """Have the account worked on now, or again right after the work that is going on."""
        if account in self._running:
            self._woken.add(account)
        else:
            self._schedule(account, trio.current_time())

    def rest_until(self, account: int, at: float) -> None:
        """Have the account worked on no more before this trio time, soon, whoever wakes it."""
        now_s = trio.current_time()
        while self._rested_s and next(iter(self._rested_s.values())) <= now_s:
            self._rested_s.popitem(last=False)
        self._rested_s[account] = at
        self._rested_s.move_to_end(account)

    def _schedule(self, account: int, at: float) -> None:
        at = max(at, self._rested_s.get(account, at))
        if at < self._due.get(account, math.inf):
            self._due[account] = at
            heapq.heappush(self._heap, (at, account))
            self._changed.set()

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                if self._changed.is_set():  # else someone may wait for it
                    self._changed = trio.Event()
                next_at = math.inf if self.draining.is_set() else self._start_due(nursery)
                with trio.move_on_at(next_at):
                    await self._changed.wait()

    def _start_due(self, nursery: trio.Nursery) -> float:
        """Start the work that is due; return when the next will be."""
        accounts: list[int] = []
        next_at = math.inf
        while self._heap and len(self._running) < self._tasks_max:
            at, account = self._heap[0]
            if self._due.get(account) != at:
                heapq.heappop(self._heap)  # it was scheduled anew, or has run since
            elif at <= trio.current_time():
                heapq.heappop(self._heap)
                del self._due[account]
                self._running.add(account)
                accounts.append(account)
            else:
                next_at = at
                break
        if accounts:
            self._start(nursery, accounts)
        return next_at

    def _start(self, nursery: trio.Nursery, accounts: Sequence[int]) -> None:
        raise NotImplementedError

    def _ended(self, account: int, delay_ms: int | None) -> None:
        self._running.discard(account)
        if account in self._woken:
            self._woken.discard(account)
            delay_ms = 0
        if delay_ms is not None:
            self._schedule(account, trio.current_time() + delay_ms / 1000)
        self._changed.set()

    async def drain(self) -> None:
        """Start no more work, and wait for what is going on to end."""
        self.draining.set()
        while self._running:
            await self._changed.wait()


class Scheduler(Agenda):
    """Calls ``work(account)`` when the account was woken or when the time it asked for has come.

    Args:
        work: does what is due for the account with this number. It returns after how many
            milliseconds it wants to be called again, ``None`` for not before it is woken. What it
            raises is logged, and it is called again later; only ``StoreBroken`` ends the daemon.
        tasks_max: how many accounts are worked on at the same time, each by a task of its own.

    Example::

        scheduler = Scheduler(pay_what_is_due, tasks_max=100)
        nursery.start_soon(scheduler.run)
        scheduler.wake(account.number)
    """

    def __init__(self, work: Callable[[int], Awaitable[int | None]], *, tasks_max: int) -> None:
        super().__init__(tasks_max=tasks_max)
        self._work = work

    def _start(self, nursery: trio.Nursery, accounts: Sequence[int]) -> None:
        for account in accounts:
            nursery.start_soon(self._run_one, account)

    async def _run_one(self, account: int) -> None:
        try:
            delay_ms = await self._work(account)
        except Exception as error:
            delay_ms = _again_after_ms(account, error)
        self._ended(account, delay_ms)


class JointScheduler(Agenda):
    """A ``Scheduler`` of work that costs less for many accounts at once than for each by itself.

    Args:
        work: does what is due for all of these accounts; returns for each what the work of a
            ``Scheduler`` returns or raises.
        tasks_max: how many accounts are worked on at the same time.
    """

    def __init__(
        self,
        work: Callable[[Sequence[int]], Awaitable[Sequence[Maybe[int | None]]]],
        *,
        tasks_max: int,
    ) -> None:
        super().__init__(tasks_max=tasks_max)
        self._work = work

    def _start(self, nursery: trio.Nursery, accounts: Sequence[int]) -> None:
        nursery.start_soon(self._run_all, accounts)

    async def _run_all(self, accounts: Sequence[int]) -> None:
        results: Sequence[Maybe[int | None]]
        try:
            results = await self._work(accounts)
        except Exception as error:
            results = [Error(error)] * len(accounts)
        for account, result in zip(accounts, results, strict=True):
            if isinstance(result, Error):
                self._ended(account, _again_after_ms(account, result.error))
            else:
                self._ended(account, result.value)


def _again_after_ms(account: int, error: BaseException) -> int:
    """Tell of an error that the work came to; return after how long it is tried again."""
    if isinstance(error, StoreBroken) or not isinstance(error, Exception):
        raise error
    if isinstance(error, StoreBusy):
        log.warning("store_busy", reason=str(error))
        return _BUSY_DELAY_MS
    # One account that cannot be worked on must not stop the others.
    log.error("account_failed", number=account, advice="run `settled audit`", exc_info=error)
    return _FAILED_DELAY_MS
