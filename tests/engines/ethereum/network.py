"""Two daemons of the Ethereum engine as processes, their connectors, and many other peers."""

import json
import random
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, cast

import trio

from engines.ethereum.signing import LocalSigner
from settled import open_sqlite
from settled.store.records import Account
from settled.testing import AccountingSystem, accounting_systems, connect_peers
from tests.daemon_process import DaemonProcess, daemon_process, ended
from tests.engines.ethereum.anvil import CHAIN_ID, ETHER
from tests.engines.ethereum.rust_peers import RustPeers
from tests.engines.ethereum.unrest import UnrestfulChain

CONFIRMATIONS: Final = 4
FUNDS: Final = 10**6 * ETHER
MAX_FEE_GWEI: Final = 200
_OPTIONS: Final = {
    "chain_id": CHAIN_ID,
    "confirmations": CONFIRMATIONS,
    "key_file": "key",
    "poll_s": 0.05,
    "bump_after_s": 0.8,
    "max_fee_gwei": MAX_FEE_GWEI,
}


class Party:
    """One side: a daemon, which comes and goes, its connector, and its key.

    Attributes:
        others: its peers beside the other side.
    """

    def __init__(
        self, system: AccountingSystem, key: str, directory: Path, options: dict[str, Any]
    ) -> None:
        self.system = system
        self.signer = LocalSigner(key)
        self.directory = directory
        self.others = RustPeers(self.signer.address, options.get("token"))
        self._options = options
        self._stack = ExitStack()
        self._daemon: DaemonProcess | None = None
        directory.mkdir()
        (directory / "key").touch(0o600)
        (directory / "key").write_text(key)

    @property
    def name(self) -> str:
        return self.system.name

    async def start(self) -> None:
        """Start the daemon; its connector goes on meanwhile."""
        arguments = ["--engine", "ethereum", "--log-format", "json"]
        arguments += ["--connector-url", self.system.url]
        for name, value in self._options.items():
            arguments += ["-o", f"{name}={value}"]
        self._daemon = await trio.to_thread.run_sync(
            self._stack.enter_context, daemon_process(self.directory, *arguments)
        )
        self.system.engine_url = self._daemon.url

    def kill(self) -> None:
        """End the daemon as ``kill -9`` does, if it runs."""
        self._daemon = None
        self._stack.close()

    async def stop(self) -> None:
        """End it as an operator does."""
        assert self._daemon is not None
        self._daemon.process.terminate()
        assert await ended(self._daemon.process, within_s=20) == 0
        self.kill()

    async def accounts(self) -> dict[str, Account]:
        async with open_sqlite(self.directory / "settled.db", exclusive=False) as store:
            return {account.id: account for account in await store.accounts(limit=1000)}

    async def transactions(self) -> int:
        """Return how many settlements have come to an end in which something moved."""
        count, before = 0, None
        async with open_sqlite(self.directory / "settled.db", exclusive=False) as store:
            while page := await store.settlements(state="settled", before=before, limit=1000):
                count, before = count + len(page), page[-1].number
        return count

    def said(self, level: str) -> list[dict[str, Any]]:
        """Return what all lives of the daemon have logged at a level."""
        lines = (self.directory / "log").read_text().splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in found if line["level"] == level]


@dataclass
class Network:
    """Everything that settles with each other on one chain."""

    chain: UnrestfulChain
    parties: tuple[Party, Party]
    token: str | None
    decimals: int
    first_block: int

    async def fund_all(self, others: int) -> None:
        """Give money to the two and to others: before trouble begins, which would undo that."""
        for place, party in enumerate(self.parties):
            await self.fund(party.signer.address)
            for n in range(others):
                signer = LocalSigner(f"{(n + 1) * 1000 + place:064x}")
                await self.fund(signer.address)
                party.others.add(f"other-{n}", signer)

    async def add_accounts(self) -> None:
        """Have the two settle with each other, and each with its others."""
        alice, bob = self.parties
        await connect_peers(alice.system, "bob", bob.system, "alice", asset_scale=self.decimals)
        for party in self.parties:
            for account_id in party.others.peers:
                await party.system.add_account(account_id, asset_scale=self.decimals)
                party.system.link(account_id, cast(AccountingSystem, party.others), account_id)

    def amount(self, units: int) -> Decimal:
        """Return so many of the asset's smallest units in its standard unit."""
        return Decimal(units).scaleb(-self.decimals)

    async def fund(self, address: str) -> None:
        await self.chain.fund(address, FUNDS)
        if self.token is not None:
            await self.chain.mint(self.token, address, FUNDS)

    async def carry(self) -> None:
        """Bring what the other peers pay to the chain, again and again."""
        while True:
            for party in self.parties:
                await party.others.send(self.chain)
            await trio.sleep(0.2)

    async def at_rest(self) -> None:
        """Wait until nothing that is owed or paid is on its way any more."""
        for party in self.parties:
            await party.system.wait_posted()
        while not await self._is_at_rest():  # noqa: ASYNC110
            await trio.sleep(0.1)

    async def _is_at_rest(self) -> bool:
        books = [await party.accounts() for party in self.parties]
        if any(
            account.queued or account.in_flight or account.unknown or account.undelivered
            for accounts in books
            for account in accounts.values()
        ):
            return False
        for party, (ours, theirs) in zip(self.parties, (books, books[::-1]), strict=True):
            mine, yours = self.between(party)
            if ours[mine].credited != theirs[yours].settled:
                return False
            for account_id, peer in party.others.peers.items():
                if ours[account_id].credited != self.amount(peer.paid):
                    return False
        return True

    def between(self, party: Party) -> tuple[str, str]:
        """Return what a party calls its account with the other, and what that one calls it."""
        names = ("bob", "alice")
        return names if party is self.parties[0] else names[::-1]


@asynccontextmanager
async def network(
    chain: UnrestfulChain,
    directory: Path,
    rng: random.Random,
    *,
    token_decimals: int | None,
    others: int,
) -> AsyncIterator[Network]:
    """Start two daemons on a chain, for ether or for a token, with so many other peers each; at
    the end they are killed.
    """
    token, decimals = None, 18
    if token_decimals is not None:
        token, decimals = await chain.deploy_token(token_decimals), token_decimals
    first_block = await chain.head() + 1
    options = _OPTIONS | {"rpc_url": chain.url} | ({} if token is None else {"token": token})
    async with accounting_systems(("interledger-rs", "java"), seed=rng.getrandbits(32)) as systems:
        alice, bob = (
            Party(system, f"{rng.getrandbits(250) + 1:064x}", directory / system.name, options)
            for system in systems
        )
        made = Network(chain, (alice, bob), token, decimals, first_block)
        try:
            await made.fund_all(others)
            async with trio.open_nursery() as nursery:
                for party in made.parties:
                    nursery.start_soon(party.start)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made.carry)
                yield made
                nursery.cancel_scope.cancel()
        finally:
            for party in made.parties:
                party.kill()
