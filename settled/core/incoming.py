"""Incoming settlements: each credit is delivered to the connector under its own immutable key."""

from collections import defaultdict
from dataclasses import replace
from itertools import islice

import structlog
import trio

from settled import limits
from settled.amounts import to_text
from settled.core.backoff import retry_delay_ms
from settled.core.patience import patiently
from settled.core.ports import Deliver
from settled.core.scheduler import Scheduler
from settled.errors import StoreBroken
from settled.store.protocol import Store
from settled.store.records import Ambiguous, Credit, Delivered, NotDelivered

log = structlog.get_logger()

_FAILED_DELAY_S = 60


class Incoming:
    """The incoming side of one daemon.

    Deliveries run beside each other, a few per account, so that neither a slow account nor a
    credit that is refused again and again holds another back.

    Args:
        store: where credits are.
        deliver: sends one credit to the connector and says how it went; it never raises for
            what the connector does, and takes at most ``limits.CONNECTOR_TIMEOUT_S``.
        nursery: where deliveries run.
    """

    def __init__(self, store: Store, deliver: Deliver, nursery: trio.Nursery) -> None:
        self._store = store
        self._deliver = deliver
        self._nursery = nursery
        self._sending: defaultdict[int, set[int]] = defaultdict(set)  # by account, the credits
        self._taken = 0  # places of deliveries, those in the making included
        self._waiting: dict[int, None] = {}  # accounts that found no free place, in their order
        self._full: set[int] = set()  # accounts with as many deliveries as one may have
        self._ended = trio.Event()
        self.scheduler = Scheduler(self._advance, tasks_max=limits.DELIVERIES_MAX)

    async def _advance(self, account: int) -> int | None:
        """Start the deliveries that are due; return when to look again (see ``Scheduler``)."""
        sending = frozenset(self._sending.get(account, ()))
        places = limits.DELIVERIES_PER_ACCOUNT_MAX - len(sending)
        if places <= 0:
            self._full.add(account)
            return None  # the end of a delivery wakes the account
        places = min(places, limits.DELIVERIES_MAX - self._taken)
        if places <= 0:
            self._waiting[account] = None
            return None  # a place that is given back wakes the one that waits longest
        self._taken += places  # before the store is asked: others ask it meanwhile
        unused = places
        try:
            step = await self._store.next_deliveries(account, places, sending=sending)
            unused -= len(step.credits)
        finally:
            self._give_back(unused)
        for credit in step.parked:
            _log(credit).error("credit_parked", reason=credit.reason)
        for credit in step.credits:
            self._sending[account].add(credit.number)
            self._nursery.start_soon(self._send, credit)
        return step.delay_ms

    async def _send(self, credit: Credit) -> None:
        done = False
        try:
            done = await self._deliver_once(credit)
        except StoreBroken:
            raise
        except Exception:
            # Not even a record that cannot be booked may stop the others; the audit shows it.
            _log(credit).exception("delivery_failed", advice="run `settled audit`")
            await trio.sleep(_FAILED_DELAY_S)
        sending = self._sending[credit.account]
        sending.discard(credit.number)
        if not sending:
            del self._sending[credit.account]
        self._ended.set()
        if not done or credit.account in self._full:
            self._full.discard(credit.account)
            self.scheduler.wake(credit.account)
        self._give_back(1)

    def _give_back(self, places: int) -> None:
        self._taken -= places
        for waiting in list(islice(self._waiting, places)):
            del self._waiting[waiting]
            self.scheduler.wake(waiting)

    async def _deliver_once(self, credit: Credit) -> bool:
        """Deliver the credit and record how that went; return whether it is acknowledged."""
        outcome = await self._deliver(credit)
        delay_ms = retry_delay_ms(credit.attempts - 1)
        match outcome:
            case Delivered():
                _log(credit).info("credited", attempts=credit.attempts)
            case NotDelivered(reason):
                outcome = replace(outcome, retry_delay_ms=delay_ms)
                _log(credit).warning("credit_not_delivered", reason=reason, retry_in_ms=delay_ms)
            case Ambiguous(reason):
                outcome = replace(outcome, retry_delay_ms=delay_ms)
                _log(credit).warning("credit_ambiguous", reason=reason, retry_in_ms=delay_ms)
        await patiently(lambda: self._store.record_delivery(credit, outcome))
        return isinstance(outcome, Delivered)

    async def drain(self) -> None:
        """Start no more deliveries, and wait for those under way."""
        await self.scheduler.drain()
        while self._sending:
            self._ended = trio.Event()
            await self._ended.wait()


def _log(credit: Credit) -> structlog.stdlib.BoundLogger:
    bound: structlog.stdlib.BoundLogger = log.bind(
        account=credit.account_id,
        settlement=credit.settlement_id,
        credit=credit.id,
        amount=to_text(credit.amount),
    )
    return bound
