"""A node that says what it is told to say, for what a real one cannot be made to do."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.engines.ethereum.anvil import CHAIN_ID

GENESIS = "0x" + "11" * 32


class Fault(Exception):
    """An error of JSON-RPC, to be given as an answer."""

    def __init__(self, message: str, code: int = -32000) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message}


@dataclass
class ScriptedNode:
    """How it answers, and what it was asked.

    Attributes:
        answers: by method: what it returns, a ``Fault``, or a function of the parameters.
        status: of its HTTP answers.
        headers: of its HTTP answers.
        body: what it answers whatever it is asked.
        silent: whether it takes requests and never answers.
        batches: whether it takes several calls at once.
        asked: the methods of all calls, in order.
    """

    url: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    silent: bool = False
    batches: bool = True
    asked: list[str] = field(default_factory=list)
    requests: int = 0

    def answer(self, call: dict[str, Any]) -> dict[str, Any]:
        method = call["method"]
        self.asked.append(method)
        found = self.answers.get(method, Fault("the method does not exist", -32601))
        if callable(found):
            found = found(*call["params"])
        if isinstance(found, Fault):
            return {"jsonrpc": "2.0", "id": call["id"], "error": found.error}
        return {"jsonrpc": "2.0", "id": call["id"], "result": found}

    def reply(self, request: bytes) -> bytes:
        self.requests += 1
        calls = json.loads(request)
        if self.body is not None:
            return self.body
        if not isinstance(calls, list):
            return json.dumps(self.answer(calls)).encode()
        if not self.batches:
            error = {"code": -32600, "message": "batch requests are not served"}
            return json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
        # In any order, as the protocol allows.
        return json.dumps([self.answer(call) for call in reversed(calls)]).encode()


Reply = Callable[[bytes], Awaitable[tuple[int, dict[str, str], bytes]]]
"""Answers the body of a request: with a status, headers and a body."""


@asynccontextmanager
async def serving(reply: Reply) -> AsyncIterator[str]:
    """Serve HTTP on loopback, a connection for each request; yield the URL."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):
                await _serve_one(stream, reply)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def _serve_one(stream: trio.SocketStream, reply: Reply) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        chunk = await stream.receive_some()
        if not chunk:
            return
        request += chunk
    head, _, body = request.partition(b"\r\n\r\n")
    (length,) = (
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    )
    while len(body) < length:
        body += await stream.receive_some()
    status, headers, answer = await reply(body)
    lines = [f"HTTP/1.1 {status} Any", f"Content-Length: {len(answer)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    await stream.send_all("\r\n".join([*lines, "", ""]).encode() + answer)


@asynccontextmanager
async def scripted(**settings: Any) -> AsyncIterator[ScriptedNode]:
    """Run such a node on loopback; it is on the chain of the tests, at block 100."""
    node = ScriptedNode(**settings)
    node.answers = {
        "eth_chainId": hex(CHAIN_ID),
        "eth_blockNumber": hex(100),
        "eth_getBlockByNumber": lambda number, full: {"number": number, "hash": GENESIS},
        **node.answers,
    }

    async def reply(body: bytes) -> tuple[int, dict[str, str], bytes]:
        if node.silent:
            await trio.sleep_forever()
        return node.status, node.headers, node.reply(body)

    async with serving(reply) as node.url:
        yield node
