"""``settled accounts`` and ``settled settle``: their output, JSON and exit codes."""

import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from settled.cli import main
from settled.store.protocol import Store
from settled.store.records import (
    Parked,
    Settled,
    Unknown,
)
from tests.cli.books import begun, cli, cli_json, daemon

ACCOUNT_KEYS = [
    *("id", "state", "requested", "queued", "in_flight", "unknown", "settled"),
    *("received", "credited", "parked", "waiting", "retry_at"),
    *("opened_at", "closed_at", "number"),
]


# --- accounts ---


def test_add_creates_the_database_and_the_account(db: Path) -> None:
    account = cli_json(db, "accounts", "add", "alice")
    assert list(account) == ACCOUNT_KEYS
    assert account.pop("opened_at").endswith("Z")
    assert account == {
        **dict.fromkeys(ACCOUNT_KEYS[2:10], "0"),
        "id": "alice",
        "state": "setup",
        "waiting": None,
        "closed_at": None,
        "retry_at": None,
        "number": 1,
    }


def test_add_again_changes_nothing(db: Path) -> None:
    first = cli_json(db, "accounts", "add", "alice")
    assert cli_json(db, "accounts", "add", "alice") == first
    assert cli_json(db, "accounts", "list") == [first]


def test_add_without_an_id_mints_one(db: Path) -> None:
    account_id = cli_json(db, "accounts", "add")["id"]
    assert len(account_id) == 36
    assert cli_json(db, "accounts", "show", account_id)["id"] == account_id


@pytest.mark.parametrize("account_id", ["a/b", "..", "é", "", "a" * 256])
def test_add_refuses_a_bad_id_and_creates_nothing(db: Path, account_id: str) -> None:
    cli(db, "accounts", "add", account_id, code=2)
    assert not db.exists()


def test_add_and_remove_say_when_no_daemon_runs(db: Path) -> None:
    assert "No daemon runs on" in cli(db, "accounts", "add", "alice").stderr
    assert "No daemon runs on" in cli(db, "accounts", "remove", "alice").stderr


def test_show_tells_all_of_an_account(db: Path) -> None:
    begun(db, Unknown("time-out"))
    shown = cli(db, "accounts", "show", "alice").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ACCOUNT_KEYS
    assert "unknown    10" in shown
    assert "waiting    time-out" in shown
    assert "closed_at  -" in shown


def test_removing_keeps_what_there_was(db: Path) -> None:
    cli(db, "accounts", "add", "alice")
    cli(db, "settle", "alice", "12.50")
    removed = cli_json(db, "accounts", "remove", "alice")
    assert (removed["state"], removed["queued"]) == ("closed", "12.5")
    assert removed["waiting"] == "the account is closed"
    assert removed["closed_at"] >= removed["opened_at"]
    assert cli_json(db, "accounts", "show", "alice") == removed
    cli(db, "accounts", "remove", "alice", code=3)
    again = cli_json(db, "accounts", "add", "alice")
    assert (again["state"], again["queued"]) == ("setup", "0")
    assert cli_json(db, "accounts", "list", "--account", "alice") == [again, removed]
    assert cli_json(db, "accounts", "list", "--state", "closed") == [removed]


def test_amounts_are_decimal_strings_to_the_last_digit(db: Path) -> None:
    cli(db, "accounts", "add", "alice")
    amount = "1" + "0" * 700 + "." + "0" * 254 + "1"
    cli(db, "settle", "alice", amount)
    cli(db, "settle", "alice", "0.10")
    queued = cli_json(db, "accounts", "show", "alice")["queued"]
    assert queued == "1" + "0" * 700 + ".1" + "0" * 253 + "1"
    assert queued in cli(db, "accounts", "list").stdout


def test_times_are_iso_8601_in_utc(db: Path) -> None:
    cli(db, "accounts", "add", "alice")
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute("UPDATE accounts SET opened_ms = 1700000000123")
    assert cli_json(db, "accounts", "show", "alice")["opened_at"] == "2023-11-14T22:13:20.123Z"
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute("UPDATE accounts SET opened_ms = 999999999999999999")
    assert cli_json(db, "accounts", "show", "alice")["opened_at"].startswith("9999-12-31")


# --- settle ---


def test_settle_queues_and_tells_the_key_it_made(db: Path) -> None:
    cli(db, "accounts", "add", "alice")
    result = cli(db, "settle", "alice", "12.50")
    key = result.stderr.splitlines()[0].removeprefix("Key: ")
    assert result.stdout == f"Queued: 12.5 for alice, key {key}.\n"
    assert "No daemon runs on" in result.stderr
    assert cli_json(db, "accounts", "show", "alice")["queued"] == "12.5"
    again = cli(db, "settle", "alice", "12.5", "--key", key)
    assert again.stdout.startswith("Was queued before: 12.5 for alice")
    assert cli_json(db, "accounts", "show", "alice")["queued"] == "12.5"


def test_settle_has_json(db: Path) -> None:
    cli(db, "accounts", "add", "alice")
    for replayed in (False, True):
        assert cli_json(db, "settle", "alice", "012.50", "--key", "k 1") == {
            "account": "alice",
            "amount": "12.5",
            "key": "k 1",
            "replayed": replayed,
            "outcome": "queued",
        }


