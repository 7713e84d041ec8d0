"""What is outside of the daemon when it crashes: requests, a ledger, a connector, and their books.

Each keeps a file of its own that outlives the process: a line for each thing that happened, synced
before anyone hears of it.
"""

import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import trio

from settled.amounts import Quantity, to_text
from settled.core.operations import Operations
from settled.errors import StoreBusy
from settled.http import handlers
from settled.http.replies import Reply
from settled.store.records import Ambiguous, Credit, Delivered, DeliveryOutcome
from tests.harness import ScriptedEngine, post_in_a_round, sum_exactly

NOT_DONE: Final = "it was not done in time"
_BUSY_PAUSE_S: Final = 0.02


class Notes:
    """An append-only file of JSON lines.

    Args:
        path: the file.
        synced: whether a line is on the disk when ``add`` returns; else it survives the process.
    """

    def __init__(self, path: Path, *, synced: bool = True) -> None:
        self._path = path
        self._synced = synced

    def add(self, **entry: str) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, json.dumps(entry).encode() + b"\n")
            if self._synced:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        return [json.loads(line) for line in self._path.read_text().splitlines()]


@dataclass(frozen=True)
class Request:
    """A settlement that the connector asks for."""

    account_id: str
    key: str
    quantity: Quantity

    @property
    def body(self) -> bytes:
        return msgspec.json.encode({"amount": self.quantity.amount, "scale": self.quantity.scale})


REQUESTS: Final = tuple(
    Request(account_id, key, Quantity(amount, scale))
    for account_id, key, amount, scale in (
        ("alice", "a1", "5", 0),
        ("bob", "b1", "00125", 2),
        ("alice", "a2", "1", 255),
        ("alice", "a3", "90071992547409930000001", 9),
        ("bob", "b2", "7", 3),
        ("bob", "b3", "1" * 60, 30),
    )
)


@dataclass(frozen=True)
class Payment:
    """A payment of the peer to us, as the engine finds it on its ledger."""

    account_id: str
    id: str
    amount: Decimal


PAYMENTS: Final = tuple(
    Payment(account_id, f"tx-{n}", Decimal(amount))
    for n, (account_id, amount) in enumerate(
        (("alice", "3"), ("bob", "0.000000001"), ("alice", "12.5"), ("bob", "1e20"))
    )
)


@dataclass
class World:
    """The files of one run, and those that write them.

    ``patience_s`` is how long a run waits until its work is done, before it gives up.
    """

    directory: Path
    patience_s: float = 20.0
    acks: Notes = field(init=False)
    ledger: Notes = field(init=False)
    connector: Notes = field(init=False)

    def __post_init__(self) -> None:
        self.acks = Notes(self.directory / "acks", synced=False)
        self.ledger = Notes(self.directory / "ledger")
        self.connector = Notes(self.directory / "connector")

    @property
    def db(self) -> Path:
        return self.directory / "settled.db"

    @property
    def day(self) -> int:
        """How many days have passed."""
        return len(list(self.directory.glob("day-*")))

    def pass_a_day(self) -> None:
        (self.directory / f"day-{self.day + 1}").touch()

    async def open_account(self, operations: Operations, account_id: str) -> None:
        """Open an account as a connector does."""
        body = msgspec.json.encode({"id": account_id})
        reply = await self._patiently(
            lambda: handlers.post_account(operations, content_type=None, body=body)
        )
        assert (reply.status, reply.body) == (201, body)

    async def ask(
        self, operations: Operations, request: Request, *, in_a_round: bool = False
    ) -> None:
        """Ask for a settlement, and note the answer."""
        post = handlers.PostSettlement(
            request.account_id, "application/json", [request.key], request.body
        )
        reply = await self._patiently(
            lambda: (
                post_in_a_round(operations, post, in_thread=True)
                if in_a_round
                else handlers.post_settlement(operations, post)
            )
        )
        self.acks.add(key=request.key, status=str(reply.status), body=reply.body.decode())

    async def _patiently(self, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """Ask again while the daemon is busy."""
        deadline_s = trio.current_time() + self.patience_s
        while trio.current_time() < deadline_s:
            reply = await ask()
            if reply.status != 503:
                return reply
            await trio.sleep(_BUSY_PAUSE_S)
        raise StoreBusy(NOT_DONE)

    async def ask_all(self, operations: Operations, requests: Iterable[Request] = REQUESTS) -> None:
        """Ask for one alone, then for what is left at the same time."""
        first, *rest = requests
        await self.ask(operations, first)
        async with trio.open_nursery() as nursery:
            for request in rest:
                nursery.start_soon(partial(self.ask, operations, request, in_a_round=True))

    def paid(self) -> dict[str, Decimal]:
        """Return what the ledger says that each account was paid; an id stands there once."""
        entries = self.ledger.read()
        twice = [id for id, n in Counter(entry["id"] for entry in entries).items() if n > 1]
        assert not twice, f"paid twice: {twice}"
        return _by_account(entries)

    def credited(self) -> dict[str, Decimal]:
        """Return what the connector has credited to each account, each key once."""
        entries = self.connector.read()
        assert len({entry["key"] for entry in entries}) == len(entries)
        return _by_account(entries)


def _by_account(entries: list[dict[str, str]]) -> dict[str, Decimal]:
    return {
        account_id: sum_exactly(
            Decimal(entry["amount"]) for entry in entries if entry["account"] == account_id
        )
        for account_id in {entry["account"] for entry in entries}
    }


def ledger_engine(world: World, *, lookup: bool = True, delay_s: float = 0.0) -> ScriptedEngine:
    """Return an engine that pays on the world's ledger, which takes the same id twice.

    Args:
        world: whose ledger it is.
        lookup: whether it has ``find_settlement``.
        delay_s: how long a payment takes, before and after it is on the ledger.
    """

    async def settle(account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
        await trio.sleep(delay_s)
        world.ledger.add(id=settlement_id, account=account_id, amount=to_text(amount))
        await trio.sleep(delay_s)
        return amount

    async def find(account_id: str, settlement_id: str) -> Decimal:
        return sum_exactly(
            Decimal(entry["amount"])
            for entry in world.ledger.read()
            if entry["id"] == settlement_id
        )

    return ScriptedEngine(settle, find_settlement=find if lookup else None)


@dataclass
class FileConnector:
    """A connector that credits each key once, as RFC 0038 has it, in the world's file.

    ``silent`` deliveries at first get no answer, though they are credited.
    """

    world: World
    silent: int = 0

    async def deliver(self, credit: Credit) -> DeliveryOutcome:
        if credit.id not in {entry["key"] for entry in self.world.connector.read()}:
            try:
                self.world.connector.add(
                    key=credit.id, account=credit.account_id, amount=to_text(credit.amount)
                )
            except OSError as error:
                return Ambiguous(f"its own disk failed: {error}")
        if self.silent:
            self.silent -= 1
            return Ambiguous("it said nothing")
        return Delivered()

    def deliver_at_once(self, _credit: Credit, _told: Callable[[DeliveryOutcome], None]) -> bool:
        return False
