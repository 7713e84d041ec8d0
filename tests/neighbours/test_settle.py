"""Whatever ``settle`` and ``find_settlement`` do: the books are whole, the others go on."""

from decimal import Decimal

import pytest
import trio
from trio.testing import MockClock

from settled.amounts import EXACT
from settled.store.memory import MemoryStore
from settled.store.records import Settled, Settlement
from tests.harness import Running, ScriptedEngine, conserved, memory_store, running
from tests.neighbours import engines
from tests.neighbours.conftest import Events
from tests.neighbours.engines import NOT_SETTLED, RAISING, RETURNING, Misdeed, any_arguments

DAY_S = 86_400

MISDEEDS = RAISING | RETURNING


async def pay(account_id: str, amount: Decimal, settlement_id: str) -> object:
    return amount


class Misbehaving(ScriptedEngine):
    """Commits the misdeed for alice; everybody else is paid."""

    def __init__(self, misdeed: Misdeed, *, find: object = None) -> None:
        async def settle(account_id: str, amount: Decimal, settlement_id: str) -> object:
            return await misdeed() if account_id == "alice" else amount

        super().__init__(settle, find_settlement=find)  # type: ignore[arg-type]


async def two_accounts(store: MemoryStore) -> None:
    for name in ("alice", "bob"):
        await store.open_account(name, setup=False)


async def bob_is_paid(daemon: Running, key: str) -> None:
    before = (await daemon.store.account("bob")).settled
    await daemon.request("bob", "3", key)
    await daemon.until(lambda account: account.settled == before + 3, "bob")


@pytest.mark.parametrize("name", MISDEEDS)
async def test_what_is_unclear_is_parked_once_and_the_others_go_on(
    name: str, autojump_clock: MockClock
) -> None:
    engine, store = Misbehaving(MISDEEDS[name]), memory_store()
    await two_accounts(store)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.unknown == 5)
        await daemon.request("alice", "7", "k2")
        await bob_is_paid(daemon, "k3")
        await trio.sleep(2 * DAY_S)
        await bob_is_paid(daemon, "k4")
        (parked,) = await store.settlements(account_id="alice")
        assert (parked.state, parked.amount) == ("parked", 5)
        assert "settled settlements resolve" in one_printable_line(parked)
        assert "no funds" not in one_printable_line(parked), "what else there was says more"
        await conserved(store)
    async with running(engine, store) as daemon:  # and so it stays across a restart
        await trio.sleep(DAY_S)
        assert [call for call in engine.calls if call[0] == "alice"] == [engine.calls[0]]
        await store.resolve_settlement(parked.id, Settled(Decimal(5)))
        engine.script = pay
        daemon.core.outgoing.scheduler.wake(parked.account)
        await daemon.until(lambda account: account.settled == 12)


def one_printable_line(settlement: Settlement) -> str:
    reason = settlement.reason or ""
    assert reason.isprintable()
    assert 0 < len(reason) <= 1000
    return reason


@pytest.mark.parametrize("name", MISDEEDS)
async def test_what_find_settlement_does_wrong_leaves_it_unknown_until_it_does_right(
    name: str, autojump_clock: MockClock
) -> None:
    lies = MISDEEDS[name] if name != "None" else engines.returns(None)
    truthful = False

    async def find(account_id: str, settlement_id: str) -> object:
        return Decimal(5) if truthful else await lies()

    engine, store = Misbehaving(engines.raises(OSError("reset")), find=find), memory_store()
    await two_accounts(store)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await trio.sleep(DAY_S)
        account = await store.account("alice")
        assert (account.unknown, account.settled) == (5, 0)
        (unknown,) = await store.settlements(account_id="alice")
        assert unknown.state == "unknown"
        assert "OSError: reset" in one_printable_line(unknown), "the first cause stays in sight"
        assert 20 < unknown.failures < 200, "asked for again, at most an hour apart"
        await bob_is_paid(daemon, "k2")
        truthful = True
        await daemon.until(lambda account: account.settled == 5)
    assert len([call for call in engine.calls if call[0] == "alice"]) == 1


@pytest.mark.parametrize("name", NOT_SETTLED)
async def test_not_settled_is_tried_again_whatever_reason_it_gives(
    name: str, autojump_clock: MockClock
) -> None:
    engine, store = Misbehaving(engines.raises(NOT_SETTLED[name])), memory_store()
    await two_accounts(store)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.failures >= 5)
        for settlement in await store.settlements(state="not_sent"):
            one_printable_line(settlement)
        await bob_is_paid(daemon, "k2")
        engine.script = pay
        await daemon.until(lambda account: account.settled == 5)
    assert (await store.account("alice")).unknown == 0


