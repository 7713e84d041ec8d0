"""A restored backup may be older than what was acknowledged; what is done on it must not go."""

from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from settled import limits
from settled.store import file
from settled.store.backup import back_up
from settled.store.records import Settled
from settled.store.sqlite import open_sqlite
from tests.damage.books import LOCK, LOG, NAME, Files, closed_files, files, put, start

BACKUP = "backup.db"


@pytest.fixture
async def restored(path: Path) -> Path:
    """A backup in the place of a database that had come further."""
    directory = path.parent
    await closed_files(directory)
    back_up(path, directory / BACKUP)
    async with open_sqlite(path, exclusive=True) as store:
        await store.open_account("later", setup=False)
        number = (await store.account("bob")).number
        await store.next_settlement(number, "lost")
    restore(path)
    return path


def restore(path: Path) -> None:
    """Put the backup in the place of the database, as an operator does; the lock file stays."""
    lock = (path.parent / LOCK).read_bytes()
    put(path.parent, {NAME: (path.parent / BACKUP).read_bytes(), LOCK: lock})


async def pay(path: Path) -> tuple[Files, Files]:
    """Release alice and pay her, as a daemon; return the files of before, and after a crash."""
    async with open_sqlite(path, exclusive=True) as store:
        before = files(path.parent)
        number = (await store.account("alice")).number
        step = await store.next_settlement(number, "once")
        if not step.begun:
            await store.release("alice", Decimal(0))
            step = await store.next_settlement(number, "once")
        assert step.begun
        await store.record_outcome("once", Settled(Decimal(1)))
        return before, files(path.parent)


@pytest.mark.parametrize("released", ["never", "before the start"])
async def test_what_is_paid_from_a_restored_backup_is_not_lost_with_its_log(
    restored: Path, released: str
) -> None:
    if released != "never":
        async with open_sqlite(restored, exclusive=False) as beside:
            await beside.release("alice", Decimal(0))
    _, killed = await pay(restored)
    assert killed[LOG]
    put(restored.parent, {name: killed[name] for name in (NAME, LOCK)})
    assert "has lost acknowledged changes" in await start(restored)


async def test_an_older_copy_of_a_restored_backup_in_use_is_refused(restored: Path) -> None:
    before, killed = await pay(restored)
    put(restored.parent, {**before, LOCK: killed[LOCK]})
    assert "has lost acknowledged changes" in await start(restored)


async def test_the_same_backup_can_be_restored_again_and_holds_all(restored: Path) -> None:
    await pay(restored)
    restore(restored)
    assert isinstance(await start(restored), dict)
    async with open_sqlite(restored, exclusive=True) as store:
        held = await store.held()
        assert held is not None
        assert "alice" in [account[0] for account in held.accounts]


async def test_all_may_be_released_before_the_first_start(restored: Path) -> None:
    async with open_sqlite(restored, exclusive=False) as beside:
        await beside.release_all(nothing_paid=True)
    started = await start(restored)
    assert isinstance(started, dict), started


async def test_a_backup_that_a_command_reads_is_not_used_before_that_is_in_its_file(
    restored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BUSY_TIMEOUT_S", 0.1)
    with closing(file.connect(restored, read_only=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM accounts").fetchone()
        assert "in use by a command" in await start(restored)
        in_log = files(restored.parent)
    put(restored.parent, in_log)
    _, killed = await pay(restored)
    put(restored.parent, {name: killed[name] for name in (NAME, LOCK)})
    assert "has lost acknowledged changes" in await start(restored)


async def test_any_other_database_can_be_started_while_a_command_reads_it(path: Path) -> None:
    await closed_files(path.parent)
    with closing(file.connect(path, read_only=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM accounts").fetchone()
        for _ in range(2):
            assert isinstance(await start(path), dict)
