"""What all commands on the books share: help, exit codes, lists, and text from strangers."""

import json
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from settled import limits
from settled.cli import main
from settled.store.protocol import Store
from settled.store.records import (
    NotDelivered,
    Parked,
    Settled,
)
from tests.cli.books import begun, cli, cli_json, credited, daemon

EVIL = "no\x1b[2Jway\r\nx\x07\x7f\x9b\u202e"


# --- every command ---

COMMANDS = [
    ["accounts"],
    *(["accounts", name] for name in ("list", "show", "add", "remove")),
    ["settle"],
    ["settlements"],
    *(["settlements", name] for name in ("list", "show", "resolve")),
    ["credits"],
    *(["credits", name] for name in ("list", "show", "retry", "resolve")),
    ["audit"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_shows_examples(command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--help"])
    assert result.exit_code == 0
    assert "Examples:\n  " in result.output
    assert f"  settled {' '.join(command)}" in result.output


@pytest.mark.parametrize(
    "command",
    [
        ["accounts", "list"],
        ["accounts", "show", "alice"],
        ["accounts", "remove", "alice"],
        ["settle", "alice", "1"],
        ["settlements", "list"],
        ["settlements", "show", "s-1"],
        ["settlements", "resolve", "s-1", "--not-sent"],
        ["credits", "list"],
        ["credits", "show", "c"],
        ["credits", "retry", "c"],
        ["credits", "resolve", "c", "--credited"],
        ["audit"],
    ],
    ids=" ".join,
)
def test_a_missing_database_is_a_configuration_error_and_stays_missing(
    db: Path, command: list[str]
) -> None:
    result = cli(db, *command, code=78)
    assert str(db) in result.stderr
    assert list(db.parent.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["accounts", "show", "bob"],
        ["accounts", "remove", "bob"],
        ["settle", "bob", "1"],
        ["settlements", "show", "s-9"],
        ["settlements", "resolve", "s-9", "--not-sent"],
        ["credits", "show", "c"],
        ["credits", "retry", "c"],
        ["credits", "resolve", "c", "--credited"],
    ],
    ids=" ".join,
)
def test_what_does_not_exist_is_exit_code_3(db: Path, command: list[str]) -> None:
    cli(db, "accounts", "add", "alice")
    result = cli(db, *command, code=3)
    assert result.stderr
    assert result.stdout == ""


# --- lists ---


def many(db: Path, count: int) -> None:
    async def act(store: Store) -> None:
        async with trio.open_nursery() as nursery:
            for n in range(count):
                nursery.start_soon(store.open_account, f"a{n % 3}.{n}")

    daemon(db, act)


def test_a_list_ends_after_its_limit_and_says_how_to_go_on(db: Path) -> None:
    many(db, 120)
    seen: list[str] = []
    more = ["--limit", "50"]
    for expected in (50, 50, 20):
        result = cli(db, "accounts", "list", "--json", *more)
        page = json.loads(result.stdout)
        assert len(page) == expected
        seen += [account["id"] for account in page]
        if "--before" in result.stderr:
            before = result.stderr.split("--before ")[1].split(",")[0]
            more = ["--limit", "50", "--before", before]
        else:
            assert expected == 20
    assert len(set(seen)) == 120


def test_the_default_limit_keeps_a_long_list_short(db: Path) -> None:
    many(db, 120)
    rows = cli(db, "accounts", "list").stdout.splitlines()
    assert 10 < len(rows) < 60


def test_a_list_of_all_is_one_json_array_or_tables(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGE_ROWS_MAX", 7)  # so that there are several pages
    many(db, 20)
    result = cli(db, "accounts", "list", "--all", "--json")
    assert len({account["id"] for account in json.loads(result.stdout)}) == 20
    assert result.stderr == ""
    rows = cli(db, "accounts", "list", "--all").stdout.splitlines()
    assert len(rows) == 20 + 3


def test_an_empty_list_is_an_empty_array_or_says_so(db: Path) -> None:
    daemon(db, lambda store: store.accounts())
    for command in ("accounts", "settlements", "credits"):
        assert cli_json(db, command, "list") == []
        assert cli_json(db, command, "list", "--all") == []
        assert cli(db, command, "list").stdout == "None.\n"


@pytest.mark.parametrize("options", [["--limit", "0"], ["--limit", "1001"], ["--before", "x"]])
def test_a_page_out_of_range_is_wrong_usage(db: Path, options: list[str]) -> None:
    many(db, 1)
    for command in ("accounts", "settlements", "credits"):
        cli(db, command, "list", *options, code=2)
        cli(db, command, "list", "--state", "nonsense", code=2)


def test_lists_filter_by_account_and_state(db: Path) -> None:
    begun(db, Settled(Decimal(10)), settlement_id="s-1")
    begun(db, Parked("cannot tell"), settlement_id="s-2")
    credited(db)

    def listed(*args: str) -> list[str]:
        return [row["id"] for row in cli_json(db, *args)]

    assert listed("settlements", "list") == ["s-2", "s-1"]
    assert listed("settlements", "list", "--state", "settled") == ["s-1"]
    assert listed("settlements", "list", "--account", "alice", "--state", "parked") == ["s-2"]
    assert listed("settlements", "list", "--account", "bob") == []
    assert len(listed("credits", "list", "--account", "alice", "--state", "undelivered")) == 1
    assert listed("credits", "list", "--state", "credited") == []


# --- text from strangers ---


def test_nothing_that_a_stranger_wrote_drives_the_terminal(db: Path) -> None:
    begun(db, Parked(EVIL))
    credit_id = credited(db)

    async def refuse(store: Store) -> None:
        (credit,) = (await store.next_deliveries(1, 1)).credits
        await store.record_delivery(credit, NotDelivered(EVIL, 60_000))

    daemon(db, refuse)
    for args in (
        ["accounts", "list"],
        ["accounts", "show", "alice"],
        ["settlements", "list"],
        ["settlements", "show", "s-1"],
        ["credits", "list"],
        ["credits", "show", credit_id],
    ):
        assert "\\x1b" in cli(db, *args).stdout
        shown = cli_json(db, *args)  # JSON keeps it to the letter, in escapes
        row = shown[0] if isinstance(shown, list) else shown
        assert EVIL in (row.get("reason"), row.get("waiting"))
    cli(db, "settle", "alice", "1", "--wait", code=1)


# --- audit ---


def test_an_audit_of_sound_books_is_exit_code_0(db: Path) -> None:
    begun(db, Settled(Decimal(4)))
    credited(db)
    assert "All balances agree" in cli(db, "audit").stdout
    assert cli_json(db, "audit") == []


def test_an_audit_tells_what_differs_and_fails(db: Path) -> None:
    begun(db, Settled(Decimal(4)))
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute("UPDATE accounts SET settled = '5'")
    rows = cli_json(db, "audit", code=1)
    assert {"expected": "4", "found": "5"}.items() <= rows[0].items()
    assert "alice" in rows[0]["subject"]
    table = cli(db, "audit", code=1).stdout
    assert table.split()[:4] == ["SUBJECT", "WHAT", "EXPECTED", "FOUND"]
    assert "alice" in table
