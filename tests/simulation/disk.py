"""The store of a simulated host: real SQLite files, on a disk that fails and loses power."""

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import outcome
import trio

from settled import limits
from settled.store import file
from settled.store.batch import Batch, Entry, Item, Told, Waiting
from settled.store.clock import Uptime
from settled.store.records import Space
from settled.store.sqlite import SqliteStore
from settled.store.writer import Writer
from tests.simulation.world import Crash, World

_T = TypeVar("_T")

SECTOR_BYTES: Final = 512
_WAL_HEADER_BYTES: Final = 32
_COMMIT_S: Final = 0.003
_SLOW_COMMIT_S: Final = 2.0
_CHECKPOINT_PAGES: Final = 40


class FaultyConnection:
    """A connection whose BEGIN and COMMIT fail now and then, as a disk makes them fail."""

    def __init__(self, conn: sqlite3.Connection, world: World) -> None:
        self._conn = conn
        self._world = world
        self._rate = world.rates.disk
        self.before_commit: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql == "BEGIN IMMEDIATE" and self._world.fault("disk busy", self._rate / 2):
            raise _error("database is locked", sqlite3.SQLITE_BUSY)
        # One statement outside a transaction is one itself.
        alone = sql.startswith("INSERT") and not self._conn.in_transaction
        if alone and self._world.fault("disk busy", self._rate / 2):
            raise _error("database is locked", sqlite3.SQLITE_BUSY)
        if sql == "COMMIT" or alone:
            self.before_commit()
            if self._world.fault("disk full", self._rate / 2):
                if self._conn.in_transaction:
                    self._conn.execute("ROLLBACK")
                raise _error("database or disk is full", sqlite3.SQLITE_FULL)
            if self._world.fault("failed sync, written", self._rate / 50):
                self._conn.execute(sql, *args)
                raise _error("disk I/O error", sqlite3.SQLITE_IOERR)
            if self._world.fault("failed sync, lost", self._rate / 50):
                raise _error("disk I/O error", sqlite3.SQLITE_IOERR)
        return self._conn.execute(sql, *args)


