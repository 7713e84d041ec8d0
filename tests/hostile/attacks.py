"""What hostile clients do over HTTP/1.1; each attack goes on until it is cancelled.

``python -m tests.hostile.attacks NAME PORT SECONDS`` runs one as a process of its own.
"""

import random
import sys
from collections.abc import Awaitable, Callable
from itertools import count

import trio

from tests.hostile import h2_attacks
from tests.hostile.crowd import Attack, crowd
from tests.hostile.wire import PREFACE, connected, drop_all, head, post, reset, settlement

JSON = b"Content-Type: application/json"
KEY = b"Idempotency-Key: k"
SETTLEMENTS = "/accounts/alice/settlements"


async def slow_headers(port: int) -> None:
    """200 connections that drip their headers, a byte every 0.2 s."""

    async def visit() -> None:
        async with connected(port) as stream:
            await stream.send_all(b"POST /accounts HTTP/1.1\r\nX: ")
            while True:
                await stream.send_all(b"x")
                await trio.sleep(0.2)

    await crowd(200, visit)


async def slow_bodies(port: int) -> None:
    """200 connections that drip a body that never ends."""

    async def visit() -> None:
        async with connected(port) as stream:
            await stream.send_all(head(SETTLEMENTS, JSON, KEY, b"Content-Length: 1000"))
            while True:
                await stream.send_all(b" ")
                await trio.sleep(0.2)

    await crowd(200, visit)


async def held_bodies(port: int) -> None:
    """400 connections that send 64 KiB of a body but for the last byte, and wait."""

    async def visit() -> None:
        async with connected(port) as stream:
            await stream.send_all(head(SETTLEMENTS, JSON, KEY, b"Content-Length: 65536"))
            await stream.send_all(b" " * 65535)
            await drop_all(stream)

    await crowd(400, visit)


async def idle_connections(port: int) -> None:
    """1,000 connections that say nothing, opened anew when they are closed."""

    async def visit() -> None:
        async with connected(port) as stream:
            await drop_all(stream)

    await crowd(1000, visit)


async def huge_bodies(port: int) -> None:
    """4 connections that send bodies of 17 MB."""

    async def visit() -> None:
        async with connected(port) as stream:
            await stream.send_all(head(SETTLEMENTS, JSON, KEY, b"Content-Length: 17000000"))
            for _ in range(17):
                await stream.send_all(b" " * 1_000_000)
            await drop_all(stream)

    await crowd(4, visit)


async def endless_chunks(port: int) -> None:
    """4 connections that send chunks of one byte for ever."""
    chunks = b"1\r\n \r\n" * 1000

    async def visit() -> None:
        async with connected(port) as stream:
            await stream.send_all(head(SETTLEMENTS, JSON, KEY, b"Transfer-Encoding: chunked"))
            while True:
                await stream.send_all(chunks)

    await crowd(4, visit)


async def header_bombs(port: int) -> None:
    """4 connections that send a megabyte of headers."""

    async def visit() -> None:
        async with connected(port) as stream:
            await stream.send_all(b"POST /accounts HTTP/1.1\r\nHost: x\r\n")
            for number in range(1000):
                await stream.send_all(b"X-%d: %s\r\n" % (number, b"x" * 1000))
            await drop_all(stream)

    await crowd(4, visit)


async def pipelining(port: int) -> None:
    """4 connections that send 1,000 requests in one go, and do not read the answers."""
    requests = post("/accounts/nobody/messages") * 1000

    async def visit() -> None:
        async with connected(port) as stream:
            await stream.send_all(requests)
            await trio.sleep(1)

    await crowd(4, visit)


async def hanging_up(port: int) -> None:
    """10 connections that queue a settlement each and hang up before the answer."""
    keys = count()

    async def visit() -> None:
        async with connected(port) as stream:
            request = settlement(f"hang-up-{next(keys)}")
            await stream.send_all(request[: random.randrange(1, len(request) + 1)])
            await trio.sleep(random.random() / 100)
            reset(stream)

    await crowd(10, visit)


async def connecting(port: int) -> None:
    """20 clients that connect and close again, as fast as they can."""

    async def visit() -> None:
        async with connected(port):
            pass

    await crowd(20, visit)


async def garbage(port: int) -> None:
    """10 connections that send random bytes, some after the start of a request."""
    starts = (b"", b"POST /", head(SETTLEMENTS, b"Transfer-Encoding: chunked"), PREFACE)

    async def visit() -> None:
        async with connected(port) as stream:
            await stream.send_all(random.choice(starts) + random.randbytes(500))
            with trio.move_on_after(0.1):
                await drop_all(stream)

    await crowd(10, visit)


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        slow_headers,
        slow_bodies,
        held_bodies,
        idle_connections,
        huge_bodies,
        endless_chunks,
        header_bombs,
        pipelining,
        hanging_up,
        connecting,
        garbage,
        *h2_attacks.ATTACKS,
    )
}


async def attack_for(attack: Callable[[int], Awaitable[None]], port: int, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await attack(port)


if __name__ == "__main__":
    trio.run(attack_for, ATTACKS[sys.argv[1]], int(sys.argv[2]), float(sys.argv[3]))
