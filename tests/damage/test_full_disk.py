"""A disk that fills up under a daemon, at every point, and gets space again."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
import trio

from settled.amounts import Quantity
from settled.errors import StoreFull
from settled.store.records import SetState
from settled.store.sqlite import SqliteStore, open_sqlite
from tests.daemon_process import daemon_process, ended
from tests.damage.books import IDLE_ENGINE, NAME, files, run_daemon
from tests.damage.disks import Disk, small_disk
from tests.harness import conserved
from tests.store.test_file import tables, with_one_more

MIB = 1024 * 1024

ENGINE = """
from pathlib import Path

import trio

class Waiting:
    def __init__(self, services):
        self.services = services
        services.nursery.start_soon(self.watch)

    async def settle(self, account_id, amount, settlement_id):
        while not Path("pay").exists():
            await trio.sleep(0.01)
        return amount

    async def watch(self):
        while not Path("paid-us").exists():
            await trio.sleep(0.01)
        await self.services.credit_settlement("alice", 7, "tx")

async def connect(services):
    return Waiting(services)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", 16 * MIB) as disk:
        yield disk


async def settlement(client: httpx2.AsyncClient, key: str) -> httpx2.Response:
    return await client.post(
        "/accounts/alice/settlements",
        json={"amount": "5", "scale": 0},
        headers={"Idempotency-Key": key},
    )


async def until_status(client: httpx2.AsyncClient, key: str, status: int) -> httpx2.Response:
    """Ask under new keys until the answer is this one."""
    with trio.fail_after(10):
        n = 0
        while (answer := await settlement(client, f"{key}-{n}")).status_code != status:
            n += 1
            await trio.sleep(0.05)
    return answer


async def test_new_work_is_refused_before_the_disk_is_full_and_taken_again(disk: Disk) -> None:
    (disk.root / "waiting.py").write_text(ENGINE)
    reserve = ("--disk-reserve", "4M")
    with daemon_process(disk.root, "--engine", "waiting:connect", *reserve) as daemon:
        async with httpx2.AsyncClient(trust_env=False, base_url=daemon.url, timeout=20) as client:
            await client.post("/accounts", json={"id": "alice"})
            first = await settlement(client, "first")
            assert first.status_code == 201
            disk.leave(3 * MIB)
            refused = await until_status(client, "refused", 503)
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["type"] == "urn:settled:problem:store-full"
            assert "free some space" in refused.json()["detail"]

            # What is on record is confirmed, byte for byte; the rest is not put on record.
            again = await settlement(client, "first")
            assert (again.status_code, again.content) == (201, first.content)
            assert (await client.post("/accounts", json={"id": "alice"})).status_code == 201
            assert (await client.post("/accounts", json={"id": "new"})).status_code == 503
            assert (await client.post("/accounts")).status_code == 503

            # What is under way goes on, on the reserve.
            (disk.root / "pay").touch()
            (disk.root / "paid-us").touch()
            async with open_sqlite(disk.root / NAME, exclusive=False) as store:
                with trio.fail_after(10):
                    while True:
                        account = await store.account("alice")
                        if account.settled >= 5 and account.received == 7:
                            break
                        await trio.sleep(0.05)
                requested = account.requested
                assert (await settlement(client, "refused-too")).status_code == 503
                assert (await store.account("alice")).requested == requested
                assert len(await store.accounts()) == 1
            low = listing(disk.root, *reserve)
            assert "MiB, as set here, refuses new settlements" in low

            disk.empty()
            await until_status(client, "taken", 201)
            assert (await client.post("/accounts", json={"id": "new"})).status_code == 201
        daemon.process.terminate()
        assert await ended(daemon.process, within_s=10) == 0
    assert listing(disk.root, *reserve) == ""
    events = [json.loads(line) for line in (disk.root / "log").read_text().splitlines()]
    told = [event for event in events if event["event"].startswith("disk_")]
    assert [event["event"] for event in told] == ["disk_low", "disk_has_room"]
    assert told[0]["free_bytes"] < told[0]["reserve_bytes"] == 4 * MIB <= told[1]["free_bytes"]
    assert "free some space" in told[0]["advice"]
    async with open_sqlite(disk.root / NAME, exclusive=True) as store:
        await conserved(store)


