"""A store in memory: for the tests of engine authors, and the reference for every other store.

It keeps every promise of the protocol but durability. Without threads or files, it works with
``trio.testing.MockClock`` and its autojump.

Example::

    store = MemoryStore()
    account = await store.open_account("alice", setup=False)
    await store.queue_settlement("alice", Quantity("150", 2), "key-1")
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import islice
from typing import Final, get_args

import trio

from settled import limits
from settled.amounts import EXACT, ZERO, to_text
from settled.store import clock
from settled.store.clock import Uptime
from settled.store.memory_accounts import MemoryAccounts
from settled.store.memory_books import ORIGINS, called
from settled.store.memory_outgoing import MemoryOutgoing
from settled.store.memory_state import MemoryState
from settled.store.records import Account, Bucket, Difference, Space, Work

_BUCKETS: Final[tuple[Bucket, ...]] = get_args(Bucket)


class MemoryStore(MemoryAccounts, MemoryOutgoing, MemoryState):
    """A ``settled.store.protocol.Store`` that lives as long as the object.

    Each method is one atomic step: it yields to the scheduler first, then changes all or nothing.

    Args:
        now_ms: the wall clock, in milliseconds since 1970; a test passes its own.
        uptime: how long the machine is up.
    """

    def __init__(
        self,
        *,
        now_ms: Callable[[], int] = clock.wall_ms,
        uptime: Callable[[], Uptime] = clock.uptime,
    ) -> None:
        super().__init__(now_ms, uptime)

    async def unfinished(self, work: Work, *, after: int = 0, limit: int = 1000) -> list[int]:
        """Return numbers above ``after`` of accounts that may have such work to do, in order."""
        await called()
        has_work = {"settle": self._to_settle, "deliver": self._to_deliver, "hook": self._to_hook}
        check = has_work[work]
        numbers = (row.number for row in self._accounts.values() if row.number > after)
        return list(islice((n for n in numbers if check(self._accounts[n])), limit))

    def _to_settle(self, account: Account) -> bool:
        standing = self._open_settlement(account.number)
        if standing is not None and standing.state in ("in_flight", "unknown"):
            return True
        return account.state != "closed" and account.queued > 0 and account.retry_ms is not None

    def _to_deliver(self, account: Account) -> bool:
        return bool(self._undelivered.get(account.number))

    def _to_hook(self, account: Account) -> bool:
        return account.hook is not None

    async def wait_foreign_writes(self) -> list[int]:
        """Wait for ever: no other process can write here."""
        await trio.sleep_forever()

    async def space(self) -> Space | None:
        """Return ``None``: there is no disk."""
        await called()
        return None

    async def look_over(self) -> list[Difference]:
        """Return nothing: there is no file that could be damaged."""
        await called()
        return []

    async def age_keys(self) -> None:
        """Note that another ``limits.KEY_TICK_S`` of running time has passed."""
        await called()
        self._tick += 1
        self._steady_ms()

    async def purge_keys(self) -> int:
        """Delete a batch of idempotency keys unused for ``limits.KEY_LIFE_TICKS``."""
        await called()
        dead = self._tick - limits.KEY_LIFE_TICKS
        expired = [name for name, key in self._keys.items() if key.tick <= dead]
        for name in expired[: limits.PURGE_BATCH_ROWS]:
            del self._keys[name]
        return min(len(expired), limits.PURGE_BATCH_ROWS)

    async def audit(
        self, progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> list[Difference]:
        """Recompute every balance from the journal, and from the settlements and credits."""
        await called()
        journal, rows = self._journal_balances(), self._row_balances()
        differences: list[Difference] = []
        for number, account in self._accounts.items():
            subject = f"account {account.id} (number {number})"
            for what, expected, found in _comparisons(account, journal[number], rows[number]):
                if expected != found:
                    differences.append(Difference(subject, what, to_text(expected), to_text(found)))
            progress(number, len(self._accounts))
        return differences

    def _journal_balances(self) -> defaultdict[int, "_Balances"]:
        balances: defaultdict[int, _Balances] = defaultdict(_Balances)
        for entry in self._journal:
            account = balances[entry.account]
            change = EXACT.add if entry.source in ORIGINS else EXACT.subtract
            account[entry.source] = change(account[entry.source], entry.amount)
            account.add(entry.target, entry.amount)
        return balances

    def _row_balances(self) -> defaultdict[int, "_Balances"]:
        balances: defaultdict[int, _Balances] = defaultdict(_Balances)
        for settlement in self._settlements.values():
            account = balances[settlement.account]
            account.add("settled", settlement.settled)
            if settlement.state == "in_flight":
                account.add("in_flight", settlement.amount)
            elif settlement.state in ("unknown", "parked"):
                account.add("unknown", settlement.amount)
        for credit in self._credits.values():
            balances[credit.account].add(credit.state, credit.amount)
        return balances


class _Balances(defaultdict[Bucket, Decimal]):
    """Amounts per bucket, zero unless added to."""

    def __init__(self) -> None:
        super().__init__(lambda: ZERO)

    def add(self, bucket: Bucket, amount: Decimal) -> None:
        self[bucket] = EXACT.add(self[bucket], amount)

    def sum(self, *buckets: Bucket) -> Decimal:
        total = ZERO
        for bucket in buckets:
            total = EXACT.add(total, self[bucket])
        return total


def _comparisons(
    account: Account, journal: _Balances, rows: _Balances
) -> Iterator[tuple[str, Decimal, Decimal]]:
    """Yield what is compared, what it must be, and what the account says."""
    held = _Balances()
    for bucket in _BUCKETS:
        held[bucket] = getattr(account, bucket)
        yield f"{bucket} by the journal", journal[bucket], held[bucket]
    outgoing = held.sum("queued", "in_flight", "unknown", "settled")
    yield "requested = queued + in_flight + unknown + settled", outgoing, account.requested
    incoming = held.sum("undelivered", "parked", "credited")
    yield "received = undelivered + parked + credited", incoming, account.received
    for bucket in ("in_flight", "unknown", "settled"):
        yield f"{bucket} by the settlements", rows[bucket], held[bucket]
    for bucket in ("undelivered", "parked", "credited"):
        yield f"{bucket} by the credits", rows[bucket], held[bucket]
