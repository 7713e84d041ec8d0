"""The end: of a client, of the server, and of the requests under way."""

import socket

import pytest
import trio

from tests.http.checks import parse_raw
from tests.http.conftest import Served, fake_app, read_all, serving

POST = b"POST /accounts HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


async def test_a_client_that_stops_sending_gets_its_answer() -> None:
    go_on = trio.Event()
    async with serving(fake_app(go_on.wait)) as served:
        async with await served.connect() as stream:
            await stream.send_all(POST)
            await stream.send_eof()
            await trio.testing.wait_all_tasks_blocked(0.05)
            go_on.set()
            with trio.fail_after(2):
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 2")
        served.stop.set()
        await served.ended.wait()


async def test_a_client_that_hangs_up_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("settled.limits.HALF_CLOSED_S", 0.1)
    cancelled = trio.Event()

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(fake_app(wait)) as served:
        async with await served.connect() as stream:
            await stream.send_all(POST)
            await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.fail_after(2):
            await cancelled.wait()
        served.stop.set()
        with trio.fail_after(1):
            await served.ended.wait()


@pytest.mark.parametrize("http2", [False, True])
async def test_idle_connections_do_not_delay_the_end(served: Served, http2: bool) -> None:
    async with served.client(http1=not http2, http2=http2) as client:
        for _ in range(3):
            await client.post("/accounts")
        async with await served.connect():
            served.stop.set()
            with trio.fail_after(1):
                await served.ended.wait()


async def test_requests_under_way_get_their_answer_before_the_end() -> None:
    go_on = trio.Event()
    async with serving(fake_app(go_on.wait), grace_s=5) as served:
        async with await served.connect() as stream:
            await stream.send_all(POST)
            await trio.testing.wait_all_tasks_blocked(0.05)
            served.stop.set()
            await trio.testing.wait_all_tasks_blocked(0.05)
            with pytest.raises(OSError, match="all attempts to connect"):
                await served.connect()
            go_on.set()
            assert parse_raw(await read_all(stream))[0] == 201
        with trio.fail_after(1):
            await served.ended.wait()


async def test_requests_that_outlast_the_grace_get_no_answer() -> None:
    async with serving(fake_app(trio.sleep_forever), grace_s=0.3) as served:
        async with await served.connect() as stream:
            await stream.send_all(POST)
            await trio.testing.wait_all_tasks_blocked(0.05)
            served.stop.set()
            assert await read_all(stream) == b""
        with trio.fail_after(1):
            await served.ended.wait()


async def test_a_client_that_does_not_read_cannot_hold_up_the_end() -> None:
    async with serving(fake_app(), grace_s=0.3) as served, await served.connect() as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with trio.move_on_after(2):
            while True:
                await stream.send_all(POST * 1000)
        served.stop.set()
        with trio.fail_after(2):
            await served.ended.wait()


async def test_clients_that_ask_on_after_the_last_answer_do_not_delay_the_end() -> None:
    go_on = trio.Event()

    async def ask_twice(served: Served) -> None:
        async with await served.connect() as stream:
            await stream.send_all(POST)
            await stream.receive_some()
            try:
                await stream.send_all(POST)
                await trio.sleep_forever()
            except trio.BrokenResourceError:
                pass

    async with serving(fake_app(go_on.wait), grace_s=5) as served, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask_twice, served)
        await trio.testing.wait_all_tasks_blocked(0.05)
        served.stop.set()
        go_on.set()
        with trio.fail_after(1):
            await served.ended.wait()
        nursery.cancel_scope.cancel()