def listing(directory: Path, _option: str, reserve: str) -> str:
    """Return what ``settled accounts list`` has to say besides the list."""
    done = subprocess.run(
        [sys.executable, "-m", "settled", "accounts", "list"],
        cwd=directory,
        env={"SETTLED_DISK_RESERVE": reserve},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "alice" in done.stdout
    return done.stderr


async def test_a_daemon_without_a_reserve_survives_a_disk_that_is_quite_full(disk: Disk) -> None:
    (disk.root / "waiting.py").write_text(ENGINE)
    with daemon_process(disk.root, "--engine", "waiting:connect", "--disk-reserve", "0") as daemon:
        async with httpx2.AsyncClient(trust_env=False, base_url=daemon.url, timeout=20) as client:
            await client.post("/accounts", json={"id": "alice"})
            disk.leave(0)
            refused = await until_status(client, "refused", 503)
            assert refused.json()["type"] == "urn:settled:problem:store-full"
            disk.empty()
            assert (await settlement(client, "now")).status_code == 201


@pytest.mark.parametrize("reserve_bytes", [0, MIB])
async def test_nothing_acknowledged_is_lost_wherever_the_disk_fills_up(
    disk: Disk, reserve_bytes: int
) -> None:
    """In the log, in a new page of it, between its header and its end; then there is space again.

    The log is moved into the file by every start, so that each round begins with a short one.
    """
    path = disk.root / NAME
    accepted: set[str] = set()

    async def ask(store: SqliteStore, key: str) -> None:
        await store.queue_settlement("alice", Quantity("1", 0), key)
        accepted.add(key)

    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
    full = 0
    for free_kib in [*range(0, 68, 4), 100, 150, 200]:
        disk.empty()
        async with open_sqlite(path, exclusive=True, disk_reserve_bytes=reserve_bytes) as store:
            disk.leave(free_kib * 1024)
            try:
                for n in range(40):
                    await ask(store, f"{free_kib}-{n}-{'k' * 200}")
            except StoreFull:
                full += 1
            requested = (await store.account("alice")).requested
            assert requested == len(accepted), "reads go on"
            disk.empty()
            await ask(store, f"{free_kib}-then")
            await conserved(store)
            disk.leave(0)  # and at the end there is no room to move the log into the file
    disk.empty()
    async with open_sqlite(path, exclusive=True) as store:
        assert (await store.account("alice")).requested == len(accepted)
        for key in accepted:
            assert (await store.queue_settlement("alice", Quantity("1", 0), key)).replayed
    assert full > 10


async def test_a_log_that_cannot_be_moved_into_the_file_stays(disk: Disk) -> None:
    path = disk.root / NAME
    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        for n in range(50):
            await store.queue_settlement("alice", Quantity("1", 0), f"{n}-{'k' * 200}")
        disk.leave(0)
        with closing(sqlite3.connect(path)) as conn, pytest.raises(sqlite3.OperationalError):
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert (await store.account("alice")).requested == 50
    left = files(disk.root)
    assert left[f"{NAME}-wal"], "the end of the daemon has not thrown it away"
    for free_bytes in (0, 64 * 1024):
        disk.leave(free_bytes)
        async with open_sqlite(path, exclusive=True) as store:
            assert (await store.account("alice")).requested == 50
            await conserved(store)


async def test_a_log_that_cannot_grow_is_emptied_and_used_again(disk: Disk) -> None:
    async with open_sqlite(disk.root / "x.db", exclusive=True, create=True) as store:
        for number in range(100):
            await store.commit([SetState(None, "key", b"%d" % number)])
        disk.leave(0)
        refused = 0
        for number in range(1000):
            try:
                await store.commit([SetState(None, "key", b"%d" % number)])
            except StoreFull:
                refused += 1
        assert refused < 50
        assert await store.get_state(None, "key") == b"999"


async def test_a_schema_that_cannot_be_changed_for_want_of_room_is_as_it_was(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = disk.root / NAME
    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
        for n in range(100):
            await store.queue_settlement("alice", Quantity("1", 0), f"{n}-{'k' * 200}")
    image = path.read_bytes()
    with_one_more(
        monkeypatch,
        "CREATE TABLE later (x)",
        "INSERT INTO later SELECT zeroblob(4000) FROM journal",
    )
    failures = 0
    for free_kib in range(0, 2000, 40):
        disk.leave(free_kib * 1024)
        try:
            async with open_sqlite(path, exclusive=True) as store:
                assert (await store.account("alice")).requested == 100
            break
        except StoreFull:
            failures += 1
        assert path.read_bytes() == image
        assert not list(disk.root.glob("*.backup*")), "neither half a backup nor one too many"
    assert failures > 5
    disk.empty()
    (backup,) = disk.root.glob("*.backup")
    with closing(sqlite3.connect(backup)) as conn:
        assert "later" not in tables(conn)
        assert conn.execute("SELECT count(*) FROM journal").fetchone() == (100,)


def test_a_start_on_a_full_disk_says_so_and_succeeds_later(disk: Disk) -> None:
    (disk.root / "idle.py").write_text(IDLE_ENGINE)
    for free_bytes in (0, 8192):
        disk.leave(free_bytes)
        code, reason = run_daemon(disk.root)
        assert (code, "room" in reason) == (75, True), reason
    disk.empty()
    with daemon_process(disk.root, "--engine", "idle:connect"):
        pass
