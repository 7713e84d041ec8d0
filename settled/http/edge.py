"""The edge between the server and Quart: paths as connectors write them, bodies within the limit.

Connectors that join a base URL and a path send ``/se//accounts`` or ``/accounts/``, and do not
follow redirects on a POST. Quart can only redirect these, so they are made plain before it routes.

A body over the limit ends, for Quart, right where it goes over it: Quart's own limit answers 413
then, and nothing piles up in memory however long the client goes on.

A client that is answered while it still sends would be cut off by a reset, which can destroy the
answer on its way. So the answer is sent at once, but not ended before the rest of the body has come
and gone, within limits.

The server reports the end of an answer as a disconnect, at which Quart cancels its own sending, and
with it what the server does next: closing the connection, or waiting on it for the next request. So
Quart hears of a disconnect during the end of an answer only after that.
"""

from typing import cast
from urllib.parse import unquote

import trio
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
)

from settled import limits


def plain_path(raw_path: bytes) -> str:
    """Return the path of a request without doubled and trailing slashes, percent-decoded.

    An encoded slash stays as it is, so that it cannot pass for a separator.

    Example::

        >>> plain_path(b"//accounts/al%69ce/")
        '/accounts/alice'
        >>> plain_path(b"/accounts/a%2Fb")
        '/accounts/a%2Fb'
    """
    if not raw_path.startswith(b"/"):  # http://host/path: RFC 9112, 3.2.2
        raw_path = raw_path.partition(b"://")[2].partition(b"/")[2]
    segments = (unquote(segment) for segment in raw_path.decode("latin-1").split("/") if segment)
    return "/" + "/".join(segment.replace("/", "%2F") for segment in segments)


def edge(app: ASGIFramework) -> ASGIFramework:
    """Return ``app`` behind the edge."""

    async def at_edge(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        plain = cast(
            Scope,
            {
                **scope,
                "path": plain_path(scope["raw_path"]),
                # Quart fails on some that are malformed, and nothing here depends on them.
                "query_string": b"",
                "headers": [(name, value) for name, value in scope["headers"] if name != b"host"],
            },
        )
        if scope["type"] != "http":
            await app(plain, receive, send)
            return
        exchange = _Exchange(receive, send)
        await app(plain, exchange.receive, exchange.send)

    return at_edge


class _Exchange:
    """One request and its answer."""

    def __init__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        self._receive = receive
        self._send = send
        self._received_bytes = 0
        self._cut = False
        self._ending = False
        self._body_over = trio.Event()
        self._ended = trio.Event()

    async def receive(self) -> ASGIReceiveEvent:
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                self._body_over.set()
                if self._ending:
                    await self._ended.wait()
                return message
            self._received_bytes += len(message["body"])
            if not message["more_body"] or self._received_bytes > limits.LINGER_BYTES_MAX:
                self._body_over.set()
            if self._cut:
                continue
            if self._received_bytes > limits.BODY_BYTES_MAX:
                self._cut = True
                message["more_body"] = False
            return message

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] != "http.response.body" or message["more_body"]:
            await self._send(message)
            return
        self._ending = True
        with trio.move_on_after(limits.LINGER_S):
            await self._body_over.wait()
        try:
            await self._send(message)
        finally:
            self._ended.set()
