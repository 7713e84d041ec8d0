"""The restore drill of docs/operators.md: a backup under load, a loss, a restore, and what remains.

The daemon is a process that is killed; the ledger is a folder that outlives it. What was lost, what
was not, and what the operator has to do is shown amount by amount.
"""

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from click.testing import CliRunner

from settled.cli import main
from settled.testing import AccountingSystem, accounting_system
from settled.testing.accounting import SettlementPost
from tests.daemon_process import daemon_process

# Pays by writing a file, and finds what was paid to it as a file. Files named after an account
# make it wait: "shut" before it pays, "slow" after.
VAULT = """
from decimal import Decimal
from pathlib import Path

import trio
from settled import NotSettled


async def connect(services):
    services.nursery.start_soon(watch, services)
    return Vault()


async def watch(services):
    while True:
        for payment in sorted(Path("received").iterdir()):
            account_id, amount = payment.read_text().split()
            await services.credit_settlement(account_id, Decimal(amount), payment.name)
        await trio.sleep(0.02)


class Vault:
    asset_scale = 2

    async def settle(self, account_id, amount, settlement_id):
        if Path("shut", account_id).exists():
            raise NotSettled("the vault is shut")
        Path(settlement_id).write_text(f"{account_id} {amount}")
        Path(settlement_id).rename(Path("paid", settlement_id))
        while Path("slow", account_id).exists():
            await trio.sleep(0.02)
        return amount

    async def find_settlement(self, account_id, settlement_id):
        payment = Path("paid", settlement_id)
        return Decimal(payment.read_text().split()[1]) if payment.exists() else Decimal(0)
"""


@dataclass
class Site:
    """One installation: its connector, its ledger, its database, and the operator's commands."""

    directory: Path
    connector: AccountingSystem

    @property
    def db(self) -> Path:
        return self.directory / "settled.db"

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """Run the daemon; it is killed at the end of the block."""
        with daemon_process(
            self.directory, "--engine", "vault:connect", "--connector-url", self.connector.url
        ) as process:
            self.connector.engine_url = process.url
            yield

    async def command(self, *args: str, code: int = 0) -> Any:
        """Run a command as the operator does; return what it prints as JSON, or its error."""
        run = [*args, "--json", "--db", str(self.db)]
        result = await trio.to_thread.run_sync(lambda: CliRunner().invoke(main, run))
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if code == 0 else result.stderr

    async def account(self, account_id: str) -> dict[str, Decimal]:
        shown = await self.command("accounts", "show", account_id)
        names = ("requested", "queued", "unknown", "settled", "received", "credited")
        return {name: Decimal(shown[name]) for name in names}

    async def until(self, account_id: str, **amounts: int) -> None:
        """Wait until the account's amounts are these."""
        with trio.fail_after(20):
            while not amounts.items() <= (await self.account(account_id)).items():  # noqa: ASYNC110
                await trio.sleep(0.05)

    def paid(self, account_id: str) -> dict[str, Decimal]:
        """Return what the ledger says was paid to the account, by settlement id."""
        found = {}
        for payment in (self.directory / "paid").iterdir():
            payee, amount = payment.read_text().split()
            if payee == account_id:
                found[payment.name] = Decimal(amount)
        return found

    async def paid_unknown(self, account_id: str) -> Decimal:
        """Return the sum of the payments on the ledger that the database does not know."""
        rows = await self.command("settlements", "list", "--account", account_id, "--all")
        known = {row["id"] for row in rows}
        return sum(
            (amount for id_, amount in self.paid(account_id).items() if id_ not in known),
            Decimal(0),
        )

    def receive(self, payment_id: str, account_id: str, amount: int) -> None:
        """Have a peer pay us."""
        path = self.directory / "received" / payment_id
        hidden = self.directory / payment_id
        hidden.write_text(f"{account_id} {amount}")
        hidden.rename(path)

    async def owe(self, account_id: str, amount: int) -> SettlementPost:
        """Have the connector ask for a settlement; return the request that was acknowledged."""
        self.connector.owe(account_id, Decimal(amount))
        await self.connector.wait_posted()
        return self.connector.posts[-1]

    async def retry(self, post: SettlementPost) -> None:
        """Have the connector send a request once more, as if it had never seen the answer."""
        async with httpx2.AsyncClient(trust_env=False) as client:
            response = await client.post(
                f"{self.connector.engine_url}/accounts/{post.account_id}/settlements",
                json={"amount": str(post.amount), "scale": 0},
                headers={"Idempotency-Key": post.key},
            )
        assert response.status_code == 201

    @contextmanager
    def told(self, folder: str, account_id: str) -> Iterator[None]:
        """Have the ledger be shut, or slow, for an account while the block runs."""
        sign = self.directory / folder / account_id
        sign.touch()
        yield
        sign.unlink()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    (tmp_path / "vault.py").write_text(VAULT)
    for folder in ("paid", "received", "shut", "slow"):
        (tmp_path / folder).mkdir()
    with trio.fail_after(60):
        async with accounting_system() as connector:
            yield Site(tmp_path, connector)


