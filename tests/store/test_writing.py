"""The writing thread: whole batches or nothing, and an answer for each, also at the end."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from settled import limits
from settled.amounts import Quantity
from settled.errors import AccountNotFound, SettledError, StoreBroken, StoreBusy
from settled.store.batch import Job
from settled.store.clock import uptime, wall_ms
from settled.store.file import connect
from settled.store.sql.ledger import Tx
from settled.store.sqlite import SqliteStore, open_sqlite
from settled.store.writer import Writer


class Wrapped:
    """A connection of which a test can make single statements fail, and count all of them."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn
        self.said: list[str] = []
        self.fail: Callable[[str], sqlite3.Error | None] = lambda _sql: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.conn, name)

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        self.said.append(sql)
        error = self.fail(sql)
        if error is not None:
            raise error
        return self.conn.execute(sql, *values)


def error(code: int, kind: type[sqlite3.Error] = sqlite3.OperationalError) -> sqlite3.Error:
    made = kind("it failed")
    made.sqlite_errorcode = code
    return made


@pytest.fixture
async def conn(path: Path) -> Any:
    path.touch()
    conn = Wrapped(connect(path))
    conn.execute("CREATE TABLE t (x)")
    conn.said.clear()
    return conn


@contextmanager
def paused(conn: Wrapped) -> Iterator[threading.Event]:
    """Hold the writing thread at its next BEGIN until the block ends or the event is set."""
    go = threading.Event()
    fail = conn.fail

    def wait(sql: str) -> sqlite3.Error | None:
        if sql.startswith("BEGIN"):
            go.wait(5)
        return fail(sql)

    conn.fail = wait
    try:
        yield go
    finally:
        go.set()
        conn.fail = fail


def put(value: Any) -> Callable[[Tx], Any]:
    def run(tx: Tx) -> Any:
        tx.conn.execute("INSERT INTO t VALUES (?)", (value,))
        return value

    return run


async def outcomes(writer: Writer, *runs: Callable[[Tx], Any]) -> list[Any]:
    """Have all of them written at the same time; return what each returned or raised."""
    found: list[Any] = [None] * len(runs)

    async def one(number: int, run: Callable[[Tx], Any]) -> None:
        try:
            found[number] = await writer.write(run)
        except Exception as caught:
            found[number] = caught

    async with trio.open_nursery() as nursery:
        for number, run in enumerate(runs):
            nursery.start_soon(one, number, run)
    return found


def stored(conn: Wrapped) -> list[Any]:
    return sorted(x for (x,) in conn.conn.execute("SELECT x FROM t"))


async def test_nobody_else_writes_between_what_a_transaction_reads_and_writes(path: Path) -> None:
    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)

        locked: list[str] = []

        def look(tx: Tx) -> None:
            tx.conn.execute("SELECT * FROM accounts").fetchall()
            with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
                try:
                    other.execute("UPDATE accounts SET failures = 1")
                except sqlite3.OperationalError as error:
                    locked.append(str(error))
            tx.conn.execute("UPDATE accounts SET failures = 2")

        await store._writer.write(look)
        assert locked == ["database is locked"]
        assert (await store.account("alice")).failures == 2


async def test_what_waits_is_one_transaction_up_to_the_limit(
    conn: Wrapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMMIT_BATCH_MAX", 10)
    writer = Writer(conn, wall_ms, uptime, nudge=False)  # type: ignore[arg-type]
    with paused(conn) as go:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.write, put(-1))
            await trio.sleep(0.05)
            nursery.start_soon(outcomes, writer, *map(put, range(25)))
            await wait_all_tasks_blocked()
            go.set()
    assert conn.said.count("COMMIT") == 1 + 3
    assert stored(conn) == list(range(-1, 25))
    await writer.aclose()


async def test_a_refusal_that_wrote_nothing_costs_the_batch_nothing(conn: Wrapped) -> None:
    def refuse(tx: Tx) -> None:
        raise AccountNotFound("bob")

    writer = Writer(conn, wall_ms, uptime, nudge=False)  # type: ignore[arg-type]
    with paused(conn) as go:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.write, put(0))
            await trio.sleep(0.05)
            found: list[Any] = []

            async def ask() -> None:
                found.extend(await outcomes(writer, put(1), refuse, put(2)))

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            go.set()
    assert [type(one) for one in found] == [int, AccountNotFound, int]
    assert conn.said.count("COMMIT") == 2
    await writer.aclose()


