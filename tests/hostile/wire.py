"""Bytes of requests and frames, written by hand so that they can be wrong on purpose."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL = struct.pack(">I", 8)


def post(path: str, body: bytes = b"", *headers: bytes) -> bytes:
    """Return a whole HTTP/1.1 request."""
    return head(path, *headers, b"Content-Length: %d" % len(body)) + body


def head(path: str, *headers: bytes, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: x", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def settlement(key: str, amount: int = 1, account_id: str = "alice") -> bytes:
    """Return a whole request that queues a settlement."""
    body = b'{"amount":"%d","scale":0}' % amount
    json, key_header = b"Content-Type: application/json", f"Idempotency-Key: {key}".encode()
    return post(f"/accounts/{account_id}/settlements", body, json, key_header)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return one HTTP/2 frame."""
    return (
        struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload
    )


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header field in HPACK, not indexed; up to 126 bytes each."""
    return b"\x00%c%s%c%s" % (len(name), name, len(value), value)


def fields(path: bytes = b"/nowhere", *more: tuple[bytes, bytes]) -> bytes:
    """Return the header block of a POST."""
    block = b"\x83\x86\x01\x01x\x04%c%s" % (len(path), path)
    return block + b"".join(literal(name, value) for name, value in more)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[trio.SocketStream]:
    """Connect; what the server does to the connection ends the block quietly."""
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            yield stream
    except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass


def reset(stream: trio.SocketStream) -> None:
    """Hang up with a reset, as a process that dies with unread data does."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def drop_all(stream: trio.SocketStream) -> None:
    """Read, and forget, until the server closes."""
    async for _ in stream:
        pass
