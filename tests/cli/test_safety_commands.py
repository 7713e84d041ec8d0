"""`settled backup` and `settled release`, as an operator types them."""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from settled.amounts import Quantity
from settled.store.protocol import Store
from tests.cli.books import cli, cli_json, daemon
from tests.cli.test_data_processes import on_terminal


@pytest.fixture
def owing(db: Path) -> Path:
    """Return a database in which 10 are queued for alice and 3 for bob."""

    async def owe(store: Store) -> None:
        for account_id, amount in (("alice", "10"), ("bob", "3")):
            await store.open_account(account_id, setup=False)
            await store.queue_settlement(account_id, Quantity(amount, 0), f"k-{account_id}")

    daemon(db, owe)
    return db


@pytest.fixture
def restored(owing: Path) -> Path:
    cli(owing, "backup", "copy.db")
    return owing.with_name("copy.db")


def test_a_backup_is_an_ordinary_database(owing: Path, tmp_path: Path) -> None:
    result = cli(owing, "backup", str(tmp_path / "copy.db"))
    assert f"{tmp_path}/copy.db has " in result.stdout
    assert "checked.\n" in result.stdout
    assert result.stderr == ""
    for command in (("accounts", "list"), ("settlements", "list"), ("credits", "list")):
        columns = [
            {key: value for key, value in row.items() if key != "waiting"}
            for row in cli_json(tmp_path / "copy.db", *command)
        ]
        assert columns == [
            {key: value for key, value in row.items() if key != "waiting"}
            for row in cli_json(owing, *command)
        ]


