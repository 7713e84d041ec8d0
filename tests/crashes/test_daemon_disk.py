"""A real daemon whose disk fails, or is full for a while, under requests over HTTP."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import trio

from settled.store.sqlite import open_sqlite
from tests.crashes.lab import require_strace
from tests.daemon_process import DaemonProcess, daemon_process, ended
from tests.harness import conserved

ENGINE = """
import trio

class Idle:
    async def settle(self, account_id, amount, settlement_id):
        await trio.sleep_forever()

async def connect(services):
    return Idle()
"""


@pytest.fixture(autouse=True)
def idle_engine(tmp_path: Path) -> None:
    require_strace()
    (tmp_path / "idle.py").write_text(ENGINE)


@contextmanager
def failing(daemon: DaemonProcess, log: Path, injection: str) -> Iterator[None]:
    """Have system calls on the write-ahead log fail, whichever thread makes them."""
    command = ["strace", "-f", "-p", str(daemon.process.pid), "-o", os.devnull]
    command += ["-P", str(log), "-e", f"inject={injection}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        try:
            yield
        finally:
            tracer.terminate()  # it leaves the daemon as it is
            tracer.stderr.read()


async def ask(client: httpx2.AsyncClient, daemon: DaemonProcess, key: str) -> httpx2.Response:
    return await client.post(
        f"{daemon.url}/accounts/alice/settlements",
        json={"amount": "5", "scale": 0},
        headers={"Idempotency-Key": key},
    )


async def test_a_failed_sync_gets_no_answer_and_the_next_start_reads_the_truth(
    tmp_path: Path,
) -> None:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        with daemon_process(tmp_path, "--engine", "idle:connect") as daemon:
            await client.post(f"{daemon.url}/accounts", json={"id": "alice"})
            assert (await ask(client, daemon, "before")).status_code == 201
            with failing(daemon, tmp_path / "settled.db-wal", "fdatasync:error=EIO"):
                with pytest.raises(httpx2.HTTPError):
                    await ask(client, daemon, "meanwhile")
                assert await ended(daemon.process, within_s=30) == 1
        assert "the outcome is unknown" in (tmp_path / "log").read_text()
        with daemon_process(tmp_path, "--engine", "idle:connect") as daemon:
            for key in ("before", "meanwhile", "meanwhile"):
                assert (await ask(client, daemon, key)).status_code == 201
    async with open_sqlite(tmp_path / "settled.db", exclusive=True) as store:
        assert (await store.account("alice")).requested == 10
        await conserved(store)


async def test_a_full_disk_is_answered_503_until_it_has_room_again(tmp_path: Path) -> None:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        with daemon_process(tmp_path, "--engine", "idle:connect") as daemon:
            await client.post(f"{daemon.url}/accounts", json={"id": "alice"})
            with failing(daemon, tmp_path / "settled.db-wal", "pwrite64:error=ENOSPC"):
                for _ in range(3):
                    refused = await ask(client, daemon, "k")
                    assert refused.status_code == 503
                    assert "Retry-After" in refused.headers
            with trio.fail_after(30):
                while (await ask(client, daemon, "k")).status_code != 201:  # noqa: ASYNC110
                    await trio.sleep(0.1)
            assert daemon.process.poll() is None
    async with open_sqlite(tmp_path / "settled.db", exclusive=True) as store:
        assert (await store.account("alice")).requested == 5
        await conserved(store)
