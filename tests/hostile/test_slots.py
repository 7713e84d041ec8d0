"""More connections than there may be: the connector is served all the same."""

import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import structlog
import trio
from structlog.testing import capture_logs

from settled import limits
from settled.http.slots import Slots
from tests.daemon_process import daemon_process
from tests.hostile.healthy import descriptors, open_account
from tests.hostile.wire import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    fields,
    frame,
    head,
    post,
    settlement,
)
from tests.http.conftest import Served, fake_app, read_all, serving

POST = post("/accounts")


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 8)
    monkeypatch.setattr(limits, "SPEAKING_MAX", 4)
    monkeypatch.setattr(limits, "CONNECTION_UNCUT_S", 0.05)


@asynccontextmanager
async def guests(served: Served, count: int, sent: bytes) -> AsyncIterator[list[trio.SocketStream]]:
    async with AsyncExitStack() as stack:
        streams = []
        for _ in range(count):
            streams.append(await stack.enter_async_context(await served.connect()))
            if sent:
                await streams[-1].send_all(sent)
        await trio.sleep(0.1)
        yield streams


async def answered(served: Served, within_s: float = 3) -> bool:
    async with await served.connect() as stream:
        await stream.send_all(POST)
        with trio.fail_after(within_s):
            return (await stream.receive_some()).startswith(b"HTTP/1.1 201")


async def closed(stream: trio.SocketStream) -> bool:
    with trio.move_on_after(0.2):
        try:
            return not await stream.receive_some()
        except trio.BrokenResourceError:
            return True
    return False


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /acc", head("/accounts", b"Content-Length: 9") + b"{"],
    ids=["silent", "slow headers", "slow body"],
)
async def test_who_keeps_us_waiting_the_longest_makes_room(sent: bytes) -> None:
    async with serving(fake_app()) as served, guests(served, 12, sent) as streams:
        assert await answered(served)
        assert await closed(streams[0])
        assert not await closed(streams[-1])


async def test_a_connection_under_a_request_is_never_closed_for_another() -> None:
    go_on = trio.Event()
    structlog.reset_defaults()
    with capture_logs() as logs:
        async with (
            serving(fake_app(go_on.wait)) as served,
            guests(served, 4, POST) as working,
            guests(served, 30, b"POST"),
        ):
            assert not any([await closed(stream) for stream in working])
            go_on.set()
            for stream in working:
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 201")
    (full,) = [entry for entry in logs if entry["event"] == "connections_full"]
    assert full["log_level"] == "warning"


async def test_newcomers_wait_while_all_connections_are_under_a_request() -> None:
    go_on = trio.Event()
    async with (
        serving(fake_app(go_on.wait)) as served,
        guests(served, 4, POST),
        guests(served, 1, POST) as newcomers,
    ):
        assert not await closed(newcomers[0])
        go_on.set()
        with trio.fail_after(2):
            assert (await newcomers[0].receive_some()).startswith(b"HTTP/1.1 201")


async def test_a_newcomer_whose_request_waits_for_its_turn_is_not_closed() -> None:
    go_on = trio.Event()
    async with (
        serving(fake_app(go_on.wait)) as served,
        guests(served, 4, POST),
        guests(served, 4, POST) as newcomers,
        guests(served, 4, b"") as silent,
    ):
        assert not any([await closed(stream) for stream in newcomers])
        go_on.set()
        for stream in newcomers:
            with trio.fail_after(2):
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 201")
        assert not all([await closed(stream) for stream in silent])


async def test_an_idle_connection_stays_open_while_there_is_room() -> None:
    async with serving(fake_app()) as served, guests(served, 3, POST) as streams:
        for stream in streams:
            await stream.receive_some()
        assert await answered(served)
        assert not any([await closed(stream) for stream in streams])


def test_most_descriptors_may_be_taken_but_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 10**9)
    assert Slots()._connections_max == resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2


async def test_held_bodies_make_room_for_those_that_come_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "REQUESTS_BYTES_MAX", 3 * limits.REQUEST_BYTES + 50_000)
    body = head("/accounts", b"Content-Length: 60000") + b" " * 15_000
    async with serving(fake_app()) as served, guests(served, 3, body) as streams:
        assert not any([await closed(stream) for stream in streams])
        await streams[2].send_all(b" " * 15_000)
        await trio.sleep(0.2)
        assert [await closed(stream) for stream in streams].count(True) >= 1
        assert await answered(served)


async def test_an_http2_stream_that_there_is_no_memory_for_is_refused_as_not_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "REQUESTS_BYTES_MAX", 3 * limits.REQUEST_BYTES)
    go_on = trio.Event()
    async with serving(fake_app(go_on.wait)) as served, await served.connect() as stream:
        await stream.send_all(PREFACE + frame(SETTINGS, 0, 0))
        for stream_id in (1, 3, 5, 7):
            block = fields(b"/accounts")
            await stream.send_all(frame(HEADERS, END_HEADERS | END_STREAM, stream_id, block))
        await trio.sleep(0.2)
        refused = frame(3, 0, 7, b"\0\0\0\7")  # RST_STREAM, REFUSED_STREAM
        assert refused in await stream.receive_some()


async def test_pings_settings_and_resets_have_an_end() -> None:
    for flood in (frame(6, 0, 0, b"12345678"), frame(SETTINGS, 0, 0), frame(0, 0, 1)):
        async with serving(fake_app()) as served, await served.connect() as stream:
            opened = frame(HEADERS, END_HEADERS, 1, fields(b"/accounts"))
            await stream.send_all(PREFACE + frame(SETTINGS, 0, 0) + opened + flood * 1000)
            try:
                received = await read_all(stream)
            except trio.BrokenResourceError:
                continue
            assert b"\0\0\0\x0b" in received  # ENHANCE_YOUR_CALM


@contextmanager
def descriptors_of(pid: int, spare: int) -> Iterator[None]:
    """Let a process open only so many descriptors more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid) + spare, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def test_running_out_of_descriptors_is_survived_and_said_once(tmp_path: Path) -> None:
    with daemon_process(tmp_path, "--engine", "loopback") as daemon:
        port = int(daemon.url.rpartition(":")[2])
        await open_account(port)
        served = Served(port, trio.Event(), trio.Event())
        with descriptors_of(daemon.process.pid, spare=20):
            async with guests(served, 60, b"") as streams:
                assert await answered(served)
                assert await closed(streams[0])
        async with guests(served, 60, b"") as streams:
            assert await answered(served)
            assert not await closed(streams[0])
            async with await served.connect() as stream:
                await stream.send_all(settlement("after"))
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 201")
        assert daemon.process.poll() is None
    log = (tmp_path / "log").read_text()
    assert log.count("cannot_accept") == 1
    assert "Traceback" not in log
