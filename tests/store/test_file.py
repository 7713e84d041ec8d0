"""What a database file must be, how its schema moves on, and who may hold it."""

import errno
import fcntl
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import trio
from sqlite_utils import Database, Migrations

from settled import limits
from settled.amounts import Quantity
from settled.errors import ConfigError, StoreBroken, StoreBusy, StoreFull, StoreHeld
from settled.store import copies, file, lock
from settled.store.sql import schema
from settled.store.sqlite import open_sqlite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "settled.db"


async def make(path: Path) -> None:
    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        await store.queue_settlement("alice", Quantity("5", 0), "k")


async def refused(path: Path, *, exclusive: bool = True, create: bool = True) -> str:
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(ConfigError) as caught:
        async with open_sqlite(path, exclusive=exclusive, create=create):
            pass
    assert (path.read_bytes() if path.exists() else None) == before, "it was touched"
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_a_missing_file_is_made_only_when_asked_to(path: Path) -> None:
    assert "no database at" in await refused(path, create=False)
    assert "directory does not exist" in await refused(path.parent / "no" / "x.db")
    await make(path)


def test_an_empty_file_is_made_where_there_is_none(path: Path) -> None:
    path.write_bytes(b"content")
    file.create_empty(path)
    assert path.read_bytes() == b"content"
    with pytest.raises(ConfigError, match="cannot create /sys/x.db: .*must be writable"):
        file.create_empty(Path("/sys/x.db"))


async def test_only_its_owner_can_read_what_is_made(path: Path) -> None:
    modes: dict[str, str] = {}

    def look() -> None:
        for found in path.parent.iterdir():
            modes[found.name] = oct(found.stat().st_mode & 0o777)

    former = os.umask(0o022)
    try:
        async with open_sqlite(path.with_name("by-a-command"), exclusive=False, create=True):
            look()
        with pytest.raises(StoreBroken):
            async with open_sqlite(path, exclusive=True, create=True):
                with closing(file.connect(path)) as conn:
                    copies.leave(path, conn, "backup")
                look()
                lock.lock_path(path).unlink()
                path.unlink()
        look()
    finally:
        os.umask(former)
    kinds = {name.rpartition(".")[2] for name in modes}
    assert kinds >= {"by-a-command", "db", "db-wal", "db-shm", "lock", "backup", "rescued"}
    assert set(modes.values()) == {"0o600"}, modes


async def test_a_file_of_another_program_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE cats (name TEXT)")
    for exclusive in (True, False):
        assert "not a settled database" in await refused(path, exclusive=exclusive)


@pytest.mark.parametrize(
    "content", [b"hello, world", b"\0" * 4096, b"SQLite format 3\0" + b"x" * 99]
)
async def test_a_file_that_is_no_database_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    message = await refused(path)
    assert "is damaged (" in message or "not a settled database" in message


async def test_a_missing_file_beside_its_log_is_not_replaced(path: Path) -> None:
    await make(path)
    path.unlink()
    path.with_name("settled.db-wal").write_bytes(b"x" * 100)
    assert "restore the database from a backup" in await refused(path)
    assert not path.exists()


async def test_the_newest_rescued_copy_is_named_first(path: Path) -> None:
    await make(path)
    content = path.read_bytes()
    path.unlink()
    for name in ("settled.db.20300101T000000Z", "settled.db.20300102T000000Z", "other.db.2031"):
        path.with_name(f"{name}.rescued").write_bytes(content)
    for log in (b"", b"log"):
        path.with_name("settled.db-wal").write_bytes(log)
        reason = await refused(path)
        assert f"but {path}.20300102T000000Z.rescued has all that" in reason
        assert "remove" in reason
    path.with_name("settled.db-wal").unlink()
    lock.lock_path(path).unlink()
    await make(path)  # nothing is left that it could go with


