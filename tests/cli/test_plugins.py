"""Commands that other packages install: part of ``settled``, and no trouble to the rest of it."""

import json
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from settled import State, StateChanged, Transaction, open_sqlite
from settled.cli.root import COMMANDS, main
from settled.commands import change_state, read_state
from settled.store.records import SetState
from tests.engines.test_engine_authors_guide import FILES

Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package with these entry points; its module is the guide's."""
    (tmp_path / "bank_commands.py").write_text(FILES["bank_commands.py"])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def make(points: str) -> None:
        name = f"mine{len(list(tmp_path.glob('*.dist-info')))}"
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[settled.commands]\n{points}\n")

    yield make
    sys.modules.pop("bank_commands", None)


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def test_a_command_of_an_engine_reads_the_engines_state(install: Install, tmp_path: Path) -> None:
    install("bank = bank_commands:bank")
    assert "Look at what the bank engine knows." in run("--help").stdout

    async def write() -> None:
        async with open_sqlite(tmp_path / "settled.db", exclusive=True, create=True) as store:
            await store.commit([SetState(None, "unclaimed:7", b'"rent"')])

    trio.run(write)
    shown = run("bank", "unclaimed", "--json")
    assert json.loads(shown.stdout) == {"unclaimed:7": "rent"}
    assert "rent" in run("bank", "unclaimed").stdout
    missing = run("bank", "unclaimed", "--db", "none.db")
    assert missing.exit_code != 0
    assert missing.stderr.count("\n") == 1


def test_a_command_of_an_engine_changes_its_state_beside_a_daemon(tmp_path: Path) -> None:
    db = tmp_path / "settled.db"

    async def beside(change: Callable[[State, Transaction], Awaitable[int]]) -> tuple[int, int]:
        """Change the state while a daemon holds the database; return the result and the state."""
        async with open_sqlite(db, exclusive=True, create=True) as store:
            await store.commit([SetState(None, "n", b"1")])
            result = await trio.to_thread.run_sync(change_state, db, change)
            return result, await State(store).get("n")

    tries: list[int] = []

    async def add(state: State, changes: Transaction) -> int:
        n = int(await state.get("n"))
        tries.append(n)
        changes.require_state("n", n)
        changes.set_state("n", n + 1)
        if len(tries) < 3:  # the daemon is faster
            other = sqlite3.connect(db, isolation_level=None)
            other.execute("UPDATE engine_state SET value = ? WHERE key = 'n'", (b"%d" % (10 * n),))
            other.close()
        return n

    assert trio.run(beside, add) == (100, 101)
    assert tries == [1, 10, 100]

    async def never(state: State, changes: Transaction) -> int:
        changes.require_state("n", 0)
        changes.set_state("n", 7)
        return 0

    with pytest.raises((StateChanged, ExceptionGroup)):
        trio.run(beside, never)
    assert read_state(db, lambda state: state.get("n")) == 1


def test_it_is_not_imported_before_it_is_asked_for(install: Install) -> None:
    install("bank = bank_commands:bank")
    assert run("engines").exit_code == 0
    assert "bank_commands" not in sys.modules


@pytest.mark.parametrize(
    ("point", "why"),
    [
        ("bank_commands:gone", "gone"),
        ("no_such_module:bank", "no_such_module"),
        ("bank_commands:read_state", "is not a click command"),
    ],
)
def test_a_broken_one_says_why_in_one_line_and_hides_no_other(
    install: Install, point: str, why: str
) -> None:
    install(f"broken = {point}")
    shown = run("--help")
    assert shown.exit_code == 0
    assert "broken" in shown.stdout
    assert all(name in shown.stdout for name in COMMANDS)
    result = run("broken", "list", "--all")
    assert result.exit_code == 78
    assert result.stderr.startswith("settled: error: command broken cannot be loaded: ")
    assert why in result.stderr
    assert result.stderr.count("\n") == 1


def test_one_name_of_two_packages_is_neither_ones(install: Install) -> None:
    install("bank = bank_commands:bank")
    install("bank = other:bank")
    result = run("bank", "unclaimed")
    assert result.exit_code == 78
    assert "installed more than once (bank_commands:bank, other:bank)" in result.stderr


def test_a_command_of_settled_itself_cannot_be_replaced(install: Install) -> None:
    install("audit = bank_commands:bank")
    assert "unclaimed" not in run("audit", "--help").stdout
    assert "Recompute" in run("audit", "--help").stdout
    assert run("--help").stdout.count(" audit ") == 1
    assert run("nothing").exit_code == 2
