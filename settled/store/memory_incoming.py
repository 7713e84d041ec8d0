"""The in-memory store, part 3: credits, and their delivery."""

from collections.abc import Collection, Sequence
from decimal import Decimal

from msgspec.structs import replace
from outcome import Maybe, capture

from settled import ids, limits
from settled.amounts import checked, to_text
from settled.errors import (
    InvalidAmount,
    NotFound,
    NotResolvable,
    SettlementConflict,
)
from settled.store.memory_books import Books, called, cut, nearer, page
from settled.store.protocol_incoming import CreditLook, CreditSent
from settled.store.records import (
    AddCredit,
    Ambiguous,
    Bucket,
    Credit,
    CreditState,
    Delivered,
    DeliveryOutcome,
    NextDeliveries,
)

NO_CLEAR_ANSWER = (
    "no clear answer for 23 h: find out whether the connector credited it, "
    "then `settled credits resolve` or `settled credits retry`"
)


class MemoryIncoming(Books):
    """See ``settled.store.protocol_incoming.IncomingStore``."""

    async def add_credit(self, change: AddCredit, *, hand_out: bool = False) -> Credit | None:
        """Record an incoming settlement, once."""
        await called()
        self._check_credit(change, {})
        credit = self._add_credit(change)
        if credit is None or not hand_out:
            return credit
        now = self._now_ms()
        retry_ms = now + limits.HANDED_OUT_S * 1000
        marked = self._set_credit(credit, attempts=1, retry_ms=retry_ms)
        if credit.ambiguous_ms is None:
            self._set_credit(marked, ambiguous_ms=now, ambiguous_steady_ms=self._steady_ms())
        return marked

    async def next_deliveries(
        self, account: int, limit: int, *, sending: Collection[int] = ()
    ) -> NextDeliveries:
        """Return up to ``limit`` credits that are due, marked as sent since now at the latest."""
        await called()
        return self._next_deliveries(account, limit, sending)

    async def next_deliveries_of(self, looks: Sequence[CreditLook]) -> list[Maybe[NextDeliveries]]:
        """Do the same for each of these; return what came of each."""
        await called()
        return [capture(self._next_deliveries, *look) for look in looks]

    def _next_deliveries(
        self, account: int, limit: int, sending: Collection[int]
    ) -> NextDeliveries:
        now, steady = self._now_ms(), self._steady_ms()
        for credit in self._to_be_delivered(account):
            self._set_credit(credit, retry_ms=nearer(credit.retry_ms, now))
        sent: list[Credit] = []
        parked: list[Credit] = []
        for credit in self._to_be_delivered(account):
            if credit.number in sending:
                continue
            if len(sent) >= limit or credit.retry_ms > now:
                delay_ms = max(credit.retry_ms - now, 0)
                return NextDeliveries(tuple(sent), delay_ms, tuple(parked))
            if _too_old(credit.ambiguous_steady_ms, steady):
                parked.append(self._park(credit, now))
                continue
            marked = self._set_credit(
                credit,
                attempts=credit.attempts + 1,
                updated_ms=now,
            )
            sent.append(marked)
            if credit.ambiguous_ms is None:
                self._set_credit(marked, ambiguous_ms=now, ambiguous_steady_ms=steady)
        return NextDeliveries(tuple(sent), None, tuple(parked))

    def _to_be_delivered(self, account: int) -> list[Credit]:
        """Return the account's undelivered credits, the one that is due first first."""
        rows = [self._credits[credit_id] for credit_id in self._undelivered.get(account, ())]
        return sorted(rows, key=lambda row: (row.retry_ms, row.number))

    def _park(self, credit: Credit, now: int) -> Credit:
        reason = NO_CLEAR_ANSWER
        if credit.reason:
            # The advice must survive however long the connector's answer was.
            room = limits.REASON_CHARS_MAX - len("; " + NO_CLEAR_ANSWER)
            reason = f"{credit.reason[:room]}; {NO_CLEAR_ANSWER}"
        self._move(credit.account, "undelivered", "parked", credit.amount, credit.id)
        return self._set_credit(credit, state="parked", reason=reason, updated_ms=now)

    async def record_delivery(self, credit: Credit, outcome: DeliveryOutcome) -> None:
        """Record how the delivery of a credit, as ``next_deliveries`` gave it, went."""
        await called()
        self._record_delivery(credit, outcome)

    async def record_deliveries(self, ended: Sequence[CreditSent]) -> list[Maybe[None]]:
        """Do the same for each of these; return what came of each."""
        await called()
        return [capture(self._record_delivery, *sent) for sent in ended]

    def _record_delivery(self, credit: Credit, outcome: DeliveryOutcome) -> None:
        stored, now = self._find_credit(credit.id), self._now_ms()
        if isinstance(outcome, Delivered):
            if stored.state != "credited":
                self._credited(stored, None, now)
        elif stored.state == "undelivered":
            before = credit
            if isinstance(outcome, Ambiguous):
                before = stored
                if stored.ambiguous_ms is None:
                    before = replace(
                        stored, ambiguous_ms=now, ambiguous_steady_ms=self._steady_ms()
                    )
            self._set_credit(
                stored,
                reason=cut(outcome.reason),
                retry_ms=now + outcome.retry_delay_ms,
                ambiguous_ms=before.ambiguous_ms,
                ambiguous_steady_ms=before.ambiguous_steady_ms,
                updated_ms=now,
            )

    def _credited(self, credit: Credit, reason: str | None, now: int) -> Credit:
        source: Bucket = "parked" if credit.state == "parked" else "undelivered"
        self._move(credit.account, source, "credited", credit.amount, credit.id)
        return self._set_credit(credit, state="credited", reason=reason, updated_ms=now)

    async def retry_credit(self, credit_id: str) -> Credit:
        """Deliver a credit again, now, under its own key, parked or not."""
        await called()
        credit = self._uncredited(credit_id)
        anew = credit.state == "parked"
        if anew:
            self._move(credit.account, "parked", "undelivered", credit.amount, credit.id)
        return self._set_credit(
            credit,
            state="undelivered",
            reason=None,
            ambiguous_ms=None if anew else credit.ambiguous_ms,
            ambiguous_steady_ms=None if anew else credit.ambiguous_steady_ms,
            retry_ms=0,
            updated_ms=self._now_ms(),
        )

    async def resolve_credit(self, credit_id: str, note: str) -> Credit:
        """Record the operator's word that the connector has credited it."""
        await called()
        return self._credited(self._uncredited(credit_id), cut(note), self._now_ms())

    def _find_credit(self, credit_id: str) -> Credit:
        if credit_id not in self._credits:
            raise NotFound(f"no credit {credit_id!r}")
        return self._credits[credit_id]

    def _uncredited(self, credit_id: str) -> Credit:
        credit = self._find_credit(credit_id)
        if credit.state == "credited":
            raise NotResolvable(f"credit {credit_id} is credited already, which is final")
        return credit

    async def credits(
        self,
        *,
        account_id: str | None = None,
        state: CreditState | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Credit]:
        """Return a page of credits, newest first, with numbers below ``before``."""
        await called()
        found = (
            row
            for row in reversed(self._credits.values())
            if account_id in (None, row.account_id) and state in (None, row.state)
        )
        return page(found, before, limit)

    async def credit(self, credit_id: str) -> Credit:
        """Return one credit."""
        await called()
        return self._find_credit(credit_id)

    def _check_credit(self, change: AddCredit, amounts: dict[str, Decimal]) -> None:
        """Raise unless the credit can be made after those in ``amounts``, which it then joins."""
        ids.check_settlement_id(change.settlement_id)
        amount = checked(change.amount)
        if not amount:
            raise InvalidAmount("a credit must be of more than zero")
        self._latest(change.account_id)
        credit_id = ids.credit_key(change.account_id, change.settlement_id)
        stored = self._credits.get(credit_id)
        first = amounts.setdefault(credit_id, stored.amount if stored else amount)
        if first != amount:
            raise SettlementConflict(
                f"account {change.account_id}: settlement {change.settlement_id!r} came before "
                f"with the amount {to_text(first)}, now with {to_text(amount)}; the first stands"
            )

    def _add_credit(self, change: AddCredit) -> Credit | None:
        credit_id = ids.credit_key(change.account_id, change.settlement_id)
        if credit_id in self._credits:
            return None
        account, now, amount = (
            self._latest(change.account_id),
            self._now_ms(),
            checked(change.amount),
        )
        self._move(account.number, "received", "undelivered", amount, credit_id)
        return self._set_credit(
            Credit(
                number=len(self._credits) + 1,
                id=credit_id,
                account=account.number,
                account_id=account.id,
                settlement_id=change.settlement_id,
                amount=amount,
                state="undelivered",
                created_ms=now,
                updated_ms=now,
            )
        )


def _too_old(ambiguous_steady_ms: int | None, steady: int) -> bool:
    """Tell whether the connector may have seen the key and forgotten it."""
    if ambiguous_steady_ms is None:
        return False
    return steady >= ambiguous_steady_ms + limits.AMBIGUOUS_AGE_MAX_MS
