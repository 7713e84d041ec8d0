"""A backup: whole, of one moment, checked, and never half of one, whatever happens meanwhile."""

import errno
import fcntl
import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from settled.amounts import Quantity
from settled.errors import ConfigError, SettledError, StoreFull, StoreHeld
from settled.store import file
from settled.store.backup import Backup, back_up
from settled.store.records import AddCredit
from settled.store.sql import restored
from settled.store.sqlite import SqliteStore, open_sqlite

T = TypeVar("T")

WRITE_ON = """
import os, sys, trio
from settled.amounts import Quantity
from settled.store.sqlite import open_sqlite

async def main():
    async with open_sqlite(sys.argv[1], exclusive=True) as store, trio.open_nursery() as nursery:
        async def write(task):
            for n in range(1_000_000):
                await store.queue_settlement("alice", Quantity("1", 0), f"{task}-{n}")
                if not task:
                    os.pwrite(1, b"%8d" % n, 0)
        for task in range(20):
            nursery.start_soon(write, task)

trio.run(main)
"""

BACK_UP = """
import os, signal, sys
from pathlib import Path
from settled.errors import SettledError
from settled.store.backup import back_up

def die(done, total):
    os.kill(os.getpid(), signal.SIGKILL)

when = {sys.argv[3]: die} if len(sys.argv) > 3 else {}
try:
    back_up(Path(sys.argv[1]), Path(sys.argv[2]), **when)
except SettledError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "settled.db"

    async def fill(store: SqliteStore) -> None:
        await store.open_account("alice", setup=False)
        for n in range(20):
            await store.queue_settlement("alice", Quantity(str(n + 1), 2), f"k{n}")
        await store.commit([AddCredit("alice", "tx-1", Decimal("0.5"))])

    with_store(found, fill)
    return found


def with_store(path: Path, action: Callable[[SqliteStore], Awaitable[T]]) -> T:
    async def run() -> T:
        async with open_sqlite(path, exclusive=True, create=True) as store:
            return await action(store)

    return trio.run(run)


def add_credits(path: Path, count: int) -> None:
    credits = [AddCredit("alice", f"{n}" + "x" * 250, Decimal(1)) for n in range(count)]
    with_store(path, lambda store: store.commit(credits))


def content(path: Path) -> dict[str, list[object]]:
    """Return all that is in a database, but what a backup notes in its copy."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as conn:
        tables = [name for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE sql > ''")]
        found = {}
        for name in tables:
            if conn.execute(
                "SELECT type FROM sqlite_schema WHERE name = ?", (name,)
            ).fetchone() == ("table",):
                columns = [
                    column
                    for (column,) in conn.execute("SELECT name FROM pragma_table_info(?)", (name,))
                    if not column.startswith("ambiguous")
                    and (name, column) not in {("credits", "reason"), ("accounts", "waiting")}
                ]
                rows = conn.execute(f"SELECT {', '.join(columns)} FROM {name}").fetchall()
                found[name] = [row for row in rows if not str(row[0]).startswith("backup")]
        found.pop("clock")
        return found


def files(directory: Path) -> set[str]:
    """Return the names of the files, but those that belong to the database itself."""
    return {file.name for file in directory.iterdir() if not file.name.startswith("settled.db")}


@contextmanager
def writing(path: Path) -> Iterator[Callable[[], int]]:
    """Have another process write as fast as it can; yields what tells the last acknowledged."""
    told = path.with_name("settled.db.acknowledged")
    with (
        told.open("wb") as stdout,
        subprocess.Popen([sys.executable, "-c", WRITE_ON, str(path)], stdout=stdout) as process,
    ):
        try:
            while told.stat().st_size < 8:
                assert process.poll() is None
                time.sleep(0.01)
            yield lambda: int(told.read_bytes())
        finally:
            process.kill()


def audited(backup: Path) -> int:
    """Check that the backup opens as a database with books in order; return its requests."""

    async def look(store: SqliteStore) -> int:
        assert await store.audit() == []
        return int((await store.account("alice")).requested)

    return with_store(backup, look)


def test_a_backup_has_all_that_the_database_has(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    made = back_up(path, target, now_ms=lambda: 1_700_000_000_000)
    assert made == Backup(target, target.stat().st_size, 1_700_000_000_000)
    assert content(target) == content(path)
    assert content(path)["journal"], "nothing was compared"
    assert files(tmp_path) == {"copy"}
    assert audited(target) == 2  # 0.01 + 0.02 + ... + 0.20, whole


def test_only_its_owner_can_read_it_and_it_is_one_file(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    path.chmod(0o644)
    back_up(path, target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.read_bytes()[18:20] == b"\1\1", "it wants a log beside it"


def test_progress_is_told_to_the_end(path: Path, tmp_path: Path) -> None:
    copied: list[tuple[int, int]] = []
    checked: list[tuple[int, int]] = []
    back_up(
        path,
        tmp_path / "copy",
        on_copy=lambda *now: copied.append(now),
        on_check=lambda *now: checked.append(now),
    )
    for told in (copied, checked):
        assert told[-1][0] == told[-1][1] > 0


def test_a_backup_ends_while_another_process_writes_and_misses_nothing(
    path: Path, tmp_path: Path
) -> None:
    add_credits(path, 400)  # several steps' worth of pages
    with writing(path) as acknowledged:
        for n in range(3):
            before = acknowledged()
            began_s = time.monotonic()
            back_up(path, tmp_path / f"copy-{n}")
            assert time.monotonic() - began_s < 10
            while acknowledged() <= before:
                time.sleep(0.01)  # the writer goes on
            with closing(sqlite3.connect(tmp_path / f"copy-{n}")) as conn:
                keys = {key for (key,) in conn.execute("SELECT key FROM idempotency_keys")}
            assert f"0-{before}" in keys, "acknowledged before the backup began"
    for n in range(3):
        assert audited(tmp_path / f"copy-{n}") > 2


def test_the_steps_of_a_copy_see_one_moment(path: Path, tmp_path: Path) -> None:
    """Even when the database is written to between any two of them."""
    add_credits(path, 10_000)
    before = content(path)
    with closing(sqlite3.connect(path)) as other:
        steps = []

        def write(done: int, total: int) -> None:
            steps.append(done)
            with other:
                other.execute("INSERT INTO nudges (account) VALUES (1)")

        back_up(path, tmp_path / "copy", on_copy=write)
    assert len(steps) > 1
    assert steps == sorted(set(steps)), "it began anew"
    assert content(tmp_path / "copy") == before


@pytest.mark.parametrize("when", ["on_copy", "on_check"])
def test_one_that_is_killed_leaves_no_backup_and_does_not_stand_in_the_way(
    path: Path, tmp_path: Path, when: str
) -> None:
    target = tmp_path / "copy"
    command = [sys.executable, "-c", BACK_UP, str(path), str(target), when]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not target.exists()
    (left,) = files(tmp_path)
    assert left == ".copy.unfinished"
    back_up(path, target)
    assert files(tmp_path) == {"copy"}
    assert audited(target) == 2


def test_what_others_put_there_is_neither_followed_nor_used(path: Path, tmp_path: Path) -> None:
    victim, unfinished = tmp_path / "victim", tmp_path / ".copy.unfinished"
    victim.write_text("precious")

    def foreign() -> None:
        unfinished.touch()
        os.chown(unfinished, 65534, 65534)

    puts: list[Callable[[], object]] = [
        lambda: unfinished.symlink_to(victim),
        lambda: unfinished.hardlink_to(victim),
        lambda: os.mkfifo(unfinished),
    ]
    if os.geteuid() == 0:
        puts.append(foreign)
    for put in puts:
        put()
        with pytest.raises(SettledError, match="unfinished is in the way"):
            back_up(path, tmp_path / "copy")
        assert victim.read_text() == "precious"
        assert files(tmp_path) == {"victim", ".copy.unfinished"}
        unfinished.unlink()
    unfinished.touch()
    unfinished.chmod(0o666)
    (tmp_path / ".copy.unfinished-journal").symlink_to(victim)
    back_up(path, tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("left", [b"", b"half of a page", b"\0" * 8192, b"SQLite format 3\0" * 999])
def test_whatever_was_left_does_not_stand_in_the_way(
    path: Path, tmp_path: Path, left: bytes
) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        (tmp_path / f".copy.unfinished{suffix}").write_bytes(left)
    back_up(path, tmp_path / "copy")
    assert files(tmp_path) == {"copy"}
    assert audited(tmp_path / "copy") == 2


def test_one_that_breaks_off_leaves_the_former_backup(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    back_up(path, target)
    former = target.read_bytes()
    with pytest.raises(ZeroDivisionError):
        back_up(path, target, force=True, on_check=lambda *_: 1 / 0)  # type: ignore[arg-type]
    assert target.read_bytes() == former
    assert files(tmp_path) == {"copy"}


async def test_when_there_is_no_room_nothing_is_left_behind(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    size = path.stat().st_size
    for room in (0, 4096, size - 4096):
        async with open_sqlite(path, exclusive=True):
            result = await trio.run_process(
                [sys.executable, "-c", BACK_UP, str(path), str(target)],
                capture_stderr=True,
                check=False,
                preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (room, room)),
            )
        assert result.returncode == 1
        assert b"no backup was made at" in result.stderr
        assert result.stderr.count(b"\n") == 1, result.stderr
        assert files(tmp_path) == set()


def test_where_there_is_too_little_room_it_does_not_begin(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, mib = path.stat().st_size, 2**20
    free_bytes = size + mib - 1
    monkeypatch.setattr(file, "free_bytes", lambda _path: free_bytes)

    def begun(done: int, total: int) -> None:
        raise AssertionError("it began")

    with pytest.raises(StoreFull, match="only 1.. MiB are free there and 1.0 MiB are kept"):
        back_up(path, tmp_path / "copy", disk_reserve_bytes=mib, on_copy=begun)
    assert files(tmp_path) == set()
    back_up(path, tmp_path / "copy", disk_reserve_bytes=mib - 1)
    free_bytes = size - 1
    with pytest.raises(StoreFull, match="it takes 0.. MiB, only 0.. MiB are free there; free"):
        back_up(path, tmp_path / "other", on_copy=begun)


def test_where_the_room_cannot_be_told_it_is_tried(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "free_bytes", lambda _path: None)
    back_up(path, tmp_path / "copy")
    assert audited(tmp_path / "copy") == 2


def test_on_another_disk_it_needs_no_more_room_than_it_takes(path: Path, tmp_path: Path) -> None:
    others = [Path(name) for name in ("/dev/shm", "/tmp") if os.access(name, os.W_OK)]
    disk = next((d for d in others if d.stat().st_dev != tmp_path.stat().st_dev), None)
    if disk is None:
        pytest.skip("it needs a second disk")
    with tempfile.TemporaryDirectory(dir=disk) as other:
        back_up(path, Path(other) / "copy", disk_reserve_bytes=2**60)


def test_a_database_whose_books_are_off_is_not_backed_up(path: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("UPDATE accounts SET queued = '7'")
    with pytest.raises(SettledError, match="not sound .* alice, queued.*`settled audit`"):
        back_up(path, tmp_path / "copy")
    assert files(tmp_path) == set()


def test_a_damaged_database_is_not_backed_up(path: Path, tmp_path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 20] = b"\0" * 4096 * 17
    path.write_bytes(content)
    with pytest.raises(SettledError):
        back_up(path, tmp_path / "copy")
    assert files(tmp_path) == set()


def test_a_copy_without_its_mark_is_no_backup(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restored, "mark", lambda _tx: None)
    with pytest.raises(SettledError, match="the copy lacks its mark"):
        back_up(path, tmp_path / "copy")
    assert files(tmp_path) == set()


def test_a_directory_that_cannot_be_synced_is_told_of(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SettledError, match="could not be synced .Input/output error."):
        back_up(path, tmp_path / "copy")
    assert audited(tmp_path / "copy") == 2


def test_two_at_a_time_do_not_write_one_file(path: Path, tmp_path: Path) -> None:
    with (tmp_path / ".copy.unfinished").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreHeld, match="another backup to .*copy is being made"):
            back_up(path, tmp_path / "copy")
        assert (tmp_path / ".copy.unfinished").exists(), "it is the other's"


def test_nothing_that_exists_is_replaced_unless_told_to(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.write_text("precious")
    with pytest.raises(SettledError, match="exists: give another file, or --force"):
        back_up(path, target)
    with pytest.raises(SettledError, match="is no backup, and --force replaces nothing else"):
        back_up(path, target, force=True)
    assert target.read_text() == "precious"
    target.unlink()
    back_up(path, target)
    add_credits(path, 1)
    back_up(path, target, force=True)
    assert content(target) == content(path)


async def test_force_replaces_no_part_of_the_database(path: Path, tmp_path: Path) -> None:
    async with open_sqlite(path, exclusive=True):
        for suffix in ("-wal", "-shm", ".lock", "-journal"):
            part = tmp_path / f"settled.db{suffix}"
            before = part.stat() if part.exists() else None
            with pytest.raises(SettledError, match="is a part of the database"):
                back_up(path, part, force=True)
            assert before is None or os.path.samestat(before, part.stat())


def test_force_replaces_neither_a_daemons_database_nor_what_another_name_stands_for(
    path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    back_up(path, other)
    (tmp_path / "alias").symlink_to(other)
    with pytest.raises(SettledError, match="alias is no backup"):
        back_up(path, tmp_path / "alias", force=True)
    with_store(other, lambda store: store.open_account("bob", setup=False))
    before = content(other)
    with pytest.raises(SettledError, match="other is a daemon's database"):
        back_up(path, other, force=True)
    (tmp_path / "other.lock").unlink()
    with closing(sqlite3.connect(other)) as conn, conn:
        conn.execute("DELETE FROM counters")
    with pytest.raises(SettledError, match="other is no backup"):
        back_up(path, other, force=True)
    assert content(other)["accounts"] == before["accounts"]


def test_a_file_that_appears_meanwhile_is_not_replaced(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    with pytest.raises(SettledError, match="exists: give another file"):
        back_up(path, target, on_check=lambda *_: target.write_text("precious"))  # type: ignore[arg-type]
    assert target.read_text() == "precious"
    assert files(tmp_path) == {"copy"}


async def test_not_even_force_replaces_a_database_in_use(path: Path, tmp_path: Path) -> None:
    for same in (path, tmp_path / "x" / ".." / path.name):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(SettledError, match="is the database itself"):
            back_up(path, same, force=True)
    async with open_sqlite(tmp_path / "other", exclusive=True, create=True):
        with pytest.raises(StoreHeld, match=f"in use by a daemon, pid {os.getpid()}"):
            back_up(path, tmp_path / "other", force=True)
    async with open_sqlite(tmp_path / "other", exclusive=False):
        with pytest.raises(SettledError, match="other is a daemon's database"):
            back_up(path, tmp_path / "other", force=True)


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_log_that_was_left_beside_the_target_is_not_made_part_of_it(
    path: Path, tmp_path: Path, suffix: str
) -> None:
    beside = tmp_path / f"copy{suffix}"
    for put in (lambda: beside.write_bytes(b"old"), lambda: beside.symlink_to("nowhere")):
        put()
        with pytest.raises(SettledError, match=f"copy{suffix} exists, left by a database"):
            back_up(path, tmp_path / "copy")
        assert files(tmp_path) == {f"copy{suffix}"}
        beside.unlink()


def test_the_name_of_a_part_is_free_in_another_directory(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    back_up(path, tmp_path / "other" / "settled.db-wal")
    assert content(tmp_path / "other" / "settled.db-wal") == content(path)


def test_force_replaces_neither_a_pipe_nor_a_name_that_leads_nowhere(
    path: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("pipe", "link"):
        with pytest.raises(SettledError, match=f"{name} exists: give another file"):
            back_up(path, tmp_path / name)
        with pytest.raises(SettledError, match=f"{name} is no backup"):
            back_up(path, tmp_path / name, force=True)
    assert files(tmp_path) == {"pipe", "link"}


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_that_goes_before_it_is_locked_is_another_backup_s(
    path: Path, tmp_path: Path, replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has ended in between, and perhaps a third has begun."""
    unfinished, flock = tmp_path / ".copy.unfinished", fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        if unfinished.exists():
            unfinished.unlink()
            if replaced:
                unfinished.write_text("the third's")
        flock(descriptor, operation)

    with monkeypatch.context() as between:
        between.setattr(fcntl, "flock", late)
        with pytest.raises(StoreHeld, match="another backup to .*copy is being made"):
            back_up(path, tmp_path / "copy")
    assert files(tmp_path) == ({".copy.unfinished"} if replaced else set())
    back_up(path, tmp_path / "copy")


def test_what_breaks_off_removes_its_own_file_only_and_leaves_nothing_open(
    path: Path, tmp_path: Path
) -> None:
    unfinished = tmp_path / ".copy.unfinished"

    def replace(_done: int, _total: int) -> None:
        unfinished.unlink()
        unfinished.write_text("another's")
        unfinished.with_name(".copy.unfinished-journal").touch()
        raise OSError(errno.EIO, "Input/output error")

    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(SettledError, match="no backup was made .*: Input/output error"):
        back_up(path, tmp_path / "copy", on_check=replace)
    assert unfinished.read_text() == "another's"
    assert files(tmp_path) == {".copy.unfinished"}
    back_up(path, tmp_path / "c")
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no/copy", "No such file or directory"),
        ("settled.db/copy", "Not a directory"),
        (".", "is a directory: give the name of a file in it"),
        ("/sys/copy", "Permission denied"),
    ],
)
def test_a_place_that_cannot_be_written_is_said_in_a_line(
    path: Path, tmp_path: Path, target: str, said: str
) -> None:
    with pytest.raises(SettledError, match=said) as caught:
        back_up(path, tmp_path / target)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == set()


def test_there_must_be_a_database_of_this_version(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no database at"):
        back_up(tmp_path / "none", tmp_path / "copy")
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("DELETE FROM _sqlite_migrations WHERE name > '0001_first'")
    with pytest.raises(ConfigError, match="older settled"):
        back_up(path, tmp_path / "copy")
    assert files(tmp_path) == set()


async def test_it_is_not_restored_beside_the_log_of_what_was_lost(
    path: Path, tmp_path: Path
) -> None:
    back_up(path, tmp_path / "copy")
    ended = "import sys; from settled.store import file; from pathlib import Path; import os\n"
    ended += "conn = file.connect(Path(sys.argv[1]))\n"
    ended += "conn.execute('INSERT INTO nudges (account) VALUES (1)'); os._exit(0)"
    await trio.run_process([sys.executable, "-c", ended, str(path)])
    assert (tmp_path / "settled.db-wal").stat().st_size > 0
    (tmp_path / "copy").replace(path)
    before = path.read_bytes()
    for exclusive in (True, False):
        with pytest.raises(ConfigError, match="settled.db-wal belongs to the database that was"):
            async with open_sqlite(path, exclusive=exclusive):
                pass
    link = tmp_path / "link.db"
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(ConfigError, match="settled.db-wal belongs to the database that was"):
            back_up(name, tmp_path / "another")
    assert path.read_bytes() == before
    (tmp_path / "settled.db-wal").unlink()
    await trio.run_process([sys.executable, "-c", ended, str(path)])  # its own log is fine
    async with open_sqlite(path, exclusive=True) as store:
        assert await store.audit() == []


@pytest.mark.parametrize("exclusive", [True, False])
async def test_a_log_that_is_empty_or_not_beside_a_backup_is_nobody_elses(
    path: Path, tmp_path: Path, exclusive: bool
) -> None:
    log = tmp_path / "settled.db-wal"
    log.touch()
    back_up(path, tmp_path / "copy")
    log.write_bytes(b"x" * 100)
    async with open_sqlite(path, exclusive=exclusive) as store:  # garbage, but of its own
        assert await store.audit() == []
    (tmp_path / "copy").replace(path)
    log.write_bytes(b"x" * 100)
    with pytest.raises(ConfigError, match="settled.db-wal belongs to the database that was"):
        async with open_sqlite(path, exclusive=exclusive):
            pass
    log.write_bytes(b"")
    async with open_sqlite(path, exclusive=exclusive) as store:
        assert await store.audit() == []
        await store.open_account("bob", setup=False)
        shutil.copy(log, tmp_path / "kept")
    shutil.copy(tmp_path / "kept", log)
    async with open_sqlite(path, exclusive=exclusive) as store:  # used, it has a log of its own
        assert (await store.account("bob")).id == "bob"
