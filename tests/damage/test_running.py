"""A database that is deleted, renamed, replaced or damaged under a running daemon.

What a client was told is on record is found again, and a daemon whose files have gone says so and
stops. It never acknowledges what the next start will not see.
"""

import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from settled.amounts import Quantity
from settled.errors import ConfigError, StoreBroken
from settled.store.names import Names
from settled.store.sqlite import open_sqlite
from tests.daemon_process import daemon_process, ended
from tests.damage.books import IDLE_ENGINE, LOCK, LOG, NAME, run_daemon, start
from tests.damage.conftest import Good
from tests.harness import conserved


def delete(path: Path) -> None:
    path.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def replace(path: Path) -> None:
    """As a hasty restore does: an older copy takes the file's place."""
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def delete_log(path: Path) -> None:
    path.with_name(LOG).unlink()


def delete_index(path: Path) -> None:
    path.with_name(f"{NAME}-shm").unlink()


def delete_all(path: Path) -> None:
    for beside in path.parent.glob(f"{NAME}*"):
        beside.unlink()


CHANGES = [delete, rename, replace, delete_log, delete_index, delete_all]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("writes", [True, False])
async def test_nothing_is_acknowledged_into_a_file_that_has_gone(
    path: Path, change: Callable[[Path], None], writes: bool
) -> None:
    """Nothing but the next request tells of it: the names are looked at after every commit."""
    outcomes: list[object] = []  # asserted outside: the end of the store raises as well

    async def note(step: Awaitable[object]) -> None:
        try:
            outcomes.append(await step)
        except StoreBroken as error:
            outcomes.append(type(error))

    with pytest.raises(StoreBroken, match="deleted, renamed or replaced"):
        async with open_sqlite(path, exclusive=True, create=True) as store:
            await store.open_account("alice", setup=False)
            await store.queue_settlement("alice", Quantity("1", 0), "before")
            change(path)
            if writes:
                await note(store.queue_settlement("alice", Quantity("1", 0), "after"))
                await note(store.queue_settlement("alice", Quantity("1", 0), "before"))
            else:
                await note(store.account("alice"))
                await note(store.queue_settlement("alice", Quantity("1", 0), "after"))
    assert outcomes == [StoreBroken, StoreBroken]


@pytest.mark.parametrize("change", [delete, delete_log, delete_all])
async def test_a_clean_stop_tells_too(path: Path, change: Callable[[Path], None]) -> None:
    with pytest.raises(StoreBroken, match="deleted, renamed or replaced"):
        async with open_sqlite(path, exclusive=True, create=True):
            change(path)


