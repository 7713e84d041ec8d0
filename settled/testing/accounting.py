"""A small accounting system: the connector that a settlement engine is tested with.

It keeps books in memory, talks HTTP over real loopback sockets as a real connector would, and can
be told to misbehave in the ways that real ones do.
"""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal

import httpx2
import trio

from settled.amounts import ZERO, checked, floor
from settled.errors import InvalidAmount, SettledError
from settled.ids import mint
from settled.testing.books import KeyMemory, PeerAccount
from settled.testing.engine_api import EngineRequest, make_engine_api
from settled.testing.faults import PROFILES, Faults, ProfileName
from settled.testing.wire import WireServer

_RETRY_DELAY_MIN_S, _RETRY_DELAY_MAX_S = 0.05, 2.0
_ENGINE_TIMEOUT_S = 5.0
_LIMITS = httpx2.Limits(max_connections=100, keepalive_expiry=2.0)  # sooner than the engine's


@dataclass(slots=True)
class SettlementPost:
    """One attempt of an accounting system to have its engine settle something.

    Args:
        account_id: the account.
        key: the ``Idempotency-Key``, the same for every attempt at one settlement.
        amount: in the standard unit.
        time_s: when it was sent, by the accounting system's clock.
        status: the engine's answer; ``None`` while, or when, there is none.
    """

    account_id: str
    key: str
    amount: Decimal
    time_s: float
    status: int | None = None


class AccountingSystem:
    """A connector for tests and demos. Make one with `accounting_system` or `accounting_systems`.

    Attributes:
        name: what it is called in errors.
        url: where it serves its engine: what ``--connector-url`` wants.
        engine_url: where its engine listens. Set it before accounts are added.
        accounts: the `PeerAccount` of each account id.
        faults: what it is told to do wrong; all well at first.
        requests: everything its engine sent, in the order of arrival.
        posts: every attempt to have the engine settle something.

    Example::

        async with accounting_systems() as (alice, bob):
            alice.engine_url, bob.engine_url = "http://localhost:3001", "http://localhost:3002"
            await connect_peers(alice, "bob", bob, "alice", asset_scale=2)
            alice.owe("bob", Decimal("12.50"))  # alice's engine is asked to settle it, now
            await alice.wait_posted()
    """

    def __init__(
        self,
        name: str,
        nursery: trio.Nursery,
        client: httpx2.AsyncClient,
        *,
        profile: ProfileName = "rfc",
        seed: int = 0,
        clock: Callable[[], float] = trio.current_time,
        port: int = 0,
    ) -> None:
        self.name = name
        self.profile = PROFILES[profile]
        self.clock = clock
        self.faults = Faults()
        self.accounts: dict[str, PeerAccount] = {}
        self.keys = KeyMemory()
        self.requests: list[EngineRequest] = []
        self.posts: list[SettlementPost] = []
        self.engine_url = ""
        self._random = random.Random(seed)
        self._nursery = nursery
        self._client = client
        self._links: dict[str, tuple[AccountingSystem, str]] = {}
        self._posting = 0
        self._posted = trio.Event()
        self._server = WireServer(make_engine_api(self, self._hang_up), nursery, port)
        self.url = f"http://127.0.0.1:{self._server.port}"

    def _hang_up(self, client: tuple[str, int]) -> None:
        self._server.hang_up(client)

    def go_down(self) -> None:
        """Refuse every connection, and cut those that are open, until `come_up`."""
        self._server.go_down()

    def come_up(self) -> None:
        """Serve again, on the same port."""
        self._server.come_up()

    def draw(self, rate: float) -> bool:
        """Return whether something that happens at this rate happens now."""
        return self._random.random() < rate

    async def add_account(
        self, account_id: str | None, *, asset_scale: int = 9, settle_threshold: Decimal = ZERO
    ) -> PeerAccount:
        """Open an account here and on the engine.

        Args:
            account_id: its id; ``None`` lets the engine mint one, as the Java connector does.
            asset_scale: decimals of the smallest unit that is counted here.
            settle_threshold: payable at which a settlement is requested; 0: at every debt.

        Raises:
            SettledError: when the engine does not take it.
        """
        response = await self._client.post(f"{self.engine_url}/accounts", json={"id": account_id})
        if not response.is_success:
            raise SettledError(
                f"{self.name}: the engine answered {response.status_code} to POST /accounts: "
                f"{response.text[:200]}"
            )
        account = PeerAccount(
            id=account_id or response.json()["id"],
            asset_scale=asset_scale,
            settle_threshold=settle_threshold,
        )
        return self.accounts.setdefault(account.id, account)

    def link(self, account_id: str, peer: "AccountingSystem", peer_account_id: str) -> None:
        """Say which accounting system the account's peer runs, and how he calls our account."""
        self._links[account_id] = (peer, peer_account_id)

    def owe(self, account_id: str, amount: Decimal) -> None:
        """Record a debt to the peer, in his books too; past the threshold, have it settled.

        Raises:
            InvalidAmount: when it is finer than the account's asset scale, or not above zero.
        """
        account = self.accounts[account_id]
        if not checked(amount) or floor(amount, account.asset_scale) != amount:
            raise InvalidAmount(f"{self.name}: cannot owe {amount} at scale {account.asset_scale}")
        account.owe(amount)
        if account_id in self._links:
            peer, peer_account_id = self._links[account_id]
            peer.accounts[peer_account_id].lend(amount)
        if account.payable >= account.settle_threshold:
            self.settle(account_id)

    def settle(self, account_id: str) -> None:
        """Ask the engine to settle all that is payable, whatever the threshold.

        Returns at once; a task asks again, under the same key, until the engine has taken it. If
        the engine refuses it (4xx), the amount is payable again.
        """
        account = self.accounts[account_id]
        if (amount := account.payable) > 0:
            account.request(amount)
            self._posting += 1
            self._nursery.start_soon(self._post_until_taken, account, amount)

    async def wait_posted(self) -> None:
        """Wait until the engine has taken (or refused) every settlement asked for so far."""
        while self._posting:
            await self._posted.wait()

    async def send_to_peer(self, account_id: str, message: bytes) -> bytes | None:
        """Carry a message of our engine to the peer's; ``None`` when it was not taken there."""
        if account_id not in self._links:
            return None
        peer, peer_account_id = self._links[account_id]
        return await peer.hand_to_engine(peer_account_id, message)

    async def hand_to_engine(self, account_id: str, message: bytes) -> bytes | None:
        """Hand a message of the peer to our engine and return its reply, or ``None``."""
        try:
            response = await self._client.post(
                f"{self.engine_url}/accounts/{account_id}/messages",
                content=message,
                headers={"Content-Type": "application/octet-stream"},
            )
        except httpx2.HTTPError:
            return None
        return response.content if response.is_success else None

    async def _post_until_taken(self, account: PeerAccount, amount: Decimal) -> None:
        key, delay_s = mint(), _RETRY_DELAY_MIN_S
        try:
            while True:
                status = await self._post_settlement(account, amount, key)
                if status is not None and status < 500:
                    break
                await trio.sleep(delay_s)
                delay_s = min(delay_s * 2, _RETRY_DELAY_MAX_S)
                if self.faults.new_key_on_retry:
                    key = mint()
            if status >= 300:
                account.request(-amount)
            elif self.draw(self.faults.duplicate_rate):
                await self._post_settlement(account, amount, key)
        finally:
            self._posting -= 1
            if not self._posting:
                self._posted.set()
                self._posted = trio.Event()

    async def _post_settlement(self, account: PeerAccount, amount: Decimal, key: str) -> int | None:
        post = SettlementPost(account.id, key, amount, self.clock())
        self.posts.append(post)
        quantity = account.quantity(amount)
        try:
            response = await self._client.post(
                f"{self.engine_url}/accounts/{account.id}/settlements",
                json={"amount": quantity.amount, "scale": quantity.scale},
                headers={"Idempotency-Key": key},
            )
        except httpx2.HTTPError:
            return None
        post.status = response.status_code
        return response.status_code


