"""What becomes of a settlement whose outcome is not clear, and what is written down of it."""

from decimal import Decimal
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from settled import NotSettled, SettlementPending, limits
from settled.amounts import Quantity
from settled.core import outgoing
from settled.core.calls import describe, says
from settled.core.patience import patiently
from settled.errors import StoreBusy
from settled.store.records import NotSent, Settled, Unknown
from tests.harness import ScriptedEngine, memory_store, running


@pytest.fixture
def delays_ms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have delays depend on the failures alone; return the failures that were asked for."""
    asked: list[int] = []

    def delay_ms(failures: int) -> int:
        asked.append(failures)
        return 1000 << failures

    monkeypatch.setattr(outgoing, "retry_delay_ms", delay_ms)
    return asked


async def test_a_payment_that_was_not_sent_is_tried_again_after_its_delay(
    autojump_clock: MockClock, delays_ms: list[int]
) -> None:
    times_s: list[float] = []

    async def no_funds(account_id: str, amount: Decimal, settlement_id: str) -> object:
        times_s.append(trio.current_time())
        raise NotSettled("no funds")

    store = memory_store()
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(no_funds), store) as daemon:
        await daemon.request("alice", "5", "k")
        await trio.sleep(20)
        account = await store.account("alice")
        assert (account.waiting, account.failures) == ("no funds", 5)
    assert delays_ms == [0, 1, 2, 3, 4]
    assert [time_s - times_s[0] for time_s in times_s] == pytest.approx([0, 1, 3, 7, 15], abs=0.01)


async def test_an_engine_that_cannot_find_a_settlement_is_told_of_once(
    autojump_clock: MockClock, log: list[Any]
) -> None:
    async def broken(account_id: str, *_: object) -> object:
        raise OSError("down")

    engine, store = ScriptedEngine(broken, find_settlement=broken), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await trio.sleep(limits.TELL_AGAIN_S / 4)
        (settlement,) = await store.settlements()
    assert settlement.failures > 5
    told = [entry["event"] for entry in log if "settlement" in entry]
    assert told.count("find_settlement_raised") == 1
    assert told.count("settlement_unknown") <= 2


async def test_a_payment_that_is_on_its_way_is_no_alarm(
    autojump_clock: MockClock, log: list[Any]
) -> None:
    answers: list[object] = [
        SettlementPending("2 of 12 confirmations"),
        ExceptionGroup("", [SettlementPending("3 of 12 confirmations")]),
        SettlementPending(""),
        None,
        5,
    ]
    reasons: list[str] = []

    async def broken(account_id: str, amount: Decimal, settlement_id: str) -> object:
        raise OSError("reset")

    async def find(account_id: str, settlement_id: str) -> object:
        (settlement,) = await store.settlements()
        reasons.append(settlement.reason or "")
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    engine, store = ScriptedEngine(broken, find_settlement=find), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.settled == 5)
    assert reasons == [
        "settle raised OSError: reset",
        "settle raised OSError: reset; find_settlement: on its way, 2 of 12 confirmations",
        "settle raised OSError: reset; find_settlement: on its way, 3 of 12 confirmations",
        "settle raised OSError: reset; find_settlement: on its way",
        "settle raised OSError: reset; find_settlement cannot tell yet: it is asked again",
    ]
    told = [(entry["event"], entry["log_level"]) for entry in log if "account" in entry]
    assert told == [
        ("settlement_unknown", "warning"),
        ("settlement_pending", "info"),
        ("settled", "info"),
    ]


async def test_every_doubt_and_its_end_are_told(autojump_clock: MockClock, log: list[Any]) -> None:
    async def broken(account_id: str, amount: Decimal, settlement_id: str) -> object:
        if len(engine.calls) > 3:
            return amount
        raise OSError("down")

    async def not_sent(account_id: str, settlement_id: str) -> object:
        return 0

    engine, store = ScriptedEngine(broken, find_settlement=not_sent), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.settled == 5)
    told = [entry["event"] for entry in log if entry.get("account") == "alice"]
    assert told == ["settlement_unknown", "not_sent"] * 3 + ["settled"]


async def test_an_unknown_outcome_is_asked_for_by_backoff_and_keeps_its_cause(
    autojump_clock: MockClock, delays_ms: list[int]
) -> None:
    asked_s: list[float] = []
    answers: list[object] = [None, OSError("down"), None, -1, 0]

    async def reset(account_id: str, amount: Decimal, settlement_id: str) -> object:
        if len(engine.calls) > 1:
            return amount
        raise OSError("reset " + "x" * 2000)

    async def find(account_id: str, settlement_id: str) -> object:
        asked_s.append(trio.current_time())
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    engine, store = ScriptedEngine(reset, find_settlement=find), memory_store()
    await store.open_account("alice", setup=False)
    reasons: list[str] = []
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        for _ in range(4):
            await daemon.rest()
            (settlement,) = await store.settlements()
            reasons.append(settlement.reason or "")
            assert settlement.state == "unknown"
            await trio.sleep(asked_s[-1] + (1 << settlement.failures - 1) - trio.current_time())
        await daemon.until(lambda account: account.settled == 5)
    assert [time_s - asked_s[0] for time_s in asked_s] == pytest.approx([0, 1, 3, 7, 15], abs=0.01)
    assert all(reason.startswith("settle raised OSError: reset xxx") for reason in reasons)
    assert all(reason.count("find_settlement") == 1 for reason in reasons)
    assert ["cannot tell yet" in reason for reason in reasons] == [True, False, True, False]
    assert "OSError: down" in reasons[1]
    assert max(map(len, reasons)) <= limits.REASON_CHARS_MAX


@pytest.mark.parametrize(("timeout_s", "ends"), [(None, False), (30.0, True)])
async def test_settle_is_given_the_time_that_the_operator_set(
    timeout_s: float | None, ends: bool, autojump_clock: MockClock
) -> None:
    async def hang(account_id: str, amount: Decimal, settlement_id: str) -> object:
        return await trio.sleep_forever()

    store = memory_store()
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(hang), store, settle_timeout_s=timeout_s) as daemon:
        await daemon.request("alice", "5", "k")
        await trio.sleep(29)
        assert (await store.account("alice")).in_flight == 5
        await trio.sleep(2)
        account = await store.account("alice")
        assert (account.unknown == 5) is ends
        if ends:
            assert "did not return within 30 s" in (account.waiting or "")


async def test_the_operators_word_stands_against_a_later_answer(
    autojump_clock: MockClock,
) -> None:
    """While ``find_settlement`` is asked the operator says that it was paid: that is final."""

    async def lose_the_first(account_id: str, amount: Decimal, settlement_id: str) -> object:
        await trio.sleep(1)
        if len(engine.calls) > 1:
            return amount
        raise OSError("reset")

    async def slowly(account_id: str, settlement_id: str) -> object:
        await trio.sleep(10)
        return 0

    engine, store = ScriptedEngine(lose_the_first, find_settlement=slowly), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await trio.sleep(0.5)
        await daemon.request("alice", "2", "k2")
        await trio.sleep(1)
        (settlement,) = await store.settlements()
        assert settlement.state == "unknown"
        await store.resolve_settlement(settlement.id, Settled(Decimal(5)))
        await trio.sleep(12)
        assert (await store.account("alice")).settled == 7, "it goes on at once"
    assert [amount for _, amount, _ in engine.calls] == [5, 2]


async def test_an_old_failure_count_does_not_slow_down_what_was_found_unsent(
    autojump_clock: MockClock, delays_ms: list[int]
) -> None:
    """The delay after "it was not sent" goes by the account's failures, not by the questions."""
    answers: list[object] = [None, None, None, 0]

    async def reset(account_id: str, amount: Decimal, settlement_id: str) -> object:
        raise OSError("reset")

    async def find(account_id: str, settlement_id: str) -> object:
        return answers.pop(0) if answers else None

    store = memory_store()
    await store.open_account("bob", setup=False)
    await store.open_account("alice", setup=False)
    await store.queue_settlement("alice", Quantity("5", 0), "k")
    for n in range(2):
        await store.next_settlement(2, f"s{n}")
        await store.record_outcome(f"s{n}", NotSent("no funds", 0))
    async with running(ScriptedEngine(reset, find_settlement=find), store) as daemon:
        await daemon.until(lambda account: account.failures == 3)
    assert delays_ms[:5] == [0, 1, 2, 3, 2]


