"""Requests that two servers could understand differently: smuggling, pipelining, half a request.

Over raw sockets against a whole daemon. Of each shape it is known whether something may have been
recorded: whatever the answer, it must be true.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from settled.store.protocol import Store
from settled.store.sqlite import open_sqlite
from tests.daemon_process import DaemonProcess, daemon_process
from tests.hostile.healthy import open_account
from tests.hostile.wire import END_HEADERS, HEADERS, PREFACE, SETTINGS, fields, frame, head, post
from tests.hostile.wire import settlement as settle

JSON = b"Content-Type: application/json"
LATE = b'{"amount":"7","scale":0}'
SMUGGLED = settle("smuggled", 1_000_000)
PATH = "/accounts/alice/settlements"
ENGINE = """
from settled import NotSettled

async def connect(services):
    return Engine()

class Engine:
    async def settle(self, account_id, amount, settlement_id):
        raise NotSettled("never")
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    directory = tmp_path_factory.mktemp("shapes")
    (directory / "never.py").write_text(ENGINE)
    with daemon_process(directory, "--engine", "never:connect") as daemon:
        daemon.directory = directory  # type: ignore[attr-defined]
        trio.run(open_account, port_of(daemon))
        yield daemon


def port_of(daemon: DaemonProcess) -> int:
    return int(daemon.url.rpartition(":")[2])


@pytest.fixture
async def store(daemon: DaemonProcess) -> AsyncIterator[Store]:
    path: Path = daemon.directory / "settled.db"  # type: ignore[attr-defined]
    async with open_sqlite(path, exclusive=False) as store:
        yield store


async def exchange(daemon: DaemonProcess, *parts: bytes, wait_s: float = 0.3) -> bytes:
    """Send the parts, a little apart, and return what comes within a short time."""
    received = bytearray()
    async with await trio.open_tcp_stream("127.0.0.1", port_of(daemon)) as stream:
        try:
            for part in parts:
                await stream.send_all(part)
                await trio.sleep(0.05)
        except trio.BrokenResourceError:
            pass
        with trio.move_on_after(wait_s):
            try:
                async for chunk in stream:
                    received += chunk
            except trio.BrokenResourceError:
                pass
    return bytes(received)


def statuses(answers: bytes) -> list[int]:
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]


async def requested(store: Store) -> int:
    return int((await store.account("alice")).requested)


CHUNKED = b"Transfer-Encoding: chunked"


def keyed(name: str) -> bytes:
    return f"Idempotency-Key: {name}".encode()


# Each with the statuses of its answers; nothing of them may be recorded.
REFUSED = {
    "both lengths, chunked wins": (
        head(PATH, JSON, keyed("a"), b"Content-Length: 4", CHUNKED) + b"0\r\n\r\n" + SMUGGLED
    ),
    "both lengths, the other order": (
        head(PATH, JSON, keyed("b"), CHUNKED, b"Content-Length: 24") + LATE + SMUGGLED
    ),
    "two lengths": (
        head(PATH, JSON, keyed("c"), b"Content-Length: 24", b"Content-Length: 0") + LATE
    ),
    "a list of lengths": head(PATH, JSON, keyed("d"), b"Content-Length: 24, 0") + LATE,
    "a length with a sign": head(PATH, JSON, keyed("e"), b"Content-Length: +24") + LATE,
    "a negative length": head(PATH, JSON, keyed("f"), b"Content-Length: -24") + LATE,
    "a length in hex": head(PATH, JSON, keyed("g"), b"Content-Length: 0x18") + LATE,
    "a length with underscores": head(PATH, JSON, keyed("h"), b"Content-Length: 2_4") + LATE,
    "an unknown coding": head(PATH, JSON, keyed("i"), b"Transfer-Encoding: xchunked") + LATE,
    "two codings": head(PATH, JSON, keyed("j"), b"Transfer-Encoding: gzip, chunked") + LATE,
    "chunked twice": (
        head(PATH, JSON, keyed("k"), CHUNKED, b"Transfer-Encoding: identity") + b"0\r\n\r\n"
    ),
    "a space before the colon": head(PATH, JSON, keyed("l"), b"Content-Length : 24") + LATE,
    "a folded header": head(PATH, JSON, keyed("m"), b"X: y\r\n Content-Length: 24") + LATE,
    "a bare line feed in a header": (
        head(PATH, JSON, keyed("n"), b"X: y\nContent-Length: 24\x00") + LATE
    ),
    "a null in a header": head(PATH, JSON, keyed("o"), b"X: \x00", b"Content-Length: 24") + LATE,
    "a chunk without a size": head(PATH, JSON, keyed("p"), CHUNKED) + b"\r\n" + LATE,
    "a chunk with a bad size": head(PATH, JSON, keyed("q"), CHUNKED) + b"zz\r\n" + LATE,
    "a chunk with a negative size": head(PATH, JSON, keyed("r"), CHUNKED) + b"-1\r\n" + LATE,
    "a chunk of a huge size": (
        head(PATH, JSON, keyed("s"), CHUNKED) + b"f" * 30 + b"\r\n" + LATE + b"\r\n0\r\n\r\n"
    ),
    "a chunk that is longer than its size": (
        head(PATH, JSON, keyed("t"), CHUNKED) + b"2\r\n" + LATE + b"\r\n0\r\n\r\n"
    ),
    "two keys": post(PATH, LATE, JSON, keyed("u"), keyed("v")),
    "a path with a space": post(PATH + " x", LATE, JSON, keyed("w")),
    "no version": post(PATH, LATE, JSON, keyed("x")).replace(b" HTTP/1.1", b"", 1),
    "HTTP/3.0": post(PATH, LATE, JSON, keyed("y")).replace(b"HTTP/1.1", b"HTTP/3.0", 1),
    "half a body": head(PATH, JSON, keyed("z"), b"Content-Length: 25") + LATE,
    "half a header": head(PATH, JSON, keyed("A"), b"Content-Length: 24")[:-2] + LATE,
}


