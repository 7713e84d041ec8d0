"""The floor: settlement requests on trio, httptools and SQLite alone, without any code of settled.

Each request writes what settled writes for it: its idempotency key, its line of the journal, and
the balances of its account (those once a batch). All that wait together are committed together, in
one thread, with ``synchronous = FULL``. There are no checks, limits, replays or settlements.

    python -m benchmarks.bare FILE commit

FILE is a database that settled made, with its accounts. In the place of ``commit``, ``http``
answers without a look at the body and ``parse`` without a commit: they tell what each part costs.
"""

import queue
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import outcome
import trio

from benchmarks.plain import Request, created, serve

_BATCH_MAX: Final = 1000
_PATH: Final = re.compile(r"/accounts/([^/]+)/settlements")
_KEY: Final = (
    "INSERT INTO idempotency_keys (account_id, key, account, amount, scale, tick) "
    "VALUES (?, ?, ?, ?, ?, 0)"
)
_JOURNAL: Final = (
    "INSERT INTO journal (at_ms, account, source, target, amount, ref) "
    "VALUES (?, ?, 'requested', 'queued', ?, ?)"
)
_BALANCE: Final = "UPDATE accounts SET requested = ?, queued = ? WHERE number = ?"


class Quantity(msgspec.Struct):
    """The body of a request."""

    amount: str
    scale: int


_QUANTITY: Final = msgspec.json.Decoder(Quantity)


@dataclass(slots=True)
class Account:
    """An account, of which nobody else changes anything."""

    number: int
    requested: Decimal


@dataclass(slots=True)
class Job:
    """A request on its way to the disk, and the task that waits for that."""

    account_id: str
    key: str
    quantity: Quantity
    task: trio.lowlevel.Task


def text_of(value: Decimal) -> str:
    """Return the amount without an exponent or needless zeros."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


class GroupCommit:
    """The thread that writes: what waits together is synced together."""

    def __init__(self, path: Path) -> None:
        self._conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._conn.execute("PRAGMA synchronous = FULL")
        rows = self._conn.execute("SELECT id, number, requested FROM accounts")
        self._accounts = {id_: Account(number, Decimal(text)) for id_, number, text in rows}
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        threading.Thread(target=self._loop, daemon=True).start()

    async def commit(self, account_id: str, key: str, quantity: Quantity) -> None:
        """Return once the request is on the disk."""
        self._jobs.put(Job(account_id, key, quantity, trio.lowlevel.current_task()))
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    def _loop(self) -> None:
        while True:
            jobs = [self._jobs.get()]
            try:
                while len(jobs) < _BATCH_MAX:
                    jobs.append(self._jobs.get_nowait())
            except queue.Empty:
                pass
            self._write(jobs)
            self._token.run_sync_soon(_wake, jobs)

    def _write(self, jobs: Sequence[Job]) -> None:
        now_ms = time.time_ns() // 1_000_000
        keys: list[tuple[str, str, int, str, int]] = []
        entries: list[tuple[int, int, str, str]] = []
        changed: dict[int, Account] = {}
        for job in jobs:
            account = self._accounts[job.account_id]
            amount, scale = job.quantity.amount, job.quantity.scale
            value = Decimal(amount).scaleb(-scale)
            account.requested += value
            changed[account.number] = account
            keys.append((job.account_id, job.key, account.number, amount, scale))
            entries.append((now_ms, account.number, text_of(value), job.key))
        balances = [(text := text_of(a.requested), text, a.number) for a in changed.values()]
        self._conn.execute("BEGIN IMMEDIATE")
        self._conn.executemany(_KEY, keys)
        self._conn.executemany(_JOURNAL, entries)
        self._conn.executemany(_BALANCE, balances)
        self._conn.execute("COMMIT")


def _wake(jobs: Sequence[Job]) -> None:
    for job in jobs:
        trio.lowlevel.reschedule(job.task, outcome.Value(None))


_ANSWER: Final = created(b'{"amount":"100","scale":2}')


async def _http_only(_request: Request) -> bytes:
    return _ANSWER


async def _parse_only(request: Request) -> bytes:
    match = _PATH.fullmatch(request.path)
    assert match is not None  # noqa: S101 - no other requests are sent
    return created(msgspec.json.encode(_QUANTITY.decode(request.body)))


async def _durable(writer: GroupCommit, request: Request) -> bytes:
    match = _PATH.fullmatch(request.path)
    assert match is not None  # noqa: S101 - no other requests are sent
    quantity = _QUANTITY.decode(request.body)
    await writer.commit(match[1], request.key, quantity)
    return created(msgspec.json.encode(quantity))


async def main(path: Path, part: str) -> None:
    """Serve until the process is ended."""
    handles = {"http": _http_only, "parse": _parse_only}
    handle = handles.get(part) or partial(_durable, GroupCommit(path))
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve, handle)
        sys.stdout.write(f"listens on {url}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
