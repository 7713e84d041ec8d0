"""The least HTTP/1.1 server that trio and httptools make: no limits, no time-outs, no errors.

The floor that settled is measured against (``bare``) is made of it, so that it costs no more than
it must.
"""

import socket
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httptools
import trio

_RECEIVE_BYTES = 65536
_BACKLOG = 1024


@dataclass(slots=True)
class Request:
    """A request that was read whole; ``key`` is its Idempotency-Key."""

    path: str = ""
    key: str = ""
    body: bytes = b""


Handle = Callable[[Request], Awaitable[bytes]]


@dataclass(slots=True)
class _Reader:
    """What httptools calls while it parses."""

    requests: deque[Request] = field(default_factory=deque)
    request: Request = field(default_factory=Request)

    def on_url(self, url: bytes) -> None:
        self.request.path = url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 15 and name.lower() == b"idempotency-key":
            self.request.key = value.decode()

    def on_body(self, body: bytes) -> None:
        self.request.body += body

    def on_message_complete(self) -> None:
        self.requests.append(self.request)
        self.request = Request()


def answer(status: bytes, body: bytes) -> bytes:
    """Return the bytes of an answer in JSON."""
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


def created(body: bytes) -> bytes:
    """Return the bytes of a 201 with this body."""
    return answer(b"201 Created", body)


async def serve(handle: Handle, *, task_status: trio.TaskStatus[str]) -> None:
    """Answer every request with the bytes that ``handle`` returns, until cancelled.

    It listens on a free port of the loopback interface, and starts with the URL of that.
    """
    with trio.socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await listener.bind(("127.0.0.1", 0))
        listener.listen(_BACKLOG)
        async with trio.open_nursery() as nursery:
            task_status.started(f"http://127.0.0.1:{listener.getsockname()[1]}")
            while True:
                sock, _ = await listener.accept()
                nursery.start_soon(_serve_one, sock, handle)


async def _serve_one(sock: trio.socket.SocketType, handle: Handle) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = _Reader()
    parser = httptools.HttpRequestParser(reader)
    with sock:
        try:
            while data := await sock.recv(_RECEIVE_BYTES):
                parser.feed_data(data)
                while reader.requests:
                    reply = await handle(reader.requests.popleft())
                    while sent := await sock.send(reply):
                        if not (reply := reply[sent:]):
                            break
        except OSError:
            return  # the client has gone
