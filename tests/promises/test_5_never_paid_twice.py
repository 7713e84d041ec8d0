"""Promise 5: an attempt is committed before the engine is called; unknown is never retried."""

import itertools
import random
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from settled import NotSettled
from settled.errors import NotResolvable
from settled.store.records import NotSent, Settled
from settled.store.sqlite import open_sqlite
from tests.harness import ScriptedEngine, conserved, memory_store, running

Script = Callable[[str, Decimal, str], Awaitable[object]]


async def test_the_attempt_is_on_disk_before_the_engine_is_called(tmp_path: Path) -> None:
    path = tmp_path / "settled.db"
    seen = []

    async def look_at_the_file(account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
        async with open_sqlite(path, exclusive=False) as beside:
            seen.append(await beside.settlement(settlement_id))
        return amount

    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        async with running(ScriptedEngine(look_at_the_file), store) as daemon:
            await daemon.request("alice", "5", "k")
            await daemon.until(lambda account: account.settled == 5)
    assert [(s.state, s.amount, s.account_id) for s in seen] == [("in_flight", 5, "alice")]


async def boom(account_id: str, amount: Decimal, settlement_id: str) -> object:
    raise RuntimeError("the ledger hung up")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


async def boom_unspeakably(account_id: str, amount: Decimal, settlement_id: str) -> object:
    raise Unspeakable


async def boom_with_a_surrogate(account_id: str, amount: Decimal, settlement_id: str) -> object:
    raise RuntimeError("half a character: \ud800")


def returns(value: object) -> Script:
    async def settle(account_id: str, amount: Decimal, settlement_id: str) -> object:
        return value

    return settle


UNCLEAR = [
    pytest.param(boom, id="raises"),
    pytest.param(boom_unspeakably, id="raises what cannot be shown"),
    pytest.param(boom_with_a_surrogate, id="raises what cannot be stored"),
    pytest.param(returns(None), id="returns nothing"),
    pytest.param(returns(1.5), id="returns a float"),
    pytest.param(returns(True), id="returns a bool"),
    pytest.param(returns("5"), id="returns text"),
    pytest.param(returns(Decimal("NaN")), id="returns NaN"),
    pytest.param(returns(Decimal("Infinity")), id="returns infinity"),
    pytest.param(returns(Decimal("-1")), id="returns less than nothing"),
    pytest.param(returns(Decimal("1E+5000")), id="returns a monster"),
    pytest.param(returns(Decimal("1E-300")), id="returns a crumb"),
]


@pytest.mark.parametrize("script", UNCLEAR)
async def test_an_unclear_outcome_is_parked_and_never_tried_again(
    script: Script, autojump_clock: MockClock
) -> None:
    engine, store = ScriptedEngine(script), memory_store()
    account = await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.unknown == 5)
        await daemon.request("alice", "7", "k2")
        await trio.sleep(100 * 86_400)
        await conserved(store)
        assert len(engine.calls) == 1
    async with running(engine, store):
        await trio.sleep(86_400)
    assert len(engine.calls) == 1
    (settlement,) = await store.settlements()
    assert (settlement.state, settlement.amount) == ("parked", 5)
    assert "settled settlements resolve" in (settlement.reason or "")
    account = await store.account("alice")
    assert (account.queued, account.waiting) == (7, settlement.reason)


@pytest.mark.parametrize("script", UNCLEAR)
@pytest.mark.parametrize(
    ("answers", "settled", "calls"),
    [([5], 5, 1), ([None, RuntimeError, None, Decimal(3)], 5, 2), ([0], 5, 2)],
    ids=["it was", "part of it was, told late", "it was not"],
)
async def test_an_unclear_outcome_is_asked_of_find_settlement(
    script: Script,
    answers: list[object],
    settled: int,
    calls: int,
    autojump_clock: MockClock,
) -> None:
    asked = []

    async def find(account_id: str, settlement_id: str) -> object:
        asked.append(settlement_id)
        answer = answers[len(asked) - 1]
        if answer is RuntimeError:
            raise RuntimeError("the node is down")
        return answer

    async def once(account_id: str, amount: Decimal, settlement_id: str) -> object:
        return await script(account_id, amount, settlement_id) if len(engine.calls) == 1 else amount

    engine, store = ScriptedEngine(once, find_settlement=find), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.settled == settled)
        await trio.sleep(86_400)
    assert set(asked) == {engine.calls[0][2]}, "only the settlement in doubt is asked for"
    assert len(asked) == len(answers)
    assert len(engine.calls) == calls
    assert len({settlement_id for _, _, settlement_id in engine.calls}) == calls


async def test_a_hanging_engine_is_cut_off_and_its_outcome_is_unknown(
    autojump_clock: MockClock,
) -> None:
    async def hang(account_id: str, amount: Decimal, settlement_id: str) -> object:
        await trio.sleep_forever()
        return amount

    engine, store = ScriptedEngine(hang), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store, settle_timeout_s=30) as daemon:
        await daemon.request("alice", "5", "k")
        account = await daemon.until(lambda account: account.unknown == 5)
        assert "within 30 s" in (account.waiting or "")
        (settlement,) = await store.settlements()
        assert 30_000 <= settlement.updated_ms - settlement.created_ms < 30_100
        await trio.sleep(86_400)
    assert len(engine.calls) == 1


async def test_a_hanging_engine_without_a_time_out_stays_in_flight(
    autojump_clock: MockClock,
) -> None:
    async def hang(account_id: str, amount: Decimal, settlement_id: str) -> object:
        await trio.sleep(1_000_000)
        return amount

    engine, store = ScriptedEngine(hang), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await trio.sleep(999_999)
        assert (await store.account("alice")).in_flight == 5
        await daemon.until(lambda account: account.settled == 5)
    assert len(engine.calls) == 1


