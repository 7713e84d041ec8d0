"""``settled ethereum``: what it shows is what the engine wrote down."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from engines.ethereum.fees import Fees
from engines.ethereum.payments import Payments
from engines.ethereum.peers import Peers
from engines.ethereum.transactions import Payment
from engines.ethereum.transfers import Crediting, Transfer
from settled import Services, open_sqlite
from settled.cli import main

ADDRESS = "0x" + "ab" * 20


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "settled.db"


def shown(db: Path, *args: str) -> str:
    result = CliRunner().invoke(main, ["ethereum", *args, "--db", str(db)])
    assert result.exit_code == 0, result.output
    return result.stdout


async def write(db: Path, payments: list[Payment], transfers: list[Transfer]) -> None:
    async with (
        open_sqlite(db, exclusive=True, create=True) as store,
        trio.open_nursery() as nursery,
    ):
        connector: Any = None
        services = Services(store, connector, nursery)
        peers = Peers(services, Crediting(None))
        async with services.transaction() as changes:
            for transfer in transfers:
                peers.keep(changes, transfer)
            for payment in payments:
                changes.set_state(payment.key, payment.to_state())


def payment(nonce: int, settled: Decimal | None) -> Payment:
    return Payment(
        settlement_id=f"s{nonce}",
        account_id="alice",
        payee=ADDRESS,
        to=ADDRESS,
        value=10**18,
        data="0x",
        units=10**18,
        gas=21000,
        fees=Fees(2_500_000_000, 10**9),
        head=7,
        nonce=nonce,
        hashes=("0x1", "0x2"),
        settled=settled,
    )


def test_unclaimed_payments_are_listed_oldest_first(db: Path) -> None:
    transfers = [
        Transfer(f"1:0x{n}:value", ADDRESS, Decimal(n) / 10, block) for n, block in ((1, 9), (2, 8))
    ]
    trio.run(write, db, [], transfers)
    rows = json.loads(shown(db, "unclaimed", "--json"))
    assert [(row["amount"], row["block"], row["transfer"]) for row in rows] == [
        ("0.2", 8, "1:0x2:value"),
        ("0.1", 9, "1:0x1:value"),
    ]
    assert rows[0]["address"] == ADDRESS
    table = shown(db, "unclaimed")
    assert table.split("\n")[0].split() == [
        "ADDRESS",
        "AMOUNT",
        "TRANSFER",
        "BLOCK",
        "FIRST",
        "SEEN",
    ]
    assert table.count(ADDRESS) == 2


def test_an_unclaimed_payment_is_dismissed_for_good(db: Path) -> None:
    transfers = [Transfer(f"1:0x{n}:value", ADDRESS, Decimal(n), n) for n in (1, 2)]
    trio.run(write, db, [], transfers)
    told = json.loads(shown(db, "dismiss", "1:0x1:value", "--reason", "sent back", "--json"))
    assert (told["amount"], told["transfer"], told["reason"]) == ("1", "1:0x1:value", "sent back")
    assert datetime.fromisoformat(told["dismissed_at"]) <= datetime.now(UTC)
    (left,) = json.loads(shown(db, "unclaimed", "--json"))
    assert (left["transfer"], left["dismissed_at"], left["reason"]) == ("1:0x2:value", None, None)
    everything = json.loads(shown(db, "unclaimed", "--all", "--json"))
    assert [row["reason"] for row in everything] == ["sent back", None]
    assert everything[0] == told
    assert "sent back" in shown(db, "unclaimed", "--all")
    assert "REASON" not in shown(db, "unclaimed")
    again = CliRunner().invoke(main, dismissal(db, "1:0x1:value", "no"))
    assert again.exit_code == 0
    assert "sent back" in again.stdout
    assert "the first reason stands" in again.stderr
    shown(db, "dismiss", "1:0x2:value", "--reason", "ours")
    assert "No payment is unclaimed" in shown(db, "unclaimed")
    assert "Dismissed: 2, which --all shows." in shown(db, "unclaimed")


def dismissal(db: Path, transfer: str, reason: str) -> list[str]:
    return ["ethereum", "dismiss", transfer, "--reason", reason, "--db", str(db)]


def test_only_what_is_unclaimed_is_dismissed_and_for_a_reason(db: Path) -> None:
    trio.run(write, db, [], [Transfer("1:0x1:value", ADDRESS, Decimal(1), 1)])
    for transfer, reason, code in (
        ("1:0x2:value", "x", 3),
        ("1:0x1:value", " ", 2),
        ("1:0x1:value", "x" * 1001, 2),
    ):
        result = CliRunner().invoke(main, dismissal(db, transfer, reason))
        assert result.exit_code == code, result.output
    assert len(json.loads(shown(db, "unclaimed", "--json"))) == 1


def test_transactions_are_listed_by_nonce(db: Path) -> None:
    payments = [payment(2, None), payment(10, Decimal(1)), payment(1, Decimal(0))]
    trio.run(write, db, payments, [])
    rows = json.loads(shown(db, "transactions", "--json"))
    assert [(row["nonce"], row["state"]) for row in rows] == [
        (1, "not sent"),
        (2, "pending"),
        (10, "settled"),
    ]
    assert rows[0]["hash"] == "0x2"
    assert rows[0]["max_fee"] == "2.5 gwei"
    assert rows[0]["payee"] == ADDRESS
    assert datetime.fromisoformat(rows[0]["sent_at"]) <= datetime.now(UTC)
    assert "alice" in shown(db, "transactions")


async def write_history(db: Path) -> None:
    async with (
        open_sqlite(db, exclusive=True, create=True) as store,
        trio.open_nursery() as nursery,
    ):
        connector: Any = None
        payments = Payments(Services(store, connector, nursery))
        await payments.load()
        for nonce in range(12):
            account_id = "alice" if nonce % 3 else "bob"
            await payments.add(replace(payment(nonce, None), account_id=account_id), nonce)
            settled = Decimal(nonce) / 10
            await payments.change([replace(payment(nonce, settled), account_id=account_id)])


def test_which_transaction_paid_a_settlement_is_known_long_after(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.ethereum.history.KEPT", 5)
    trio.run(write_history, db)
    rows = json.loads(shown(db, "transactions", "--json"))
    assert [row["nonce"] for row in rows] == [9, 11]
    rows = json.loads(shown(db, "transactions", "--all", "--json"))
    assert [row["nonce"] for row in rows] == [7, 8, 9, 10, 11], "the latest, and no more"
    assert all(row["settlement"] == f"s{row['nonce']}" for row in rows)
    (row,) = json.loads(shown(db, "transactions", "--settlement", "s8", "--json"))
    assert (row["settled"], row["hash"], row["account"]) == ("0.8", "0x2", "alice")
    assert row["sent_at"].startswith("20")
    last = json.loads(shown(db, "transactions", "--settlement", "s11", "--json"))
    assert [sorted(each) for each in last] == [sorted(row)]
    args = ["ethereum", "transactions", "--settlement", "s1", "--db", str(db)]
    gone = CliRunner().invoke(main, args)
    assert gone.exit_code == 3
    assert "older than the latest" in gone.stderr


async def write_peers(db: Path) -> None:
    async with (
        open_sqlite(db, exclusive=True, create=True) as store,
        trio.open_nursery() as nursery,
    ):
        connector: Any = None
        services = Services(store, connector, nursery)
        await services.state.set("wallet", {"address": "0x" + "00" * 20})
        peers = Peers(services, Crediting(None))
        for account_id, number in (("alice", 1), ("alice", 2), ("bob", 3)):
            await store.open_account(account_id)
            await peers.learn(account_id, f"0x{number:040x}")
        await store.close_account("bob")
        await peers.release("bob")


def test_addresses_tell_ours_and_whose_the_others_are(db: Path) -> None:
    trio.run(write_peers, db)
    rows = json.loads(shown(db, "addresses", "--json"))
    assert [(row["account"], row["state"], int(row["address"], 16)) for row in rows] == [
        (None, "ours", 0),
        ("alice", "former", 1),
        ("alice", "current", 2),
        ("bob", "closed", 3),
    ]
    assert "None" not in shown(db, "addresses")


def test_with_nothing_to_show_it_says_so(db: Path) -> None:
    trio.run(write, db, [], [])
    assert shown(db, "unclaimed") == "No payment is unclaimed.\n"
    assert shown(db, "transactions") == "No transaction is on record.\n"
    assert shown(db, "addresses") == "No daemon has run the engine on it yet.\n"
    assert json.loads(shown(db, "unclaimed", "--json")) == []


def test_the_command_is_installed_and_needs_no_library_of_the_chain() -> None:
    code = (
        "import sys; sys.modules['eth_account'] = None; "
        "from settled.cli import main; main(['ethereum', 'unclaimed', '--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert "Examples" in done.stdout