@pytest.mark.parametrize("shape", REFUSED)
async def test_what_can_be_understood_in_two_ways_is_not_understood(
    daemon: DaemonProcess, store: Store, shape: str
) -> None:
    before = await requested(store)
    answers = await exchange(daemon, REFUSED[shape])
    assert statuses(answers) in ([], [400], [415], [501], [505]), answers
    assert await requested(store) == before


async def test_a_length_that_comes_twice_but_the_same_is_one(
    daemon: DaemonProcess, store: Store
) -> None:
    before = await requested(store)
    twice = head(PATH, JSON, keyed("same"), b"Content-Length: 24", b"Content-Length: 24") + LATE
    answers = await exchange(daemon, twice)
    assert await requested(store) - before == (7 if statuses(answers) == [201] else 0)


async def test_pipelined_requests_are_answered_in_turn(daemon: DaemonProcess, store: Store) -> None:
    before = await requested(store)
    requests = [settle(f"in-turn-{n}", n) for n in range(1, 11)]
    answers = await exchange(daemon, b"".join(requests), wait_s=2)
    assert statuses(answers) == [201] * 10
    amounts = [int(part.split(b'"')[0]) for part in answers.split(b'"amount":"')[1:]]
    assert amounts == list(range(1, 11))
    assert await requested(store) == before + sum(range(1, 11))


LAST = [
    settle("after-close-{}", 3).replace(b"Host: x", b"Host: x\r\nConnection: close"),
    settle("after-close-{}", 3).replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\n"),
]


@pytest.mark.parametrize("last", LAST, ids=["close", "http/1.0"])
@pytest.mark.parametrize(
    "after", [SMUGGLED, b"garbage\r\n\r\n", b"\x00" * 3000, b"\r\n", PREFACE], ids=repr
)
@pytest.mark.parametrize("apart", [False, True])
async def test_what_follows_the_last_request_is_ignored(
    daemon: DaemonProcess, store: Store, last: bytes, after: bytes, apart: bool
) -> None:
    name = f"{LAST.index(last)}-{hash(after)}-{apart}".encode()
    request = last.replace(b"{}", name)
    before = await requested(store)
    answers = await exchange(daemon, *([request, after] if apart else [request + after]))
    assert statuses(answers) == [201]
    assert await requested(store) == before + 3


@pytest.mark.parametrize(
    "rest",
    [
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Content-Length: 70000\r\n\r\n" + b" " * 70_000,
        b"Content-Length: 5\r\n\r\nx",
    ],
    ids=["chunks that are none", "a body over the limit", "half a body"],
)
async def test_an_account_is_closed_by_whole_requests_only(
    daemon: DaemonProcess, store: Store, rest: bytes
) -> None:
    answers = await exchange(daemon, b"DELETE /accounts/alice HTTP/1.1\r\nHost: x\r\n" + rest)
    assert 204 not in statuses(answers)
    assert (await store.account("alice")).id == "alice"
    assert statuses(await exchange(daemon, settle(f"still-open-{hash(rest)}"))) == [201]


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"anything"])
async def test_no_upgrade_is_made(daemon: DaemonProcess, upgrade: bytes) -> None:
    headers = [
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: " + upgrade,
        b"HTTP2-Settings: AAMAAABkAAQAAP__",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    answers = await exchange(daemon, head("/openapi.yaml", *headers, method="GET"))
    assert statuses(answers)[0] == 200
    assert b"HTTP/1.1 101" not in answers


@pytest.mark.parametrize(
    "block",
    [
        fields(b"/accounts", (b"transfer-encoding", b"chunked")),
        fields(b"/accounts", (b"connection", b"close")),
        fields(b"/accounts", (b"Upper", b"x")),
        fields(b"/accounts", (b":path", b"/other")),
        fields(b"/accounts", (b"x\r\ny", b"z")),
        fields(b"/accounts", (b"x", b"y\r\nz: 1")),
        fields(b"/accounts", (b"content-length", b"5")),
        b"\x83\x86\x01\x01x",
        b"\x86\x01\x01x\x04\x01/",
    ],
    ids=repr,
)
async def test_http2_requests_that_would_be_others_in_http1_are_refused(
    daemon: DaemonProcess, block: bytes
) -> None:
    request = frame(HEADERS, END_HEADERS | 1, 1, block)
    answers = await exchange(daemon, PREFACE + frame(SETTINGS, 0, 0) + request)
    frames = []
    while len(answers) >= 9:
        length = int.from_bytes(answers[:3], "big")
        frames.append((answers[3], answers[9 : 9 + length]))
        answers = answers[9 + length :]
    ((_, blocks),) = [*[(kind, data) for kind, data in frames if kind == HEADERS], (0, b"")][:1]
    assert b"201" not in blocks
    assert HEADERS not in [kind for kind, _ in frames] or blocks[0] != 0x08
