"""The in-memory store, part 2: settlement requests, and the attempts to pay them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from outcome import Maybe, capture

from settled import limits
from settled.amounts import EXACT, Quantity, checked, payable, to_text
from settled.errors import InvalidAmount, KeyReused, NotFound, NotResolvable
from settled.store.memory_books import CLOSED, Books, Key, called, cut, nearer, page, plain
from settled.store.records import (
    Account,
    Bucket,
    NextSettlement,
    NotSent,
    Parked,
    Queued,
    Request,
    Settled,
    Settlement,
    SettlementOutcome,
    SettlementState,
    Unknown,
)

INTERRUPTED = "the daemon stopped while it was in flight"
RESOLVED = "resolved by the operator"

FORMER_DELAY_MS = 1000


class MemoryOutgoing(Books):
    """See ``settled.store.protocol.OutgoingStore``."""

    async def queue_settlement(self, account_id: str, quantity: Quantity, key: str) -> Queued:
        """Add a request to the account's queue, once per key."""
        await called()
        return self._queue(Request(account_id, quantity, key))

    def _queue(self, request: Request) -> Queued:
        account_id, quantity, key = request
        value = quantity.value
        if not value:
            raise InvalidAmount("a settlement must be of more than zero")
        known = self._keys.get((account_id, key))
        if known is not None:
            if known.quantity.value != value:
                raise KeyReused(account_id, key, to_text(known.quantity.value))
            if self._tick - known.tick >= limits.KEY_LIFE_TICKS // 2:
                self._keys[account_id, key] = replace(known, tick=self._tick)
            return Queued(known.account, known.quantity, replayed=True)
        account = self._open(account_id)
        self._keys[account_id, key] = Key(account.number, quantity, self._tick)
        if account.retry_ms is None:
            waiting = account.waiting if account.unknown else None
            self._set_account(account.number, retry_ms=0, waiting=waiting)
        self._move(account.number, "requested", "queued", plain(value), key)
        return Queued(account.number, quantity, replayed=False)

    def begin_settlements(
        self, requests: Sequence[Request], done: Callable[[list[Maybe[Queued]]], None]
    ) -> None:
        """Do the same for each of the requests; it is done at once."""
        done([capture(self._queue, request) for request in requests])

    async def is_requested(self, account_id: str, key: str) -> bool:
        """Return whether a request under this key is on record."""
        await called()
        return (account_id, key) in self._keys

    async def next_settlement(
        self, account: int, settlement_id: str, *, asset_scale: int | None = None
    ) -> NextSettlement:
        """Begin a settlement of all that is queued, or say what stands in the way."""
        await called()
        row, now = self._numbered(account), self._now_ms()
        standing = self._open_settlement(account)
        if standing is not None:
            if standing.state != "unknown":
                return NextSettlement(standing)
            standing = self._set_settlement(standing, retry_ms=nearer(standing.retry_ms, now))
            return NextSettlement(standing, delay_ms=max(standing.retry_ms - now, 0))
        if row.state != "open" or row.queued <= 0 or row.retry_ms is None:
            return NextSettlement()
        if row.retry_ms > now:
            retry_ms = nearer(row.retry_ms, now)
            self._set_account(account, retry_ms=retry_ms)
            return NextSettlement(delay_ms=retry_ms - now)
        if self._former_is_being_paid(row):
            return NextSettlement(delay_ms=FORMER_DELAY_MS)
        amount = plain(payable(row.queued, asset_scale))
        if not amount:
            waiting = (
                f"{to_text(row.queued)} is finer than asset scale {asset_scale}: it waits for more"
            )
            self._set_account(account, retry_ms=None, waiting=cut(waiting))
            return NextSettlement()
        left_ms = 0 if row.queued != amount else None
        settlement = self._begin(row, settlement_id, amount, now)
        return NextSettlement(settlement, begun=True, delay_ms=left_ms)

    def _former_is_being_paid(self, account: Account) -> bool:
        former = (self._open_settlement(life) for life in self._lives[account.id])
        return any(found is not None and found.state != "parked" for found in former)

    def _begin(self, account: Account, settlement_id: str, amount: Decimal, now: int) -> Settlement:
        if settlement_id in self._settlements:
            raise ValueError(f"settlement id {settlement_id!r} was used before: mint a new one")
        self._move(account.number, "queued", "in_flight", amount, settlement_id)
        # It rests until its outcome, or a request that must not be missed meanwhile.
        self._set_account(account.number, retry_ms=None, waiting=None)
        return self._set_settlement(
            Settlement(
                number=len(self._settlements) + 1,
                id=settlement_id,
                account=account.number,
                account_id=account.id,
                amount=amount,
                state="in_flight",
                failures=account.failures,
                created_ms=now,
                updated_ms=now,
            )
        )

    async def record_outcome(self, settlement_id: str, outcome: SettlementOutcome) -> Settlement:
        """Record what became of a settlement that is in flight, unknown or parked."""
        await called()
        return self._record(self._unfinished_settlement(settlement_id), outcome)

    async def resolve_settlement(
        self, settlement_id: str, outcome: Settled | NotSent
    ) -> Settlement:
        """Record the operator's word on a settlement that is unknown or parked."""
        await called()
        settlement = self._unfinished_settlement(settlement_id)
        if settlement.state == "in_flight":
            raise NotResolvable(
                f"settlement {settlement_id}: it is in flight now; wait for its outcome"
            )
        if isinstance(outcome, Settled):
            settlement = self._record(settlement, outcome)
            return self._set_settlement(settlement, reason=RESOLVED)
        failures = self._accounts[settlement.account].failures
        settlement = self._record(settlement, NotSent(outcome.reason or RESOLVED))
        self._after_final(settlement.account, failures=failures, retry_ms=0, waiting=None)
        return settlement

    def _unfinished_settlement(self, settlement_id: str) -> Settlement:
        settlement = self._settlements.get(settlement_id)
        if settlement is None:
            raise NotFound(f"no settlement {settlement_id!r}")
        if settlement.state in ("settled", "not_sent"):
            raise NotResolvable(
                f"settlement {settlement_id} is {settlement.state} already, which is final"
            )
        return settlement

    def _record(self, settlement: Settlement, outcome: SettlementOutcome) -> Settlement:
        now = self._now_ms()
        match outcome:
            case Settled():
                return self._record_settled(settlement, checked(outcome.amount), now)
            case NotSent():
                return self._record_not_sent(settlement, outcome, now)
        reason = cut(outcome.reason)
        if settlement.state == "in_flight":
            self._move(settlement.account, "in_flight", "unknown", settlement.amount, settlement.id)
        self._set_account(settlement.account, waiting=reason)
        if isinstance(outcome, Parked):
            return self._set_settlement(
                settlement, state="parked", reason=reason, retry_ms=0, updated_ms=now
            )
        return self._set_settlement(
            settlement,
            state="unknown",
            reason=reason,
            failures=0 if settlement.state == "in_flight" else settlement.failures + 1,
            retry_ms=now + outcome.retry_delay_ms,
            updated_ms=now,
        )

    def _record_settled(self, settlement: Settlement, settled: Decimal, now: int) -> Settlement:
        account, ref, asked = settlement.account, settlement.id, settlement.amount
        source: Bucket = "in_flight" if settlement.state == "in_flight" else "unknown"
        self._move(account, source, "settled", min(settled, asked), ref)
        if settled < asked:
            self._move(account, source, "queued", EXACT.subtract(asked, settled), ref)
        else:
            self._move(account, "queued", "settled", EXACT.subtract(settled, asked), ref)
        if settled or self._accounts[account].retry_ms is not None:
            self._after_final(account, failures=0, retry_ms=0, waiting=None)
        else:
            waiting = f"the engine settled 0 of {to_text(asked)}: it waits for more"
            self._after_final(account, failures=0, retry_ms=None, waiting=cut(waiting))
        return self._final(settlement, now, state="settled", settled=settled, reason=None)

    def _record_not_sent(self, settlement: Settlement, outcome: NotSent, now: int) -> Settlement:
        account, reason = settlement.account, cut(outcome.reason)
        source: Bucket = "in_flight" if settlement.state == "in_flight" else "unknown"
        self._move(account, source, "queued", settlement.amount, settlement.id)
        self._after_final(
            account,
            failures=self._accounts[account].failures + 1,
            retry_ms=now + outcome.retry_delay_ms,
            waiting=reason,
        )
        return self._final(settlement, now, state="not_sent", reason=reason)

    def _final(self, settlement: Settlement, now: int, **changes: Any) -> Settlement:
        return self._set_settlement(settlement, failures=0, retry_ms=0, updated_ms=now, **changes)

    def _after_final(self, account: int, **changes: Any) -> None:
        """Say how the queue goes on; that of a closed account never does."""
        row = self._set_account(account, **changes)
        if row.state == "closed" and row.queued:
            self._set_account(account, waiting=CLOSED)

    async def retry_settlement(self, account_id: str) -> Account:
        """Make the account's queue due now, whatever backoff or rest it was in."""
        await called()
        account = self._open(account_id)
        standing = self._open_settlement(account.number)
        if standing is None:
            return self._set_account(account.number, retry_ms=0, waiting=None)
        if standing.state == "unknown":
            self._set_settlement(standing, retry_ms=0)
        return self._set_account(account.number, retry_ms=0)

    async def interrupt_settlements(self) -> int:
        """At start: what was in flight or parked is unknown, and everything is due now."""
        await called()
        self._steady_ms()
        interrupted = 0
        for settlement_id in list(self._open_settlements.values()):
            settlement = self._settlements[settlement_id]
            if settlement.state == "in_flight":
                interrupted += 1
                settlement = self._record(settlement, Unknown(INTERRUPTED))
            self._set_settlement(settlement, state="unknown", retry_ms=0)
        for number, account in self._accounts.items():
            if account.queued and account.retry_ms is None:
                self._set_account(number, retry_ms=0)
        return interrupted

    async def settlements(
        self,
        *,
        account_id: str | None = None,
        state: SettlementState | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Settlement]:
        """Return a page of settlements, newest first, with numbers below ``before``."""
        await called()
        found = (
            row
            for row in reversed(self._settlements.values())
            if account_id in (None, row.account_id) and state in (None, row.state)
        )
        return page(found, before, limit)

    async def settlement(self, settlement_id: str) -> Settlement:
        """Return one settlement."""
        await called()
        if settlement_id not in self._settlements:
            raise NotFound(f"no settlement {settlement_id!r}")
        return self._settlements[settlement_id]
