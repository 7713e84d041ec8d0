"""Every store does the same: random work, a clock that jumps, and all that can be read compared.

The store in memory shares no code with the other, so that it is a second opinion.
"""

import tempfile
import threading
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from settled import limits
from settled.amounts import Quantity
from settled.errors import SettledError
from settled.store.memory import MemoryStore
from settled.store.protocol import Store
from settled.store.records import (
    AddCredit,
    Ambiguous,
    Change,
    Credit,
    Delivered,
    DeliveryOutcome,
    NextSettlement,
    NotDelivered,
    NotSent,
    Parked,
    RequireState,
    SetState,
    Settled,
    SettlementOutcome,
    Unknown,
)
from settled.store.sqlite import open_sqlite
from tests.store.steps import HOUR_MS, Clock, assert_conserved, snapshot

Step = Callable[[Store], Awaitable[Any]]

# Repeated values are drawn more often: work on a few accounts goes deep.
ACCOUNT_IDS = st.sampled_from(["a"] * 5 + ["b"] * 3 + ["never"])
ACCOUNT_NUMBERS = st.sampled_from([1] * 5 + [2] * 3 + [3, 99])
LEDGER_IDS = st.sampled_from(["t1", "t2", "t3", "t4"])
KEYS = st.sampled_from(["k1", "k2", "k3"]) | st.uuids().map(str)
HOOKS = st.sampled_from(["setup_account", "close_account"])
DELAYS_MS = st.sampled_from([0, 0, 0, 1, 1000, HOUR_MS])
REASONS = st.sampled_from(["", "down", "é\n", "x" * 1200])
SCALES = st.sampled_from([None, None, 0, 2, 45])
POSITIVE = st.sampled_from(
    ["1", "1.0", "2.5", "0.001", "10", "99.999", "1" + "0" * 40 + ".5", "0." + "0" * 40 + "1"]
)
AMOUNTS = st.just("0") | POSITIVE
HOURS = [0, 0, 0, 0, 1, 23, 23, 720, -1, -2, -720]
JUMPS_MS = st.sampled_from([hours * HOUR_MS for hours in HOURS]) | st.sampled_from([1, 999, -999])

OUTCOMES: st.SearchStrategy[SettlementOutcome] = st.one_of(
    st.builds(Settled, AMOUNTS.map(Decimal)),
    st.builds(NotSent, REASONS, DELAYS_MS),
    st.builds(Unknown, REASONS, DELAYS_MS),
    st.builds(Parked, REASONS),
)
RESOLUTIONS: st.SearchStrategy[Settled | NotSent] = st.one_of(
    st.builds(Settled, AMOUNTS.map(Decimal)), st.builds(NotSent, REASONS)
)
DELIVERIES: st.SearchStrategy[DeliveryOutcome] = st.one_of(
    st.just(Delivered()),
    st.builds(NotDelivered, REASONS, DELAYS_MS),
    st.builds(Ambiguous, REASONS, DELAYS_MS),
)
CREDITS: st.SearchStrategy[Change] = st.builds(
    AddCredit, ACCOUNT_IDS, LEDGER_IDS, POSITIVE.map(Decimal)
)
STATES: st.SearchStrategy[Change] = st.builds(
    SetState, st.none() | ACCOUNT_IDS, st.sampled_from(["x", "y"]), st.none() | st.binary()
)
REQUIREMENTS: st.SearchStrategy[Change] = st.builds(
    RequireState, st.none(), st.sampled_from(["x", "y"]), st.none() | st.just(b"")
)


