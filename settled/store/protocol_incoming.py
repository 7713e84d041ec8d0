"""The store, as far as credits go; see ``settled.store.protocol`` for the rules."""

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from outcome import Maybe

from settled.store.records import (
    AddCredit,
    Credit,
    CreditState,
    DeliveryOutcome,
    NextDeliveries,
)


class NewCredit(NamedTuple):
    """A credit to be recorded; see ``IncomingStore.add_credit``."""

    change: AddCredit
    hand_out: bool


class CreditLook(NamedTuple):
    """A look for credits of an account to deliver; see ``IncomingStore.next_deliveries``."""

    account: int
    limit: int
    sending: Collection[int]


class CreditSent(NamedTuple):
    """What became of a delivery; see ``IncomingStore.record_delivery``."""

    credit: Credit
    outcome: DeliveryOutcome


class IncomingStore(Protocol):
    """Credits, and their delivery to the connector."""

    async def add_credit(self, change: AddCredit, *, hand_out: bool = False) -> Credit | None:
        """Record an incoming settlement, once; return the credit, ``None`` if it was known.

        It goes to the open account of its id, else to its latest closed life.

        Args:
            change: what was received.
            hand_out: mark it as sent since now at the latest, as ``next_deliveries`` does. For
                ``limits.HANDED_OUT_S`` no look finds it: by then the caller knows its number. A
                credit that may have been sent before is not handed out; its ``attempts`` are 0.

        Raises:
            AccountNotFound: when the account id was never used.
            InvalidAmount: when the amount is not above zero.
            SettlementConflict: when the settlement id came before with another amount.
        """
        ...

    async def next_deliveries(
        self, account: int, limit: int, *, sending: Collection[int] = ()
    ) -> NextDeliveries:
        """Return up to ``limit`` credits that are due, marked as sent since now at the latest.

        A credit whose delivery has been ambiguous for 23 h is parked instead. Those with numbers in
        ``sending`` are under way, and left alone.
        """
        ...

    async def next_deliveries_of(self, looks: Sequence[CreditLook]) -> list[Maybe[NextDeliveries]]:
        """Do the same for each of these, at once; return what came of each."""
        ...

    async def record_delivery(self, credit: Credit, outcome: DeliveryOutcome) -> None:
        """Record how the delivery of a credit went, as it was when it was handed out."""
        ...

    async def record_deliveries(self, ended: Sequence[CreditSent]) -> list[Maybe[None]]:
        """Do the same for each of these, at once; return what came of each."""
        ...

    async def retry_credit(self, credit_id: str) -> Credit:
        """Deliver a credit again, now, under its own key, parked or not.

        For a parked one it is the operator's word that the connector has not taken it: its 23 h
        begin anew. Those of an undelivered one go on.

        Raises:
            NotFound: when there is no such credit.
            NotResolvable: when it is credited already.
        """
        ...

    async def resolve_credit(self, credit_id: str, note: str) -> Credit:
        """Record the operator's word that the connector has credited it.

        Raises:
            NotFound: when there is no such credit.
            NotResolvable: when it is credited already.
        """
        ...

    async def credits(
        self,
        *,
        account_id: str | None = None,
        state: CreditState | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Credit]:
        """Return a page of credits, newest first, with numbers below ``before``."""
        ...

    async def credit(self, credit_id: str) -> Credit:
        """Return one credit, or raise ``NotFound``."""
        ...