async def test_what_is_parked_says_what_to_do_once_however_often_it_is_parked(
    autojump_clock: MockClock,
) -> None:
    advice = "look on the ledger, then `settled settlements resolve`"

    async def reset(account_id: str, amount: Decimal, settlement_id: str) -> object:
        raise OSError("reset " + "x" * 2000)

    store = memory_store()
    await store.open_account("alice", setup=False)
    reasons: set[str] = set()
    for _ in range(3):
        async with running(ScriptedEngine(reset), store) as daemon:
            if not reasons:
                await daemon.request("alice", "5", "k")
            await daemon.rest()
            (settlement,) = await store.settlements()
            assert settlement.state == "parked"
            reasons.add(settlement.reason or "")
    (reason,) = reasons
    assert reason.startswith("settle raised OSError: reset xxx")
    assert reason.endswith(advice)
    assert reason.count(advice) == 1


@pytest.mark.parametrize("can_find", [False, True])
async def test_the_advice_survives_a_reason_of_any_length(
    can_find: bool, autojump_clock: MockClock
) -> None:
    async def find(account_id: str, settlement_id: str) -> object:
        return None

    store = memory_store()
    account = await store.open_account("alice", setup=False)
    await store.queue_settlement("alice", Quantity("5", 0), "k")
    await store.next_settlement(account.number, "s0")
    await store.record_outcome("s0", Unknown("x" * limits.REASON_CHARS_MAX))
    engine = ScriptedEngine(find_settlement=find if can_find else None)
    async with running(engine, store) as daemon:
        await daemon.rest()
        reason = (await store.settlement("s0")).reason or ""
    assert reason.endswith("asked again" if can_find else "`settled settlements resolve`")
    assert can_find or len(reason) == limits.REASON_CHARS_MAX