async def test_not_settled_is_tried_again_with_backoff_under_a_new_id(
    autojump_clock: MockClock,
) -> None:
    times_s = []

    async def refuse_thrice(account_id: str, amount: Decimal, settlement_id: str) -> object:
        times_s.append(trio.current_time())
        if len(times_s) <= 3:
            raise NotSettled("no funds")
        return amount

    engine, store = ScriptedEngine(refuse_thrice), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.settled == 5)
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(times_s)]
    assert [gap <= 0.1 * 2**n + 0.002 for n, gap in enumerate(gaps_s)] == [True] * 3
    assert len({settlement_id for _, _, settlement_id in engine.calls}) == 4
    states = [settlement.state for settlement in await store.settlements()]
    assert states == ["settled", "not_sent", "not_sent", "not_sent"]


async def test_not_settled_out_of_a_nursery_is_not_settled(autojump_clock: MockClock) -> None:
    async def refuse(account_id: str, amount: Decimal, settlement_id: str) -> object:
        if len(engine.calls) > 1:
            return amount
        async with trio.open_nursery():
            raise NotSettled("no funds")

    engine, store = ScriptedEngine(refuse), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.settled == 5)
    assert (await store.settlements())[-1].state == "not_sent"


async def test_not_settled_beside_another_error_is_unknown(autojump_clock: MockClock) -> None:
    async def mixed(account_id: str, amount: Decimal, settlement_id: str) -> object:
        raise ExceptionGroup("two", [NotSettled("no funds"), OSError("reset")])

    engine, store = ScriptedEngine(mixed), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.unknown == 5)
        await trio.sleep(86_400)
    assert len(engine.calls) == 1


async def test_an_engine_that_fails_before_it_pays_is_not_hammered(
    autojump_clock: MockClock,
) -> None:
    async def not_sent(account_id: str, settlement_id: str) -> int:
        return 0

    engine, store = ScriptedEngine(boom, find_settlement=not_sent), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await trio.sleep(86_400)
    assert 24 <= len(engine.calls) < 200, "a day of failures is backed off up to an hour"


async def test_a_crash_while_in_flight_is_unknown_not_a_retry(autojump_clock: MockClock) -> None:
    ledger: dict[str, Decimal] = {}

    async def pay_then_hang(account_id: str, amount: Decimal, settlement_id: str) -> object:
        ledger[settlement_id] = amount
        await trio.sleep_forever()
        return amount

    async def find(account_id: str, settlement_id: str) -> object:
        return ledger.get(settlement_id, 0)

    engine, store = ScriptedEngine(pay_then_hang, find_settlement=find), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.in_flight == 5)
        await daemon.rest()
    async with running(engine, store) as daemon:
        await daemon.until(lambda account: account.settled == 5)
    assert (len(engine.calls), sum(ledger.values())) == (1, 5)


@settings(max_examples=60, deadline=None, print_blob=True)
@given(
    seed=st.integers(0, 2**32),
    cuts_s=st.lists(st.floats(0, 20), min_size=1, max_size=6),
)
def test_crashes_at_any_moment_pay_exactly_what_was_asked(seed: int, cuts_s: list[float]) -> None:
    """The ledger's word is the measure: its sum is what was requested, however often we crash."""
    rng = random.Random(seed)

    async def main() -> None:
        ledger: dict[str, Decimal] = {}

        async def settle(account_id: str, amount: Decimal, settlement_id: str) -> object:
            await trio.sleep(rng.uniform(0, 2))
            if rng.random() < 0.2:
                raise NotSettled("no")
            if rng.random() < 0.2:
                raise RuntimeError("before")
            ledger[settlement_id] = amount
            await trio.sleep(rng.uniform(0, 2))
            if rng.random() < 0.3:
                raise RuntimeError("after")
            return amount

        async def find(account_id: str, settlement_id: str) -> object:
            if rng.random() < 0.3:
                return None
            return ledger.get(settlement_id, Decimal(0))

        engine, store = ScriptedEngine(settle, find_settlement=find), memory_store()
        await store.open_account("alice", setup=False)
        for n, cut_s in enumerate(cuts_s):
            async with running(engine, store) as daemon:
                await daemon.request("alice", "1", f"k{n}")
                await trio.sleep(cut_s)
            await conserved(store)
        async with running(engine, store) as daemon:
            await daemon.until(lambda account: account.settled == len(cuts_s))
        assert sum(ledger.values()) == len(cuts_s)

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_the_operator_may_be_faster_than_find_settlement(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async def find(account_id: str, settlement_id: str) -> object:
        await store.resolve_settlement(settlement_id, Settled(Decimal(5)))
        return 0

    engine, store = ScriptedEngine(boom, find_settlement=find), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.settled == 5)
        await trio.sleep(3600)
        assert (await store.account("alice")).settled == 5


async def test_the_operators_word_settles_what_is_parked(autojump_clock: MockClock) -> None:
    engine, store = ScriptedEngine(boom), memory_store()
    await store.open_account("alice", setup=False)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.unknown == 5)
        (settlement,) = await store.settlements()
        await store.resolve_settlement(settlement.id, Settled(Decimal(4)))
        engine.script = None
        account = await store.account("alice")
        daemon.core.outgoing.scheduler.wake(account.number)
        await daemon.until(lambda account: account.settled == 5)
        with pytest.raises(NotResolvable, match="final"):
            await store.resolve_settlement(settlement.id, NotSent(""))
    assert [amount for _, amount, _ in engine.calls] == [5, 1]
