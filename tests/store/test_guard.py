"""What a daemon watches over: its files, and whether they are sound."""

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from settled.amounts import Quantity
from settled.errors import AccountNotFound, ConfigError, SettledError, StoreBroken, StoreFull
from settled.store import copies, file, lock, soundness
from settled.store.guard import HELD, Guard
from settled.store.sql import reads
from settled.store.sqlite import open_sqlite
from tests.store.test_remembered import wrapped

GONE = "was deleted, renamed or replaced"


def error(code: int) -> sqlite3.Error:
    found = sqlite3.DatabaseError("it failed")
    found.sqlite_errorcode = code
    return found


@pytest.fixture
def made(path: Path) -> Path:
    """A database with one entry in its journal, and no lock file."""

    async def make() -> None:
        async with open_sqlite(path, exclusive=True, create=True) as store:
            await store.open_account("alice", setup=False)
            await store.queue_settlement("alice", Quantity("5", 0), "k")

    trio.run(make)
    lock.lock_path(path).unlink()
    return path


@contextmanager
def guarding(path: Path) -> Iterator[Guard]:
    with lock.held(path) as hold, closing(file.connect(path)):
        guard = Guard(path, hold)
        try:
            yield guard
        finally:
            HELD.discard(guard)
            guard._conn.close()


