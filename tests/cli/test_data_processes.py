"""The same commands as real processes: beside a daemon, without one, and on a terminal."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from settled.amounts import Quantity
from settled.store.protocol import Store
from settled.store.records import NotSent, Parked, Settled, Unknown
from settled.store.sqlite import open_sqlite

SETTLED = (sys.executable, "-m", "settled")
TIMEOUT_S = 30


@pytest.fixture
async def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a database with the account alice, which needs no set-up."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "books.db"
    async with open_sqlite(path, exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)
    return path


@pytest.fixture
async def store(db: Path) -> AsyncIterator[Store]:
    """Hold the database, as a daemon does."""
    async with open_sqlite(db, exclusive=True) as store:
        yield store


def command(db: Path, *args: str) -> list[str]:
    return [*SETTLED, *args, "--db", str(db)]


class Waiting:
    """A ``settled settle alice 10 --wait`` that runs, and what it has told so far."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.told = ""

    async def tells(self, text: str) -> None:
        """Read what it tells until ``text`` is among it."""
        assert self.process.stderr is not None
        while text not in self.told:
            chunk = await self.process.stderr.receive_some()
            assert chunk, self.told
            self.told += chunk.decode()

    async def ends(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and the outcome that it printed."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        answer = b"".join([chunk async for chunk in self.process.stdout])
        self.told += b"".join([chunk async for chunk in self.process.stderr]).decode()
        return await self.process.wait(), json.loads(answer)["outcome"] if answer else ""


@asynccontextmanager
async def waiting(db: Path) -> AsyncIterator[Waiting]:
    process = await trio.lowlevel.open_process(
        command(db, "settle", "alice", "10", "--wait", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with process.stdout, process.stderr:
        try:
            with trio.fail_after(TIMEOUT_S):
                yield Waiting(process)
        finally:
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()


async def begin(store: Store, settlement_id: str) -> None:
    account = await store.account("alice")
    assert (await store.next_settlement(account.number, settlement_id)).begun


async def test_waiting_shows_each_change_and_ends_when_all_is_settled(
    db: Path, store: Store
) -> None:
    async with waiting(db) as wait:
        await wait.tells("alice: settled 0 of 10, queued 10\n")
        await begin(store, "s-1")
        await wait.tells("alice: settled 0 of 10, in flight 10\n")
        await store.record_outcome("s-1", Settled(Decimal(4)))
        await wait.tells("alice: settled 4 of 10, queued 6\n")
        await begin(store, "s-2")
        await store.record_outcome("s-2", Unknown("time-out"))
        await wait.tells("alice: settled 4 of 10, unknown 6 (time-out)\n")
        await store.record_outcome("s-2", Settled(Decimal(6)))
        assert await wait.ends() == (0, "settled")
    assert wait.told.startswith("Key: ")
    assert wait.told.endswith("alice: settled 10 of 10\n")
    assert "no daemon" not in wait.told


async def test_waiting_says_when_it_is_tried_again_and_how_that_is_sooner(
    db: Path, store: Store
) -> None:
    async with waiting(db) as wait:
        await wait.tells("alice: settled 0 of 10, queued 10\n")
        await begin(store, "s-1")
        await store.record_outcome("s-1", NotSent("the till is locked", 3_600_000))
        await wait.tells("alice: settled 0 of 10, queued 10 (the till is locked; tried again at ")
        await wait.tells(" UTC, or now by `settled accounts retry alice`)\n")
        await store.retry_settlement("alice")
        await begin(store, "s-2")
        await store.record_outcome("s-2", Settled(Decimal(10)))
        assert await wait.ends() == (0, "settled")


async def test_waiting_fails_when_the_outcome_is_parked(db: Path, store: Store) -> None:
    async with waiting(db) as wait:
        await wait.tells("queued 10\n")
        await begin(store, "s-1")
        await store.record_outcome("s-1", Parked("cannot tell"))
        assert await wait.ends() == (1, "parked")
    assert "`settled settlements resolve s-1 --settled AMOUNT`" in wait.told


async def test_waiting_ends_when_more_than_the_amount_is_settled(db: Path, store: Store) -> None:
    async with waiting(db) as wait:
        await wait.tells("queued 10\n")
        await begin(store, "s-1")
        await store.record_outcome("s-1", Settled(Decimal(12)))
        assert await wait.ends() == (0, "settled")


async def test_waiting_says_that_no_daemon_runs_and_can_be_interrupted(db: Path) -> None:
    async with waiting(db) as wait:
        await wait.tells("; no daemon runs on")
        await wait.tells("start `settled run`")
        wait.process.send_signal(signal.SIGINT)
        assert await wait.ends() == (130, "")
    async with open_sqlite(db, exclusive=False) as store:
        assert (await store.account("alice")).queued == 10


async def test_the_daemon_notices_at_once_what_a_command_writes(db: Path, store: Store) -> None:
    await store.queue_settlement("alice", Quantity("10", 0), "k")
    account = await store.account("alice")
    await store.next_settlement(account.number, "s-1")
    await store.record_outcome("s-1", Parked("cannot tell"))
    for args in (
        ["settlements", "resolve", "s-1", "--not-sent"],
        ["settle", "alice", "1"],
        ["accounts", "remove", "alice"],
    ):
        with trio.fail_after(TIMEOUT_S):
            done = await trio.run_process(
                command(db, *args), capture_stdout=True, capture_stderr=True
            )
            assert await store.wait_foreign_writes() == [account.number]
        assert b"No daemon" not in done.stderr


async def on_terminal(arguments: list[str]) -> tuple[int, str]:
    """Run a command whose standard error is a terminal; return its exit code and what it showed."""
    controller, terminal = pty.openpty()
    shown = bytearray()
    try:
        process = await trio.run_process(
            arguments, stderr=terminal, capture_stdout=True, check=False
        )
        os.set_blocking(controller, False)
        while True:
            try:
                shown += os.read(controller, 65536)
            except BlockingIOError:
                break
    finally:
        os.close(terminal)
        os.close(controller)
    return process.returncode, shown.decode()


async def test_on_a_terminal_an_audit_shows_a_progress_bar(db: Path) -> None:
    async with open_sqlite(db, exclusive=True) as store:
        await store.queue_settlement("alice", Quantity("10", 0), "k")
    with trio.fail_after(TIMEOUT_S):
        code, shown = await on_terminal(command(db, "audit"))
    assert code == 0
    assert "Audit" in shown
    assert "100%" in shown


async def test_on_a_terminal_progress_is_one_line_that_is_written_over(db: Path) -> None:
    async with open_sqlite(db, exclusive=True) as store:
        account = await store.account("alice")
        await store.queue_settlement("alice", Quantity("10", 0), "k")
        await store.next_settlement(account.number, "s-1")
        await store.record_outcome("s-1", Settled(Decimal(10)))
    with trio.fail_after(TIMEOUT_S):
        code, shown = await on_terminal(
            command(db, "settle", "alice", "10", "--key", "k", "--wait")
        )
    assert code == 0
    assert "\r\x1b[2Kalice: settled 10 of 10\r\n" in shown
