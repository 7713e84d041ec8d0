"""Two real daemons that settle with each other over a ledger, and may be ended at any moment.

Their connectors live in this process and post each settlement until it is taken, and once more
after that. At the end the books of the connectors, the daemons and the ledger must be
equal to the unit.
"""

import random
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

import trio

from settled.errors import SettledError
from settled.store.sql.audit import audit
from settled.testing import AccountingSystem, Faults, accounting_systems, connect_peers
from settled.testing.demo_daemon import DaemonProcess, amount
from tests.harness import sum_exactly

ACCOUNTS: Final = (("cents", 2), ("micros", 6), ("nanos", 9))
SIDES: Final = ("alice", "bob")
DUPLICATE_RATE: Final = 1.0  # so that half of the requests are repetitions
REST_TIMEOUT_S: Final = 300.0


class StoppableDaemon(DaemonProcess):
    """A daemon that a test may stop in other ways too."""

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def ended(self, within_s: float) -> int:
        """Return its exit code, once it has ended."""
        assert self._process is not None
        with trio.fail_after(within_s):
            return await self._process.wait()

    async def begin(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Start it; it is begun when its process is there. It may be ended before it serves."""
        former = self.pid
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve_or_end)
            while self.pid == former:  # noqa: ASYNC110
                await trio.sleep(0.001)
            task_status.started()

    async def _serve_or_end(self) -> None:
        with suppress(SettledError):
            await self.start()


@dataclass(frozen=True)
class Pair:
    """Both sides, by name."""

    directory: Path
    systems: dict[str, AccountingSystem]
    daemons: dict[str, StoppableDaemon]
    rng: random.Random

    @property
    def ledger(self) -> Path:
        return self.directory / "ledger.db"

    async def owe(self, count: int, over_s: float) -> None:
        """Let each side come to owe the other, over all accounts, evenly over a time."""
        for _ in range(count):
            system = self.systems[self.rng.choice(SIDES)]
            name, scale = self.rng.choice(ACCOUNTS)
            units = self.rng.randint(1, 10 ** self.rng.randint(1, scale + 3))
            system.owe(name, Decimal(units).scaleb(-scale))
            await trio.sleep(over_s / count)

    async def rest(self) -> None:
        """Wait until all is settled and credited."""
        with trio.fail_after(REST_TIMEOUT_S):
            for system in self.systems.values():
                await system.wait_posted()
            while not await self._at_rest():  # noqa: ASYNC110
                await trio.sleep(0.2)

    async def _at_rest(self) -> bool:
        settled, credited = [], []
        for daemon in self.daemons.values():
            for row in (await daemon.accounts()).values():
                if any(amount(row, name) for name in _UNFINISHED):
                    return False
                settled.append(amount(row, "settled"))
                credited.append(amount(row, "credited"))
        return sum_exactly(settled) == sum_exactly(credited)

    async def check(self) -> None:
        """Compare the books of all sides, to the unit, and audit the databases."""
        with closing(sqlite3.connect(self.ledger)) as conn:
            transfers = conn.execute("SELECT id, source, amount FROM transfers").fetchall()
        assert max(Counter(id for id, _, _ in transfers).values()) == 1
        rows = {name: await daemon.accounts() for name, daemon in self.daemons.items()}
        for payer, payee in (SIDES, SIDES[::-1]):
            for name, account in self.systems[payer].accounts.items():
                owed = account.owed
                out, into = rows[payer][name], rows[payee][name]
                assert owed == amount(out, "requested") == amount(out, "settled"), (payer, name)
                assert owed == amount(into, "received") == amount(into, "credited"), (payer, name)
                assert owed == self.systems[payee].accounts[name].credited, (payer, name)
            paid = sum_exactly(Decimal(text) for _, source, text in transfers if source == payer)
            books = self.systems[payer].accounts.values()
            assert paid == sum_exactly(account.owed for account in books) > 0, payer
        for daemon in self.daemons.values():
            audited(daemon.db)

    def posts(self) -> tuple[int, int]:
        """Return how many settlements were taken, and how often, repetitions included."""
        posts = [p for system in self.systems.values() for p in system.posts if p.status == 201]
        return len({post.key for post in posts}), len(posts)


_UNFINISHED: Final = ("queued", "in_flight", "unknown", "parked")


def audited(db: Path) -> None:
    """Check that a database is whole, and that its books add up."""
    with closing(sqlite3.connect(db, isolation_level=None)) as conn:
        assert [*audit(conn, lambda _done, _total: None)] == []


@asynccontextmanager
async def settling_pair(directory: Path, seed: int, **options: str) -> AsyncIterator[Pair]:
    """Run both daemons, with accounts open on both sides."""
    async with accounting_systems(seed=seed) as systems:
        by_name = dict(zip(SIDES, systems, strict=True))
        options = {"ledger": "ledger.db", "poll_s": "0.05", "asset_scale": "9", **options}
        daemons = {
            name: StoppableDaemon(name, directory, system.url, options)
            for name, system in by_name.items()
        }
        pair = Pair(directory, by_name, daemons, random.Random(seed))
        try:
            for name, daemon in daemons.items():
                await daemon.start()
                by_name[name].engine_url = daemon.url
            for name, scale in ACCOUNTS:
                await connect_peers(systems[0], name, systems[1], name, asset_scale=scale)
            for system in systems:
                system.faults = Faults(duplicate_rate=DUPLICATE_RATE)
            yield pair
        finally:
            for daemon in daemons.values():
                await daemon.kill()
