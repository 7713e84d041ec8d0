"""What hostile clients do over HTTP/2; each attack goes on until it is cancelled."""

import struct
from collections.abc import Awaitable, Callable

import trio

from tests.hostile.crowd import Attack, crowd
from tests.hostile.wire import (
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW,
    connected,
    drop_all,
    fields,
    frame,
)

START = PREFACE + frame(SETTINGS, 0, 0)
MESSAGES = b"/accounts/alice/messages"


async def _visits(
    port: int, size: int, start: bytes, speak: Callable[[trio.SocketStream], Awaitable[None]]
) -> None:
    async def visit() -> None:
        async with connected(port) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(drop_all, stream)
            await stream.send_all(start)
            await speak(stream)

    await crowd(size, visit)


async def h2_rapid_reset(port: int) -> None:
    """4 connections that open streams and reset them at once."""

    async def speak(stream: trio.SocketStream) -> None:
        stream_id = 1
        while True:
            burst = bytearray()
            for _ in range(100):
                burst += frame(HEADERS, END_HEADERS | END_STREAM, stream_id, fields(MESSAGES))
                burst += frame(RST_STREAM, 0, stream_id, CANCEL)
                stream_id += 2
            await stream.send_all(burst)

    await _visits(port, 4, START, speak)


async def _flood(port: int, frames: bytes) -> None:
    async def speak(stream: trio.SocketStream) -> None:
        while True:
            await stream.send_all(frames)

    await _visits(port, 4, START, speak)


async def h2_pings(port: int) -> None:
    """4 connections that send PING frames as fast as they can."""
    await _flood(port, frame(PING, 0, 0, b"12345678") * 1000)


async def h2_settings(port: int) -> None:
    """4 connections that send SETTINGS frames as fast as they can."""
    await _flood(port, frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 70000)) * 1000)


async def h2_priorities(port: int) -> None:
    """4 connections that rearrange priorities of streams that do not exist."""
    payloads = [struct.pack(">IB", 2 * number + 3, 16) for number in range(500)]
    await _flood(port, b"".join(frame(PRIORITY, 0, 1, payload) for payload in payloads))


async def h2_empty_data(port: int) -> None:
    """4 connections that send DATA frames without data on an open stream."""
    start = frame(HEADERS, END_HEADERS, 1, fields(MESSAGES))
    await _flood(port, start + frame(DATA, 0, 1) * 1000)


async def h2_continuation(port: int) -> None:
    """4 connections whose header block never ends."""

    async def speak(stream: trio.SocketStream) -> None:
        await stream.send_all(frame(HEADERS, 0, 1, fields()))
        while True:
            await stream.send_all(frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y") * 1000)

    await _visits(port, 4, START, speak)


async def h2_header_bomb(port: int) -> None:
    """4 connections that put a large field into the table and name it thousands of times."""
    field = b"\x40\x01x" + b"\x7f" + _varint(4000 - 127) + b"v" * 4000
    block = fields() + field + b"\xbe" * 8000

    async def speak(stream: trio.SocketStream) -> None:
        await stream.send_all(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
        await trio.sleep(0.1)

    await _visits(port, 4, START, speak)


async def h2_held_bodies(port: int) -> None:
    """40 connections with 100 streams each that hold 60 KB of a body, and wait."""

    async def speak(stream: trio.SocketStream) -> None:
        for stream_id in range(1, 201, 2):
            block = fields(MESSAGES, (b"content-length", b"65536"))
            await stream.send_all(frame(HEADERS, END_HEADERS, stream_id, block))
            for _ in range(4):
                await stream.send_all(frame(DATA, 0, stream_id, b" " * 15000))
                await trio.sleep(0.01)  # for the window to open again
        await trio.sleep_forever()

    await _visits(port, 40, START, speak)


async def h2_no_window(port: int) -> None:
    """40 connections that ask 100 times each and leave no window for the answers."""
    start = PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))

    async def speak(stream: trio.SocketStream) -> None:
        for stream_id in range(1, 201, 2):
            await stream.send_all(frame(HEADERS, END_HEADERS | END_STREAM, stream_id, fields()))
        while True:
            await trio.sleep(1)
            await stream.send_all(frame(PING, 0, 0, b"12345678"))

    await _visits(port, 40, start, speak)


async def h2_too_many_streams(port: int) -> None:
    """4 connections that open 1,000 streams and end none."""

    async def speak(stream: trio.SocketStream) -> None:
        for stream_id in range(1, 2001, 2):
            await stream.send_all(frame(HEADERS, END_HEADERS, stream_id, fields(MESSAGES)))
        await stream.send_all(frame(WINDOW, 0, 0, struct.pack(">I", 1)))
        await trio.sleep(1)

    await _visits(port, 4, START, speak)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 128:
        encoded.append(128 | number % 128)
        number //= 128
    encoded.append(number)
    return bytes(encoded)


ATTACKS: tuple[Attack, ...] = (
    h2_rapid_reset,
    h2_pings,
    h2_settings,
    h2_priorities,
    h2_empty_data,
    h2_continuation,
    h2_header_bomb,
    h2_held_bodies,
    h2_no_window,
    h2_too_many_streams,
)
