"""A server that answers each request with the bytes it was given, whatever they are."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio


@dataclass
class RawServer:
    """Where it is, and what was sent to it."""

    url: str
    requests: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def answering(
    answer: bytes | None, *, endless: bytes = b"", drip_s: float = 0
) -> AsyncIterator[RawServer]:
    """Serve on a loopback port: take a request, send ``answer`` and close.

    ``answer=None`` never answers; ``endless`` is sent again and again after the answer, every
    ``drip_s`` seconds.
    """

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            server.requests.append(await _request(stream))
            if answer is None:
                await trio.sleep_forever()
            try:
                await stream.send_all(answer or b"")
                while endless:
                    await stream.send_all(endless)
                    await trio.sleep(drip_s)
            except trio.BrokenResourceError:
                pass

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        server = RawServer(f"http://127.0.0.1:{port}")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield server
        nursery.cancel_scope.cancel()


async def _request(stream: trio.SocketStream) -> bytes:
    received = b""
    while True:
        chunk = await stream.receive_some()
        received += chunk
        head, blank, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head.lower())
        if not chunk or (blank and len(body) >= (int(length[1]) if length else 0)):
            return received
