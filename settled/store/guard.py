"""What a daemon watches over while it has a database open: its files, its disk, its soundness.

A file that was deleted, renamed or replaced while it is open can be written to without an error;
what it takes is gone for the next start. So the names are looked at after every commit, before
anybody is told of it, and now and then.
"""

import os
import sqlite3
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import outcome
import trio

from settled.errors import StoreBroken
from settled.store import copies, file, soundness
from settled.store.lock import Hold
from settled.store.records import Difference
from settled.store.sql import audit

_Identity = tuple[int, int]


class Guard:
    """The files of a database that this process holds, as they were when it was opened.

    Args:
        path: the database.
        hold: the lock, which remembers how far the journal has come.
        conn: a connection to it that stays open as long as this is used.
    """

    def __init__(self, path: Path, hold: Hold, conn: sqlite3.Connection) -> None:
        self._path = path
        self._hold = hold
        self._checked_whole = soundness.is_small(path) or hold.record.suspect
        # By reading, SQLite makes its log, which stays until the last connection is closed.
        try:
            hold.remember(seq=soundness.last_seq(conn), suspect=False)
        except sqlite3.Error as error:
            raise file.unusable(path, error) from error
        log = file.log_of(path)
        index = log.with_name(log.name.removesuffix("-wal") + "-shm")
        self._files: Final = {name: _identity(name) for name in (path.absolute(), log, index)}

    def check(self) -> None:
        """Raise ``StoreBroken`` if any of the files has gone. It takes microseconds."""
        for path, identity in self._files.items():
            if _identity(path) != identity:
                self._hold.renew(self._path)
                raise StoreBroken(
                    f"{path} was deleted, renamed or replaced while it was in use: nothing more is "
                    f"acknowledged. Put it back under its name, with the files beside it, or use "
                    f'the newest {self._path}.*.rescued (docs/operators.md, "Damage"), then start '
                    f"again"
                )

    def leave(self, conn: sqlite3.Connection) -> None:
        """At the end, if the database goes by its name no more, leave a copy of it there.

        Raises:
            StoreBroken: when any of the files has gone.
        """
        path = self._path.absolute()
        if _identity(path) != self._files[path]:
            with suppress(sqlite3.Error, OSError):  # there may be no room, or no directory
                copies.leave(self._path, conn, "rescued")
        self.check()

    def committed(self, conn: sqlite3.Connection) -> None:
        """See to it that what was committed is where the next start looks, and remember it."""
        self.check()
        # The commit stands whatever comes of this: the number only serves to notice a loss.
        with suppress(sqlite3.Error):
            self._hold.remember(seq=soundness.last_seq(conn))

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
            if _code(error) == sqlite3.SQLITE_INTERRUPT:
                return []
            if _code(error) not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise
            self._hold.suspect()
            raise StoreBroken(str(soundness.damaged(self._path, str(error)))) from error
        return []


async def _interrupt_when_cancelled(conn: sqlite3.Connection) -> None:
    try:
        await trio.sleep_forever()
    finally:
        conn.interrupt()


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _identity(path: Path) -> _Identity | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