@pytest.mark.parametrize("how", ["fell behind", "of another line", "unreadable"])
async def test_a_rescued_copy_of_an_earlier_loss_is_not_named(path: Path, how: str) -> None:
    """To go on with one would pay again what was paid since."""
    await make(path)
    rescued = path.with_name("settled.db.20300101T000000Z.rescued")
    rescued.write_bytes(b"text" if how == "unreadable" else path.read_bytes())
    if how == "fell behind":
        async with open_sqlite(path, exclusive=True) as store:
            await store.queue_settlement("alice", Quantity("5", 0), "k2")
        os.utime(rescued)
    elif how == "of another line":
        os.utime(rescued, (0, 0))
    path.unlink()
    reason = await refused(path)
    assert rescued.name not in reason
    assert "restore a backup" in reason


async def test_by_a_symlink_a_copy_is_rescued_to_where_the_database_was(path: Path) -> None:
    """The daemon may not write to where the link is, and it may be on another disk."""
    (path.parent / "link").mkdir()
    link = path.parent / "link" / "other.db"
    link.symlink_to(path)
    await make(link)
    with pytest.raises(StoreBroken):
        async with open_sqlite(link, exclusive=True):
            path.unlink()
    (rescued,) = path.parent.glob("*.rescued")
    assert list(link.parent.iterdir()) == [link]
    log, index = (path.with_name(f"settled.db-{end}") for end in ("wal", "shm"))
    told = (
        f"but {rescued} has all.* remove {lock.lock_path(path)}, {log} and {index}, .* to {path} "
    )
    assert re.search(told, await refused(link))
    for beside in (lock.lock_path(path), log, index):
        beside.unlink(missing_ok=True)
    rescued.rename(path)
    async with open_sqlite(link, exclusive=True) as store:
        assert (await store.account("alice")).queued == 5


async def test_what_a_killed_start_left_half_made_is_undone(path: Path) -> None:
    half_made = path.parent / "half-made"
    half_made.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        conn.execute("PRAGMA cache_size = 1")  # so that it writes before it commits
        conn.execute("BEGIN")
        conn.execute("CREATE TABLE accounts (id)")
        conn.executemany("INSERT INTO accounts VALUES (?)", [("x" * 1000,)] * 100)
        for found in path.parent.glob("settled.db*"):
            shutil.copy(found, half_made)
        conn.execute("ROLLBACK")
    assert (half_made / "settled.db-journal").stat().st_size > 0
    await make(half_made / "settled.db")


async def test_a_newer_schema_is_refused(path: Path) -> None:
    await make(path)
    newer = Migrations("settled")
    newer(name="0999_from_the_future")(lambda db: None)
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        newer.apply(Database(conn))
    for exclusive in (True, False):
        message = await refused(path, exclusive=exclusive)
        assert "newer settled" in message
        assert "0999_from_the_future" in message


