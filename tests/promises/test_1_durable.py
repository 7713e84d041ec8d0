"""Promise 1: a 201 means that the request is committed and synced; nothing later changes it."""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from settled.amounts import EXACT, Quantity
from settled.errors import StoreBroken, StoreBusy
from settled.store import writer as writer_module
from settled.store.records import Request
from settled.store.sql import ledger, requests
from settled.store.sqlite import open_sqlite
from tests.daemon_process import daemon_process
from tests.harness import conserved

ENGINE = """
import trio

class Idle:
    async def settle(self, account_id, amount, settlement_id):
        await trio.sleep_forever()

async def connect(services):
    return Idle()
"""


@pytest.mark.parametrize("kill_after", [1, 40, 150])
async def test_every_acknowledged_request_survives_kill_9(tmp_path: Path, kill_after: int) -> None:
    (tmp_path / "idle.py").write_text(ENGINE)
    acknowledged: set[str] = set()
    enough = trio.Event()

    async def ask(client: httpx2.AsyncClient, url: str, key: str) -> None:
        try:
            response = await client.post(
                f"{url}/accounts/alice/settlements",
                json={"amount": "1", "scale": 0},
                headers={"Idempotency-Key": key},
            )
        except httpx2.HTTPError:
            return
        assert response.status_code == 201
        acknowledged.add(key)
        if len(acknowledged) >= kill_after:
            enough.set()

    with daemon_process(tmp_path, "--engine", "idle:connect") as daemon:
        async with httpx2.AsyncClient(trust_env=False) as client:
            await client.post(f"{daemon.url}/accounts", json={"id": "alice"})
            async with trio.open_nursery() as nursery:
                for n in range(200):
                    nursery.start_soon(ask, client, daemon.url, f"k{n}")
                await enough.wait()
                daemon.kill()
    with closing(sqlite3.connect(tmp_path / "settled.db")) as conn:
        recorded = {key for (key,) in conn.execute("SELECT key FROM idempotency_keys")}
    assert acknowledged <= recorded
    async with open_sqlite(tmp_path / "settled.db", exclusive=True) as store:
        assert (await store.account("alice")).requested == len(recorded)
        await conserved(store)
        for key in acknowledged:
            replay = await store.queue_settlement("alice", Quantity("1", 0), key)
            assert replay.replayed


async def test_the_answer_comes_after_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    sync = writer_module.Writer._sync

    def slow_sync(
        writer: writer_module.Writer, jobs: Sequence[Any], seq: int | None, *, alone: bool
    ) -> bool:
        time.sleep(0.2)
        order.append("committed")
        return sync(writer, jobs, seq, alone=alone)

    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        monkeypatch.setattr(writer_module.Writer, "_sync", slow_sync)
        await store.queue_settlement("alice", Quantity("1", 0), "k")
        order.append("answered")
    assert order == ["committed", "answered"]


