"""Outgoing settlements: what is queued is paid, one payment at a time per account.

An attempt is committed before the engine is called, and its outcome after. Whatever leaves the
outcome open (an exception, a crash, a time-out) makes it *unknown*: then the engine is asked what
became of it, never to pay again.
"""

import math
from typing import Final

import structlog
import trio

from settled import ids, limits
from settled.amounts import checked, to_text
from settled.core.backoff import retry_delay_ms
from settled.core.calls import call_engine, describe, says
from settled.core.lasting import Lasting
from settled.core.patience import patiently
from settled.core.ports import EnginePort
from settled.core.scheduler import Scheduler
from settled.errors import InvalidAmount, NotResolvable, NotSettled, SettlementPending
from settled.store.protocol import Store
from settled.store.records import (
    NotSent,
    Parked,
    Settled,
    Settlement,
    SettlementOutcome,
    Unknown,
)
from settled.text import one_line

log = structlog.get_logger()

_NO_FIND: Final = (
    "; the engine has no find_settlement: look on the ledger, then `settled settlements resolve`"
)
_ASKED: Final = "; find_settlement"
_CAUSE_CHARS_MAX: Final = 500


class _Pending(Unknown):
    """Unknown as yet, but on its way."""


class Outgoing:
    """The outgoing side of one daemon.

    Args:
        store: where queues and settlements are.
        engine: what pays.
        settle_timeout_s: how long a call of ``settle`` may take; ``None``: for ever.
    """

    def __init__(self, store: Store, engine: EnginePort, *, settle_timeout_s: float | None) -> None:
        self._store = store
        self._engine = engine
        self._settle_timeout_s = settle_timeout_s
        self._lasting = Lasting()
        self.scheduler = Scheduler(self._advance, tasks_max=limits.SETTLING_ACCOUNTS_MAX)

    async def _advance(self, account: int) -> int | None:
        """Do what the account's queue needs next; return when to look again (see ``Scheduler``)."""
        step = await self._store.next_settlement(
            account, ids.mint(), asset_scale=self._engine.asset_scale
        )
        begun_s = trio.current_time()
        settlement = step.settlement
        if settlement is None or (not step.begun and settlement.state != "unknown"):
            return step.delay_ms
        if step.begun:
            outcome = await self._pay(settlement)
        elif step.delay_ms:
            return step.delay_ms
        else:
            outcome = await self._find(settlement)
        again_ms: int | None = 0
        try:
            await patiently(lambda: self._store.record_outcome(settlement.id, outcome))
        except NotResolvable as error:
            log.warning("outcome_known_already", reason=str(error))  # the operator was faster
        else:
            self._report(settlement, outcome)
            if step.begun and outcome == Settled(settlement.amount):
                again_ms = step.delay_ms  # what came meanwhile has woken the account
        if isinstance(outcome, Settled):
            self._rest(account, begun_s)
        return again_ms

    def _rest(self, account: int, begun_s: float) -> None:
        """Let requests gather for the account's next payment, after one that was made.

        Many such rests end together, so that what follows them is committed together.
        """
        together_s = limits.SETTLE_REST_S / 10
        rested_s = math.ceil((begun_s + limits.SETTLE_REST_S) / together_s) * together_s
        self.scheduler.rest_until(account, rested_s)

    async def _pay(self, settlement: Settlement) -> SettlementOutcome:
        timeout_s = math.inf if self._settle_timeout_s is None else self._settle_timeout_s
        try:
            with trio.move_on_after(timeout_s) as timeout:
                result = await call_engine(
                    "settle",
                    self._engine.settle,
                    settlement.account_id,
                    settlement.amount,
                    settlement.id,
                )
        except Exception as error:
            if says(NotSettled, error):
                return NotSent(describe(error), retry_delay_ms(settlement.failures))
            log.warning("settle_raised", settlement=settlement.id, exc_info=error)
            return self._unknown(f"settle raised {describe(error)}")
        if timeout.cancelled_caught:
            return self._unknown(f"settle did not return within {timeout_s:g} s")
        try:
            return Settled(checked(result))
        except Exception as error:  # a number of somebody's own making may raise anything
            why = error if isinstance(error, InvalidAmount) else describe(error)
            return self._unknown(f"settle returned {one_line(result, 100)}: {why}")

    def _unknown(self, reason: str) -> SettlementOutcome:
        if self._engine.find_settlement is not None:
            return Unknown(reason)
        reason = reason.removesuffix(_NO_FIND)  # it was parked before, by an earlier run
        return Parked(reason[: limits.REASON_CHARS_MAX - len(_NO_FIND)] + _NO_FIND)

    async def _find(self, settlement: Settlement) -> SettlementOutcome:
        """Ask the engine what became of a settlement whose outcome is unknown."""
        if self._engine.find_settlement is None:
            return self._unknown(settlement.reason or "the outcome is unknown")
        delay_ms = retry_delay_ms(settlement.failures)
        # What brought it into doubt stays in sight, however often it is asked for.
        cause = (settlement.reason or "the outcome is unknown").split(_ASKED)[0][:_CAUSE_CHARS_MAX]
        try:
            with trio.fail_after(limits.FIND_TIMEOUT_S):
                found = await call_engine(
                    "find_settlement",
                    self._engine.find_settlement,
                    settlement.account_id,
                    settlement.id,
                )
            if found is None:
                return Unknown(f"{cause}{_ASKED} cannot tell yet: it is asked again", delay_ms)
            amount = checked(found)
        except Exception as error:
            if says(SettlementPending, error):
                on_its_way = f"{cause}{_ASKED}: on its way, {describe(error)}".removesuffix(", ")
                return _Pending(on_its_way, delay_ms)
            if self._lasting.is_news(("find", settlement.id), describe(error)):
                log.warning("find_settlement_raised", settlement=settlement.id, exc_info=error)
            return Unknown(f"{cause}{_ASKED} raised {describe(error)}: asked again", delay_ms)
        if amount:
            return Settled(amount)
        failures = await self._failures(settlement)
        return NotSent("find_settlement: it was not sent", retry_delay_ms(failures))

    async def _failures(self, settlement: Settlement) -> int:
        """Return how often in a row the settlement's account could not be paid."""
        lives = await self._store.accounts(account_id=settlement.account_id)
        return next((life.failures for life in lives if life.number == settlement.account), 0)

    def _report(self, settlement: Settlement, outcome: SettlementOutcome) -> None:
        bound = log.bind(account=settlement.account_id, settlement=settlement.id)
        asked = to_text(settlement.amount)
        match outcome:
            case Settled(amount):
                self._lasting.over(settlement.account)
                if amount > settlement.amount:
                    bound.error("settled_too_much", asked=asked, settled=to_text(amount))
                else:
                    bound.info("settled", asked=asked, settled=to_text(amount))
            case NotSent(reason, delay_ms):
                ends_doubt = settlement.state == "unknown"
                if ends_doubt or self._lasting.is_news(settlement.account, reason):
                    bound.warning("not_sent", amount=asked, reason=reason, retry_in_ms=delay_ms)
            case _Pending(reason, delay_ms):
                if self._lasting.is_news(("pending", settlement.id), reason):
                    fields = {"amount": asked, "reason": reason, "retry_in_ms": delay_ms}
                    bound.info("settlement_pending", **fields)
            case Unknown(reason, delay_ms):
                if self._lasting.is_news(settlement.id, reason):
                    fields = {"amount": asked, "reason": reason, "retry_in_ms": delay_ms}
                    bound.warning("settlement_unknown", **fields)
            case Parked(reason):
                bound.error("settlement_parked", amount=asked, reason=reason)