@pytest.mark.parametrize("exclusive", [True, False])
async def test_an_older_schema_is_brought_up_to_date_after_a_backup(
    path: Path, exclusive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(path)
    with_one_more(monkeypatch)
    async with open_sqlite(path, exclusive=exclusive) as store:
        assert (await store.account("alice")).requested == 5
    (backup,) = path.parent.glob("settled.db.*.backup")
    with closing(sqlite3.connect(backup)) as conn:
        assert "later" not in tables(conn)
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert conn.execute("SELECT requested FROM accounts").fetchone() == ("5",)
    with closing(sqlite3.connect(path)) as conn:
        assert "later" in tables(conn)
    async with open_sqlite(path, exclusive=exclusive):
        pass
    assert len(list(path.parent.glob("*.backup"))) == 1, "nothing to do, no backup"


async def test_a_file_of_the_first_schema_is_taken_up_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        schema.MIGRATIONS.apply(Database(conn), stop_before="0002_steady_clock")
        conn.execute(
            "INSERT INTO accounts (id, received, undelivered, opened_ms) "
            "VALUES ('alice', '5', '5', 1)"
        )
        conn.execute(
            "INSERT INTO journal (at_ms, account, source, target, amount, ref) "
            "VALUES (1, 1, 'received', 'undelivered', '5', 'c')"
        )
        conn.execute(
            "INSERT INTO credits (id, account, account_id, settlement_id, amount, state, "
            "ambiguous_ms, created_ms, updated_ms) "
            "VALUES ('c', 1, 'alice', 'tx1', '5', 'undelivered', 1000, 1, 1)"
        )
    now_ms = 1000 + limits.AMBIGUOUS_AGE_MAX_MS
    async with open_sqlite(path, exclusive=True, now_ms=lambda: now_ms) as store:
        (parked,) = (await store.next_deliveries(1, 8)).parked
        assert (parked.id, parked.state) == ("c", "parked")
        assert await store.audit() == []


async def test_a_migration_that_fails_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(path)
    with_one_more(monkeypatch, "CREATE TABLE later (x)", "no SQL at all")
    with pytest.raises(ConfigError, match="it is as it was"):
        async with open_sqlite(path, exclusive=True):
            pass
    with closing(sqlite3.connect(path)) as conn:
        assert "later" not in tables(conn)
    monkeypatch.undo()
    async with open_sqlite(path, exclusive=True) as store:
        assert (await store.account("alice")).requested == 5


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, StoreFull),
        (sqlite3.SQLITE_BUSY, StoreBusy),
        (sqlite3.SQLITE_IOERR, ConfigError),
    ],
)
async def test_a_backup_or_a_change_that_fails_has_its_own_remedy(
    path: Path, code: int, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = sqlite3.OperationalError("it failed")
    error.sqlite_errorcode = code

    def fail(*_arguments: object) -> None:
        raise error

    await make(path)
    assert not list(path.parent.glob("*.backup")), "of a file with nothing in it"
    with_one_more(monkeypatch)
    for step in ("copies.leave", "file.MIGRATIONS.apply"):
        with monkeypatch.context() as patch:
            patch.setattr(f"settled.store.{step}", fail)
            with pytest.raises(kind) as caught:
                file.migrate(path)
        assert type(caught.value) is kind
        assert caught.value.__cause__ is error
        assert not list(path.parent.glob("*.backup")), "each try would leave another"


async def test_without_a_backup_nothing_is_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(path)
    with_one_more(monkeypatch)

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as failing:
        failing.setattr(os, "fsync", fail)
        with pytest.raises(ConfigError, match="could not be backed up"):
            async with open_sqlite(path, exclusive=True):
                pass
    with closing(sqlite3.connect(path)) as conn:
        assert "later" not in tables(conn)
    async with open_sqlite(path, exclusive=True) as store:
        assert (await store.account("alice")).requested == 5
    assert not list(path.parent.glob("*.part*"))


async def test_a_command_does_not_migrate_under_a_daemon(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(path)
    with lock.held(path):
        with_one_more(monkeypatch)
        with pytest.raises(StoreHeld):
            async with open_sqlite(path, exclusive=False):
                pass


def with_one_more(monkeypatch: pytest.MonkeyPatch, *statements: str) -> None:
    """Let the program have one more migration than the file."""
    later = Migrations("settled")
    with closing(sqlite3.connect(":memory:")) as empty:
        for migration in schema.MIGRATIONS.pending(Database(empty)):
            later(name=migration.name)(migration.fn)

    @later(name="0002_later")
    def _later(db: Database) -> None:
        for statement in statements or ("CREATE TABLE later (x)",):
            db.execute(statement)

    monkeypatch.setattr(file, "MIGRATIONS", later)
    monkeypatch.setattr(file, "_KNOWN", {*file._KNOWN, "0002_later"})


def tables(conn: sqlite3.Connection) -> set[str]:
    return {name for (name,) in conn.execute("SELECT name FROM sqlite_schema")}


def test_the_lock_names_its_holder_and_goes_with_the_process(path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from settled.store import lock\n"
        "with lock.held(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    assert lock.holder_pid(path) is None
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert lock.holder_pid(path) == process.pid
        with pytest.raises(StoreHeld, match=str(process.pid)), lock.held(path):
            raise AssertionError("held twice")
        process.kill()
        process.wait()
    assert lock.holder_pid(path) is None
    with lock.held(path):
        assert lock.holder_pid(path) == os.getpid()


def test_the_lock_goes_with_the_process_even_if_its_child_lives_on(path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from settled.store import lock\n"
        "with lock.held(Path(sys.argv[1])):\n"
        "    if not (child := os.fork()): time.sleep(60)\n"
        "    else: print(child, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            with pytest.raises(StoreHeld, match=str(process.pid)), lock.held(path):
                raise AssertionError("held twice")
            process.kill()
            process.wait()
            os.kill(child, 0)  # it lives
            with lock.held(path):
                assert lock.holder_pid(path) == os.getpid()
        finally:
            process.kill()
            os.kill(child, signal.SIGKILL)


async def test_a_file_with_nothing_in_it_yet_may_be_made_into_a_database(path: Path) -> None:
    path.touch()
    assert "no database at" in await refused(path, create=False)
    path.with_name("settled.db-wal").touch()
    await make(path)
    other = path.with_name("other.db")
    with closing(sqlite3.connect(other)) as conn:
        conn.execute("PRAGMA user_version = 1")
    assert other.stat().st_size > 0
    await make(other)


async def test_a_directory_is_no_database(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ConfigError, match="is a directory"):
        async with open_sqlite(path, exclusive=True, create=True):
            pass


def test_what_cannot_be_opened_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened as a database"):
        file.connect(tmp_path)


async def test_readers_cannot_write_and_are_as_many_as_the_limit(path: Path) -> None:
    await make(path)
    async with open_sqlite(path, exclusive=True) as store:
        ahead = list(store._readers._idle)
        assert len(ahead) == limits.READERS_MAX, "ready before a stranger uses up the descriptors"
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            ahead[0].execute("UPDATE accounts SET failures = 1")
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(store.account, "alice")
        assert sorted(map(id, store._readers._idle)) == sorted(map(id, ahead)), "all are given back"
    for conn in ahead:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            conn.execute("SELECT 1")
    async with open_sqlite(path, exclusive=False) as beside:
        assert beside._readers._idle == [], "a command opens what it needs"
        assert (await beside.account("alice")).id == "alice"
        (opened,) = beside._readers._idle
        assert opened.execute("PRAGMA query_only").fetchone() == (1,)


def test_the_lock_is_waited_for_as_long_as_a_command_may_hold_it(path: Path) -> None:
    with lock.held(path):
        assert not path.stat().st_mode & 0o022, "others cannot write it"
    holder = os.open(lock.lock_path(path), os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_SH)
    timer = threading.Timer(0.1, os.close, [holder])
    timer.start()
    with lock.held(path):
        pass
    timer.join()


def test_a_lock_whose_holder_cannot_be_told_is_a_lock_all_the_same(path: Path) -> None:
    lock_path = lock.lock_path(path)
    lock_path.write_text("9" * 15)
    with lock.held(path):
        assert lock.holder_pid(path) == os.getpid(), "the old pid, though longer, is gone"
        lock_path.write_bytes(b"\xff nobody")
        assert lock.holder_pid(path) == 0
        started_s = time.monotonic()
        with pytest.raises(StoreHeld, match="pid unknown"), lock.held(path):
            pass
        assert time.monotonic() - started_s >= lock._PROBE_S
    assert lock.holder_pid(path) is None
    assert lock.holder_pid(path.with_name("other.db")) is None


def test_who_may_not_read_the_lock_does_not_say_that_nobody_holds_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: Path, _flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))

    with lock.held(path), monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert lock.holder_pid(path) == 0


def test_a_file_system_without_locks_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ConfigError, match="cannot lock .*: No locks available"), lock.held(path):
        pass
    assert lock.holder_pid(path) is None


def test_a_directory_in_which_nothing_can_be_written_is_named(path: Path) -> None:
    with pytest.raises(ConfigError, match="must be writable"), lock.held(path / "no" / "x.db"):
        pass
