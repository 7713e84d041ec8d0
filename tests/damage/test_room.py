"""When new work is refused and taken again, on virtual time and with a disk by script."""

import errno
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from settled import limits
from settled.errors import AccountNotFound, StoreFull
from settled.setting_values import parse_bytes
from settled.store.memory import MemoryStore
from settled.store.records import Queued, Request, Space
from settled.store.sqlite import open_sqlite
from tests.harness import Running, ScriptedEngine, clock_ms, running

RESERVE = 1000


class SmallStore(MemoryStore):
    """A store on a disk that is as full as the test says."""

    def __init__(self) -> None:
        super().__init__(now_ms=clock_ms)
        self.has_disk = True
        self.free_bytes: int | None = RESERVE
        self.full = False
        self.looks = 0

    async def space(self) -> Space | None:
        await trio.lowlevel.checkpoint()
        self.looks += 1
        return Space(self.free_bytes, RESERVE) if self.has_disk else None

    def _queue(self, request: Request) -> Queued:
        if self.full:
            raise StoreFull("the database cannot write now: nothing was recorded")
        return super()._queue(request)


async def passing(seconds: float) -> None:
    await trio.sleep(seconds)


async def refused(daemon: Running, key: str) -> bool:
    try:
        await daemon.request("alice", "1", key)
    except StoreFull:
        return True
    return False


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None]]:
    """What the log says of the disk, and how much it says is free."""
    events: list[tuple[str, int | None]] = []

    def note(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        if event["event"].startswith("disk_"):
            events.append((event["event"], event.get("free_bytes")))
        raise structlog.DropEvent

    structlog.configure(processors=[note], wrapper_class=structlog.BoundLogger)
    return events


async def test_new_work_stops_below_the_reserve_and_goes_on_well_above_it(
    autojump_clock: MockClock, told: list[tuple[str, int | None]]
) -> None:
    store = SmallStore()
    async with running(ScriptedEngine(), store) as daemon:
        await daemon.operations.open_account("alice")
        await passing(2 * limits.DISK_POLL_S)
        assert not await refused(daemon, "first")
        store.free_bytes = RESERVE - 1
        await passing(2 * limits.DISK_POLL_S)
        assert await refused(daemon, "second")
        assert not await refused(daemon, "first"), "a key on record is confirmed"
        assert await daemon.operations.open_account("alice") == "alice"
        for new in ("bob", None):
            with pytest.raises(StoreFull, match="free some space"):
                await daemon.operations.open_account(new)
        with pytest.raises(AccountNotFound):
            await store.account("bob")
        store.free_bytes = RESERVE * 5 // 4 - 1  # it comes and goes: nothing is said of that
        await passing(60)
        assert await refused(daemon, "third")
        store.free_bytes = None  # it cannot be told for a while
        await passing(60)
        assert await refused(daemon, "third")
        store.free_bytes = RESERVE * 5 // 4
        await passing(2 * limits.DISK_POLL_S)
        assert not await refused(daemon, "second")
        await daemon.operations.open_account("bob")
        assert (await daemon.until(lambda account: account.settled == 2)).requested == 2
    assert told == [("disk_low", RESERVE - 1), ("disk_has_room", RESERVE * 5 // 4)]


async def test_a_closed_account_is_not_opened_again_without_room(
    autojump_clock: MockClock,
) -> None:
    store = SmallStore()
    async with running(ScriptedEngine(), store) as daemon:
        await daemon.operations.open_account("alice")
        store.free_bytes = 0
        await passing(2 * limits.DISK_POLL_S)
        await daemon.operations.close_account("alice")
        with pytest.raises(StoreFull):
            await daemon.operations.open_account("alice")


async def test_a_write_that_finds_no_room_stops_new_work_at_once_for_a_while(
    autojump_clock: MockClock, told: list[tuple[str, int | None]]
) -> None:
    """Such as with a quota, which a look at the disk does not see."""
    store = SmallStore()
    store.free_bytes = 2 * RESERVE
    async with running(ScriptedEngine(), store) as daemon:
        await daemon.operations.open_account("alice")
        await passing(limits.DISK_POLL_S)
        store.full = True
        assert await refused(daemon, "first")
        store.full = False
        await passing(limits.DISK_FULL_PAUSE_S / 2)
        assert await refused(daemon, "second")
        await passing(limits.DISK_FULL_PAUSE_S / 2 + 2 * limits.DISK_POLL_S)
        assert not await refused(daemon, "second")
    assert told == [("disk_low", None), ("disk_has_room", 2 * RESERVE)]


async def test_a_disk_that_cannot_be_told_of_at_first_is_looked_at_again(
    autojump_clock: MockClock,
) -> None:
    store = SmallStore()
    store.free_bytes = None
    async with running(ScriptedEngine(), store) as daemon:
        await daemon.operations.open_account("alice")
        await passing(2 * limits.DISK_POLL_S)
        store.full = True
        assert await refused(daemon, "first")
        store.full = False
        assert not await refused(daemon, "first"), "nobody knows whether the refusal would end"
        store.free_bytes = 0
        await passing(2 * limits.DISK_POLL_S)
        assert await refused(daemon, "second")


async def test_the_disk_of_a_database_that_cannot_be_told_of_is_not_left_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: Path) -> os.statvfs_result:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "statvfs", fail)
    async with open_sqlite(path, exclusive=True, create=True, disk_reserve_bytes=1000) as store:
        assert await store.space() == Space(None, 1000)
    async with open_sqlite(path, exclusive=True, disk_reserve_bytes=0) as store:
        assert await store.space() is None, "nobody asks"


async def test_a_store_without_a_disk_is_left_alone(autojump_clock: MockClock) -> None:
    store = SmallStore()
    store.has_disk = False
    async with running(ScriptedEngine(), store) as daemon:
        await daemon.operations.open_account("alice")
        await passing(3600)
        store.full = True
        assert await refused(daemon, "first")
        store.full = False
        assert not await refused(daemon, "first"), "nobody would end a refusal"
    assert store.looks == 1


def test_a_size_is_bytes_or_has_a_letter() -> None:
    sizes = {"0": 0, "512": 512, "4K": 4096, "64M": limits.DISK_RESERVE_BYTES, "2G": 2**31}
    sizes |= {"1k": 1024, "64m": 64 * 2**20, "1.5G": 3 * 2**29}
    assert {text: parse_bytes(text) for text in sizes} == sizes
    for text in ("", "M", "-1", "1.5", "1.M", ".5M", "64MB", "1 M", "٣", "1T"):
        with pytest.raises(ValueError, match="like 64M"):
            parse_bytes(text)
