"""The end: what is under way is seen to its end, and nothing begins."""

from decimal import Decimal

import pytest
import trio
from trio.testing import MockClock

from settled.store.records import AddCredit, Credit, Delivered, DeliveryOutcome
from tests.harness import ScriptedConnector, ScriptedEngine, memory_store, running

TIMES_S = {"alice": 30, "carol": 40, "bob": 1}


@pytest.mark.parametrize("slow", ["settle", "deliver", "setup_account"])
async def test_a_drain_waits_for_what_is_under_way_and_begins_nothing(
    slow: str, autojump_clock: MockClock
) -> None:
    begun: list[str] = []

    async def work(kind: str, account_id: str) -> None:
        begun.append(f"{kind} {account_id}")
        await trio.sleep(TIMES_S[account_id] if kind == slow else 0)

    async def settle(account_id: str, amount: Decimal, settlement_id: str) -> object:
        await work("settle", account_id)
        return amount

    async def set_up(account_id: str) -> None:
        await work("setup_account", account_id)

    async def deliver(credit: Credit) -> DeliveryOutcome:
        await work("deliver", credit.account_id)
        return Delivered()

    async def ask(account_id: str) -> None:
        account = await store.open_account(account_id, setup=slow == "setup_account")
        await store.commit([AddCredit(account_id, "tx", Decimal(7))])
        await daemon.request(account_id, "5", "k")
        for scheduler in daemon.core._schedulers.values():
            scheduler.wake(account.number)
        await daemon.rest()

    store = memory_store()
    engine = ScriptedEngine(settle, setup_account=set_up)
    async with running(engine, store, ScriptedConnector(deliver)) as daemon:
        await ask("alice")
        await ask("carol")
        assert {f"{slow} alice", f"{slow} carol"} <= set(begun)
        started_s = trio.current_time()
        with trio.fail_after(300):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(daemon.core.drain)
                await trio.sleep(1)
                await ask("bob")
        assert trio.current_time() - started_s == pytest.approx(40)
        assert not [what for what in begun if what.endswith("bob")]
        account = await store.account("carol")
        done = {
            "settle": account.settled == 5,
            "deliver": account.credited == 7,
            "setup_account": account.state == "open",
        }
        assert done[slow], "its outcome is recorded"
