"""Connections that read, in threads, beside the one that writes."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import outcome
import trio

from settled import limits
from settled.errors import SettledError, StoreBroken
from settled.store import faults, file
from settled.store.guard import Guard
from settled.store.writer import Writer

_T = TypeVar("_T")


class _Turn:
    """What is read in one go."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self._reads: list[Callable[[sqlite3.Connection], Any]] = []
        self._results: outcome.Maybe[list[outcome.Maybe[Any]]]

    def join(self, read: Callable[[sqlite3.Connection], Any]) -> int:
        """Take one more; return its number, from zero."""
        self._reads.append(read)
        return len(self._reads) - 1

    def read_all(self, conn: sqlite3.Connection) -> list[outcome.Maybe[Any]]:
        return [_refused_or_read(read, conn) for read in self._reads]

    def end(self, results: outcome.Maybe[list[outcome.Maybe[Any]]]) -> None:
        self._results = results
        self.ended.set()

    def result(self, number: int) -> Any:
        """Return what one has read, or raise what it has met."""
        if isinstance(self._results, outcome.Error):
            raise self._results.error
        return self._results.value[number].unwrap()


def _refused_or_read(
    read: Callable[[sqlite3.Connection], Any], conn: sqlite3.Connection
) -> outcome.Maybe[Any]:
    try:
        return outcome.Value(read(conn))
    except (SettledError, ValueError) as error:  # all else is for the one who reads to judge
        return outcome.Error(error)


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
        self._turns = trio.Lock()
        self._next_turn = _Turn()

    async def read(self, read: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return what ``read`` returns of a connection that sees what is committed.

        Raises:
            StoreBusy: the file cannot be read now.
            StoreBroken: the file has gone or is damaged; the daemon must stop.
        """
        return await trio.to_thread.run_sync(self._in_thread, read, limiter=self._limiter)

    async def read_together(self, read: Callable[[sqlite3.Connection], _T]) -> _T:
        """Like ``read`` of something quick: what is asked for meanwhile is read in the next turn.

        To go to a thread and back costs ten times what it takes to read a row.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        turn = self._next_turn
        number = turn.join(read)
        if number == 0:
            with trio.CancelScope(shield=True):  # the others rely on it
                async with self._turns:
                    self._next_turn = _Turn()
                    turn.end(await outcome.acapture(self.read, turn.read_all))
        else:
            await turn.ended.wait()
        result: _T = turn.result(number)
        return result

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
