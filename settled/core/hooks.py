"""The engine's set-up and close of accounts, in the background, until they succeed."""

import math
from collections.abc import Callable

import structlog
import trio

from settled import limits
from settled.core.backoff import retry_delay_ms
from settled.core.calls import call_engine, describe
from settled.core.lasting import Lasting
from settled.core.ports import EnginePort
from settled.core.scheduler import Scheduler
from settled.store.protocol import Store
from settled.store.records import NextHook

log = structlog.get_logger()

# While a hook of the id's former or next account runs.
_OTHER_LIFE_DELAY_MS = 100


class Hooks:
    """Runs ``setup_account`` and ``close_account``.

    Args:
        store: where it stands which account waits for what.
        engine: whose hooks they are.
        on_setup: called with the number of an account whose set-up is done, so that what queued up
            meanwhile is settled.
    """

    def __init__(self, store: Store, engine: EnginePort, on_setup: Callable[[int], None]) -> None:
        self._store = store
        self._engine = engine
        self._on_setup = on_setup
        self._expedited: set[int] = set()
        self._last_s: dict[int, float] = {}  # when an account was expedited last
        self._busy_ids: set[str] = set()
        self._lasting = Lasting()
        self.scheduler = Scheduler(self._advance, tasks_max=limits.HOOKS_MAX)

    def expedite(self, account: int) -> None:
        """Run the account's hook now, whatever backoff it is in: its peer has shown up.

        Not more often than every 10 s, lest two peers whose set-ups fail urge each other on.
        """
        now_s = trio.current_time()
        if now_s >= self._last_s.get(account, -math.inf) + limits.EXPEDITE_EVERY_S:
            self._last_s[account] = now_s
            self._expedited.add(account)
            self.scheduler.wake(account)

    async def _advance(self, account: int) -> int | None:
        """Run the account's hook if it is due; return when to look again (see ``Scheduler``)."""
        due = await self._store.next_hook(account)
        expedited = account in self._expedited
        self._expedited.discard(account)
        if due is None:
            self._last_s.pop(account, None)
            return None
        if due.delay_ms > 0 and not expedited:
            return due.delay_ms
        if due.account_id in self._busy_ids:
            return _OTHER_LIFE_DELAY_MS
        self._busy_ids.add(due.account_id)
        try:
            return await self._run(account, due)
        finally:
            self._busy_ids.discard(due.account_id)

    async def _run(self, account: int, due: NextHook) -> int | None:
        closing = due.hook == "close_account"
        call = self._engine.close_account if closing else self._engine.setup_account
        bound = log.bind(account=due.account_id, hook=due.hook)
        if call is not None:
            try:
                with trio.fail_after(limits.HOOK_TIMEOUT_S):
                    await call_engine(due.hook, call, due.account_id)
            except Exception as error:
                delay_ms, reason = retry_delay_ms(due.failures), describe(error)
                if self._lasting.is_news(account, reason):
                    bound.warning("hook_failed", reason=reason, retry_in_ms=delay_ms)
                await self._store.finish_hook(
                    account, due.hook, failure=reason, retry_delay_ms=delay_ms
                )
                return delay_ms
            self._lasting.over(account)
            bound.info("hook_done")
        await self._store.finish_hook(account, due.hook)
        if not closing:
            self._on_setup(account)
        return 0  # it may have been closed meanwhile