def test_only_not_settled_says_that_nothing_was_sent() -> None:
    no, boom = NotSettled("no"), ValueError("boom")
    assert says(NotSettled, no)
    assert says(NotSettled, ExceptionGroup("", [no, ExceptionGroup("", [no])]))
    assert not says(NotSettled, boom)
    assert not says(NotSettled, ExceptionGroup("", [no, boom]))
    assert not says(NotSettled, ExceptionGroup("", [no, ExceptionGroup("", [boom, no])]))


def test_an_error_is_one_line() -> None:
    assert describe(NotSettled("no\nfunds")) == "no funds"
    assert describe(NotSettled()) == "the engine says that nothing was sent"
    assert describe(ExceptionGroup("", [ExceptionGroup("", [NotSettled("no")])])) == "no"
    assert describe(trio.TooSlowError()) == "a time-out"
    assert describe(ExceptionGroup("", [ExceptionGroup("", [ValueError("x")])])) == "ValueError: x"


async def test_a_write_that_must_not_be_given_up_is_repeated_until_the_store_is_free(
    autojump_clock: MockClock,
) -> None:
    times_s: list[float] = []
    start_s = trio.current_time()

    async def write() -> str:
        times_s.append(round(trio.current_time() - start_s, 3))
        if len(times_s) < 10:
            raise StoreBusy("another process writes")
        return "written"

    assert await patiently(write) == "written"
    assert times_s == [0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 11.3, 16.3, 21.3]


@pytest.mark.parametrize("before", [True, False])
async def test_no_cancellation_comes_between_the_write_and_its_effect(
    before: bool, autojump_clock: MockClock
) -> None:
    """Neither one that has come before, nor one that comes meanwhile."""
    store = memory_store()
    with trio.CancelScope() as scope:
        if before:
            scope.cancel()
        else:
            trio.lowlevel.spawn_system_task(_cancel, scope)
        await patiently(lambda: store.open_account("alice", setup=False))
        await trio.sleep(1)
    assert scope.cancelled_caught
    assert (await store.account("alice")).state == "open"


async def _cancel(scope: trio.CancelScope) -> None:
    scope.cancel()


async def test_a_write_that_waits_for_the_store_can_be_cancelled(
    autojump_clock: MockClock,
) -> None:
    async def busy() -> None:
        raise StoreBusy("another process writes")

    with trio.move_on_after(3600) as scope:
        await patiently(busy)
    assert scope.cancelled_caught


async def test_what_arrives_soon_after_a_payment_is_netted_into_the_next(
    autojump_clock: MockClock,
) -> None:
    times_s: list[float] = []

    async def at_once(account_id: str, amount: Decimal, settlement_id: str) -> object:
        times_s.append(trio.current_time())
        return amount

    store = memory_store()
    await store.open_account("alice", setup=False)
    await store.open_account("bob", setup=False)
    engine = ScriptedEngine(at_once)
    async with running(engine, store) as daemon:
        for number in range(10):
            await daemon.request("alice", "1", f"k{number}")
            await trio.sleep(0.02)
        await daemon.request("bob", "7", "k")  # another account is not kept waiting
        await trio.sleep(10)
        await daemon.request("alice", "1", "later")  # nor is one that had none for a while
        begun_s = trio.current_time()
        await daemon.until(lambda account: account.settled == 11)
    paid = [call[:2] for call in engine.calls]
    assert paid == [("alice", 1), ("bob", 7), ("alice", 9), ("alice", 1)]
    rest_s = limits.SETTLE_REST_S
    assert rest_s <= times_s[2] - times_s[0] <= rest_s * 1.2 + 0.01
    assert times_s[3] == pytest.approx(begun_s, abs=0.01)


async def test_a_drain_does_not_wait_for_the_rest_after_a_payment(
    autojump_clock: MockClock,
) -> None:
    store = memory_store()
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(), store) as daemon:
        await daemon.request("alice", "1", "k")
        await daemon.rest()
        begun_s = trio.current_time()
        await daemon.core.drain()
        assert trio.current_time() - begun_s < 0.01
    assert (await store.account("alice")).settled == 1