@pytest.mark.parametrize("raised", [SettledError("half-way"), ValueError("x"), KeyError("x")])
async def test_what_fails_after_it_wrote_is_undone_and_only_that(
    conn: Wrapped, raised: Exception
) -> None:
    def fail(tx: Tx) -> None:
        put("half")(tx)
        raise raised

    writer = Writer(conn, wall_ms, uptime, nudge=False)  # type: ignore[arg-type]
    found = await outcomes(writer, put(1), fail, put(2), fail)
    assert found == [1, raised, 2, raised]
    assert stored(conn) == [1, 2]
    assert not conn.in_transaction
    await writer.aclose()


@pytest.mark.parametrize("kind", [sqlite3.IntegrityError, sqlite3.ProgrammingError])
async def test_a_broken_rule_of_the_file_is_a_fault_of_one_write(
    conn: Wrapped, kind: type[sqlite3.Error]
) -> None:
    def fail(tx: Tx) -> None:
        put("half")(tx)
        raise error(sqlite3.SQLITE_CONSTRAINT_UNIQUE, kind)

    writer = Writer(conn, wall_ms, uptime, nudge=False)  # type: ignore[arg-type]
    assert [type(one) for one in await outcomes(writer, fail, put(1))] == [kind, int]
    assert await writer.write(put(2)) == 2
    await writer.aclose()


PASSING = [
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_SNAPSHOT, sqlite3.SQLITE_LOCKED),
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM),
]
LASTING = [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_READONLY]


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "COMMIT", "INSERT INTO t VALUES (?)"])
@pytest.mark.parametrize("code", PASSING)
async def test_a_fault_that_passes_refuses_and_records_nothing(
    conn: Wrapped, statement: str, code: int
) -> None:
    conn.fail = lambda sql: error(code) if sql == statement else None
    writer = Writer(conn, wall_ms, uptime, nudge=False)  # type: ignore[arg-type]
    found = await outcomes(writer, put(1), put(2))
    assert [isinstance(one, StoreBusy) for one in found] == [True] * 2
    assert {type(one.__cause__) for one in found} == {sqlite3.OperationalError}
    assert (stored(conn), conn.in_transaction) == ([], False)
    conn.fail = lambda _sql: None
    assert await outcomes(writer, put(3)) == [3]
    assert stored(conn) == [3]
    await writer.aclose()


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "COMMIT", "INSERT INTO t VALUES (?)"])
@pytest.mark.parametrize("code", LASTING)
async def test_any_other_fault_of_the_file_ends_all_writing(
    conn: Wrapped, statement: str, code: int
) -> None:
    conn.fail = lambda sql: error(code) if sql == statement else None
    writer = Writer(conn, wall_ms, uptime, nudge=False)  # type: ignore[arg-type]
    found = await outcomes(writer, put(1), put(2))
    assert [type(one) for one in found] == [StoreBroken] * 2
    assert isinstance(found[0].__cause__, sqlite3.OperationalError)
    conn.fail = lambda _sql: None
    with pytest.raises(StoreBroken):
        await writer.write(put(3))
    with pytest.raises(StoreBroken):
        writer.check()
    assert stored(conn) == []
    await writer.aclose()


async def test_a_busy_file_is_waited_for_once_and_not_once_for_each(conn: Wrapped) -> None:
    conn.fail = lambda sql: error(sqlite3.SQLITE_BUSY) if sql == "BEGIN IMMEDIATE" else None
    writer = Writer(conn, wall_ms, uptime, nudge=False)  # type: ignore[arg-type]
    with paused(conn) as go:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcomes, writer, put(0))
            await trio.sleep(0.05)
            nursery.start_soon(outcomes, writer, *map(put, range(1, 9)))
            await wait_all_tasks_blocked()
            go.set()
    assert conn.said == ["BEGIN IMMEDIATE"] * 2
    await writer.aclose()