@pytest.mark.parametrize(
    "too_much",
    [Decimal("5.01"), 6, Decimal("1E+1000"), 10**1000],
    ids=["a little", "int", "huge", "huge int"],
)
@pytest.mark.parametrize("told_by", ["settle", "find_settlement"])
async def test_what_is_settled_above_the_amount_is_recorded_and_made_up_for(
    too_much: Decimal | int, told_by: str, autojump_clock: MockClock
) -> None:
    by_settle = told_by == "settle"
    misdeed = engines.returns(too_much) if by_settle else engines.raises(OSError("reset"))
    find = None if by_settle else any_arguments(engines.returns(too_much))
    engine, store = Misbehaving(misdeed, find=find), memory_store()
    await two_accounts(store)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        account = await daemon.until(lambda account: account.settled == Decimal(too_much))
        assert EXACT.add(account.queued, Decimal(too_much)) == 5, "below zero, not dropped"
        await trio.sleep(DAY_S)
        assert len(engine.calls) == 1, "nothing is owed"
        engine.script = pay
        cents = -int(account.queued.scaleb(2, EXACT))
        await daemon.request("alice", str(cents + 200), "k3", 2)
        await daemon.until(lambda account: account.settled == account.requested)
        await bob_is_paid(daemon, "k4")
    assert [call[1] for call in engine.calls if call[0] == "alice"] == [5, 2]


async def test_what_is_settled_too_much_is_an_error_in_the_log(
    autojump_clock: MockClock, events: Events
) -> None:
    engine, store = Misbehaving(engines.returns(Decimal(6))), memory_store()
    await two_accounts(store)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.settled == 6)
    (told,) = [event for event in events if event["event"] == "settled_too_much"]
    assert (told["log_level"], told["account"]) == ("error", "alice")
    assert (told["asked"], told["settled"]) == ("5", "6")


# --- engines that do not return, and what their cancellation makes of it ---


@pytest.mark.parametrize(
    ("misdeed", "unknown", "settled"),
    [
        (engines.hangs, 5, 0),
        (engines.swallows_cancellation, 5, 0),
        (engines.pays_though_cancelled, 0, 5),
        (engines.shielded_for_a_while, 0, 5),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_a_settle_over_its_time_is_cut_off_and_what_it_says_counts(
    misdeed: Misdeed, unknown: int, settled: int, autojump_clock: MockClock
) -> None:
    engine, store = Misbehaving(misdeed), memory_store()
    await two_accounts(store)
    async with running(engine, store, settle_timeout_s=30) as daemon:
        await daemon.request("alice", "5", "k")
        await bob_is_paid(daemon, "k2")
        await daemon.until(lambda account: account.in_flight == 0)
        assert trio.current_time() < 200
        account = await store.account("alice")
        assert (account.unknown, account.settled) == (unknown, settled)
        if misdeed is engines.hangs:
            assert "settle did not return within 30 s" in (account.waiting or "")
        await trio.sleep(DAY_S)
    assert len([call for call in engine.calls if call[0] == "alice"]) == 1


@pytest.mark.parametrize("name", ["hangs", "swallows_cancellation", "pays_though_cancelled"])
async def test_a_cancelled_daemon_ends_whatever_a_settle_does_then(
    name: str, autojump_clock: MockClock
) -> None:
    """Leaving ``running`` cancels everything; nothing else may come out of it."""
    engine, store = Misbehaving(getattr(engines, name)), memory_store()
    await two_accounts(store)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.rest()
    await conserved(store)
    assert len(engine.calls) == 1
    if name == "hangs":
        assert (await store.account("alice")).in_flight == 5, "it is we who have ended, not it"


async def test_errors_beside_our_own_cancellation_do_not_come_up(
    autojump_clock: MockClock,
) -> None:
    async def fail_when_cancelled(error: BaseException) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async def misdeed() -> object:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled, OSError("late"))
            nursery.start_soon(fail_when_cancelled, SystemExit(3))
            nursery.start_soon(trio.sleep_forever)
        raise AssertionError

    engine, store = Misbehaving(misdeed), memory_store()
    await two_accounts(store)
    async with running(engine, store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.rest()
    await conserved(store)
    async with running(engine, store, settle_timeout_s=30) as daemon:
        await trio.sleep(1)
        (settlement,) = await store.settlements()
    assert settlement.state == "parked"


async def test_a_persons_ctrl_c_is_not_swallowed(autojump_clock: MockClock) -> None:
    engine, store = Misbehaving(engines.raises(KeyboardInterrupt())), memory_store()
    await two_accounts(store)
    with pytest.raises(BaseExceptionGroup) as caught:
        async with running(engine, store) as daemon:
            await daemon.request("alice", "5", "k")
            await trio.sleep(DAY_S)
    assert caught.group_contains(KeyboardInterrupt)
    assert (await store.account("alice")).in_flight == 5
    await conserved(store)