def rescued(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.*.rescued"))


async def test_those_of_the_process_are_listed_while_they_are_held(made: Path) -> None:
    assert not HELD
    async with open_sqlite(made, exclusive=True):
        (guard,) = HELD
        assert guard.saving is False
    assert not HELD
    with pytest.raises(StoreBroken, match=GONE):
        async with open_sqlite(made, exclusive=True):
            made.unlink()
    assert not HELD
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        guard._conn.execute("SELECT 1")


def test_what_has_gone_once_stays_gone(made: Path) -> None:
    """Between the two looks something may have been written to the other file."""
    with guarding(made) as guard:
        guard.check()
        made.rename(made.with_name("elsewhere"))
        with pytest.raises(StoreBroken, match=GONE):
            guard.check()
        made.with_name("elsewhere").rename(made)
        for look in (guard.check, guard.look_last, guard.leave):
            with pytest.raises(StoreBroken, match=GONE):
                look()


def test_a_directory_that_has_gone_is_told_of_all_the_same(made: Path) -> None:
    place = made.parent / "place"
    place.mkdir()
    moved = made.rename(place / made.name)
    with guarding(moved) as guard:
        place.rename(made.parent / "elsewhere")
        place.touch()
        for _ in range(2):
            with pytest.raises(StoreBroken, match=f"{moved} {GONE}"):
                guard.check()


def test_of_a_database_that_has_gone_one_whole_copy_is_left(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, leave = list[Path](), copies.leave
    monkeypatch.setattr(copies, "leave", lambda *found: left.append(leave(*found)))
    with guarding(made) as guard:
        made.unlink()
        lock.lock_path(made).unlink()
        for look in (guard.check, guard.check, guard.look_last):
            with pytest.raises(StoreBroken, match=GONE):
                look()
        (copy,) = left
        assert rescued(made) == left
        assert guard.saving is False
    with closing(sqlite3.connect(copy)) as conn:
        assert conn.execute("SELECT requested FROM accounts").fetchall() == [("5",)]
    assert lock.remembered(made).seq == 1, "so that nobody takes it for new"


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_no_copy_is_made_while_the_database_has_its_name(made: Path, suffix: str) -> None:
    with guarding(made) as guard:
        made.with_name(made.name + suffix).unlink()
        for look in (guard.check, guard.look_last):
            with pytest.raises(StoreBroken, match=f"{made.name}{suffix} {GONE}"):
                look()
    assert rescued(made) == []


def test_the_last_look_waits_for_the_copy_that_is_being_made(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, leave = threading.Event(), threading.Event(), copies.leave

    def slowly(*arguments: Any) -> Path:
        begun.set()
        assert go.wait(10)
        return leave(*arguments)

    monkeypatch.setattr(copies, "leave", slowly)
    told: list[str] = []

    def look(guard: Guard, name: str) -> None:
        try:
            guard.check() if name == "first" else guard.look_last()
        except StoreBroken:
            told.append(name)

    with guarding(made) as guard:
        made.unlink()
        threads = [threading.Thread(target=look, args=(guard, name)) for name in ("first", "last")]
        threads[0].start()
        assert begun.wait(10)
        assert guard.saving
        threads[1].start()
        threads[1].join(0.1)
        assert told == [], "it waits"
        go.set()
        for thread in threads:
            thread.join(10)
        assert sorted(told) == ["first", "last"]
        assert not guard.saving
    assert len(rescued(made)) == 1


def test_a_copy_that_failed_is_tried_again_at_the_last_look(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with guarding(made) as guard:
        made.unlink()
        with monkeypatch.context() as failing:
            failing.setattr(copies, "leave", fail)
            with pytest.raises(StoreBroken, match=GONE):
                guard.check()
        assert not guard.saving
        assert rescued(made) == []
        with pytest.raises(StoreBroken, match=GONE):
            guard.look_last()
    assert len(rescued(made)) == 1


@pytest.mark.parametrize(("failures", "gone"), [(4, False), (5, True)])
def test_a_look_is_tried_five_times_within_half_a_second(
    made: Path, failures: int, gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat, waits_s, left = os.stat, list[float](), [failures]

    def look(name: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(name).endswith("-wal") and left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, "Input/output error")
        return stat(name, *arguments, **options)

    with guarding(made) as guard:
        with monkeypatch.context() as failing:
            failing.setattr(os, "stat", look)
            failing.setattr("time.sleep", waits_s.append)
            if gone:
                with pytest.raises(StoreBroken, match="x.db-wal cannot be looked at .Input/outp"):
                    guard.check()
            else:
                guard.check()
        assert waits_s == [0.1] * 4
        if gone:
            with pytest.raises(StoreBroken, match="cannot be looked at"):
                guard.check()
    assert rescued(made) == []


def test_how_far_the_journal_has_come_is_remembered(made: Path) -> None:
    with guarding(made) as guard:
        assert lock.remembered(made).seq == 1, "from the start"
        guard.remember(2)
        assert lock.remembered(made).seq == 2


async def test_how_far_the_journal_has_come_is_remembered_after_each_commit(made: Path) -> None:
    """Whoever waits is told first; the next commit has to wait."""
    async with open_sqlite(made, exclusive=True) as store:
        for n in range(2, 5):
            await store.queue_settlement("alice", Quantity("1", 0), f"key {n}")
            assert lock.remembered(made).seq in (n - 1, n)
    assert lock.remembered(made).seq == 4


async def test_what_is_not_confirmed_is_not_remembered(made: Path) -> None:
    with pytest.raises(StoreBroken, match=GONE):
        async with open_sqlite(made, exclusive=True) as store:
            made.rename(made.with_name("elsewhere"))
            await store.queue_settlement("alice", Quantity("1", 0), "key")
    assert lock.remembered(made).seq == 1


async def test_what_is_rolled_back_is_not_remembered(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next start would miss what was never acknowledged, and refuse the database."""
    one = Quantity("1", 0)
    async with open_sqlite(made, exclusive=True) as store:
        await store.queue_settlement("alice", one, "before")
        conn = wrapped(store, monkeypatch)

        def fail(sql: str) -> None:
            if sql == "COMMIT":
                conn.conn.execute("ROLLBACK")
                raise error(sqlite3.SQLITE_FULL)

        conn.fail = fail
        with pytest.raises(StoreFull):
            await store.queue_settlement("alice", one, "key")
        conn.fail = lambda _: None
        with pytest.raises(AccountNotFound):
            await store.queue_settlement("nobody", one, "key")
    assert lock.remembered(made).seq == 2


def suspected(path: Path) -> None:
    with lock.held(path) as hold:
        hold.suspect()


async def test_what_was_read_whole_is_suspected_no_more(made: Path) -> None:
    suspected(made)
    assert lock.remembered(made).suspect
    async with open_sqlite(made, exclusive=True):
        assert not lock.remembered(made).suspect
    assert not lock.remembered(made).suspect


@pytest.mark.parametrize(
    ("small", "suspect", "added_up"),
    [(True, False, True), (False, True, True), (False, False, False)],
)
async def test_the_books_are_added_up_if_the_start_has_read_the_pages(
    made: Path, small: bool, suspect: bool, added_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(made)) as conn, conn:
        conn.execute("UPDATE accounts SET queued = '6'")
    if suspect:
        suspected(made)
    if not small:
        monkeypatch.setattr("settled.limits.START_CHECK_BYTES_MAX", 1000)
    async with open_sqlite(made, exclusive=True) as store:
        found = await store.look_over()
        assert bool(found) is added_up
        assert ("alice", "queued") in [(wrong.subject, wrong.what) for wrong in found] or not found


@pytest.mark.parametrize(
    ("raised", "damage"),
    [
        (error(sqlite3.SQLITE_CORRUPT_VTAB), True),
        (error(sqlite3.SQLITE_NOTADB), True),
        (soundness.Damaged("a page is not as it must be"), True),
        (error(sqlite3.SQLITE_IOERR_READ), False),
    ],
    ids=["corrupt", "no database", "damaged", "unreadable"],
)
async def test_damage_that_a_look_over_finds_ends_the_work_and_is_remembered(
    made: Path, raised: Exception, damage: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any) -> None:
        raise raised

    monkeypatch.setattr("settled.limits.START_CHECK_BYTES_MAX", 1000)
    async with open_sqlite(made, exclusive=True) as store:
        monkeypatch.setattr(soundness, "check_whole", fail)
        with pytest.raises(StoreBroken if damage else sqlite3.Error) as caught:
            await store.look_over()
        assert lock.remembered(made).suspect is damage
        assert (caught.value is raised) is not damage
        if damage:
            assert caught.value.__cause__ is raised
            assert "a page" in str(caught.value) or f"{made} is damaged (" in str(caught.value)


async def test_a_look_over_changes_nothing(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(_path: Path, conn: sqlite3.Connection) -> None:
        conn.execute("UPDATE accounts SET queued = '6'")

    monkeypatch.setattr("settled.limits.START_CHECK_BYTES_MAX", 1000)
    async with open_sqlite(made, exclusive=True) as store:
        monkeypatch.setattr(soundness, "check_whole", change)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await store.look_over()


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (error(sqlite3.SQLITE_FULL), StoreFull, "its disk is full"),
        (OSError(errno.EIO, "Input/output error"), ConfigError, "Input/output error"),
    ],
)
async def test_a_start_that_cannot_read_says_why(
    made: Path,
    raised: Exception,
    kind: type[SettledError],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_conn: sqlite3.Connection) -> int:
        raise raised

    with lock.held(made) as hold, closing(file.connect(made)):
        monkeypatch.setattr(reads, "last_seq", fail)
        with pytest.raises(kind, match=said):
            Guard(made, hold)
    assert not HELD
