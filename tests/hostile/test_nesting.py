"""JSON nested deeper than the stack holds, where a library of the engine has Python allow it."""

from functools import partial
from pathlib import Path

import httpx2
import pytest
import trio

from settled import limits
from tests.daemon_process import daemon_process

DEEP = b"[" * limits.BODY_BYTES_MAX
ENGINE = """
import sys

from settled import MessageFailed, MessageRefused

class Engine:
    def __init__(self, services):
        self.services = services

    async def settle(self, account_id, amount, settlement_id):
        return amount

    async def handle_message(self, account_id, message):
        try:
            await self.services.send_message(account_id, message)
        except MessageFailed as error:
            raise MessageRefused(str(error)) from error

async def connect(services):
    sys.setrecursionlimit(100_000)
    return Engine(services)
"""


async def _answer_deep(stream: trio.SocketStream) -> None:
    await stream.receive_some(65536)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(DEEP)}\r\nConnection: close\r\n\r\n"
    await stream.send_all(head.encode() + DEEP)
    await stream.send_eof()


@pytest.mark.parametrize("short_lane", [True, False])
async def test_what_is_nested_deeper_than_the_stack_holds_is_refused(
    short_lane: bool, tmp_path: Path, nursery: trio.Nursery
) -> None:
    (tmp_path / "deep.py").write_text(ENGINE)
    serve = partial(trio.serve_tcp, _answer_deep, 0, host="127.0.0.1")
    (listener,) = await nursery.start(serve)
    connector = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    lane = () if short_lane else ("--no-short-lane",)
    arguments = ("--engine", "deep:connect", "--connector-url", connector, *lane)
    with daemon_process(tmp_path, *arguments) as daemon:
        async with httpx2.AsyncClient(trust_env=False, base_url=daemon.url, timeout=20) as client:
            opened = await client.post("/accounts", json={"id": "alice"})
            octets = {"Content-Type": "application/octet-stream"}
            plain = {"Content-Type": "application/json", "Idempotency-Key": "k"}
            message = await client.post("/accounts/alice/messages", content=DEEP, headers=octets)
            body = b'{"x":' + DEEP[:-100]
            settlement = await client.post(
                "/accounts/alice/settlements", content=body, headers=plain
            )
            account = await client.post("/accounts", content=body, headers=plain)
            reply = await client.post("/accounts/alice/messages", content=b"1", headers=octets)
        assert daemon.process.poll() is None
    assert opened.status_code == 201
    for refused in (message, settlement, account, reply):
        assert refused.status_code == 400, refused.text
    assert "the peer's answer is not JSON" in reply.text