def test_a_backup_tells_its_result_as_json(owing: Path) -> None:
    told = cli_json(owing, "backup", "copy.db")
    assert told["file"] == "copy.db"
    assert told["bytes"] == owing.with_name("copy.db").stat().st_size
    assert told["taken_at"].startswith("20")


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        ("copy.db", 1, "copy.db exists: give another file, or --force to replace it"),
        ("no/copy.db", 1, "cannot write a backup to no/copy.db: No such file or directory; "),
        (".", 1, "is a directory"),
        ("/sys/copy.db", 1, "cannot write a backup to /sys/copy.db: Permission denied; "),
    ],
)
def test_a_backup_that_cannot_be_made_says_so_in_a_line(
    restored: Path, target: str, code: int, said: str
) -> None:
    before = sorted(restored.parent.iterdir())
    result = cli(restored.with_name("books.db"), "backup", target, code=code)
    assert result.stderr.startswith("settled: error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(restored.parent.iterdir()) == before


def test_a_backup_can_be_replaced(owing: Path, restored: Path) -> None:
    cli(restored, "release", "bob", "--nothing-paid")
    cli(owing, "backup", "--force", str(restored))
    assert len(cli_json(restored, "release")["held"]) == 2
    cli(restored, "release", "--all", "--nothing-paid")
    refused = cli(owing, "backup", "--force", str(restored), code=1).stderr
    assert "is no backup, and --force replaces nothing else" in refused


def test_a_backup_leaves_the_reserve_alone(owing: Path, tmp_path: Path) -> None:
    settings = tmp_path / "reserving.toml"
    settings.write_text('disk_reserve = "900000000M"\n')
    refused = cli(owing, "backup", "copy.db", "--config", str(settings), code=75).stderr
    assert "no backup was made at copy.db: it takes 0." in refused
    assert not owing.with_name("copy.db").exists()


def test_a_backup_of_nothing_is_refused(db: Path) -> None:
    assert "no database at" in cli(db, "backup", "copy.db", code=78).stderr
    assert list(db.parent.iterdir()) == []


async def test_on_a_terminal_a_backup_shows_progress(tmp_path: Path) -> None:
    commands = [
        [sys.executable, "-m", "settled", *args] for args in (["accounts", "add", "alice"],)
    ]
    db = ["--db", str(tmp_path / "books.db")]
    with trio.fail_after(30):
        await trio.run_process([*commands[0], *db], capture_stdout=True, capture_stderr=True)
        code, shown = await on_terminal(
            [sys.executable, "-m", "settled", "backup", str(tmp_path / "copy.db"), *db]
        )
    assert code == 0
    assert "Copy" in shown
    assert "Check" in shown
    assert shown.count("100%") == 2


def test_release_shows_what_is_held(owing: Path, restored: Path) -> None:
    assert cli(owing, "release").stdout == "Nothing is held.\n"
    assert cli_json(owing, "release") == {"backup_taken_at": None, "held": [], "closed": []}
    shown = cli(restored, "release").stdout
    assert shown.startswith("A backup of 20")
    assert "`settled release ACCOUNT --paid AMOUNT`, or `--nothing-paid`" in shown.splitlines()[1]
    held = cli_json(restored, "release")
    taken_at = held["backup_taken_at"]
    assert [line.split() for line in shown.splitlines()[2:]] == [
        ["ACCOUNT", "QUEUED", "PAID", "SINCE"],
        ["alice", "10", taken_at],
        ["bob", "3", taken_at],
    ]
    assert held["held"] == [
        {"account": "alice", "queued": "10", "paid_since": taken_at},
        {"account": "bob", "queued": "3", "paid_since": taken_at},
    ]


def test_release_of_an_account_tells_how_it_stands(restored: Path) -> None:
    result = cli(restored, "release", "alice", "--paid", "7.5")
    assert f"No daemon runs on {restored}: it is paid when `settled run` starts." in result.stderr
    assert "queued     2.5\n" in result.stdout
    assert cli_json(restored, "release", "bob", "--nothing-paid")["queued"] == "3"
    assert cli_json(restored, "release")["held"] == []
    cli(restored, "release", "--all")
    assert cli(restored, "release").stdout == "Nothing is held.\n"
    assert "nothing is held" in cli(restored, "release", "--all", code=1).stderr
    assert cli(restored, "audit").exit_code == 0


def test_all_is_released_only_by_a_word_on_what_is_held(restored: Path) -> None:
    refused = cli(restored, "release", "--all", code=1).stderr
    assert "alice (10), bob (3); " in refused
    assert "`settled release --all --nothing-paid`" in refused
    assert len(cli_json(restored, "release")["held"]) == 2
    cli(restored, "release", "alice", "--paid", "7.5")
    shown = cli(restored, "release", "--all", "--nothing-paid").stdout
    assert [line.split() for line in shown.splitlines()[:-1]] == [
        ["ACCOUNT", "SET", "FREE"],
        ["bob", "3"],
    ]
    assert shown.endswith("Nothing is held any more.\n")


def test_all_released_is_told_as_json(restored: Path) -> None:
    told = cli_json(restored, "release", "--all", "--nothing-paid")
    assert told["released"] == [
        {"account": "alice", "queued": "10"},
        {"account": "bob", "queued": "3"},
    ]


def test_an_account_that_was_closed_is_listed_and_can_be_released(restored: Path) -> None:
    cli(restored, "accounts", "remove", "bob")
    shown = cli_json(restored, "release")
    since = shown["backup_taken_at"]
    assert shown["closed"] == [{"account": "bob", "queued": "3", "paid_since": since}]
    assert "closed: the rest is paid by hand" in cli(restored, "release").stdout
    result = cli(restored, "release", "bob", "--paid", "2")
    assert "queued     1\n" in result.stdout
    assert "The account is closed: pay by hand what is still queued." in result.stderr
    assert cli_json(restored, "release")["closed"] == []
    assert cli(restored, "audit").exit_code == 0


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["alice", "--all"], 2, "give an ACCOUNT or --all, not both"),
        (["--paid", "3"], 2, "--paid goes with an ACCOUNT"),
        (["--all", "--paid", "3"], 2, "--paid goes with an ACCOUNT"),
        (["alice", "--paid", "x"], 2, "amount"),
        (["alice", "--paid", "-1"], 2, "amount"),
        (["alice", "--paid", "11"], 1, "`settled settle alice 1 --key THE-CONNECTORS-KEY`"),
        (["carol", "--nothing-paid"], 3, "no open account 'carol'"),
        (["alice"], 2, "give one of --paid AMOUNT and --nothing-paid"),
        (["alice", "--paid", "3", "--nothing-paid"], 2, "give one of --paid AMOUNT and"),
        (["--nothing-paid"], 2, "--nothing-paid goes with an ACCOUNT or --all"),
    ],
)
def test_release_refuses_what_cannot_be(
    restored: Path, args: list[str], code: int, said: str
) -> None:
    assert said in cli(restored, "release", *args, code=code).stderr
    assert len(cli_json(restored, "release")["held"]) == 2


def test_a_daemon_says_that_it_runs_on_a_restored_backup(restored: Path) -> None:
    command = [sys.executable, "-m", "settled", "run", "--engine", "loopback", "--db", "copy.db"]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--log-format", "json"],
        cwd=restored.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "listens on" in process.stdout.readline()
        process.terminate()
        _, log = process.communicate(timeout=30)
    events = [json.loads(line) for line in log.splitlines()]
    (told,) = [event for event in events if event["event"] == "restored_backup"]
    assert told["held_accounts"] == 2
    assert "`settled release`" in told["advice"]
    assert Decimal(cli_json(restored, "accounts", "show", "alice")["queued"]) == 10
