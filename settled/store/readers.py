"""Connections that read, in threads, beside the one that writes."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from settled import limits
from settled.errors import StoreBroken
from settled.store import faults, file
from settled.store.guard import Guard
from settled.store.writer import Writer

_T = TypeVar("_T")


class Readers:
    """A few connections to the database at ``path``, opened when they are needed and kept.

    Args:
        path: the database.
        writer: judges what SQLite reports, and writes no more once a reader has met damage.
        guard: a daemon's. It opens all of them at once, so that reads go on when strangers have
            used up its descriptors, and looks at its files before each read and at the end.
    """

    def __init__(self, path: Path, writer: Writer, guard: Guard | None) -> None:
        self._path = path
        self._writer = writer
        self._guard = guard
        ahead = 0 if guard is None else limits.READERS_MAX
        self._idle = [file.connect(path, read_only=True) for _ in range(ahead)]
        self._limiter = trio.CapacityLimiter(limits.READERS_MAX)

    async def read(self, read: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return what ``read`` returns of a connection that sees what is committed.

        Raises:
            StoreBusy: the file cannot be read now.
            StoreBroken: the file has gone or is damaged; the daemon must stop.
        """
        return await trio.to_thread.run_sync(self._in_thread, read, limiter=self._limiter)

    def _in_thread(self, read: Callable[[sqlite3.Connection], _T]) -> _T:
        conn = self._idle.pop() if self._idle else file.connect(self._path, read_only=True)
        try:
            if self._guard is not None:
                self._guard.check()
            return read(conn)
        except StoreBroken as error:
            self._writer.stop(error)
            raise
        except sqlite3.Error as error:
            if faults.is_damage(error):
                told = faults.unusable(self._path, error)
                self._writer.stop(StoreBroken(str(told)))
                if self._guard is None:
                    raise told from error
            raise self._writer.judge(error) from error
        finally:
            self._idle.append(conn)

    def close(self) -> None:
        """Close the connections; nothing reads any more."""
        try:
            if self._guard is not None:
                self._guard.leave()
        finally:
            while self._idle:
                self._idle.pop().close()
