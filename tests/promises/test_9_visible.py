"""Promise 9: whatever waits, fails or is parked says so, with the reason and what to do."""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner
from trio.testing import MockClock

from settled import NotSettled
from settled.cli import main
from settled.store.records import (
    AddCredit,
    Ambiguous,
    Credit,
    DeliveryOutcome,
    NotDelivered,
    Parked,
)
from settled.store.sqlite import open_sqlite
from tests.harness import ScriptedConnector, ScriptedEngine, memory_store, running


def events(log: list[Any]) -> set[str]:
    return {entry["event"] for entry in log}


async def no_funds(account_id: str, amount: Decimal, settlement_id: str) -> object:
    raise NotSettled("wallet holds 3: top it up")


async def boom(account_id: str, amount: Decimal, settlement_id: str) -> object:
    raise OSError("reset")


async def test_a_payment_that_is_not_sent_says_why(
    autojump_clock: MockClock, log: list[Any]
) -> None:
    store = memory_store()
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(no_funds), store) as daemon:
        await daemon.request("alice", "5", "k")
        account = await daemon.until(lambda account: account.failures > 2)
    assert account.waiting == "wallet holds 3: top it up"
    entry = next(entry for entry in log if entry["event"] == "not_sent")
    assert (entry["account"], entry["amount"], entry["log_level"]) == ("alice", "5", "warning")
    assert {"settlement", "reason", "retry_in_ms"} <= entry.keys()


async def test_a_parked_settlement_says_why_and_what_to_do(
    autojump_clock: MockClock, log: list[Any]
) -> None:
    store = memory_store()
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(boom), store) as daemon:
        await daemon.request("alice", "5", "k")
        account = await daemon.until(lambda account: account.unknown == 5)
    assert "OSError: reset" in (account.waiting or "")
    assert "settled settlements resolve" in (account.waiting or "")
    entry = next(entry for entry in log if entry["event"] == "settlement_parked")
    assert (entry["log_level"], entry["account"]) == ("error", "alice")


async def test_too_much_is_reported(autojump_clock: MockClock, log: list[Any]) -> None:
    async def double(account_id: str, amount: Decimal, settlement_id: str) -> object:
        return amount * 2

    store = memory_store()
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(double), store) as daemon:
        await daemon.request("alice", "5", "k")
        await daemon.until(lambda account: account.settled == 10)
    assert "settled_too_much" in events(log)


@pytest.mark.parametrize(
    ("outcome", "event"),
    [(NotDelivered("status 404"), "credit_not_delivered"), (Ambiguous("500"), "credit_ambiguous")],
)
async def test_an_undelivered_credit_says_why(
    outcome: DeliveryOutcome, event: str, autojump_clock: MockClock, log: list[Any]
) -> None:
    async def fail(credit: Credit) -> DeliveryOutcome:
        return outcome

    store = memory_store()
    await store.open_account("alice", setup=False)
    await store.commit([AddCredit("alice", "tx", Decimal(5))])
    async with running(ScriptedEngine(), store, ScriptedConnector(fail)):
        await trio.sleep(25 * 3600)
    (credit,) = await store.credits()
    assert event in events(log)
    if isinstance(outcome, Ambiguous):
        assert "credit_parked" in events(log)
        assert credit.reason is not None
        assert credit.reason.startswith("500; no clear answer for 23 h")
    else:
        assert credit.reason == "status 404"


async def test_every_event_of_the_log_has_a_machine_name(
    autojump_clock: MockClock, log: list[Any]
) -> None:
    store = memory_store()
    async with running(ScriptedEngine(no_funds), store) as daemon:
        await daemon.operations.open_account("alice")
        await daemon.request("alice", "5", "k")
        await trio.sleep(60)
    assert log
    assert all(re.fullmatch(r"[a-z_]+", entry["event"]) for entry in log)


async def _in_every_waiting_state(path: Path) -> None:
    async with open_sqlite(path, exclusive=True, create=True) as store:
        parked = await store.open_account("parked", setup=False)
        async with running(ScriptedEngine(boom), store) as daemon:
            await daemon.request("parked", "5", "k")
            await daemon.until(lambda account: account.unknown == 5, "parked")
        await store.record_outcome((await store.settlements())[0].id, Parked("look at the ledger"))
        await store.commit([AddCredit("parked", "tx", Decimal(7))])
        (sent,) = (await store.next_deliveries(parked.number, 1)).credits
        await store.record_delivery(sent, NotDelivered("the connector refused it: status 404"))


def test_the_commands_show_what_waits_and_why(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    trio.run(_in_every_waiting_state, path)

    def shown(*arguments: str) -> Any:
        result = CliRunner().invoke(main, [*arguments, "--db", str(path), "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.output)

    (account,) = shown("accounts", "list")
    assert (account["unknown"], account["waiting"]) == ("5", "look at the ledger")
    (settlement,) = shown("settlements", "list", "--state", "parked")
    assert settlement["reason"] == "look at the ledger"
    (credit,) = shown("credits", "list", "--state", "undelivered")
    assert credit["reason"] == "the connector refused it: status 404"
