"""Another program that holds SQLite's own lock on the database."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path

import httpx2
import pytest
import trio

from settled import Services, serve
from settled.amounts import Quantity
from settled.errors import StoreBusy
from settled.store.sqlite import open_sqlite
from tests.harness import conserved


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock, as ``sqlite3 settled.db`` with an open transaction does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        yield
        conn.execute("ROLLBACK")


class Idle:
    async def settle(self, account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
        await trio.sleep_forever()
        return amount


async def connect(_services: Services) -> Idle:
    return Idle()


async def test_a_writer_that_holds_the_lock_costs_a_503_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was refused is not recorded later either; what is asked again afterwards is."""
    monkeypatch.setattr("settled.limits.BUSY_TIMEOUT_S", 0.3)
    answers: dict[str, httpx2.Response] = {}
    async with (
        open_sqlite(path, exclusive=True, create=True) as store,
        serve(connect, store, listen="127.0.0.1:0", grace_s=0.1) as daemon,
        httpx2.AsyncClient(trust_env=False, base_url=daemon.url, timeout=20) as client,
    ):
        await client.post("/accounts", json={"id": "alice"})

        async def ask(key: str) -> None:
            answers[key] = await client.post(
                "/accounts/alice/settlements",
                json={"amount": "1", "scale": 0},
                headers={"Idempotency-Key": key},
            )

        with locked(path):
            async with trio.open_nursery() as nursery:
                for n in range(20):
                    nursery.start_soon(ask, f"refused-{n}")
            assert (await store.account("alice")).requested == 0, "reads go on"
        for answer in answers.values():
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:settled:problem:store-busy"
            assert answer.headers["retry-after"] == "1"
        await ask("taken")
        await ask("refused-0")
        assert answers["taken"].status_code == answers["refused-0"].status_code == 201
        await trio.sleep(0.5)
        assert (await store.account("alice")).requested == 2
        assert not await store.is_requested("alice", "refused-1")
        await conserved(store)


@pytest.mark.parametrize("change", ["VACUUM", "REINDEX", "PRAGMA wal_checkpoint(TRUNCATE)"])
async def test_upkeep_by_another_program_does_no_harm(path: Path, change: str) -> None:
    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        for n in range(20):
            await store.queue_settlement("alice", Quantity("1", 0), f"a{n}")
        with closing(sqlite3.connect(path, isolation_level=None)) as conn:
            conn.execute(change).fetchall()
        for n in range(20):
            await store.queue_settlement("alice", Quantity("1", 0), f"b{n}")
        await conserved(store)
        assert (await store.account("alice")).requested == 40


async def test_a_start_beside_a_program_that_keeps_the_lock_says_busy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not damaged: a supervisor tries again, and nobody restores a backup for that."""
    monkeypatch.setattr("settled.limits.BUSY_TIMEOUT_S", 0.1)
    async with open_sqlite(path, exclusive=True, create=True):
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA locking_mode = EXCLUSIVE")
        conn.execute("BEGIN EXCLUSIVE")
        conn.execute("CREATE TABLE mine (x)")
        conn.execute("COMMIT")
        with pytest.raises(StoreBusy, match="another program"):
            async with open_sqlite(path, exclusive=True):
                pass
    async with open_sqlite(path, exclusive=True) as store:
        assert await store.audit() == []
