"""What a command, too, refuses to work on: a database that has lost something."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio
from sqlite_utils import Database

from settled.amounts import Quantity
from settled.errors import ConfigError, SettledError
from settled.store import lock, soundness
from settled.store.sql.schema import MIGRATIONS
from settled.store.sqlite import open_sqlite

LOST = "has lost acknowledged changes: its journal had reached entry "


@pytest.fixture
def made(path: Path) -> Path:
    """A database with two entries in its journal, of which ``x.db.older`` has one."""

    async def make() -> None:
        for n in range(2):
            async with open_sqlite(path, exclusive=True, create=True) as store:
                await store.open_account("alice", setup=False)
                await store.queue_settlement("alice", Quantity("5", 0), f"k{n}")
            if not n:
                shutil.copy(path, path.with_name("x.db.older"))

    trio.run(make)
    return path


def refusal(path: Path) -> str:
    """Return why a command may not work on it, which must have been left as it was."""
    before = {found.name: found.read_bytes() for found in path.parent.iterdir()}
    with pytest.raises(ConfigError) as caught:
        soundness.refuse_loss(path)
    assert {found.name: found.read_bytes() for found in path.parent.iterdir()} == before
    return str(caught.value)


def test_a_sound_one_is_worked_on_with_a_daemon_or_without(made: Path) -> None:
    soundness.refuse_loss(made)
    with lock.held(made):
        soundness.refuse_loss(made)
    record = lock.lock_path(made).read_bytes()
    lock.lock_path(made).unlink()
    soundness.refuse_loss(made)
    lock.lock_path(made).write_bytes(record)
    made.write_bytes(b"")
    soundness.refuse_loss(made)  # that it is empty is told elsewhere


@pytest.mark.parametrize("held", [True, False])
def test_what_is_older_than_what_was_acknowledged(made: Path, held: bool) -> None:
    made.with_name("x.db.older").replace(made)
    if held:
        with lock.held(made):
            assert f"{LOST}2 and has 1." in refusal(made)
    else:
        assert f"{LOST}2 and has 1." in refusal(made)
    lock.lock_path(made).unlink()
    soundness.refuse_loss(made)


def test_what_has_no_tables_where_there_were_some(made: Path) -> None:
    made.unlink()
    with closing(sqlite3.connect(made)) as conn:
        MIGRATIONS.ensure_migrations_table(Database(conn))
        conn.commit()
    assert f"{LOST}2 and has no tables." in refusal(made)
    lock.lock_path(made).unlink()
    soundness.refuse_loss(made)


def test_what_has_two_names(made: Path) -> None:
    made.with_name("other").hardlink_to(made)
    assert "2 names (hard links)" in refusal(made)


def test_what_is_no_database_any_more(made: Path) -> None:
    made.write_bytes(b"\0" * 100 + made.read_bytes()[100:])
    with pytest.raises(SettledError, match="is damaged"):
        soundness.refuse_loss(made)


async def test_what_has_the_log_of_another(path: Path, tmp_path: Path) -> None:
    logs = []
    for name, amounts in (("x.db", "1234"), ("other.db", "9876")):
        async with open_sqlite(tmp_path / name, exclusive=True, create=True) as store:
            await store.open_account("alice", setup=False)
            await store.queue_settlement("alice", Quantity(amounts[0], 0), "k0")
        async with open_sqlite(tmp_path / name, exclusive=True) as store:
            for n in range(1, 4):
                await store.queue_settlement("alice", Quantity(amounts[n], 0), f"k{n}")
            logs.append((tmp_path / f"{name}-wal").read_bytes())
            if name == "x.db":
                shutil.copy(path, tmp_path / "kept")
    shutil.copy(tmp_path / "kept", path)
    (tmp_path / "x.db-wal").write_bytes(logs[0])
    soundness.refuse_loss(path)
    shutil.copy(tmp_path / "kept", path)
    (tmp_path / "x.db-wal").write_bytes(logs[1])
    with pytest.raises(ConfigError, match="x.db-wal belongs to another database"):
        soundness.refuse_loss(path)
