"""What happens in the demo, step by step."""

import random
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

import trio

from settled.amounts import EXACT, ZERO
from settled.testing.accounting import AccountingSystem, connect_peers
from settled.testing.demo_daemon import DaemonProcess, Row
from settled.testing.demo_report import Flow, follow, total
from settled.testing.demo_terminal import progress, say
from settled.testing.faults import Faults

REST_TIMEOUT_S: Final = 60.0

# What the accounts are called, the decimals that their connectors count, and their thresholds.
ACCOUNTS: Final = (
    ("units", 0, Decimal(0)),
    ("cents", 2, Decimal(0)),
    ("micros", 6, Decimal(2000)),
    ("nanos", 9, Decimal(0)),
)
_FAULTS: Final = Faults(fail_rate=0.15, lose_reply_rate=0.2, duplicate_rate=0.2)
_DEBT_EVERY_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Party:
    """One side: its connector, which runs in this process, and its daemon, which does not."""

    system: AccountingSystem
    daemon: DaemonProcess

    @property
    def name(self) -> str:
        """What it is called everywhere."""
        return self.system.name


@dataclass(frozen=True, slots=True)
class Debt:
    """Something that one side comes to owe the other."""

    payer: int
    account: str
    amount: Decimal


def make_debts(count: int, seed: int) -> list[Debt]:
    """Return a stream of debts, both ways, over all accounts; the same for the same seed."""
    chance = random.Random(seed)
    debts = []
    for _ in range(count):
        name, scale, _threshold = chance.choice(ACCOUNTS)
        units = chance.randint(1, 10 ** chance.randint(1, scale + 3))
        debts.append(Debt(chance.randrange(2), name, Decimal(units).scaleb(-scale, EXACT)))
    return debts


class Demo:
    """One run of the demo, step by step."""

    def __init__(self, parties: tuple[Party, Party], ledger: Path) -> None:
        self.parties = parties
        self.ledger = ledger

    def account_id(self, payer: int, name: str) -> str:
        """Return what a side calls its account with the other one."""
        return f"{self.parties[1 - payer].name}-{name}"

    async def set_up(self) -> None:
        """Start the daemons and open the accounts on both sides."""
        async with trio.open_nursery() as nursery:
            for party in self.parties:
                nursery.start_soon(party.daemon.start)
        alice, bob = self.parties
        say(f"daemons: alice is process {alice.daemon.pid}, bob is process {bob.daemon.pid}")
        for name, scale, threshold in ACCOUNTS:
            await connect_peers(
                alice.system,
                self.account_id(0, name),
                bob.system,
                self.account_id(1, name),
                asset_scale=scale,
                settle_threshold=threshold,
            )
        say(f"accounts: {len(ACCOUNTS)} on each side, with 0 to 9 decimals")
        for party in self.parties:
            party.system.faults = Faults(
                fail_rate=_FAULTS.fail_rate,
                lose_reply_rate=_FAULTS.lose_reply_rate,
                duplicate_rate=_FAULTS.duplicate_rate,
            )

    async def stream(self, debts: list[Debt]) -> None:
        """Let the debts come in, and kill one daemon while they do."""
        victim = self.parties[1].daemon
        kill_at, start_at = len(debts) // 2, len(debts) * 2 // 3
        killed = victim.pid
        with progress(len(debts), "debts") as advance:
            for number, debt in enumerate(debts):
                if number == kill_at:
                    await victim.kill()
                elif number == start_at:
                    await victim.start()
                account_id = self.account_id(debt.payer, debt.account)
                self.parties[debt.payer].system.owe(account_id, debt.amount)
                advance(1)
                await trio.sleep(_DEBT_EVERY_S)
        say(
            f"debts: {len(debts)}, both ways; process {killed} was killed with -9 after {kill_at} "
            f"of them, and started again after {start_at} as process {victim.pid}"
        )

    async def rest(self) -> None:
        """Have all that is payable settled, and wait until nothing is on its way any more.

        The connectors fail no more: what they have lost and broken so far is to be made good.
        """
        for party in self.parties:
            party.system.faults = Faults()
        began_s, done = trio.current_time(), 0
        with trio.move_on_after(REST_TIMEOUT_S), progress(100, "settling") as advance:
            while True:
                for party in self.parties:
                    for account_id in party.system.accounts:
                        party.system.settle(account_id)
                share = self._share_credited()
                advance(share - done)
                done = share
                if share == 100 and all(flow.equal for flow in await self.flows()):
                    break
                await trio.sleep(0.1)
        say(f"rest: waited {trio.current_time() - began_s:.1f} s for what was still on its way")

    def _share_credited(self) -> int:
        accounts = [account for party in self.parties for account in party.system.accounts.values()]
        owed = total(account.owed for account in accounts)
        credited = total(account.credited for account in accounts)
        return int(credited * 100 / owed) if owed else 100

    async def flows(self) -> list[Flow]:
        """Follow what was owed in every account, both ways, through all books."""
        rows: list[dict[str, Row]] = [await party.daemon.accounts() for party in self.parties]
        return [
            follow(
                self.parties[payer].system,
                rows[payer][self.account_id(payer, name)],
                self.parties[1 - payer].system,
                rows[1 - payer][self.account_id(1 - payer, name)],
                name,
            )
            for payer in (0, 1)
            for name, _scale, _threshold in ACCOUNTS
        ]

    def on_ledger(self) -> dict[tuple[str, str], Decimal]:
        """Return what the ledger says was moved, by payer and payee."""
        moved = {(a.name, b.name): ZERO for a in self.parties for b in self.parties if a is not b}
        with closing(sqlite3.connect(self.ledger)) as ledger:
            for source, target, paid in ledger.execute(
                "SELECT source, target, amount FROM transfers"
            ):
                if (source, target) in moved:
                    moved[source, target] = EXACT.add(moved[source, target], Decimal(paid))
        return moved

    async def stop(self) -> None:
        """End both daemons as an operator would."""
        for party in self.parties:
            await party.daemon.stop()
        say("daemons: ended by SIGTERM, exit code 0")

    def tell_faults(self) -> None:
        """Say what all of this went through."""
        systems = [party.system for party in self.parties]
        requests = [request for system in systems for request in system.requests]
        posts = [post for system in systems for post in system.posts]
        lost = sum(request.reply_lost for request in requests)
        failed = sum(request.status == 503 for request in requests)
        again = len(posts) - len({post.key for post in posts})
        say(
            f"on the way: {lost} replies lost and {failed} requests failed at the connectors, "
            f"{again} settlements posted again under their key"
        )