async def test_what_does_not_fit_as_one_batch_is_tried_one_by_one(conn: Wrapped) -> None:
    tries = 0

    def full_at_first(sql: str) -> sqlite3.Error | None:
        nonlocal tries
        tries += sql == "COMMIT"
        return error(sqlite3.SQLITE_FULL) if sql == "COMMIT" and tries == 2 else None

    conn.fail = full_at_first
    writer = Writer(conn, wall_ms, uptime, nudge=False)  # type: ignore[arg-type]
    found: list[Any] = []
    with paused(conn) as go:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.write, put(0))
            await trio.sleep(0.05)

            async def ask() -> None:
                found.extend(await outcomes(writer, put(1), put(2)))

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            go.set()
    assert (sorted(found), tries) == ([1, 2], 4)
    assert stored(conn) == [0, 1, 2]
    await writer.aclose()


async def test_the_end_needs_no_free_file_when_nothing_waits(conn: Wrapped) -> None:
    writer = Writer(conn, wall_ms, uptime, nudge=False)  # type: ignore[arg-type]
    assert writer._thread.daemon, "nor does a process that ends in a hurry wait for it"
    await writer.aclose()
    assert conn.said == []


async def test_a_roll_back_that_fails_ends_all_writing(conn: Wrapped) -> None:
    conn.fail = lambda sql: error(sqlite3.SQLITE_IOERR) if sql == "ROLLBACK" else None

    def fail(tx: Tx) -> None:
        put(1)(tx)
        raise RuntimeError("half-way")

    writer = Writer(conn, wall_ms, uptime, nudge=False)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(StoreBroken, match="rolled back"):
            await writer.write(fail)
    await writer.aclose()


async def test_what_waits_at_the_end_is_still_written_and_answered(path: Path) -> None:
    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        answers: list[bool] = []

        async def ask(n: int) -> None:
            queued = await store.queue_settlement("alice", Quantity("1", 0), f"k{n}")
            answers.append(queued.replayed)

        held = threading.Event()

        def hold(tx: Tx) -> None:
            held.set()
            time.sleep(0.2)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store._writer.write, hold)
                await trio.to_thread.run_sync(held.wait)
                for n in range(50):
                    nursery.start_soon(ask, n)
                await trio.sleep(0.02)
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await store._writer.aclose()
        assert answers == [False] * 50
        with pytest.raises(trio.ClosedResourceError):
            await store.queue_settlement("alice", Quantity("1", 0), "late")
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            store._writer._conn.execute("SELECT 1")


async def test_a_write_that_was_handed_over_cannot_be_cancelled(path: Path) -> None:
    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.queue_settlement("alice", Quantity("1", 0), "too late")
        assert scope.cancelled_caught
        assert (await store.account("alice")).requested == 0

        def slowly(tx: Tx) -> str:
            time.sleep(0.1)
            return "done"

        answers = []
        with trio.move_on_after(0.02):
            answers.append(await store._writer.write(slowly))
        assert answers == ["done"]


async def test_news_of_other_processes_wait_until_the_file_is_free(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        open_sqlite(path, exclusive=True, create=True) as store,
        open_sqlite(path, exclusive=False) as beside,
    ):
        account = await beside.open_account("alice")
        write, tries = store._writer.write, 0

        async def busy_twice(run: Any) -> Any:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise StoreBusy("the other process is still at it")
            return await write(run)

        monkeypatch.setattr(store._writer, "write", busy_twice)
        with trio.fail_after(5):
            assert await store.wait_foreign_writes() == [account.number]
        assert tries == 3
        with trio.move_on_after(0.2) as scope:
            await store.wait_foreign_writes()
        assert scope.cancelled_caught, "each is told once"
        own = await store.open_account("bob")
        with trio.move_on_after(0.2) as scope:
            await store.wait_foreign_writes()
        assert scope.cancelled_caught, f"what it writes itself ({own.id}) is no news"
    assert isinstance(store, SqliteStore)


def test_a_thread_whose_run_of_trio_is_over_ends_without_noise(path: Path) -> None:
    """A daemon that crashes leaves at once; what was handed over is committed or lost whole."""
    path.touch()
    go = threading.Event()

    async def main() -> Writer:
        writer = Writer(connect(path), wall_ms, uptime, nudge=False)
        job = Job(lambda _tx: go.wait(5))
        job.task = trio.lowlevel.current_task()
        writer._entries.put(job)
        return writer

    writer = trio.run(main)
    go.set()
    writer._thread.join(5)
    assert not writer._thread.is_alive()
    writer._conn.close()