@asynccontextmanager
async def load(site: Site, account_id: str) -> AsyncIterator[None]:
    """Have the connector ask for settlements of 1 without end while the block runs."""

    async def go_on() -> None:
        while True:
            site.connector.owe(account_id, Decimal(1))
            await trio.sleep(0.005)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on)
        yield
        nursery.cancel_scope.cancel()


async def before_the_loss(site: Site) -> dict[str, SettlementPost]:
    """Work, take a backup, go on working; return the last two requests for bob."""
    for account_id in ("bob", "carol", "dave"):
        await site.connector.add_account(account_id, asset_scale=0)
    site.receive("early", "bob", 3)
    await site.owe("bob", 10)
    await site.until("bob", settled=10, credited=3)
    with site.told("slow", "carol"):
        await site.owe("carol", 5)
        with trio.fail_after(10):
            while not site.paid("carol"):  # noqa: ASYNC110
                await trio.sleep(0.01)
        with site.told("shut", "bob"):
            await site.owe("bob", 20)
            site.connector.go_down()
            site.receive("undelivered", "bob", 4)
            await site.until("bob", queued=20, received=7, credited=3)
            async with load(site, "dave"):
                await trio.sleep(0.2)
                await site.command("backup", str(site.directory / "backup.db"))
                await trio.sleep(0.2)
            # In the backup now: 20 are queued for bob, 5 are in flight to carol, and 4 are not
            # delivered. All of that goes on, and more comes.
            site.connector.come_up()
        site.receive("late", "bob", 6)
        retried = await site.owe("bob", 7)
        await site.until("bob", settled=37, credited=13)
    await site.until("carol", settled=5)
    with site.told("shut", "bob"):
        lost = await site.owe("bob", 9)
        await site.until("bob", requested=46, queued=9)
    return {"retried": retried, "lost": lost}


async def test_a_restored_backup_pays_nothing_twice_and_the_operator_can_make_it_whole(
    site: Site,
) -> None:
    with site.daemon():
        posts = await before_the_loss(site)
    for file in site.directory.glob("settled.db*"):
        file.unlink()
    shutil.copy(site.directory / "backup.db", site.db)
    paid = {account_id: site.paid(account_id) for account_id in ("bob", "carol", "dave")}
    assert sum(paid["bob"].values()) == 37

    with site.daemon():
        await by_itself(site, posts)
        assert {account_id: site.paid(account_id) for account_id in paid} == paid, "paid by itself"
        await by_the_operator(site, posts)
        assert await site.command("audit") == []


async def by_itself(site: Site, posts: dict[str, SettlementPost]) -> None:
    """See what a restored backup does before the operator has said anything."""
    # What was in flight is found on the ledger, under its id.
    await site.until("carol", settled=5, unknown=0)
    # The engine finds all that came in again; the connector knows the keys and counts none twice.
    await site.until("bob", received=13, credited=13)
    assert site.connector.accounts["bob"].credited == 13
    # Requests are taken, but neither they nor what is queued again, though it was paid, is paid.
    await site.owe("bob", 2)
    await site.retry(posts["retried"])
    shown = await site.command("accounts", "show", "bob")
    assert shown["waiting"].startswith("held: a backup of ")
    assert (await site.account("bob"))["queued"] == 20 + 2 + 7
    # Lost is what was acknowledged after the backup and is not sent again: the 9.
    assert (await site.account("bob"))["requested"] == site.connector.accounts["bob"].owed - 9
    held = await site.command("release")
    assert {row["account"] for row in held["held"]} >= {"bob"}


async def by_the_operator(site: Site, posts: dict[str, SettlementPost]) -> None:
    """Compare with the ledger and the connector's log, account by account."""
    # bob: the ledger has payments of 20 and 7 that the backup does not know; 2 remain.
    assert await site.paid_unknown("bob") == 27
    await site.command("release", "bob", "--paid", "27")
    await site.until("bob", queued=0, settled=10 + 27 + 2)
    # The connector's log has a request that the database does not: under its own key, so that a
    # late retry changes nothing.
    lost = posts["lost"]
    await site.command("settle", "bob", str(lost.amount), "--key", lost.key)
    await site.until("bob", queued=0, settled=48)
    await site.retry(lost)
    # dave: requests under load are lost, and most of them were paid: more than is queued.
    since = await site.paid_unknown("dave")
    queued = (await site.account("dave"))["queued"]
    if since > queued:
        refused = await site.command("release", "dave", "--paid", str(since), code=1)
        assert f"`settled settle dave {since - queued} --key " in refused
    missing = site.connector.accounts["dave"].owed - (await site.account("dave"))["requested"]
    assert missing > 0, "there was no load"
    await site.command("settle", "dave", str(missing))
    await site.command("release", "dave", "--paid", str(since))
    await site.command("release", "--all")
    for account_id in ("bob", "carol", "dave"):
        owed = site.connector.accounts[account_id].owed
        await site.until(account_id, settled=int(owed), queued=0)
        assert sum(site.paid(account_id).values()) == owed, account_id
    assert site.connector.accounts["bob"].credited == 13
