"""What is written and committed together: the work that waits, and the tasks that wait for it."""

import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import outcome
import trio

from settled import limits
from settled.errors import SettledError
from settled.store.sql.ledger import Tx

# What comes of each item: what it is answered with, or why it is refused.
Together = Callable[[Tx, Sequence[Any]], Sequence[Any]]
# The same; ``None``: it cannot be done like that, and nothing was written.
AtOnce = Callable[[Tx, Sequence[Any]], Sequence[Any] | None]


@dataclass(slots=True, eq=False)
class Job:
    """A function of the transaction."""

    run: Callable[[Tx], Any]
    task: trio.lowlevel.Task = field(init=False)
    result: outcome.Maybe[Any] = field(init=False)


@dataclass(slots=True, eq=False)
class Item:
    """One of those that a function of the transaction takes together."""

    run: Together
    item: Any
    task: trio.lowlevel.Task = field(init=False)
    result: outcome.Maybe[Any] = field(init=False)


@dataclass(slots=True, eq=False)
class Items:
    """Items that one task waits for."""

    items: Sequence[Item]
    task: trio.lowlevel.Task = field(init=False)

    @property
    def result(self) -> outcome.Maybe[Any]:
        """What came of each item."""
        return outcome.Value([item.result for item in self.items])


@dataclass(slots=True, eq=False)
class Told:
    """Items that no task waits for."""

    items: Sequence[Item]
    done: Callable[[list[outcome.Maybe[Any]]], None]


Waiting = Job | Item | Items
Entry = Waiting | Told


@dataclass(slots=True)
class Batch:
    """What is committed together."""

    waiting: list[Waiting] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    jobs: list[Job | Item] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        """Take one more, with all that it holds."""
        if isinstance(entry, Told):
            self.told.append(entry)
        else:
            self.waiting.append(entry)
        if isinstance(entry, Items | Told):
            self.jobs += entry.items
        else:
            self.jobs.append(entry)

    def tell(self) -> None:
        """Say what came of the items that no task waits for."""
        for told in self.told:
            told.done([item.result for item in told.items])

    def wake(self) -> None:
        """Give every task that waits its result."""
        for entry in self.waiting:
            trio.lowlevel.reschedule(entry.task, entry.result)


def take(entries: "queue.SimpleQueue[Entry | None]") -> tuple[Batch, bool]:
    """Wait for something to write; return it with all else that waits, and whether more may come.

    After a ``None`` in the queue nothing comes any more.
    """
    batch = Batch()
    entry = entries.get()
    while entry is not None:
        batch.add(entry)
        if len(batch.jobs) >= limits.COMMIT_BATCH_MAX:
            break
        try:
            entry = entries.get_nowait()
        except queue.Empty:
            break
    return batch, entry is not None


def run_all(tx: Tx, jobs: Sequence[Job | Item]) -> None:
    """Run the jobs in a transaction, and give each its result; whatever one raises undoes all."""
    together: dict[Together, list[Item]] = {}
    for job in jobs:
        if isinstance(job, Item):
            together.setdefault(job.run, []).append(job)
        else:
            _run(tx, job)
    for run, items in together.items():
        give(items, run(tx, [item.item for item in items]))


def _run(tx: Tx, job: Job) -> None:
    before = tx.conn.total_changes
    try:
        job.result = outcome.Value(job.run(tx))
    except (SettledError, ValueError) as error:
        # A refusal that has written nothing leaves the rest of the batch as it is.
        if tx.conn.total_changes != before:
            raise
        job.result = outcome.Error(error)


def give(items: Sequence[Job | Item], results: Sequence[Any]) -> None:
    """Give each of the items its result."""
    for item, result in zip(items, results, strict=True):
        refused = isinstance(result, SettledError)
        item.result = outcome.Error(result) if refused else outcome.Value(result)


def not_cancelled(_: object) -> trio.lowlevel.Abort:
    """Let no task that waits for its result be woken before."""
    return trio.lowlevel.Abort.FAILED
