"""A node in front of the chain of the tests, which shows it late, or otherwise than it is."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.engines.ethereum.anvil import Chain
from tests.engines.ethereum.scripted import serving


@dataclass
class Front:
    """How it differs from the chain.

    Attributes:
        head: the newest block that it has, ``None``: as many as there are.
        age_s: how much older its blocks say to be.
        answers: by method: what it returns instead of the chain's answer.
        down: whether it fails.
        silent: whether it takes requests and never answers.
        asked: set when it has taken one that it will not answer.
    """

    chain: Chain
    url: str = ""
    head: int | None = None
    age_s: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    down: bool = False
    silent: bool = False
    asked: trio.Event = field(default_factory=trio.Event)

    async def answer(self, method: str, parameters: list[Any]) -> Any:
        if method in self.answers:
            return self.answers[method]
        if self.head is not None and method == "eth_blockNumber":
            return hex(self.head)
        if self.head is not None and method == "eth_getTransactionCount":
            parameters = [parameters[0], hex(self.head)]
        found = await self.chain.rpc(method, *parameters)
        if method == "eth_getBlockByNumber" and found is not None:
            if self.head is not None and int(found["number"], 16) > self.head:
                return None
            found["timestamp"] = hex(int(found["timestamp"], 16) - self.age_s)
        return found


@asynccontextmanager
async def front(chain: Chain) -> AsyncIterator[Front]:
    """Run one on loopback."""
    node = Front(chain)

    async def one(call: dict[str, Any]) -> dict[str, Any]:
        reply = {"jsonrpc": "2.0", "id": call["id"]}
        try:
            return reply | {"result": await node.answer(call["method"], call["params"])}
        except RuntimeError as error:
            return reply | {"error": {"code": -32000, "message": str(error)}}

    async def reply(body: bytes) -> tuple[int, dict[str, str], bytes]:
        if node.silent:
            node.asked.set()
            await trio.sleep_forever()
        if node.down:
            return 503, {"Retry-After": "0"}, b""
        calls = json.loads(body)
        if isinstance(calls, list):
            return 200, {}, json.dumps([await one(call) for call in calls]).encode()
        return 200, {}, json.dumps(await one(calls)).encode()

    async with serving(reply) as node.url:
        yield node
