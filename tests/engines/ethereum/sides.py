"""Two engines that talk through connectors which are two lines of code."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, cast

import trio

from engines.ethereum.handshake import Handshake
from engines.ethereum.peers import Peers
from engines.ethereum.proofs import Identity
from engines.ethereum.signing import LocalSigner
from engines.ethereum.transfers import Crediting
from settled import MessageFailed, Services
from settled.testing import MemoryStore

KEYS = [f"{n:064x}" for n in range(1, 10)]

# Carries a message of an account to whoever answers it.
Carry = Callable[[str, bytes], Awaitable[bytes]]


class Log:
    """Keeps what an engine would log."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **fields: self.lines.append((level, event, fields))

    def events(self, level: str) -> list[str]:
        return [event for name, event, _ in self.lines if name == level]


class Side:
    """The part of an engine that knows its peers, on a store that outlives it."""

    def __init__(
        self,
        key: str,
        nursery: trio.Nursery,
        *,
        store: MemoryStore | None = None,
        token: str | None = None,
        chain_id: int = 31337,
        max_credit: Decimal | None = None,
        log: Log | None = None,
    ) -> None:
        self.store = store or MemoryStore()
        self.sent: list[tuple[str, bytes]] = []
        self.carry: Carry = self._no_peer
        self.log = log or Log()
        self.services = Services(self.store, cast(Any, self), nursery)
        self.services.log = cast(Any, self.log)
        self.signer = LocalSigner(key)
        self.peers = Peers(self.services, Crediting(max_credit))
        self.identity = Identity(chain_id, token, self.signer.address)
        self.handshake = Handshake(self.services, self.signer, self.peers, self.identity)
        nursery.start_soon(self.peers.watch)

    async def _no_peer(self, account_id: str, body: bytes) -> bytes:
        raise MessageFailed(f"account {account_id}: no peer")

    async def send_message(self, account_id: str, body: bytes) -> bytes:
        self.sent.append((account_id, body))
        return await self.carry(account_id, body)

    def talk_to(self, routes: dict[str, tuple["Side", str]]) -> None:
        """Carry the messages of each account to an account of another side."""

        async def carry(account_id: str, body: bytes) -> bytes:
            side, theirs = routes[account_id]
            try:
                return await side.handshake.answer(theirs, body)
            except ValueError as error:
                raise MessageFailed(str(error)) from error

        self.carry = carry

    async def credits(self, account_id: str) -> list[tuple[str, Decimal]]:
        found = await self.store.credits(account_id=account_id, limit=1000)
        return [(credit.settlement_id, credit.amount) for credit in reversed(found)]


@asynccontextmanager
async def sides(*names: str, **options: Any) -> AsyncIterator[list[Side]]:
    """Make a side for each name, which has an account for each of the others' names."""
    async with trio.open_nursery() as nursery:
        made = [Side(key, nursery, **options) for key, _ in zip(KEYS, names, strict=False)]
        for side, name in zip(made, names, strict=True):
            others = [(other, their) for other, their in zip(made, names, strict=True)]
            side.talk_to({their: (other, name) for other, their in others if other is not side})
            for other in names:
                if other != name:
                    await side.store.open_account(other)
        yield made
        nursery.cancel_scope.cancel()
