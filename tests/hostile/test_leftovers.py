"""What a hostile client costs in passing, and what is left of him."""

import gc
import json
from pathlib import Path
from typing import Any

import h11
import pytest
import trio

from settled import limits
from settled.http.protocols import _H11Connection
from tests.daemon_process import daemon_process
from tests.hostile.wire import head, post, reset
from tests.http.conftest import fake_app, read_all, serving

CHUNKED = head("/accounts", b"Transfer-Encoding: chunked")


def events_of(connection: h11.Connection, data: bytes) -> list[object]:
    connection.receive_data(data)
    events: list[object] = []
    while not events or events[-1] not in (h11.NEED_DATA, h11.PAUSED):
        events.append(connection.next_event())
    return events


def test_the_chunks_of_one_read_are_one_event() -> None:
    connection = _H11Connection(h11.SERVER)
    request, *body = events_of(connection, CHUNKED + b"1\r\nx\r\n" * 600)
    assert isinstance(request, h11.Request)
    assert body == [h11.Data(data=b"x" * 600), h11.NEED_DATA]
    assert connection.their_state is h11.SEND_BODY
    assert connection.next_event() is h11.NEED_DATA
    data, end, rest = events_of(connection, b"2\r\nyz\r\n" * 2 + b"0\r\n\r\n" + CHUNKED)
    assert data == h11.Data(data=b"yzyz")
    assert isinstance(end, h11.EndOfMessage)
    assert rest is h11.PAUSED


def test_the_body_is_not_over_before_what_came_of_it_is_taken() -> None:
    connection = _H11Connection(h11.SERVER)
    connection.receive_data(CHUNKED + b"1\r\nx\r\n0\r\n\r\n")
    connection.next_event()
    assert connection.next_event() == h11.Data(data=b"x")
    assert connection.their_state is h11.SEND_BODY
    connection.next_event()
    assert connection.their_state is h11.DONE


@pytest.mark.parametrize("end", [b"zz\r\n", b""], ids=["a bad chunk", "no more"])
def test_what_is_wrong_after_good_chunks_is_told_after_them(end: bytes) -> None:
    connection = _H11Connection(h11.SERVER)
    connection.receive_data(CHUNKED + b"1\r\nx\r\n" * 3 + end)
    if not end:
        connection.receive_data(b"")
    connection.next_event()
    assert connection.next_event() == h11.Data(data=b"xxx")
    for _ in range(2):
        with pytest.raises(h11.RemoteProtocolError):
            connection.next_event()


async def test_a_client_that_pipelines_and_hangs_up_is_forgotten() -> None:
    go_on = trio.Event()
    async with serving(fake_app(go_on.wait)) as served:
        for _ in range(3):
            stream = await served.connect()
            await stream.send_all(post("/accounts") * 3)
            await trio.testing.wait_all_tasks_blocked(0.05)
            reset(stream)
        go_on.set()
        await trio.testing.wait_all_tasks_blocked(0.05)
        served.stop.set()
        with trio.fail_after(2):
            await served.ended.wait()


@pytest.mark.parametrize(
    "sent",
    [
        post("/accounts"),
        post("/accounts", b"", b"Connection: close"),
        post("/nowhere"),
        head("/accounts", b"Content-Length: 65536") + b" " * 65535,
        head("/accounts", b"Content-Length: 70000") + b" " * 70000,
    ],
    ids=["kept alive", "closed", "refused", "held", "too large"],
)
async def test_a_connection_frees_what_it_took_up_when_it_ends(sent: bytes) -> None:
    async def visit() -> None:
        async with await served.connect() as stream:
            await stream.send_all(sent)
            with trio.move_on_after(0.1):
                await stream.receive_some()

    async with serving(fake_app()) as served:
        await visit()
        await trio.sleep(0.1)
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                await visit()
            await trio.sleep(0.1)
            assert gc.collect() < 5 * 50
        finally:
            gc.enable()


ENGINE = """
import gc
import sys

async def connect(services):
    return Engine()

class Engine:
    async def settle(self, account_id, amount, settlement_id):
        return amount

    async def handle_message(self, account_id, message):
        return [gc.get_freeze_count(), sys.getswitchinterval()]
"""


def test_neither_garbage_nor_a_computing_thread_holds_up_a_daemon_for_long(tmp_path: Path) -> None:
    """The collector leaves alone what is there from the start, and threads give way soon."""

    async def ask(port: int, path: str, body: bytes, media_type: bytes) -> bytes:
        headers = (b"Content-Type: " + media_type, b"Connection: close")
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(post(path, body, *headers))
            answer = await read_all(stream)
        assert b" 201 " in answer
        return answer.rpartition(b"\r\n")[2]

    async def settings(port: int) -> Any:
        await ask(port, "/accounts", b'{"id":"alice"}', b"application/json")
        answer = await ask(port, "/accounts/alice/messages", b"1", b"application/octet-stream")
        return json.loads(answer)

    (tmp_path / "counting.py").write_text(ENGINE)
    with daemon_process(tmp_path, "--engine", "counting:connect") as daemon:
        frozen, interval_s = trio.run(settings, int(daemon.url.rpartition(":")[2]))
    assert frozen > 10_000
    assert interval_s == pytest.approx(limits.SWITCH_INTERVAL_S)