@asynccontextmanager
async def accounting_system(
    name: str = "alice",
    *,
    profile: ProfileName = "rfc",
    seed: int = 0,
    clock: Callable[[], float] = trio.current_time,
    port: int = 0,
) -> AsyncIterator[AccountingSystem]:
    """Run one accounting system while the block runs.

    Args:
        name: what it is called in errors.
        profile: the connector whose habits it has: ``interledger-rs``, ``java`` or ``rfc``.
        seed: of its random generator, so that a run with faults can be repeated.
        clock: seconds, by which it forgets keys 24 h after their first use.
        port: of its ``url``; 0: one that is free.
    """
    async with (
        httpx2.AsyncClient(timeout=_ENGINE_TIMEOUT_S, limits=_LIMITS, trust_env=False) as client,
        trio.open_nursery() as nursery,
    ):
        yield AccountingSystem(
            name, nursery, client, profile=profile, seed=seed, clock=clock, port=port
        )
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def accounting_systems(
    profiles: tuple[ProfileName, ProfileName] = ("rfc", "rfc"),
    *,
    seed: int = 0,
    clock: Callable[[], float] = trio.current_time,
) -> AsyncIterator[tuple[AccountingSystem, AccountingSystem]]:
    """Run two accounting systems, alice and bob, while the block runs."""
    async with (
        accounting_system("alice", profile=profiles[0], seed=seed, clock=clock) as alice,
        accounting_system("bob", profile=profiles[1], seed=seed + 1, clock=clock) as bob,
    ):
        yield alice, bob


async def connect_peers(
    alice: AccountingSystem,
    alice_account_id: str | None,
    bob: AccountingSystem,
    bob_account_id: str | None,
    *,
    asset_scale: int = 9,
    settle_threshold: Decimal = ZERO,
) -> tuple[PeerAccount, PeerAccount]:
    """Open an account on each side, each the other's peer. See `AccountingSystem.add_account`.

    Args:
        alice_account_id: what alice calls her account with bob (``None``: her engine mints it).
        bob_account_id: what bob calls his account with alice.
        asset_scale: on both sides.
        settle_threshold: on both sides.
    """
    ours, theirs = [
        await system.add_account(
            account_id, asset_scale=asset_scale, settle_threshold=settle_threshold
        )
        for system, account_id in ((alice, alice_account_id), (bob, bob_account_id))
    ]
    alice.link(ours.id, bob, theirs.id)
    bob.link(theirs.id, alice, ours.id)
    return ours, theirs