def test_a_key_with_another_amount_fails(db: Path) -> None:
    cli(db, "accounts", "add", "alice")
    cli(db, "settle", "alice", "1", "--key", "k")
    assert "'k'" in cli(db, "settle", "alice", "2", "--key", "k", code=1).stderr
    assert cli_json(db, "accounts", "show", "alice")["queued"] == "1"


@pytest.mark.parametrize(
    "amount",
    ["0", "0.000", "1e5", "-1", "+1", "1,5", ".5", "1.", "", "ten", "0." + "1" * 256, "9" * 1025],
)
def test_what_is_no_amount_is_wrong_usage(db: Path, amount: str) -> None:
    cli(db, "accounts", "add", "alice")
    result = CliRunner().invoke(main, ["settle", "--db", str(db), "--", "alice", amount])
    assert result.exit_code == 2
    assert cli_json(db, "accounts", "show", "alice")["queued"] == "0"


@pytest.mark.parametrize("key", ["", " k", "k\n", "é", "k" * 256])
def test_a_bad_key_is_wrong_usage(db: Path, key: str) -> None:
    cli(db, "accounts", "add", "alice")
    cli(db, "settle", "alice", "1", "--key", key, code=2)
    assert cli_json(db, "accounts", "show", "alice")["queued"] == "0"


# --- settle --wait, of what needs no daemon to end ---


def test_waiting_for_what_is_settled_ends_at_once(db: Path) -> None:
    begun(db, Settled(Decimal(10)))
    answer = cli_json(db, "settle", "alice", "10", "--key", "key of s-1", "--wait")
    assert (answer["outcome"], answer["replayed"]) == ("settled", True)


def test_waiting_ends_when_a_settlement_is_parked(db: Path) -> None:
    begun(db, Parked("cannot tell"))
    result = cli(db, "settle", "alice", "1", "--wait", code=1)
    assert "; parked." in result.stdout
    assert "Settlement s-1 of 10 is parked: cannot tell." in result.stderr
    assert "`settled settlements resolve s-1 --settled AMOUNT`" in result.stderr
    assert cli_json(db, "settle", "alice", "1", "--wait", code=1)["outcome"] == "parked"


def test_waiting_ends_when_the_queue_rests_and_nothing_was_paid(db: Path) -> None:
    begun(db, Settled(Decimal(0)))
    result = cli(db, "settle", "alice", "10", "--key", "key of s-1", "--wait", code=1)
    assert "; not settled." in result.stdout
    assert "the engine settled 0 of 10: it waits for more" in result.stderr


def test_waiting_is_a_success_when_a_part_was_paid_and_the_rest_waits(db: Path) -> None:
    begun(db, Settled(Decimal(7)))

    async def rest(store: Store) -> None:
        account = await store.account("alice")
        await store.next_settlement(account.number, "s-2")
        await store.record_outcome("s-2", Settled(Decimal(0)))

    daemon(db, rest)
    args = ("settle", "alice", "10", "--key", "key of s-1", "--wait")
    assert "The rest stays queued" in cli(db, *args).stderr
    assert cli_json(db, *args)["outcome"] == "settled in part"


def test_waiting_ends_when_the_account_is_closed(db: Path) -> None:
    cli(db, "accounts", "add", "alice")
    cli(db, "settle", "alice", "10", "--key", "k")
    cli(db, "accounts", "remove", "alice")
    cli(db, "accounts", "add", "alice")  # a new life, which owes nothing
    result = cli(db, "settle", "alice", "10", "--key", "k", "--wait", code=1)
    assert "Account alice is closed" in result.stderr


# --- what is wrong, and what is parked ---


def test_an_amount_below_zero_is_told_as_one(db: Path) -> None:
    cli(db, "accounts", "add", "alice")
    assert "AMOUNT must be more than zero" in cli(db, "settle", "alice", "-5", code=2).stderr
    assert "No such option '--wings'" in cli(db, "settle", "alice", "--wings", code=2).stderr


def test_an_unknown_account_gets_no_key(db: Path) -> None:
    cli(db, "accounts", "add", "alice")
    said = cli(db, "settle", "nobody", "5", code=3).stderr
    assert "Key:" not in said
    assert "`settled accounts add`" in said


def test_a_wrong_reserve_does_not_stop_a_look(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli(db, "accounts", "add", "alice")
    monkeypatch.setenv("SETTLED_DISK_RESERVE", "banana")
    result = cli(db, "accounts", "list")
    assert "alice" in result.stdout
    assert "SETTLED_DISK_RESERVE" in result.stderr


def test_a_parked_settlement_is_named_in_the_list_and_json_stays(db: Path) -> None:
    begun(db, Parked("cannot tell: `settled settlements resolve`"))
    table = cli(db, "accounts", "list").stdout
    assert "parked s-1: cannot tell: `settled settlements resolve s-1`" in table
    (row,) = cli_json(db, "accounts", "list")
    assert list(row) == ACCOUNT_KEYS
    assert row["waiting"] == "cannot tell: `settled settlements resolve`"
