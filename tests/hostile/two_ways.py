"""``python -m tests.hostile.two_ways [CASES] [SEED]``: the short lane against Hypercorn with Quart.

Each case is a connection that sends one to four requests, valid ones, odd ones and broken ones, in
pieces that are cut anywhere, and then no more. Two servers over two stores get the same cases in
the same order; what they send back must be the same, byte for byte, but for dates and minted ids.
"""

import itertools
import random
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, cast

import click
import trio

from settled.core.core import Core
from settled.core.operations import Operations
from settled.http import slots
from settled.store.memory import MemoryStore
from tests.harness import ScriptedConnector
from tests.http.conftest import EchoEngine, Served, app_of, serving

# Dates, and ids of accounts that were minted.
_OWN: Final = re.compile(rb"\r\ndate: [^\r]*|[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f-]{21}")
_TRIES: Final = 10
_PATHS: Final = (
    *("/accounts/alice/settlements", "/accounts/bob/settlements"),
    *("//accounts//alice/settlements/", "/accounts/alice/messages", "/accounts/bob/messages//"),
    *("/accounts/nobody/messages", "/accounts/closed/messages", "/accounts/al%69ce/settlements"),
    *("/accounts/nobody/settlements", "/accounts/closed/settlements"),
    *("/accounts/../settlements", "/accounts/alice/settlements?x=1", "/accounts/a%2Fb/settlements"),
    *("/accounts/alice/messages?x", "/accounts", "/accounts/closed", "/nothing", "*"),
    *("http://host/accounts/alice/settlements", f"/accounts/{'x' * 256}/settlements"),
)
_BODIES: Final = (
    *('{"amount":"100","scale":2}', '{"amount":"1","scale":0}', '{"scale":2,"amount":"100"}'),
    *(' {"amount": "7", "scale": 255, "more": [1]} ', '{"amount":"0","scale":0}'),
    *('{"amount":100,"scale":2}', '{"amount":"-1","scale":2}', '{"amount":"1","scale":256}'),
    *('{"amount":"1","scale":2.0}', "{}", "[]", "", "null", '{"amount":"1","scale":', '"\ud83d'),
    '{"amount":"' + "9" * 1025 + '","scale":0}',
    '{"amount":"1","scale":0,"x":"' + "y" * 5000 + '"}',
)
_ODD_HEADERS: Final = (
    *("Connection: keep-alive", "Connection: close", "connection: Keep-Alive", "Expect: x"),
    *("Expect: 100-continue", "Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
    *("Upgrade: h2c", "Origin: https://example.org", "TE: trailers", "Trailer: x", "Host: again"),
    *("Content-Length: 5", "Content-Length: 00", "Content-Type: text/plain", "X: \x07", "X: \xe9"),
    *("X y: z", "X : y", " folded: x", ": nothing", "X:", "Idempotency-Key: other", "X:\ty\t"),
    *("Content-Type: application/json", "Keep-Alive: 5", "X: " + "z" * 3000, "Cookie: a=b"),
    *("Content-Encoding: gzip", "Accept-Encoding: gzip", "X-Forwarded-For: 1.2.3.4"),
)
_TYPES: Final = (
    *("application/json", "application/json; charset=utf-8", "application/vnd.x+json"),
    *("text/plain", "", "APPLICATION/JSON", "application/json;", "application/octet-stream"),
)


@asynccontextmanager
async def two_servers() -> AsyncIterator[tuple[Served, Served]]:
    """Run a server with the short lane and one without it, each over a store of its own."""
    async with trio.open_nursery() as nursery:
        apps = []
        for _ in range(2):
            store, engine = MemoryStore(), EchoEngine()
            operations = Operations(
                store, Core(store, engine, ScriptedConnector(), nursery), engine
            )
            for account_id in ("alice", "bob", "closed"):
                await operations.open_account(account_id)
            await operations.close_account("closed")
            apps.append(app_of(operations))
        async with (
            serving(apps[0]) as with_lane,
            serving(apps[1], short_lane=False) as without,
        ):
            yield with_lane, without
        nursery.cancel_scope.cancel()


def request(rng: random.Random) -> bytes:
    """Return one request: an ordinary one as often as not."""
    odd = rng.random() < 0.5
    path = rng.choice(_PATHS) if odd and rng.random() < 0.5 else rng.choice(_PATHS[:5])
    body = rng.choice(_BODIES if odd else _BODIES[:4]).encode("utf-8", "surrogatepass")
    plain = "application/octet-stream" if "/messages" in path else "application/json"
    headers = [
        "Host: localhost",
        f"Content-Type: {rng.choice(_TYPES) if odd else plain}",
        f"Idempotency-Key: {rng.choice(('k', 'key'))}-{rng.randrange(60)}",
        f"Content-Length: {len(body)}",
    ]
    if odd:
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            headers.insert(rng.randrange(len(headers) + 1), rng.choice(_ODD_HEADERS))
        if rng.random() < 0.2:
            headers.pop(rng.randrange(len(headers)))
    if rng.random() < 0.3:
        headers = [rng.choice((str.lower, str.upper, str))(name) for name in headers]
    rng.shuffle(headers)
    method = rng.choice(("POST", "POST", "POST", "GET", "DELETE", "post")) if odd else "POST"
    version = rng.choice(("HTTP/1.1",) * 9 + ("HTTP/1.0", "HTTP/2.0", "HTTP/1.2")) if odd else ""
    line_end = rng.choice(("\r\n",) * 19 + ("\n",)) if odd else "\r\n"
    head = line_end.join([f"{method} {path} {version or 'HTTP/1.1'}", *headers, "", ""])
    raw = head.encode("latin-1") + body
    return _broken(rng, raw) if odd and rng.random() < 0.3 else raw


def _broken(rng: random.Random, raw: bytes) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(raw))
        end = at + rng.choice((0, 1, 1, 3))
        raw = raw[:at] + rng.choice((b"", rng.randbytes(1), b"\r\n", b"\x00", b" ")) + raw[end:]
    return raw[: rng.randrange(len(raw) + 1)] if rng.random() < 0.2 else raw