@pytest.fixture
def blind(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The errors that the next looks at the database's log end with."""
    errors: list[int] = []
    stat = os.stat

    def look(file: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(file).endswith(LOG) and errors:
            raise OSError(errors[0], os.strerror(errors.pop(0)))
        return stat(file, *arguments, **options)

    monkeypatch.setattr(os, "stat", look)
    monkeypatch.setattr(Names, "_look", lambda _: ())  # nor does the directory tell
    return errors


async def test_a_look_that_fails_in_passing_ends_nothing(path: Path, blind: list[int]) -> None:
    async with open_sqlite(path, exclusive=True, create=True) as store:
        blind += [errno.ESTALE, errno.EIO]
        await store.open_account("alice", setup=False)
        blind += [errno.ENOMEM]
        assert (await store.account("alice")).id == "alice"
        assert not blind


async def test_files_that_cannot_be_looked_at_are_not_called_deleted(
    path: Path, blind: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("settled.store.names._LOOKS_PAUSE_S", 0)
    with pytest.raises(StoreBroken, match=f"{LOG} cannot be looked at .Input/output error"):
        async with open_sqlite(path, exclusive=True, create=True) as store:
            blind += [errno.EIO] * 100
            with suppress(StoreBroken):
                await store.open_account("alice", setup=False)
            blind.clear()
    assert not list(path.parent.glob("*.rescued"))


async def acknowledged(url: str, count: int = 30) -> set[str]:
    keys = {f"k{n}" for n in range(count)}
    async with httpx2.AsyncClient(trust_env=False, base_url=url) as client:
        await client.post("/accounts", json={"id": "alice"})
        for key in keys:
            answer = await client.post(
                "/accounts/alice/settlements",
                json={"amount": "1", "scale": 0},
                headers={"Idempotency-Key": key},
            )
            assert answer.status_code == 201
    return keys


async def on_record(path: Path) -> set[str]:
    async with open_sqlite(path, exclusive=True) as store:
        await conserved(store)
        entries = await store._read(
            lambda conn: conn.execute("SELECT key FROM idempotency_keys").fetchall()
        )
        return {key for (key,) in entries}


@pytest.mark.parametrize("change", [delete_all, replace, delete_log], ids=lambda c: c.__name__)
async def test_a_daemon_notices_stops_and_loses_nothing(
    path: Path, change: Callable[[Path], None]
) -> None:
    directory = path.parent
    (directory / "idle.py").write_text(IDLE_ENGINE)
    with daemon_process(directory, "--engine", "idle:connect") as daemon:
        keys = await acknowledged(daemon.url)
        change(path)
        assert await ended(daemon.process, within_s=5) == 1
    *events, last = (directory / "log").read_text().splitlines()
    assert last.startswith(f"settled: error: {directory}/{NAME}"), last
    assert "deleted, renamed or replaced" in last
    told = [json.loads(event) for event in events]
    assert {event["event"] for event in told if event["level"] != "info"} <= {"store_broken"}
    if change is delete_all:
        # What a supervisor does: it must not bring up an empty daemon that has forgotten all keys.
        code, reason = run_daemon(directory)
        assert code == 78
        (rescued,) = directory.glob(f"{NAME}.*.rescued")
        assert f"missing or empty, but {rescued} has all that" in reason
        for beside in directory.glob(f"{NAME}*"):
            if not beside.name.endswith(".rescued"):
                beside.unlink()
        rescued.rename(path)
    assert await on_record(path) == keys


async def test_a_file_that_is_put_back_has_everything(path: Path) -> None:
    directory = path.parent
    (directory / "idle.py").write_text(IDLE_ENGINE)
    with daemon_process(directory, "--engine", "idle:connect") as daemon:
        keys = await acknowledged(daemon.url)
        rename(path)
        assert await ended(daemon.process, within_s=5) == 1
    (directory / "elsewhere.db").rename(path)
    assert path.with_name(LOG).stat().st_size, "its log was not thrown away"
    assert await on_record(path) == keys


async def test_damage_that_is_met_while_running_stops_the_daemon(path: Path, closed: Good) -> None:
    (path.parent / "idle.py").write_text(IDLE_ENGINE)
    path.write_bytes(closed.files[NAME])
    with daemon_process(path.parent, "--engine", "idle:connect") as daemon:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(len(closed.files[NAME]) - 4096))
        async with httpx2.AsyncClient(trust_env=False, base_url=daemon.url) as client:
            with pytest.raises(httpx2.HTTPError):
                for n in range(50):
                    await client.post("/accounts", json={"id": f"account-{n}"})
        assert await ended(daemon.process, within_s=5) == 1
    last = (path.parent / "log").read_text().splitlines()[-1]
    assert last.startswith(
        ("settled: error: the database failed (", f"settled: error: {NAME} is damaged (")
    ), last
    code, reason = run_daemon(path.parent)
    assert code == 78
    assert "restore a backup" in reason


@pytest.fixture
def damaged(path: Path, closed: Good) -> Path:
    """A database with damage in an index that a start does not read."""
    path.write_bytes(closed.files[NAME])
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA writable_schema = ON")
        root = conn.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'idempotency_keys_key'"
        ).fetchone()[0]
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(bytes(4096))
    return path


async def test_a_large_file_is_checked_beside_the_work_and_then_before_the_next_start(
    damaged: Path, closed: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("settled.limits.START_CHECK_BYTES_MAX", 1000)
    with pytest.raises(StoreBroken, match="is damaged"):
        async with open_sqlite(damaged, exclusive=True) as store:
            await store.look_over()
    with pytest.raises(ConfigError, match="is damaged"):  # suspect, it is read before it is opened
        async with open_sqlite(damaged, exclusive=True):
            pass
    damaged.write_bytes(closed.files[NAME])
    assert await start(damaged) == closed.books, "and now it is sound"


async def test_a_file_that_is_small_with_its_log_is_checked_before_anything_else(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = damaged.stat().st_size
    monkeypatch.setattr("settled.limits.START_CHECK_BYTES_MAX", size - 1)
    async with open_sqlite(damaged, exclusive=True) as store:
        await store.open_account("new", setup=False)
        for beside in (damaged, damaged.with_name(LOG)):
            shutil.copy(beside, beside.with_name(f"copy-{beside.name}"))
    copy = damaged.with_name(f"copy-{NAME}")
    log_bytes = copy.with_name(f"{copy.name}-wal").stat().st_size
    assert log_bytes > 0
    for path, bytes_max in ((copy, size + log_bytes), (damaged, damaged.stat().st_size)):
        monkeypatch.setattr("settled.limits.START_CHECK_BYTES_MAX", bytes_max)
        with pytest.raises(ConfigError, match="is damaged"):
            async with open_sqlite(path, exclusive=True):
                pass
    monkeypatch.setattr("settled.limits.START_CHECK_BYTES_MAX", size + log_bytes - 1)
    async with open_sqlite(copy, exclusive=True):
        pass


async def test_the_check_beside_the_work_ends_when_the_daemon_does(
    path: Path, closed: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(closed.files[NAME])
    monkeypatch.setattr("settled.limits.START_CHECK_BYTES_MAX", 1000)

    def endless(_path: Path, conn: sqlite3.Connection) -> None:
        conn.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        ).fetchall()

    monkeypatch.setattr("settled.store.soundness.check_whole", endless)
    async with open_sqlite(path, exclusive=True) as store:
        with trio.fail_after(5), trio.move_on_after(0.2) as scope:
            await store.look_over()
    assert scope.cancelled_caught


# One that never gives the event loop back, one that heeds no cancellation, and one under which the
# copy takes longer than the end may.
HANGING_ENGINES = {
    "blocking": "time.sleep(60)",
    "shielded": "await shielded()",
    "slow copy": "slow_down(); await shielded()",
}
HANGING_ENGINE = """
import pathlib, time, trio
from settled.store import copies

async def shielded():
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()

def slow_down():
    back_up = copies.leave
    def slowly(*arguments):
        pathlib.Path("copying").touch()
        time.sleep(2.5)
        return back_up(*arguments)
    copies.leave = slowly

class Hanging:
    async def settle(self, account_id, amount, settlement_id):
        pathlib.Path("under_way").touch()
        {misdeed}

async def connect(services):
    return Hanging()
"""


async def appeared(path: Path) -> None:
    with trio.fail_after(10):
        while not path.exists():  # noqa: ASYNC110
            await trio.sleep(0.02)


@pytest.mark.parametrize("engine", HANGING_ENGINES)
async def test_a_hard_end_does_not_lose_a_database_that_was_deleted(
    path: Path, engine: str
) -> None:
    directory = path.parent
    (directory / "hanging.py").write_text(HANGING_ENGINE.format(misdeed=HANGING_ENGINES[engine]))
    with daemon_process(directory, "--engine", "hanging:connect", "--grace", "0.1") as daemon:
        async with httpx2.AsyncClient(trust_env=False, base_url=daemon.url) as client:
            await client.post("/accounts", json={"id": "alice"})
            with suppress(httpx2.TransportError):  # it may hold up even the answer
                await client.post(
                    "/accounts/alice/settlements",
                    json={"amount": "1", "scale": 0},
                    headers={"Idempotency-Key": "k"},
                    timeout=1,
                )
        await appeared(directory / "under_way")
        delete_all(path)
        if engine == "slow copy":
            await appeared(directory / "copying")
        if engine != "shielded":  # that one ends by itself
            daemon.process.terminate()
        if engine == "slow copy":
            await trio.sleep(0.7)
            daemon.process.terminate()  # a second wish ends it at once, but for the copy
        await ended(daemon.process, within_s=10)
    path.with_name(LOCK).unlink()
    (rescued,) = directory.glob(f"{NAME}.*.rescued")
    rescued.rename(path)
    assert await on_record(path) == {"k"}
