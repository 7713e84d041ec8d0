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