def pieces(rng: random.Random, raw: bytes) -> list[bytes]:
    """Cut what is sent: not at all, in a few places, or at every byte."""
    how = rng.random()
    if how < 0.05 and len(raw) < 400:
        return [raw[at : at + 1] for at in range(len(raw))]
    cuts = sorted(rng.randrange(len(raw) + 1) for _ in range(0 if how < 0.6 else rng.randrange(4)))
    ends = [0, *cuts, len(raw)]
    return [raw[a:b] for a, b in itertools.pairwise(ends) if a < b]


async def answers(served: Served, sent: list[bytes]) -> bytes:
    """Send the pieces, each by itself, and then no more; return what comes."""
    received = bytearray()
    async with await served.connect() as stream, trio.open_nursery() as nursery:
        nursery.start_soon(_send, stream, sent)
        try:
            with trio.fail_after(20):
                async for chunk in stream:
                    received += chunk
        except trio.BrokenResourceError:
            pass  # reset, since it was sent more than it took
        nursery.cancel_scope.cancel()
    return _OWN.sub(b"", bytes(received))


async def _send(stream: trio.SocketStream, sent: list[bytes]) -> None:
    stream.setsockopt(6, 1, 1)  # TCP_NODELAY: a piece, a packet
    try:
        for number, piece in enumerate(sent):
            if number:
                for _ in range(4):
                    await trio.lowlevel.checkpoint()
            await stream.send_all(piece)
        await stream.send_eof()
    except trio.BrokenResourceError:
        pass  # it was answered, and closed, before it was through


async def compare(cases: int, seed: int) -> int:
    """Run the cases; return how many requests were sent in them.

    Raises:
        AssertionError: the two differ; the message has the case.
    """
    rng = random.Random(seed)
    count = 0
    async with two_servers() as (with_lane, without):
        for case in range(cases):
            requests = [request(rng) for _ in range(rng.choice((1, 1, 1, 2, 4)))]
            count += len(requests)
            sent = pieces(rng, b"".join(requests))
            ours, others = {await answers(with_lane, sent)}, {await answers(without, sent)}
            for _ in range(_TRIES):
                if ours & others:
                    break
                # Whether Hypercorn answers a client that goes away in the middle of a request is up
                # to chance, and to send it all again changes nothing.
                ours.add(await answers(with_lane, sent))
                others.add(await answers(without, sent))
            assert ours & others, (
                f"seed {seed}, case {case}: sent {sent!r}\nwith the lane {ours}\nwithout {others}"
            )
    return count


def hurry() -> None:
    """Have nobody wait in line: one client is not many."""
    slots._go_slowly = cast("type[None]", trio.lowlevel.checkpoint)  # type: ignore[assignment]


if __name__ == "__main__":
    hurry()
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    start = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    total = trio.run(compare, number, start)
    click.echo(f"{number} connections with {total} requests were answered the same both ways")
