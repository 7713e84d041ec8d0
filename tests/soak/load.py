"""A steady load on two daemons that settle with each other."""

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import httpx2
import trio

from settled.testing import connect_peers
from tests.crashes.pair import Pair
from tests.hostile.healthy import Healthy

PROBED: Final = "probed"
PAYMENTS_PER_S: Final = 20
PROBE_PAUSE_S: Final = 0.03
MESSAGE_PAUSE_S: Final = 0.3
GUEST_TIMEOUT_S: Final = 60.0
GUESTS_MAX: Final = 300  # both sides list all accounts at once, in the end
BACKUP_PAUSE_S: Final = 300.0
_DETAILS: Final = b'{"type":"paymentDetails"}'


@dataclass
class Done:
    """What a load has done.

    Attributes:
        settlements: that the connectors asked for.
        requests: of the connectors, repetitions included, and of the probe.
        messages: that the daemons answered.
        guests: accounts that were opened, settled both ways, and closed.
        backups: that were made of a daemon's database.
    """

    settlements: int = 0
    requests: int = 0
    messages: int = 0
    guests: int = 0
    backups: int = 0


class Load:
    """What goes on for ``seconds``: everything that a daemon does, all the time.

    Args:
        pair: the daemons and their connectors.
        seconds: how long.

    Attributes:
        done: how much of it was done.
        probe: a client of alice's daemon that notes how long its requests take.
        wrong: what was not answered as it should be.
    """

    def __init__(self, pair: Pair, seconds: float) -> None:
        self._pair = pair
        self._seconds = seconds
        self._end_s = trio.current_time() + seconds
        alice = pair.daemons["alice"]
        assert alice.pid is not None
        self.done = Done()
        self.probe = Healthy(int(alice.url.rpartition(":")[2]), alice.pid, PROBED)
        self.wrong: list[str] = []
        self._probed = 0

    @property
    def is_on(self) -> bool:
        return trio.current_time() < self._end_s

    async def run(self) -> None:
        """Go on until the time is over, and what was begun has ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pay)
            nursery.start_soon(self.probe.run, PROBE_PAUSE_S, self._end_s)
            nursery.start_soon(self._repeat, self._message, MESSAGE_PAUSE_S)
            nursery.start_soon(self._repeat, self._guest, self._seconds / GUESTS_MAX)
            nursery.start_soon(self._repeat, self._back_up, min(BACKUP_PAUSE_S, self._seconds / 3))
        self.count()
        self.wrong += [f"the probe was answered {status!r}" for status in self.probe.refused]
        # What the probe asked for is owed in no connector's books yet.
        account = self._pair.systems["alice"].accounts[PROBED]
        account.owe(Decimal(len(self.probe.latencies_s)))

    def count(self) -> None:
        """Count what the connectors did since the last time, and let them forget it."""
        for system in self._pair.systems.values():
            done = [post for post in system.posts if post.status is not None]
            self.done.requests += len(done)
            system.posts[:] = [post for post in system.posts if post.status is None]
            system.requests.clear()
        self.done.requests += len(self.probe.latencies_s) - self._probed
        self._probed = len(self.probe.latencies_s)

    async def _pay(self) -> None:
        while self.is_on:
            await self._pair.owe(PAYMENTS_PER_S, 1.0)
            self.done.settlements += PAYMENTS_PER_S

    async def _repeat(self, act: Callable[[], Awaitable[None]], pause_s: float) -> None:
        while self.is_on:
            await act()
            await trio.sleep(min(pause_s, max(0.0, self._end_s - trio.current_time())))

    async def _message(self) -> None:
        for system in self._pair.systems.values():
            reply = await system.hand_to_engine("cents", _DETAILS)
            if reply is None:
                self.wrong.append(f"a message to {system.name} was not answered")
            self.done.messages += 1

    async def _guest(self) -> None:
        """Open an account on both sides, settle both ways, and close it."""
        name = f"guest-{self.done.guests}"
        alice, bob = self._pair.systems.values()
        ours, theirs = await connect_peers(alice, name, bob, name, asset_scale=2)
        alice.owe(name, Decimal("1.25"))
        bob.owe(name, Decimal("0.75"))
        with trio.move_on_after(GUEST_TIMEOUT_S) as waiting:
            while (ours.credited, theirs.credited) != (theirs.owed, ours.owed):  # noqa: ASYNC110
                await trio.sleep(0.05)
        if waiting.cancelled_caught:
            self.wrong.append(f"{name} was not settled in {GUEST_TIMEOUT_S:.0f} s")
        async with httpx2.AsyncClient(trust_env=False) as client:
            for system in (alice, bob):
                answer = await client.delete(f"{system.engine_url}/accounts/{name}")
                if answer.status_code != 204:
                    self.wrong.append(f"{name} was closed with {answer.status_code}")
        self.done.guests += 1

    async def _back_up(self) -> None:
        for daemon in self._pair.daemons.values():
            target = daemon.db.with_suffix(".backup")
            command = [sys.executable, "-m", "settled", "backup", str(target), "--force"]
            ended = await trio.run_process(
                [*command, "--db", str(daemon.db)],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
            if ended.returncode:
                self.wrong.append(f"a backup failed: {ended.stderr.decode()}")
            self.done.backups += 1
