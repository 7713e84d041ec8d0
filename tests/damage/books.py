"""A database with some of everything in it, as a clean stop or a ``kill -9`` leaves it."""

import os
import re
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

from settled.amounts import Quantity
from settled.errors import SettledError
from settled.store.protocol import Store
from settled.store.records import AddCredit, Delivered, NotSent, SetState, Settled, Unknown
from settled.store.sqlite import SqliteStore, open_sqlite

NAME = "settled.db"
LOG, LOCK = f"{NAME}-wal", f"{NAME}.lock"
IDLE_ENGINE = """
import trio

class Idle:
    async def settle(self, account_id, amount, settlement_id):
        await trio.sleep_forever()

async def connect(services):
    return Idle()
"""

Files = dict[str, bytes]


async def fill(store: Store, *, start: int = 0, requests: int = 40) -> None:
    """Do some of everything that a daemon does."""
    for account_id in ("alice", "bob", "carol"):
        account = await store.open_account(account_id, setup=False)
        for n in range(start, start + requests):
            key = f"{account_id}-{n:04}-{'k' * 100}"
            await store.queue_settlement(account_id, Quantity(str(n + 1), 2), key)
            if n % 10 == 9:
                settlement_id = f"{account_id}-s{n}"
                step = await store.next_settlement(account.number, settlement_id)
                if step.begun:
                    paid = Settled(Decimal("0.01")) if n % 20 == 9 else NotSent("no funds", 0)
                    await store.record_outcome(settlement_id, paid)
        await store.commit(
            [
                SetState(None, f"cursor-{start}", b"x" * 300),
                AddCredit(account_id, f"{account_id}-tx{start}", Decimal("1.5")),
                AddCredit(account_id, f"{account_id}-ty{start}", Decimal("2.25")),
            ]
        )
        (credit,) = (await store.next_deliveries(account.number, 1)).credits
        await store.record_delivery(credit, Delivered())
    step = await store.next_settlement(account.number, f"unknown-{start}")
    if step.begun:
        await store.record_outcome(f"unknown-{start}", Unknown("the engine crashed", 0))


async def books(store: SqliteStore) -> dict[str, object]:
    """Return all that money and promises depend on."""
    return {
        "accounts": await store.accounts(limit=1000),
        "settlements": await store.settlements(limit=1000),
        "credits": await store.credits(limit=1000),
        "journal": await _rows(store, "SELECT * FROM journal ORDER BY seq"),
        "keys": await _rows(store, "SELECT * FROM idempotency_keys ORDER BY account_id, key"),
        "state": await store.list_state(None),
    }


async def _rows(store: SqliteStore, query: str) -> list[object]:
    return await store._read(lambda conn: conn.execute(query).fetchall())


async def closed_files(directory: Path) -> Files:
    """Make a database in ``directory`` and stop cleanly; return the files."""
    async with open_sqlite(directory / NAME, exclusive=True, create=True) as store:
        await fill(store)
    return files(directory)


async def killed_files(directory: Path, *, requests: int = 40) -> Files:
    """Make a database of which a part is still in its log, as ``kill -9`` leaves it.

    Half of it is in the file; the other half is only in the log.
    """
    alive = directory / "alive"
    alive.mkdir()
    async with open_sqlite(alive / NAME, exclusive=True, create=True) as store:
        await fill(store, requests=requests)
    async with open_sqlite(alive / NAME, exclusive=True) as store:
        await fill(store, start=requests, requests=requests)
        found = files(alive)
    shutil.rmtree(alive)
    put(directory, found)
    return found


def files(directory: Path) -> Files:
    """Return the database's files by name, but for the index that SQLite makes anew."""
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.glob(f"{NAME}*"))
        if path.is_file() and not path.name.endswith("-shm") and path.read_bytes()
    }


def data(content: Files) -> Files:
    """Return the files that hold data: the lock's names another process each time."""
    return {name: value for name, value in content.items() if name != LOCK}


def put(directory: Path, content: Files) -> None:
    """Make these the database's files."""
    for path in directory.glob(f"{NAME}*"):
        path.unlink()
    for name, data in content.items():
        (directory / name).write_bytes(data)


async def start(path: Path) -> dict[str, object] | str:
    """Start on the database as a daemon does; return its books, or why it refuses to."""
    try:
        async with open_sqlite(path, exclusive=True, create=True) as store:
            found = await books(store)
            for wrong in await store.look_over():
                return f"books differ: {wrong}"
            return found
    except SettledError as error:
        reason = str(error)
    assert len(reason.splitlines()) == 1, reason
    return reason


def run_daemon(directory: Path, *arguments: str) -> tuple[int, str]:
    """Run ``settled run``, which is expected to end by itself; return its exit code and last words.

    It runs without the rights by which root may write to everything. There must be one line on
    standard error besides its log, and never a traceback.
    """
    engine = directory / "idle.py"
    if not engine.exists():
        engine.write_text(IDLE_ENGINE)
    command = [sys.executable, "-m", "settled", "run", "--engine", "idle:connect"]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    ended = subprocess.run(
        [*command, "--listen", "127.0.0.1:0", "--log-format", "json", *arguments],
        cwd=directory,
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert "Traceback" not in ended.stderr, ended.stderr
    assert len(lines) == 1, ended.stderr
    assert re.match(r"settled: error: ", lines[0]), lines
    return ended.returncode, lines[0].removeprefix("settled: error: ")
