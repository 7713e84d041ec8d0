"""Group commit: one thread that writes, and commits all that waits together with one sync.

Work arrives as functions of an open transaction. While the disk syncs one batch, the next gathers.
A batch whose transaction fails is rolled back whole and run again one by one, so a function must do
all its work through the transaction it is given. Of one kind of work the function takes all that
the batch has of it at once.
"""

import queue
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import outcome
import trio

from settled.errors import SettledError, StoreBroken, StoreBusy, StoreFull
from settled.store import faults
from settled.store.batch import Entry, Item, Items, Job, Together, Told, Waiting, run_together, take
from settled.store.clock import Uptime
from settled.store.sql.ledger import Tx
from settled.store.sql.reads import last_seq
from settled.text import describe_error

_I = TypeVar("_I")
_T = TypeVar("_T")

# A coroutine under way is not wrapped in others: each level costs at every wait.
Pending = Coroutine[Any, Any, _T]

# Faults that SQLite rolls back cleanly and that pass: the caller may try again.
_PASSING: Final = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM}
)


class Writer:
    """The writing thread of one database; ``write`` is called from trio.

    Args:
        conn: a connection used by nothing else from now on; opened with
            ``check_same_thread=False`` and ``isolation_level=None``.
        now_ms: the wall clock, in milliseconds.
        uptime: how long the machine is up.
        nudge: whether another process must be told of what is written.
        committed: called in the thread after each commit, before anybody is told of it, with the
            number of the journal's last entry; it may raise ``StoreBroken`` when what was written
            is not where it must be.
    """

    def __init__(
        self,
        conn: sqlite3.Connection,
        now_ms: Callable[[], int],
        uptime: Callable[[], Uptime],
        *,
        nudge: bool,
        committed: Callable[[int], None] | None = None,
    ) -> None:
        self._conn = conn
        self._now_ms = now_ms
        self._uptime = uptime
        self._nudge = nudge
        self._committed = committed
        self._entries: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._broken: StoreBroken | None = None
        self._closed = False
        self._full = False  # a job found no room
        self._thread = threading.Thread(target=self._loop, name="settled-writer", daemon=True)
        self._thread.start()

    def write(self, run: Callable[[Tx], _T]) -> Pending[_T]:
        """Run ``run`` in a transaction; return its result once that is synced to disk.

        Cancellation is noticed before the work is handed over, never after.

        Raises:
            StoreBusy: nothing was written; try again later.
            StoreBroken: whether it was written cannot be told; the daemon must stop.
        """
        return self._enter(Job(run))

    def write_together(
        self, run: Callable[[Tx, Sequence[_I]], Sequence[_T | SettledError]], item: _I
    ) -> Pending[_T]:
        """Have ``run`` write ``item``, with those of all others who wait; otherwise like ``write``.

        Args:
            run: takes the items, and returns what comes of each: a result, or a ``SettledError``
                for one that is refused and has written nothing.
            item: what is to be written.
        """
        return self._enter(Item(run, item))

    def write_all(
        self, run: Callable[[Tx, Sequence[_I]], Sequence[_T | SettledError]], items: Sequence[_I]
    ) -> Pending[list[outcome.Maybe[_T]]]:
        """Like ``write_together`` for each of the items; return what came of each."""
        return self._enter(Items([Item(run, item) for item in items]))

    def begin_all(
        self,
        run: Callable[[Tx, Sequence[_I]], Sequence[_T | SettledError]],
        items: Sequence[_I],
        done: Callable[[list[outcome.Maybe[_T]]], None],
    ) -> None:
        """Like ``write_all``, but no task waits: ``done`` is told, by the writing thread.

        What it does must be short, and must not raise.
        """
        self.check()
        self._entries.put(Told([Item(run, item) for item in items], done))

    async def _enter(self, entry: Waiting) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        self.check()
        entry.task = trio.lowlevel.current_task()
        self._entries.put(entry)
        return await trio.lowlevel.wait_task_rescheduled(_not_cancelled)

    def check(self) -> None:
        """Raise what makes every further write impossible, if anything does."""
        if self._broken is not None:
            raise self._broken
        if self._closed:
            raise trio.ClosedResourceError("the store is closed")

    def stop(self, error: StoreBroken) -> None:
        """Refuse every further write with ``error``; may be called from any thread."""
        self._broken = error

    async def aclose(self) -> None:
        """Finish what waits, end the thread and close the connection."""
        self._closed = True
        self._entries.put(None)
        with trio.CancelScope(shield=True):  # the last batch is on its way to the disk
            await trio.to_thread.run_sync(self._thread.join)
        self._conn.close()

    # --- the thread ---

    def _loop(self) -> None:
        open_ = True
        while open_:
            batch, open_ = take(self._entries)
            if batch.jobs:
                try:
                    self._commit(batch.jobs)
                except BaseException as error:  # whatever it is, those who wait must hear of it
                    self._give_up(batch.jobs, error)
            batch.tell()
            if batch.waiting:
                try:
                    self._token.run_sync_soon(batch.wake)
                except trio.RunFinishedError:
                    return
            if self._full:
                self._empty_log()

    def _commit(self, jobs: Sequence[Job | Item]) -> None:
        """Give each job its result: of the whole batch at once, else of each alone."""
        if self._try(jobs):
            return
        for job in jobs:
            self._try([job], alone=True)

    def _try(self, jobs: Sequence[Job | Item], *, alone: bool = False) -> bool:
        """Run and commit the jobs as one transaction; return whether their results stand."""
        if self._broken is not None:
            # After a failed sync nothing that the disk says may be trusted.
            self._fail(jobs, self._broken)
            return True
        try:
            self._conn.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            # Not tried alone: each would wait out the busy time-out again.
            self._fail(jobs, error)
            return True
        try:
            tx = Tx(self._conn, self._now_ms(), self._uptime(), self._nudge)
            together: dict[Together, list[Item]] = {}
            for job in jobs:
                if isinstance(job, Item):
                    together.setdefault(job.run, []).append(job)
                else:
                    self._run(tx, job)
            for run, items in together.items():
                run_together(tx, run, items)
            seq = 0 if self._committed is None else last_seq(self._conn)
        except Exception as error:
            self._roll_back()
            if alone:
                self._fail(jobs, error)
            return alone
        return self._sync(jobs, seq, alone=alone)

    def _run(self, tx: Tx, job: Job) -> None:
        before = self._conn.total_changes
        try:
            job.result = outcome.Value(job.run(tx))
        except (SettledError, ValueError) as error:
            # A refusal that has written nothing leaves the rest of the batch as it is.
            if self._conn.total_changes != before:
                raise
            job.result = outcome.Error(error)

    def _sync(self, jobs: Sequence[Job | Item], seq: int, *, alone: bool) -> bool:
        try:
            self._conn.execute("COMMIT")
        except sqlite3.Error as error:
            passing = faults.code(error) in _PASSING
            self._roll_back()
            if not passing:
                self._broken = StoreBroken(
                    f"the database could not be committed ({error}): the outcome is unknown. "
                    f"Check the disk, then start again; the start reads what was written"
                )
                self._broken.__cause__ = error
            if alone or not passing:
                self._fail(jobs, error)
                return True
            return False
        try:
            if self._committed is not None:
                self._committed(seq)
        except StoreBroken as error:
            self.stop(error)
            self._fail(jobs, error)
        return True

    def _give_up(self, jobs: Sequence[Job | Item], error: BaseException) -> None:
        """Break the store: the thread goes on only to say so."""
        if self._broken is None:
            self._broken = StoreBroken(
                f"the thread that writes to the database failed ({describe_error(error)}): the "
                f"outcome is unknown. Start again; the start reads what was written"
            )
            self._broken.__cause__ = error
        self._fail(jobs, self._broken)
        self._roll_back()

    def _fail(self, jobs: Sequence[Job | Item], error: Exception) -> None:
        verdict = self.judge(error)
        self._full = self._full or isinstance(verdict, StoreFull)
        for job in jobs:
            job.result = outcome.Error(verdict)

    def _empty_log(self) -> None:
        """Move the log into the database, if that has room, so that the next write begins it anew.

        A log grows until it is as long as it may be: on a full disk it would never get there.
        """
        self._full = False
        with suppress(sqlite3.Error):
            self._conn.execute("PRAGMA wal_checkpoint")

    def _roll_back(self) -> None:
        if self._conn.in_transaction:  # SQLite itself may have rolled back already
            try:
                self._conn.execute("ROLLBACK")
            except sqlite3.Error as error:
                self._broken = StoreBroken(f"the database could not be rolled back ({error})")

    def judge(self, error: Exception) -> Exception:
        """Return what the caller is told of ``error``, which may end all writing."""
        if self._broken is not None:
            return self._broken
        if not isinstance(error, sqlite3.DatabaseError) or isinstance(
            error, sqlite3.IntegrityError | sqlite3.ProgrammingError
        ):
            return error
        if faults.code(error) in _PASSING:
            kind = StoreFull if faults.code(error) == sqlite3.SQLITE_FULL else StoreBusy
            busy = kind(f"the database cannot write now ({error}): nothing was recorded")
            busy.__cause__ = error
            return busy
        self._broken = StoreBroken(f"the database failed ({error}): check the disk and the file")
        self._broken.__cause__ = error
        return self._broken


def _not_cancelled(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
