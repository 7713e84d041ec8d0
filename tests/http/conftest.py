"""A server over a real socket, in front of the real core or of operations that fail on demand."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

import httpx2
import outcome
import pytest
import trio
from quart_trio import QuartTrio

from settled.amounts import Quantity
from settled.core.core import Core
from settled.core.operations import Operations
from settled.http.app import make_app
from settled.http.server import bind, serve_http
from settled.store.memory import MemoryStore
from settled.store.records import Request
from tests.harness import ScriptedConnector

OCTETS = {"Content-Type": "application/octet-stream"}


@dataclass
class EchoEngine:
    """An engine that answers a message with what it got."""

    setup_account: None = None
    close_account: None = None
    find_settlement: None = None
    asset_scale: int | None = None
    raw_messages: bool = True

    async def settle(self, _account_id: str, amount: Decimal, _settlement_id: str) -> object:
        return amount

    async def handle_message(self, account_id: str, message: bytes) -> bytes:
        return account_id.encode() + b":" + message


@dataclass
class FakeOperations:
    """Operations that do what the test says: ``act`` raises, waits, or returns for all of them."""

    act: Callable[[], Any] = field(default=lambda: None)
    calls: list[str] = field(default_factory=list)

    async def _do(self, name: str) -> None:
        self.calls.append(name)
        result = self.act()
        if result is not None:
            await result

    async def open_account(self, account_id: str | None) -> str:
        await self._do("open_account")
        return account_id or "minted"

    async def close_account(self, account_id: str) -> None:
        await self._do("close_account")

    async def queue_settlement(self, request: Request) -> Quantity:
        await self._do("queue_settlement")
        return request.quantity

    may_begin = True

    def begin_settlements(
        self, requests: Sequence[Request], done: Callable[[Sequence[outcome.Maybe[Quantity]]], None]
    ) -> None:
        async def begin() -> None:
            try:
                await self._do("begin_settlements")
            except (Exception, KeyboardInterrupt) as error:
                done([outcome.Error(error)] * len(requests))
            else:
                done([outcome.Value(request.quantity) for request in requests])

        trio.lowlevel.spawn_system_task(begin)

    @staticmethod
    def end_settlements(
        results: Sequence[outcome.Maybe[Quantity]],
    ) -> Sequence[outcome.Maybe[Quantity]]:
        return results

    async def handle_message(self, account_id: str, body: bytes) -> bytes:
        await self._do("handle_message")
        return body


def fake_app(act: Callable[[], Any] = lambda: None) -> QuartTrio:
    return app_of(cast(Operations, FakeOperations(act)))


def app_of(operations: Operations) -> QuartTrio:
    """Return the app, so that ``serving`` finds what its short lane settles with."""
    app = make_app(operations)
    app.extensions["operations"] = operations
    return app


@dataclass
class Served:
    """A server that runs: where, and how to stop it."""

    port: int
    stop: trio.Event
    ended: trio.Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx2.AsyncClient:
        defaults: dict[str, Any] = {"base_url": self.url, "trust_env": False, "timeout": 10}
        return httpx2.AsyncClient(**(defaults | options))

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def exchange(self, data: bytes) -> bytes:
        """Send raw bytes; return everything that comes until the server closes."""
        async with await self.connect() as stream:
            await stream.send_all(data)
            return await read_all(stream)


async def read_all(stream: trio.abc.ReceiveStream, *, timeout_s: float = 4) -> bytes:
    received = bytearray()
    with trio.fail_after(timeout_s):
        async for chunk in stream:
            received += chunk
    return bytes(received)


@asynccontextmanager
async def serving(
    app: QuartTrio, *, short_lane: bool = True, **options: Any
) -> AsyncIterator[Served]:
    """Serve ``app`` on a free port of the loopback, until the block ends."""
    sock = bind("127.0.0.1:0")
    options["operations"] = app.extensions["operations"] if short_lane else None
    served = Served(sock.getsockname()[1], trio.Event(), trio.Event())

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        await serve_http(app, sock, shutdown=served.stop.wait, task_status=task_status, **options)
        served.ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        yield served
        nursery.cancel_scope.cancel()


@pytest.fixture
async def operations(nursery: trio.Nursery) -> Operations:
    """The real operations over a store in memory, with the account ``alice`` open."""
    store, engine = MemoryStore(), EchoEngine()
    operations = Operations(store, Core(store, engine, ScriptedConnector(), nursery), engine)
    await operations.open_account("alice")
    return operations


@pytest.fixture(params=[True, False], ids=["short_lane", "no_short_lane"])
async def served(operations: Operations, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with serving(app_of(operations), short_lane=request.param) as served:
        yield served


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx2.AsyncClient]:
    async with served.client() as client:
        yield client
