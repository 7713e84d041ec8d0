"""What is read together: in one go, by one thread, and each hears only of its own."""

import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from settled.errors import AccountNotFound, StoreBusy
from settled.store.sqlite import SqliteStore, open_sqlite


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with open_sqlite(path, exclusive=True, create=True) as store:
        for account_id in ("alice", "bob"):
            await store.open_account(account_id, setup=False)
        yield store


class Reads:
    """Reads that note by which thread, in which connection and beside how many they ran."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.running = self.most = 0
        self.go = threading.Event()
        self.go.set()

    def __call__(self, conn: sqlite3.Connection) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        assert self.go.wait(10)
        self.running -= 1
        self.seen.append((threading.get_ident(), id(conn)))
        return len(self.seen)


async def test_what_is_asked_for_in_the_meantime_is_read_in_one_go(store: SqliteStore) -> None:
    reads, turns = Reads(), list[int]()
    read = store._readers.read

    async def counted(what: object) -> object:
        turns.append(len(reads.seen))
        return await read(what)  # type: ignore[arg-type]

    store._readers.read = counted  # type: ignore[assignment,method-assign]
    results: list[int] = []

    async def ask() -> None:
        results.append(await store._readers.read_together(reads))

    reads.go.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(20):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert turns == [0], "the others wait for their turn"
        reads.go.set()
    assert sorted(results) == list(range(1, 22))
    assert turns == [0, 1]
    assert reads.most == 1


async def test_each_hears_of_its_own(store: SqliteStore) -> None:
    found: dict[str, str] = {}

    async def ask(account_id: str) -> None:
        try:
            found[account_id] = (await store.account(account_id)).id
        except AccountNotFound:
            found[account_id] = "none"
        except ValueError:
            found[account_id] = "no id"

    async with trio.open_nursery() as nursery:
        for account_id in ("alice", "nobody", "\udc80", "bob", "carol"):
            nursery.start_soon(ask, account_id)
    of_ids = {"alice": "alice", "bob": "bob", "nobody": "none", "carol": "none"}
    assert found == of_ids | {"\udc80": "no id"}


async def test_a_fault_of_the_file_is_told_to_all_of_the_turn_and_to_nobody_else(
    store: SqliteStore,
) -> None:
    fault = sqlite3.OperationalError("it is locked")
    fault.sqlite_errorcode = sqlite3.SQLITE_BUSY
    failed: list[StoreBusy] = []

    def meet(_conn: sqlite3.Connection) -> None:
        raise fault

    async def ask(what: object) -> None:
        try:
            await store._readers.read_together(what)  # type: ignore[arg-type]
        except StoreBusy as error:
            failed.append(error)

    async with trio.open_nursery() as nursery:
        for what in (Reads(), meet, Reads()):
            nursery.start_soon(ask, what)
    assert len(failed) == 3
    assert (await store.account("alice")).id == "alice"


@pytest.mark.parametrize("first", [True, False])
async def test_who_is_cancelled_holds_nobody_back(store: SqliteStore, first: bool) -> None:
    reads, results = Reads(), list[int]()
    scopes = [trio.CancelScope() for _ in range(3)]

    async def ask(scope: trio.CancelScope) -> None:
        with scope:
            results.append(await store._readers.read_together(reads))

    reads.go.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, trio.CancelScope())  # the turn before
        await trio.testing.wait_all_tasks_blocked()
        for scope in scopes:
            nursery.start_soon(ask, scope)
            await trio.testing.wait_all_tasks_blocked()
        scopes[0 if first else 1].cancel()
        await trio.testing.wait_all_tasks_blocked()
        reads.go.set()
    assert len(reads.seen) == 4
    assert len(results) in (3, 4)
    assert (await store.account("bob")).id == "bob"
