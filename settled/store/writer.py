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
from typing import Any, TypeVar

import outcome
import trio

from settled.errors import SettledError, StoreBroken, StoreFull
from settled.store import batch as batches
from settled.store import faults, file, verdicts
from settled.store.batch import AtOnce, Item, Items, Job, Together, Told, Waiting
from settled.store.clock import Uptime
from settled.store.guard import Guard
from settled.store.sql.ledger import Tx
from settled.store.sql.reads import last_seq

_I = TypeVar("_I")
_T = TypeVar("_T")

# A coroutine under way is not wrapped in others: each level costs at every wait.
Pending = Coroutine[Any, Any, _T]


class Writer:
    """The writing thread of one database; ``write`` is called from trio.

    Args:
        conn: a connection used by nothing else from now on; opened with
            ``check_same_thread=False`` and ``isolation_level=None``.
        now_ms: the wall clock, in milliseconds.
        uptime: how long the machine is up.
        nudge: whether another process must be told of what is written.
        guard: looks at the files after each commit, before anybody is told of it, and remembers
            the commit after that.
    """

    def __init__(
        self,
        conn: sqlite3.Connection,
        now_ms: Callable[[], int],
        uptime: Callable[[], Uptime],
        *,
        nudge: bool,
        guard: Guard | None = None,
    ) -> None:
        self._conn = conn
        self._now_ms = now_ms
        self._uptime = uptime
        self._nudge = nudge
        self._guard = guard
        self._confirmed = False  # something is, of which the guard does not know
        self._seq: int | None = None  # the number of its last entry, if that is at hand
        self._entries: queue.SimpleQueue[batches.Entry | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._broken: StoreBroken | None = None
        self._closed = False
        self._full = False  # a job found no room
        self._at_once: dict[object, AtOnce] = {}
        self._forget: Callable[[], None] = lambda: None
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

    def allow_at_once(self, run: Together, at_once: AtOnce) -> None:
        """Have ``at_once`` tried first where a batch has several items, and all for ``run``.

        It is called outside a transaction, and writes with one statement, which commits itself.
        Where another process must be told, that takes a transaction.
        """
        if not self._nudge:
            self._at_once[run] = at_once

    def on_roll_back(self, forget: Callable[[], None]) -> None:
        """Have ``forget`` called, by the thread, after a transaction was undone."""
        self._forget = forget

    async def _enter(self, entry: Waiting) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        self.check()
        entry.task = trio.lowlevel.current_task()
        self._entries.put(entry)
        return await trio.lowlevel.wait_task_rescheduled(batches.not_cancelled)

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
            batch, open_ = batches.take(self._entries)
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
                    open_ = False
            self._tell_guard()
            if self._full:
                self._full = False
                file.empty_log(self._conn)

    def _tell_guard(self) -> None:
        if self._guard is not None and self._confirmed:
            self._confirmed = False
            try:
                self._guard.remember(self._seq or last_seq(self._conn))
            except sqlite3.Error:
                pass  # the next commit meets it, too
            except BaseException as error:  # the thread goes on, so that all hear of it
                self._give_up([], error)

    def _commit(self, jobs: Sequence[Job | Item]) -> None:
        """Give each job its result: of the whole batch at once, else of each alone."""
        if self._write_at_once(jobs) or self._try(jobs):
            return
        for job in jobs:
            self._try([job], alone=True)

    def _write_at_once(self, jobs: Sequence[Job | Item]) -> bool:
        """Write the jobs with one statement if they are made for that; return whether they are."""
        run = jobs[0].run
        at_once = None if len(jobs) == 1 else self._at_once.get(run)
        if at_once is None or self._broken is not None or any(job.run != run for job in jobs):
            return False
        try:
            results = at_once(self._tx(), [job.item for job in jobs if isinstance(job, Item)])
            if results is None:
                return False
        except sqlite3.OperationalError as error:
            if faults.is_busy(error):
                self._fail(jobs, error)  # not tried again: it would wait again
                return True
            return self._failed_to_commit(jobs, error)
        except Exception:
            return False  # it fails again in a transaction, or does not
        batches.give(jobs, results)
        self._confirm(jobs)
        return True

    def _tx(self) -> Tx:
        return Tx(self._conn, self._now_ms(), self._uptime(), self._nudge)

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
            tx = self._tx()
            batches.run_all(tx, jobs)
        except Exception as error:
            self._roll_back()
            if alone:
                self._fail(jobs, error)
            return alone
        return self._sync(jobs, tx.seq if len(jobs) == 1 else None, alone=alone)

    def _sync(self, jobs: Sequence[Job | Item], seq: int | None, *, alone: bool) -> bool:
        try:
            self._conn.execute("COMMIT")
        except sqlite3.Error as error:
            if self._failed_to_commit(jobs, error):
                return True
            if alone:
                self._fail(jobs, error)
            return alone
        self._confirm(jobs, seq)
        return True

    def _failed_to_commit(self, jobs: Sequence[Job | Item], error: sqlite3.Error) -> bool:
        """Roll back, or break the store if nobody knows what was written; return whether it is."""
        self._roll_back()
        if verdicts.is_passing(error):
            return False
        self._broken = verdicts.not_committed(error)
        self._fail(jobs, error)
        return True

    def _confirm(self, jobs: Sequence[Job | Item], seq: int | None = None) -> None:
        """See to it that what was committed is where it must be."""
        try:
            if self._guard is not None:
                self._guard.check()
        except StoreBroken as error:
            self.stop(error)
            self._fail(jobs, error)
        else:
            self._confirmed, self._seq = True, seq

    def _give_up(self, jobs: Sequence[Job | Item], error: BaseException) -> None:
        """Break the store: the thread goes on only to say so."""
        if self._broken is None:
            self._broken = verdicts.thread_failed(error)
        self._fail(jobs, self._broken)
        self._roll_back()

    def _fail(self, jobs: Sequence[Job | Item], error: Exception) -> None:
        verdict = self.judge(error)
        self._full = self._full or isinstance(verdict, StoreFull)
        for job in jobs:
            job.result = outcome.Error(verdict)

    def _roll_back(self) -> None:
        self._forget()
        if self._conn.in_transaction:  # SQLite itself may have rolled back already
            try:
                self._conn.execute("ROLLBACK")
            except sqlite3.Error as error:
                self._broken = verdicts.not_rolled_back(error)

    def judge(self, error: Exception) -> Exception:
        """Return what the caller is told of ``error``, which may end all writing."""
        if self._broken is not None:
            return self._broken
        verdict = verdicts.verdict(error)
        if verdict is not error and isinstance(verdict, StoreBroken):
            self._broken = verdict
        return verdict
