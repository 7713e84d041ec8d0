"""Incoming settlements: each credit is delivered to the connector under its own immutable key."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import structlog
import trio
from outcome import Error, Maybe, Value

from settled import limits
from settled.amounts import to_text
from settled.core.backoff import retry_delay_ms
from settled.core.patience import patiently
from settled.core.ports import ConnectorPort
from settled.core.scheduler import JointScheduler
from settled.errors import StoreBroken
from settled.store.protocol import Store
from settled.store.protocol_incoming import CreditLook, CreditSent
from settled.store.records import (
    Credit,
    Delivered,
    DeliveryOutcome,
    NextDeliveries,
    NotDelivered,
)

log = structlog.get_logger()

_FAILED_DELAY_S = 60


class Incoming:
    """The incoming side of one daemon.

    Deliveries run beside each other, a few per account, so that neither a slow account nor a
    credit that is refused again and again holds another back. What the store is asked or told of
    many at the same time, it is asked and told at once.

    Args:
        store: where credits are.
        connector: what brings them to it.
        nursery: where deliveries run.
    """

    def __init__(self, store: Store, connector: ConnectorPort, nursery: trio.Nursery) -> None:
        self._store = store
        self._connector = connector
        self._nursery = nursery
        self._sending: defaultdict[int, set[int]] = defaultdict(set)  # by account, the credits
        self._taken = 0  # places of deliveries that are looked for or under way
        self._waiting: dict[int, None] = {}  # accounts that found no free place, in their order
        self._full: set[int] = set()  # accounts with as many deliveries as one may have
        self._told: list[CreditSent] = []  # not yet on their way to the store
        self._ended = trio.Event()
        self.scheduler = JointScheduler(self._advance, tasks_max=limits.DELIVERIES_MAX)

    async def _advance(self, accounts: Sequence[int]) -> list[Maybe[int | None]]:
        """Start the deliveries that are due; return when to look again (see ``Scheduler``)."""
        looks = self._looks(accounts)
        results: dict[int, Maybe[int | None]] = dict.fromkeys(accounts, Value(None))
        unused = sum(look.limit for look in looks)
        self._taken += unused  # before the store is asked: others ask it meanwhile
        try:
            steps = await self._store.next_deliveries_of(looks) if looks else []
            unused -= sum(len(step.value.credits) for step in steps if isinstance(step, Value))
        finally:
            self._give_back(unused)
        for look, step in zip(looks, steps, strict=True):
            if isinstance(step, Value):
                self._start(step.value)
                results[look.account] = Value(step.value.delay_ms)
            else:
                results[look.account] = step
        return list(results.values())

    def _looks(self, accounts: Sequence[int]) -> list[CreditLook]:
        """Share the places that are free among the accounts, evenly, the first ones first."""
        free = limits.DELIVERIES_MAX - self._taken
        share = max(free // len(accounts), 1)
        looks: list[CreditLook] = []
        for account in accounts:
            sending = frozenset(self._sending.get(account, ()))
            places = limits.DELIVERIES_PER_ACCOUNT_MAX - len(sending)
            if places <= 0:
                self._full.add(account)  # the end of a delivery wakes the account
            elif free <= 0:
                self._waiting[account] = None  # a place that is given back wakes the first of them
            else:
                places = min(places, share, free)
                free -= places
                looks.append(CreditLook(account, places, sending))
        return looks

    def _start(self, step: NextDeliveries) -> None:
        for credit in step.parked:
            log.error("credit_parked", **_fields(credit), reason=credit.reason)
        for credit in step.credits:
            self._sending[credit.account].add(credit.number)
            if not self._connector.deliver_at_once(credit, partial(self._tell, credit)):
                self._nursery.start_soon(self._send, credit)

    async def _send(self, credit: Credit) -> None:
        try:
            outcome = await self._connector.deliver(credit)
        except Exception:
            self._give_back(1)
            await self._failed(credit)
        else:
            self._tell(credit, outcome)

    def _tell(self, credit: Credit, outcome: DeliveryOutcome) -> None:
        """Have it recorded how the delivery went, with all others that end just now."""
        if isinstance(outcome, Delivered):
            log.info("credited", **_fields(credit), attempts=credit.attempts)
        else:
            event = (
                "credit_not_delivered" if isinstance(outcome, NotDelivered) else "credit_ambiguous"
            )
            delay_ms = retry_delay_ms(credit.attempts - 1)
            outcome = replace(outcome, retry_delay_ms=delay_ms)
            log.warning(event, **_fields(credit), reason=outcome.reason, retry_in_ms=delay_ms)
        self._told.append(CreditSent(credit, outcome))
        if len(self._told) == 1:
            self._nursery.start_soon(self._record)
        self._give_back(1)  # the next is looked for while this one is recorded

    async def _record(self) -> None:
        told, self._told = self._told, []
        results: Sequence[Maybe[None]]
        try:
            # What has happened outside is written down, see ``patiently``.
            with trio.CancelScope(shield=True):
                results = await self._store.record_deliveries(told)
        except StoreBroken:
            raise
        except Exception as error:
            results = [Error(error)] * len(told)
        for sent, result in zip(told, results, strict=True):
            if isinstance(result, Error):
                self._nursery.start_soon(self._record_alone, sent)
            else:
                self._end(sent.credit, done=isinstance(sent.outcome, Delivered))

    async def _record_alone(self, sent: CreditSent) -> None:
        try:
            await patiently(lambda: self._store.record_delivery(*sent))
        except StoreBroken:
            raise
        except Exception:
            await self._failed(sent.credit)
        else:
            self._end(sent.credit, done=isinstance(sent.outcome, Delivered))

    async def _failed(self, credit: Credit) -> None:
        """Let a credit be: not even a record that cannot be booked may stop the others."""
        log.exception("delivery_failed", **_fields(credit), advice="run `settled audit`")
        await trio.sleep(_FAILED_DELAY_S)
        self._end(credit, done=False)

    def _end(self, credit: Credit, *, done: bool) -> None:
        """Let the next delivery of the account have its turn."""
        sending = self._sending[credit.account]
        sending.discard(credit.number)
        if not sending:
            del self._sending[credit.account]
        self._ended.set()
        if not done or credit.account in self._full:
            self._full.discard(credit.account)
            self.scheduler.wake(credit.account)

    def _give_back(self, places: int) -> None:
        self._taken -= places
        for waiting in list(islice(self._waiting, places)):
            del self._waiting[waiting]
            self.scheduler.wake(waiting)

    async def drain(self) -> None:
        """Start no more deliveries, and wait for those under way."""
        await self.scheduler.drain()
        while self._sending:
            self._ended = trio.Event()
            await self._ended.wait()


def _fields(credit: Credit) -> dict[str, str]:
    """Return what the log says of a credit."""
    return {
        "account": credit.account_id,
        "settlement": credit.settlement_id,
        "credit": credit.id,
        "amount": to_text(credit.amount),
    }
