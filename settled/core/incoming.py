"""Incoming settlements: each credit is delivered to the connector under its own immutable key."""

from collections import defaultdict, deque
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
    AddCredit,
    Credit,
    Delivered,
    DeliveryOutcome,
    NextDeliveries,
    NotDelivered,
)

log = structlog.get_logger()

_FAILED_DELAY_S = 60
# What counts as sent for no good reason might be parked a day later.
_NOT_SENT = NotDelivered("it was not sent yet", retry_delay_ms=0)


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
        self._looked_for: dict[int, int] = {}  # by account, how many the store is asked for
        self._arriving = 0  # credits that are handed out as they are recorded
        self._ready: deque[Credit] = deque()  # of those, the ones that wait for a place
        self._under_way: dict[str, int] = {}  # by account id, those that arrive or are being sent
        self._waiting: dict[int, None] = {}  # accounts that found no free place, in their order
        self._full: set[int] = set()  # accounts with as many deliveries as one may have
        self._told: list[CreditSent] = []  # not yet on their way to the store
        self._ended = trio.Event()
        self.scheduler = JointScheduler(self._advance, tasks_max=limits.DELIVERIES_MAX)

    async def receive(self, change: AddCredit) -> bool:
        """Record a credit and have it delivered; return whether it was new.

        Where there is room for it, it is handed out as it is recorded, and needs no look.
        """
        hand_out = self._has_room(change.account_id)
        if hand_out:
            self._arriving += 1
            self._enter(change.account_id)
        try:
            credit = await patiently(lambda: self._store.add_credit(change, hand_out=hand_out))
        finally:
            if hand_out:
                self._arriving -= 1
                self._leave(change.account_id)
        if credit is None:
            return False
        if not credit.attempts:
            self.scheduler.wake(credit.account)
        elif credit.number not in self._sending.get(credit.account, ()):  # else a look was faster
            fits = self._fits(credit.account)
            self._began(credit)
            if fits:
                self._ready.append(credit)
                self._send_ready()
            else:
                await self._record_alone(CreditSent(credit, _NOT_SENT))
        return True

    def _has_room(self, account_id: str) -> bool:
        """Return whether a credit may be handed out as it comes: not past others that wait."""
        return (
            not (self._waiting or self.scheduler.draining.is_set())
            and self._arriving + len(self._ready) < limits.ARRIVALS_MAX
            and self._under_way.get(account_id, 0) < limits.DELIVERIES_PER_ACCOUNT_MAX
        )

    def _fits(self, account: int) -> bool:
        """Return whether a credit that was handed out may be sent; else it is put back."""
        if self.scheduler.draining.is_set():
            return False
        places = len(self._sending.get(account, ())) + self._looked_for.get(account, 0)
        return places < limits.DELIVERIES_PER_ACCOUNT_MAX

    async def _advance(self, accounts: Sequence[int]) -> list[Maybe[int | None]]:
        """Start the deliveries that are due; return when to look again (see ``Scheduler``)."""
        looks = self._looks(accounts)
        results: dict[int, Maybe[int | None]] = dict.fromkeys(accounts, Value(None))
        unused = sum(look.limit for look in looks)
        self._taken += unused  # before the store is asked: others ask it meanwhile
        self._looked_for.update({look.account: look.limit for look in looks})
        try:
            steps = await self._store.next_deliveries_of(looks) if looks else []
            unused -= sum(len(step.value.credits) for step in steps if isinstance(step, Value))
        finally:
            for look in looks:
                del self._looked_for[look.account]
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
            self._waiting.pop(account, None)
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
            if credit.number in self._sending.get(credit.account, ()):
                self._give_back(1)  # it was handed out as it came, and the store was slow
            else:
                self._began(credit)
                self._begin(credit)

    def _began(self, credit: Credit) -> None:
        self._sending[credit.account].add(credit.number)
        self._enter(credit.account_id)

    def _send_ready(self) -> None:
        while self._ready and self._taken < limits.DELIVERIES_MAX:
            self._taken += 1
            self._begin(self._ready.popleft())

    def _begin(self, credit: Credit) -> None:
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
        self._record_soon(CreditSent(credit, outcome))
        self._give_back(1)  # the next is looked for while this one is recorded

    def _record_soon(self, sent: CreditSent) -> None:
        self._told.append(sent)
        if len(self._told) == 1:
            self._nursery.start_soon(self._record)

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
        except trio.Cancelled:  # the engine that credited it: the credit goes on without it
            self._end(sent.credit, done=False)
            raise
        except StoreBroken:
            raise
        except Exception:
            await self._failed(sent.credit)
        else:
            self._end(sent.credit, done=isinstance(sent.outcome, Delivered))

    async def _failed(self, credit: Credit) -> None:
        """Let a credit be: not even a record that cannot be booked may stop the others."""
        log.exception("delivery_failed", **_fields(credit), advice="run `settled audit`")
        try:
            await trio.sleep(_FAILED_DELAY_S)
        finally:
            self._end(credit, done=False)

    def _end(self, credit: Credit, *, done: bool) -> None:
        """Let the next delivery of the account have its turn."""
        self._leave(credit.account_id)
        sending = self._sending[credit.account]
        sending.discard(credit.number)
        if not sending:
            del self._sending[credit.account]
        self._ended.set()
        if not done or credit.account in self._full:
            self._full.discard(credit.account)
            self.scheduler.wake(credit.account)

    def _enter(self, account_id: str) -> None:
        self._under_way[account_id] = self._under_way.get(account_id, 0) + 1

    def _leave(self, account_id: str) -> None:
        self._under_way[account_id] -= 1
        if not self._under_way[account_id]:
            del self._under_way[account_id]

    def _give_back(self, places: int) -> None:
        self._taken -= places
        self._send_ready()
        free = min(places, limits.DELIVERIES_MAX - self._taken)
        for waiting in list(islice(self._waiting, max(free, 0))):
            del self._waiting[waiting]
            self.scheduler.wake(waiting)

    async def drain(self) -> None:
        """Start no more deliveries, and wait for those under way."""
        await self.scheduler.drain()
        while self._ready:
            self._record_soon(CreditSent(self._ready.popleft(), _NOT_SENT))
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