class Both:
    """Both stores in one trio run in a thread of its own, called from outside of it."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.memory: Store = MemoryStore(now_ms=clock, uptime=clock.uptime)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._live, path, clock))
        self._thread.start()
        assert self._ready.wait(10)

    async def _live(self, path: Path, clock: Clock) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        async with open_sqlite(
            path, exclusive=True, create=True, now_ms=clock, uptime=clock.uptime
        ) as sqlite:
            self.sqlite: Store = sqlite
            self._ready.set()
            await self._end.wait()

    def call(self, step: Step) -> Any:
        """Do the same with both and compare how it ended, to the digit, and all that they hold."""
        here = trio.from_thread.run(_ended, self.memory, step, trio_token=self._token)
        there = trio.from_thread.run(_ended, self.sqlite, step, trio_token=self._token)
        assert repr(here) == repr(there), f"memory: {here}\nsqlite: {there}"
        held = trio.from_thread.run(_held, self.memory, trio_token=self._token)
        stored = trio.from_thread.run(_held, self.sqlite, trio_token=self._token)
        for part, content in held.items():
            assert repr(content) == repr(stored[part]), (
                f"{part}\nmemory: {content}\nsqlite: {stored[part]}"
            )
        return here

    def audit(self) -> None:
        for store in (self.memory, self.sqlite):
            assert trio.from_thread.run(store.audit, trio_token=self._token) == []

    def close(self) -> None:
        self._token.run_sync_soon(self._end.set)
        self._thread.join()


async def _ended(store: Store, step: Step) -> Any:
    """Return what the step returned, or the type of what it raised."""
    try:
        return await step(store)
    except (SettledError, ValueError) as error:
        return type(error)


async def _held(store: Store) -> dict[str, Any]:
    content = await snapshot(store)
    for account in content["accounts"]:
        assert_conserved(account)
    return content


class EveryStoreDoesTheSame(RuleBasedStateMachine):
    """Accounts a and b, and one that is never opened, through everything a store offers."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(limits, "KEY_LIFE_TICKS", 2)
        self.directory = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.both = Both(Path(self.directory.name) / "x.db", self.clock)
        self.attempts = 0
        self.begun: list[str] = []
        self.sent: list[Credit] = []

    def teardown(self) -> None:
        try:
            self.both.audit()
        finally:
            self.both.close()
            self.directory.cleanup()
            self.patch.undo()

    @initialize()
    def begin_with_an_account(self) -> None:
        self.both.call(lambda store: store.open_account("a", setup=False))
        self.both.call(lambda store: store.queue_settlement("a", Quantity("75", 1), "k0"))
        self.both.call(lambda store: store.commit([AddCredit("a", "t0", Decimal(3))]))

    # Few rules, of which each does several things in a row: so that histories get deep.

    @rule(account_id=ACCOUNT_IDS, setup=st.booleans(), close=st.sampled_from([False] * 9 + [True]))
    def open_or_close_account(self, account_id: str, setup: bool, close: bool) -> None:
        if close:
            self.both.call(lambda store: store.close_account(account_id))
        elif account_id != "never":
            self.both.call(lambda store: store.open_account(account_id, setup=setup))
        self.both.call(lambda store: store.account(account_id))

    @rule(number=ACCOUNT_NUMBERS, hook=HOOKS, failure=st.none() | REASONS, retry_delay_ms=DELAYS_MS)
    def finish_hook(self, number: int, hook: str, failure: str | None, retry_delay_ms: int) -> None:
        self.both.call(
            lambda store: store.finish_hook(
                number, hook, failure=failure, retry_delay_ms=retry_delay_ms
            )
        )

    @rule(account_id=ACCOUNT_IDS, amount=AMOUNTS, key=KEYS)
    def queue_settlement(self, account_id: str, amount: str, key: str) -> None:
        quantity = Quantity.of(Decimal(amount))
        self.both.call(lambda store: store.queue_settlement(account_id, quantity, key))

    @rule(
        number=ACCOUNT_NUMBERS,
        scale=SCALES,
        outcomes=st.lists(st.none() | OUTCOMES, min_size=1, max_size=5),
        jump_ms=JUMPS_MS,
    )
    def settle(
        self,
        number: int,
        scale: int | None,
        outcomes: list[SettlementOutcome | None],
        jump_ms: int,
    ) -> None:
        for outcome in outcomes:
            step = self._next_settlement(number, scale)
            if isinstance(step, NextSettlement) and step.settlement and outcome is not None:
                self._record_outcome(step.settlement.id, outcome)
        self.clock.ms += jump_ms

    def _next_settlement(self, number: int, scale: int | None) -> Any:
        self.attempts += 1
        settlement_id = f"s-{self.attempts}"
        step = self.both.call(
            lambda store: store.next_settlement(number, settlement_id, asset_scale=scale)
        )
        if isinstance(step, NextSettlement) and step.begun:
            self.begun.append(settlement_id)
        return step

    @rule(back=st.integers(0, 4), outcome=OUTCOMES)
    def record_outcome_late(self, back: int, outcome: SettlementOutcome) -> None:
        self._record_outcome(self._recent_settlement(back), outcome)

    @rule(back=st.integers(0, 4), outcome=RESOLUTIONS)
    def resolve_settlement(self, back: int, outcome: Settled | NotSent) -> None:
        settlement_id = self._recent_settlement(back)
        self.both.call(lambda store: store.resolve_settlement(settlement_id, outcome))

    def _record_outcome(self, settlement_id: str, outcome: SettlementOutcome) -> None:
        self.both.call(lambda store: store.record_outcome(settlement_id, outcome))

    def _recent_settlement(self, back: int) -> str:
        recent = self.begun[-1 - back :]
        return recent[0] if recent else "no such"

    @rule(changes=st.lists(CREDITS | STATES | REQUIREMENTS, max_size=4))
    def commit(self, changes: list[Change]) -> None:
        self.both.call(lambda store: store.commit(changes))

    @rule(
        number=ACCOUNT_NUMBERS,
        limit=st.integers(1, 3),
        outcomes=st.lists(st.none() | DELIVERIES, min_size=1, max_size=4),
        jump_ms=JUMPS_MS,
    )
    def deliver(
        self, number: int, limit: int, outcomes: list[DeliveryOutcome | None], jump_ms: int
    ) -> None:
        for outcome in outcomes:
            step = self.both.call(lambda store: store.next_deliveries(number, limit))
            for credit in step.credits:
                self.sent.append(credit)
                if outcome is not None:
                    self._record_delivery(credit, outcome)
            self.clock.ms += jump_ms

    @rule(back=st.integers(0, 4), outcome=DELIVERIES)
    def record_delivery_late(self, back: int, outcome: DeliveryOutcome) -> None:
        for credit in self.sent[-1 - back :][:1]:
            self._record_delivery(credit, outcome)

    def _record_delivery(self, credit: Credit, outcome: DeliveryOutcome) -> None:
        self.both.call(lambda store: store.record_delivery(credit, outcome))

    @rule(back=st.integers(0, 4), note=st.none() | REASONS)
    def retry_or_resolve_credit(self, back: int, note: str | None) -> None:
        recent = self.sent[-1 - back :]
        credit_id = recent[0].id if recent else "no such"
        if note is None:
            self.both.call(lambda store: store.retry_credit(credit_id))
        else:
            self.both.call(lambda store: store.resolve_credit(credit_id, note))

    @rule(uptime_ms=st.integers(0, 30 * HOUR_MS), reboot=st.booleans(), jump_ms=JUMPS_MS)
    def let_the_clocks_disagree(self, uptime_ms: int, reboot: bool, jump_ms: int) -> None:
        self.clock.uptime_ms += uptime_ms
        self.clock.ms -= jump_ms
        if reboot:
            self.clock.uptime_ms = 0
            self.clock.boot += "+"

    @rule(what=st.sampled_from(["retry", "interrupt", "age", "purge"]), account_id=ACCOUNT_IDS)
    def keep_it_going(self, what: str, account_id: str) -> None:
        steps: dict[str, Step] = {
            "retry": lambda store: store.retry_settlement(account_id),
            "interrupt": lambda store: store.interrupt_settlements(),
            "age": lambda store: store.age_keys(),
            "purge": lambda store: store.purge_keys(),
        }
        self.both.call(steps[what])


TestEveryStoreDoesTheSame = EveryStoreDoesTheSame.TestCase
TestEveryStoreDoesTheSame.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    print_blob=True,
    report_multiple_bugs=False,
)
