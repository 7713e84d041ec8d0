"""What a daemon watches over while it has a database open: its files, its disk, its soundness.

A file that was deleted, renamed or replaced while it is open can be written to without an error;
what it takes is gone for the next start. So the names are looked at after every commit, before
anybody is told of it, and now and then.
"""

import sqlite3
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import outcome
import trio

from settled.errors import StoreBroken
from settled.store import copies, faults, file, soundness
from settled.store.lock import Hold
from settled.store.names import Names
from settled.store.records import Difference
from settled.store.sql import audit, reads

HELD: Final[set["Guard"]] = set()
"""Those of this process, for a thread that ends it without closing anything."""


class Guard:
    """The files of a database that this process holds, as they were when it was opened.

    Args:
        path: the database.
        hold: the lock, which remembers how far the journal has come.

    Attributes:
        saving: a copy is being made of a database that was deleted; nothing must end that.
    """

    def __init__(self, path: Path, hold: Hold) -> None:
        self._path = path
        self._hold = hold
        self.saving = False
        self._gone: str | None = None
        self._saved = False
        self._lock = threading.Lock()
        # For the copy: once the file has gone, it cannot be opened any more.
        self._conn = file.connect(path, read_only=True)
        self._checked_whole = soundness.is_small(path) or hold.record.suspect
        # By reading, SQLite makes its log, which stays until the last connection is closed.
        try:
            hold.remember(seq=reads.last_seq(self._conn), suspect=False)
            log = file.log_of(path)
            index = log.with_name(log.name.removesuffix("-wal") + "-shm")
            self._names = Names(map(str, (path.absolute(), log, index)))
        except (sqlite3.Error, OSError) as error:
            raise faults.unusable(path, error) from error
        HELD.add(self)

    def check(self) -> None:
        """Raise ``StoreBroken`` if any of the files has gone. It takes microseconds.

        What has gone once stays so. Whoever finds it first saves what can be saved.
        """
        if self._gone is None:
            try:
                self._find_gone()
            except OSError as error:
                self._gone = (
                    f"{error.filename} cannot be looked at ({error.strerror}), so nothing more is "
                    f"acknowledged: check its disk and its permissions, then start again"
                )
        if self._gone is not None:
            raise StoreBroken(self._gone)

    def _find_gone(self) -> None:
        path = self._names.first_gone()
        if path is not None:
            rescued = f"{self._path.resolve()}.*.rescued"
            self._gone = (
                f"{path} was deleted, renamed or replaced while it was in use: nothing more is "
                f"acknowledged. Put it back under its name, with the files beside it, or use "
                f'the newest {rescued} (docs/operators.md, "Damage"), then start again'
            )
            self._hold.renew(self._path)
            self._save()

    def _save(self) -> None:
        """If the database goes by its name no more, leave a copy of it there."""
        path = str(self._path.absolute())
        # There may be no room, or no directory.
        with self._lock, suppress(sqlite3.Error, OSError):
            if self._saved or self._names.is_right(path):
                return
            self.saving = True
            try:
                copies.leave(self._path, self._conn, "rescued")
                self._saved = True
            finally:
                self.saving = False

    def look_last(self) -> None:
        """Before the process ends: wait for the copy that is being made, or make it now.

        Raises:
            StoreBroken: when any of the files has gone.
        """
        self._save()
        self.check()

    def leave(self) -> None:
        """Look a last time, and let go of the files.

        Raises:
            StoreBroken: when any of them has gone.
        """
        try:
            self.look_last()
        finally:
            HELD.discard(self)
            self._conn.close()

    def remember(self, seq: int) -> None:
        """Remember what was committed, up to this number of the journal, for the next start."""
        self._hold.remember(seq=seq)

    async def look_over(self) -> list[Difference]:
        """Read all of the database beside other work; return which books are wrong.

        After a start that has read the whole file this adds up the books. Of a larger file the
        pages are read, which may take minutes, and the books are left to ``settled audit``.

        Raises:
            StoreBroken: when it is damaged; the next start will read all of it first.
        """
        conn = await trio.to_thread.run_sync(partial(file.connect, self._path, read_only=True))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_interrupt_when_cancelled, conn)
                with trio.CancelScope(shield=True):  # it ends by the interrupt
                    found = await trio.to_thread.run_sync(outcome.capture, self._look, conn)
                nursery.cancel_scope.cancel()
        finally:
            conn.close()
        return found.unwrap()

    def _look(self, conn: sqlite3.Connection) -> list[Difference]:
        try:
            if self._checked_whole:
                return audit.audit(conn, lambda _done, _total: None)
            soundness.check_whole(self._path, conn)
        except soundness.Damaged as error:
            self._hold.suspect()
            raise StoreBroken(str(error)) from error
        except sqlite3.Error as error:
            if faults.code(error) == sqlite3.SQLITE_INTERRUPT:
                return []
            if faults.code(error) not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise
            self._hold.suspect()
            raise StoreBroken(str(soundness.damaged(self._path, str(error)))) from error
        return []


async def _interrupt_when_cancelled(conn: sqlite3.Connection) -> None:
    try:
        await trio.sleep_forever()
    finally:
        conn.interrupt()
