"""What a read meets, and what becomes of the store then."""

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import trio

from settled import limits
from settled.errors import ConfigError, StoreBroken, StoreBusy, StoreFull
from settled.store.sqlite import SqliteStore, open_sqlite


def error(code: int) -> sqlite3.Error:
    found = sqlite3.OperationalError("it failed")
    found.sqlite_errorcode = code
    return found


async def raised(store: SqliteStore, fault: Exception) -> Exception:
    """Return what a read ends with that meets the fault."""

    def meet(_conn: sqlite3.Connection) -> None:
        raise fault

    with pytest.raises(Exception, match=".") as caught:
        await store._read(meet)
    return caught.value


@pytest.fixture
async def made(path: Path) -> Path:
    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
    return path


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("code", [sqlite3.SQLITE_CORRUPT_INDEX, sqlite3.SQLITE_NOTADB])
async def test_after_damage_was_met_nothing_is_written_any_more(
    made: Path, exclusive: bool, code: int
) -> None:
    async with open_sqlite(made, exclusive=exclusive) as store:
        fault = error(code)
        told = await raised(store, fault)
        assert type(told) is (StoreBroken if exclusive else ConfigError)
        assert f"{made} is damaged (it failed" in str(told)
        assert told.__cause__ is fault
        with pytest.raises(StoreBroken, match="is damaged"):
            await store.open_account("bob", setup=False)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_BUSY, StoreBusy),
        (sqlite3.SQLITE_NOMEM, StoreBusy),
        (sqlite3.SQLITE_FULL, StoreFull),
    ],
)
async def test_a_fault_that_passes_ends_nothing(
    made: Path, exclusive: bool, code: int, kind: type[StoreBusy]
) -> None:
    async with open_sqlite(made, exclusive=exclusive) as store:
        fault = error(code)
        told = await raised(store, fault)
        assert (type(told), told.__cause__) == (kind, fault)
        await store.open_account("bob", setup=False)
        assert (await store.account("bob")).id == "bob"


async def test_a_disk_that_fails_ends_all(made: Path) -> None:
    async with open_sqlite(made, exclusive=True) as store:
        told = await raised(store, error(sqlite3.SQLITE_IOERR_READ))
        assert type(told) is StoreBroken
        assert "check the disk" in str(told)
        with pytest.raises(StoreBroken):
            await store.open_account("bob", setup=False)


async def test_no_more_read_at_once_than_there_are_connections(made: Path) -> None:
    together, most, lock = 0, 0, threading.Lock()
    full, go = threading.Semaphore(0), threading.Event()

    def read(_conn: sqlite3.Connection) -> None:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        full.release()
        assert go.wait(10)
        with lock:
            together -= 1

    async def fill() -> None:
        for _ in range(limits.READERS_MAX):
            assert await trio.to_thread.run_sync(full.acquire, True, 10)
        await trio.sleep(0.05)
        go.set()

    async with open_sqlite(made, exclusive=True) as store, trio.open_nursery() as nursery:
        for _ in range(3 * limits.READERS_MAX):
            nursery.start_soon(store._read, read)
        nursery.start_soon(fill)
    assert most == limits.READERS_MAX


async def test_once_a_read_found_the_file_gone_nothing_more_is_tried(made: Path) -> None:
    tried: list[str] = []
    with pytest.raises(StoreBroken):
        async with open_sqlite(made, exclusive=True) as store:
            made.unlink()
            with pytest.raises(StoreBroken):
                await store._read(lambda _conn: tried.append("read"))
            with pytest.raises(StoreBroken):
                await store._writer.write(lambda _tx: tried.append("write"))
    assert tried == []


async def test_all_connections_are_closed_even_when_the_file_has_gone(made: Path) -> None:
    conns: list[Any] = []
    with pytest.raises(StoreBroken):
        async with open_sqlite(made, exclusive=True) as store:
            conns += store._readers._idle
            made.unlink()
    assert len(conns) == limits.READERS_MAX
    for conn in conns:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            conn.execute("SELECT 1")
