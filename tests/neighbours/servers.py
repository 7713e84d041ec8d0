"""Connectors of raw sockets: they read a request, note it, and then do as they are told."""

import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

Handler = Callable[[Any], Awaitable[None]]


@dataclass
class Request:
    """What a connector was sent."""

    account_id: str
    key: str
    body: bytes
    time_s: float


@dataclass
class Books:
    """A connector's memory: what it was sent, and what it has credited, once per key."""

    requests: list[Request] = field(default_factory=list)
    credited: dict[str, bytes] = field(default_factory=dict)

    def credit(self, request: Request) -> None:
        assert self.credited.setdefault(request.key, request.body) == request.body

    def of(self, account_id: str) -> list[Request]:
        return [request for request in self.requests if request.account_id == account_id]


async def read_request(stream: trio.abc.ReceiveStream) -> Request | None:
    """Return the request on the stream, ``None`` if it breaks off."""
    received = b""
    while True:
        head, blank, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head.lower())
        if blank and len(body) >= (int(length[1]) if length else 0):
            break
        chunk = await stream.receive_some()
        if not chunk:
            return None
        received += chunk
    key = re.search(r"idempotency-key: (.*)\r\n", head.decode() + "\r\n", re.IGNORECASE)
    account_id = head.decode().split("/")[2]
    return Request(account_id, key[1] if key else "", body, trio.current_time())


@asynccontextmanager
async def serving(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Call ``handler`` with each connection on a loopback port; yield the URL.

    What a client that hangs up makes of it is passed over.
    """
    async with trio.open_nursery() as nursery:
        serve = (
            partial(trio.serve_tcp, port=0)
            if tls is None
            else partial(trio.serve_ssl_over_tcp, port=0, ssl_context=tls)
        )
        (listener,) = await nursery.start(
            partial(serve, partial(_handle, handler), host="127.0.0.1")
        )
        inner = getattr(listener, "transport_listener", listener)
        port = inner.socket.getsockname()[1]
        yield f"http{'' if tls is None else 's'}://127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


async def _handle(handler: Handler, stream: Any) -> None:
    try:
        await handler(stream)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        await trio.aclose_forcefully(stream)
