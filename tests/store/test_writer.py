"""The thread that writes: whatever happens to it, nobody waits for it in vain."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from settled.amounts import Quantity
from settled.errors import StoreBroken
from settled.store.sql.ledger import Tx
from settled.store.sqlite import open_sqlite
from tests.harness import conserved


def exit_in_the_work(tx: Tx) -> None:
    tx.conn.execute("UPDATE accounts SET failures = 99")
    raise SystemExit


class DyingConnection:
    """A connection whose COMMIT fails with what no database raises."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            raise MemoryError
        return self._conn.execute(sql, *values)


@pytest.mark.parametrize("at", ["the work", "the commit"])
async def test_a_writing_thread_that_fails_breaks_the_store_and_hangs_nobody(
    tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[StoreBroken] = []

    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        writer = store._writer
        if at == "the commit":
            monkeypatch.setattr(writer, "_conn", DyingConnection(writer._conn))

        async def write(run: Callable[[Tx], None]) -> None:
            with pytest.raises(StoreBroken, match="the outcome is unknown") as caught:
                await writer.write(run)
            errors.append(caught.value)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, exit_in_the_work if at == "the work" else _nothing)
                for _ in range(5):
                    nursery.start_soon(write, _nothing)
            await write(_nothing)  # and nobody who comes later
            with pytest.raises(StoreBroken):
                await store.wait_foreign_writes()
    assert len(errors) == 7
    async with open_sqlite(tmp_path / "s.db", exclusive=True) as store:
        assert (await store.account("alice")).failures == 0
        await store.queue_settlement("alice", Quantity("1", 0), "k")
        await conserved(store)


def _nothing(tx: Tx) -> None:
    pass


async def test_a_failure_in_the_work_of_one_leaves_the_rest_of_its_batch(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        done: list[str] = []

        async def write(name: str) -> None:
            await store._writer.write(lambda tx: _open(tx, name))
            done.append(name)

        async def fail(what: Exception) -> None:
            def run(tx: Tx) -> None:
                _open(tx, "never")
                raise what

            with pytest.raises(type(what)):
                await store._writer.write(run)

        async with trio.open_nursery() as nursery:
            for name in ("a", "b"):
                nursery.start_soon(write, name)
            nursery.start_soon(fail, ZeroDivisionError())
            nursery.start_soon(fail, sqlite3.IntegrityError())
            for name in ("c", "d"):
                nursery.start_soon(write, name)
        assert sorted(account.id for account in await store.accounts()) == sorted(done)
        assert sorted(done) == ["a", "b", "c", "d"]


async def test_a_closed_store_takes_no_work(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await store._writer.write(_nothing)


async def test_what_a_commit_is_followed_by_may_break_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)

        def gone() -> None:
            raise StoreBroken("the file is gone")

        with monkeypatch.context() as failing:
            failing.setattr(store._writer._guard, "check", gone)
            for _ in range(2):
                with pytest.raises(StoreBroken, match="^the file is gone$"):
                    await store.queue_settlement("alice", Quantity("1", 0), "k")


def _open(tx: Tx, name: str) -> None:
    tx.conn.execute(
        "INSERT INTO accounts (id, retry_ms, opened_ms) VALUES (?, 0, ?)", (name, tx.now_ms)
    )


async def test_whatever_the_remembering_meets_the_next_write_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread must not end in silence: every write would wait for ever."""

    def fail(_seq: int) -> None:
        raise MemoryError

    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        monkeypatch.setattr(store._writer._guard, "remember", fail)
        await store.queue_settlement("alice", Quantity("1", 0), "k")
        store._writer._thread.join(0.2)
        assert store._writer._thread.is_alive()
        with pytest.raises(StoreBroken, match="MemoryError"):
            await store.queue_settlement("alice", Quantity("1", 0), "k2")