async def test_the_file_is_synced_at_every_commit(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        pragmas = await store._writer.write(
            lambda tx: [
                tx.conn.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
        )
    assert pragmas == ["wal", 2, 1]


async def test_requests_that_wait_together_are_committed_together(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        before = await store._writer.write(_commits)
        async with trio.open_nursery() as nursery:
            for n in range(500):
                nursery.start_soon(store.queue_settlement, "alice", Quantity("1", 0), f"k{n}")
        commits = await store._writer.write(_commits) - before
        assert (await store.account("alice")).requested == 500
    assert commits < 100


def _commits(tx: ledger.Tx) -> int:
    """Count the commits by the instants that entries of one commit share."""
    (count,) = tx.conn.execute("SELECT count(DISTINCT at_ms) FROM journal").fetchone()
    return int(count)


async def test_one_bad_request_of_a_batch_does_not_spoil_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault half-way through one request undoes that one, and only that one."""

    find = requests._find

    def fail_for_the_poison(conn: sqlite3.Connection, asked: Sequence[Request]) -> Any:
        if any(request.account_id == "poison" for request in asked):
            if conn.in_transaction:  # outside one, nothing but the one statement writes
                conn.execute("UPDATE accounts SET failures = 99")
            raise RuntimeError("half-way")
        return find(conn, asked)

    monkeypatch.setattr(requests, "_find", fail_for_the_poison)
    answers: dict[str, object] = {}

    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)

        async def ask(account_id: str, n: int) -> None:
            try:
                answers[f"{account_id}{n}"] = await store.queue_settlement(
                    account_id, Quantity("1", 0), f"k{n}"
                )
            except RuntimeError as error:
                answers[f"{account_id}{n}"] = error

        async with trio.open_nursery() as nursery:
            for n in range(20):
                nursery.start_soon(ask, "alice", n)
                nursery.start_soon(ask, "poison", n)
        account = await store.account("alice")
        assert (account.requested, account.failures) == (20, 0)
    assert sum(isinstance(answer, RuntimeError) for answer in answers.values()) == 20


async def test_a_busy_file_refuses_and_records_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    monkeypatch.setattr("settled.limits.BUSY_TIMEOUT_S", 0.1)
    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            started = time.monotonic()
            with pytest.raises(StoreBusy, match="nothing was recorded"):
                await store.queue_settlement("alice", Quantity("1", 0), "k")
            assert time.monotonic() - started < 2
        answer = await store.queue_settlement("alice", Quantity("1", 0), "k")
        assert not answer.replayed


async def test_a_full_file_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        pages = await store._writer.write(
            lambda tx: tx.conn.execute("PRAGMA page_count").fetchone()[0]
        )
        await store._writer.write(lambda tx: tx.conn.execute(f"PRAGMA max_page_count = {pages}"))

        async def fill() -> int:
            for n in range(10_000):
                try:
                    await store.queue_settlement("alice", Quantity("1" * 1000, 0), f"k{n}")
                except StoreBusy:
                    return n
            raise AssertionError("the file never filled up")

        accepted = await fill()
        account = await store.account("alice")
        assert account.requested == EXACT.multiply(Quantity("1" * 1000, 0).value, accepted)
        await store._writer.write(lambda tx: tx.conn.execute("PRAGMA max_page_count = 1000000"))
        await store.queue_settlement("alice", Quantity("1", 0), "now")
        await conserved(store)


async def test_a_commit_of_unknown_outcome_gives_no_answer_and_stops_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)

        class Torn:
            def __init__(self, conn: sqlite3.Connection) -> None:
                self._conn = conn

            def __getattr__(self, name: str) -> object:
                return getattr(self._conn, name)

            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if sql == "COMMIT":
                    error = sqlite3.OperationalError("disk I/O error")
                    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                    raise error
                return self._conn.execute(sql, *values)

        monkeypatch.setattr(store._writer, "_conn", Torn(store._writer._conn))
        for _ in range(2):
            with pytest.raises(StoreBroken):
                await store.queue_settlement("alice", Quantity("1", 0), "k")
        with pytest.raises(StoreBroken):
            await store.wait_foreign_writes()


async def test_nothing_is_written_after_a_failed_sync_not_even_what_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("settled.limits.COMMIT_BATCH_MAX", 1)
    outcomes: list[object] = []

    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)

        class TornOnce:
            torn = False

            def __init__(self, conn: sqlite3.Connection) -> None:
                self._conn = conn

            def __getattr__(self, name: str) -> object:
                return getattr(self._conn, name)

            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if sql == "COMMIT" and not self.torn:
                    self.torn = True
                    time.sleep(0.2)  # so that the others wait already
                    error = sqlite3.OperationalError("disk I/O error")
                    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                    raise error
                return self._conn.execute(sql, *values)

        monkeypatch.setattr(store._writer, "_conn", TornOnce(store._writer._conn))

        async def ask(n: int) -> None:
            try:
                outcomes.append(await store.queue_settlement("alice", Quantity("1", 0), f"k{n}"))
            except StoreBroken as error:
                outcomes.append(error)

        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(ask, n)
        assert (await store.account("alice")).requested == 0
    assert [type(outcome) for outcome in outcomes] == [StoreBroken] * 5