def _error(text: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


class Disk(Writer):
    """The writer, without its thread: a task commits, after a while, all that waits.

    Args:
        path: the database.
        world: the run.
        now_ms: the host's wall clock.
        uptime: how long the host is up.
        on_commit: called after each commit, before anyone learns of it.
        on_crash: called when the host loses power in the middle of a commit.
    """

    def __init__(
        self,
        path: Path,
        world: World,
        *,
        now_ms: Callable[[], int],
        uptime: Callable[[], Uptime],
        on_commit: Callable[[], None],
        on_crash: Callable[[], None],
    ) -> None:
        self._path = path
        self._world = world
        conn = file.connect(path)
        conn.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        self._conn: Any = FaultyConnection(conn, world)
        self._now_ms = now_ms
        self._uptime = uptime
        self._nudge = False
        self._guard = None
        self._broken = None
        self._closed = False
        self._full = False
        self._at_once = {}
        self._forget = lambda: None
        self._on_commit = on_commit
        self._on_crash = on_crash
        self._waiting = Batch()
        self._held = Batch()
        self._more = trio.Event()
        self._dead = False
        self.before: dict[Path, bytes] | None = None  # a crash: what was on the disk before

    def check_alive(self) -> None:
        if self._dead:
            raise Crash

    async def _enter(self, entry: Waiting) -> Any:
        self.check_alive()
        await trio.lowlevel.checkpoint_if_cancelled()
        entry.task = trio.lowlevel.current_task()
        self._add(entry)
        return await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    def begin_all(
        self, run: Callable[..., Any], items: Sequence[Any], done: Callable[[Any], None]
    ) -> None:
        self.check_alive()
        self._add(Told([Item(run, item) for item in items], done))

    def _add(self, entry: Entry) -> None:
        self.check()
        self._waiting.add(entry)
        self._more.set()

    def space(self) -> Space:
        """Return what is free; now and then, until the next look, that is too little."""
        low = self._world.fault("disk nearly full", self._world.rates.disk / 2)
        return Space(0 if low else 2 * limits.DISK_RESERVE_BYTES, limits.DISK_RESERVE_BYTES)

    async def run(self) -> None:
        """Commit what comes until the power fails."""
        try:
            while not self._dead:
                await self._commit_next()
        finally:
            self.kill()  # whoever still waits must not wait for ever

    async def _commit_next(self) -> None:
        rates = self._world.rates
        if not self._waiting.jobs:
            self._more = trio.Event()
            await self._more.wait()
        slow = self._world.fault("slow disk", rates.disk / 10)
        await trio.sleep(self._world.delay_s(_SLOW_COMMIT_S if slow else _COMMIT_S))
        if self._dead:
            return
        self._held, self._waiting = self._waiting, Batch()
        crash = self._world.fault("power lost in a commit", rates.crash_in_commit)
        if crash:
            # When the batch fails there are several commits; all but the last were synced.
            self._conn.before_commit = self._remember
        self._commit(self._held.jobs)
        if crash:
            self._on_crash()
            return
        self._on_commit()
        await trio.sleep(self._world.delay_s(_COMMIT_S))
        held, self._held = self._held, Batch()
        if not self._dead:
            held.tell()
            held.wake()
            if self._full:
                self._full = False
                file.empty_log(self._conn)

    def _remember(self) -> None:
        self.before = self._files()

    def kill(self) -> None:
        """Have nothing happen any more: whoever waits for a commit dies."""
        if not self._dead:
            self._dead = True
            self._more.set()
            for batch in (self._held, self._waiting):
                for job in batch.jobs:
                    job.result = outcome.Error(Crash())
                batch.tell()
                batch.wake()
            self._held, self._waiting = Batch(), Batch()

    def _files(self) -> dict[Path, bytes]:
        paths = (self._path, self._path.with_name(self._path.name + "-wal"))
        return {path: path.read_bytes() for path in paths if path.exists()}

    def survivors(self) -> dict[str, bytes]:
        """Return what the disk holds after the host died, by the ending of the file's name.

        Of a commit that was cut off, each sector that it wrote may be old or new. SQLite syncs the
        log before it copies anything from it into the database, so only one of the two is torn, and
        syncs the log's header before its frames.
        """
        after = self._files()
        if self.before is not None:
            wal = self._path.with_name(self._path.name + "-wal")
            torn = self._path if after[self._path] != self.before[self._path] else wal
            header = after[wal][:_WAL_HEADER_BYTES]
            after[torn] = self._torn(self.before.get(torn, b""), after[torn])
            after[wal] = header + after[wal][_WAL_HEADER_BYTES:]
        return {path.name[len(self._path.name) :]: content for path, content in after.items()}

    def _torn(self, old: bytes, new: bytes) -> bytes:
        old = old.ljust(len(new), b"\0")
        sectors = bytearray()
        for at in range(0, max(len(old), len(new)), SECTOR_BYTES):
            before, after = old[at : at + SECTOR_BYTES], new[at : at + SECTOR_BYTES]
            lost = before != after and self._world.dice.random() < self._world.rates.torn / 2
            sectors += before if lost else after
        return bytes(sectors)

    def close(self) -> None:
        self._closed = True
        self._conn.close()


class SimulatedStore(SqliteStore):
    """The SQLite store on a ``Disk``; reads are made at once."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._guard = None
        self._writer = disk
        self._disk = disk
        self._remember(disk._conn)
        self.reader = file.connect(path, read_only=True)

    async def _read(self, read: Callable[[sqlite3.Connection], _T]) -> _T:
        self._disk.check_alive()
        await trio.lowlevel.checkpoint()
        self._disk.check_alive()
        return read(self.reader)

    _read_together = _read

    async def space(self) -> Space:
        await trio.lowlevel.checkpoint()
        return self._disk.space()

    def close(self) -> None:
        self.reader.close()
        self._disk.close()


def write_files(path: Path, survivors: dict[str, bytes]) -> None:
    """Lay what survived out as the database at ``path``."""
    path.parent.mkdir()
    for ending, content in survivors.items():
        path.with_name(path.name + ending).write_bytes(content)


def remove_files(path: Path) -> None:
    shutil.rmtree(path.parent)
