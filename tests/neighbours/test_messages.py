"""Peers that send garbage for messages: it is answered or refused, and that is all."""

import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from settled import MessageFailed, Services, limits
from settled.connector import Connector
from settled.errors import HandlerFailed, MessageRefused
from tests.harness import ScriptedEngine, memory_store, running
from tests.neighbours.faults import head
from tests.neighbours.servers import read_request, serving
from tests.test_daemon import Engine, daemon

NOISE = random.Random(7)

BODIES = {
    "nothing": b"",
    "a space": b" ",
    "a NUL": b"\0",
    "64 KiB of zeros": bytes(limits.BODY_BYTES_MAX),
    "64 KiB of noise": NOISE.randbytes(limits.BODY_BYTES_MAX),
    "64 KiB of text": b'"' + b"x" * (limits.BODY_BYTES_MAX - 2) + b'"',
    "not UTF-8": b'"\xff\xfe"',
    "UTF-16": '"hello"'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf"hello"',
    "half a character": rb'"\ud800"',
    "arrays without end": b"[" * limits.BODY_BYTES_MAX,
    "deep arrays": b"[" * 32_000 + b"]" * 32_000,
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "a little deep": b"[" * 500 + b"]" * 500,
    "two values": b"1 2",
    "a key twice": b'{"amount": "1", "amount": "2"}',
    "NaN": b"NaN",
    "infinity": b"-Infinity",
    "1e400": b"1e400",
    "many digits": b"9" * 60_000,
    "a fine float": b"0." + b"1" * 60_000,
    "null": b"null",
    "__proto__": b'{"__proto__": {"admin": true}}',
    "HTML": b"<script>alert(1)</script>",
    "pickle": b"cos\nsystem\n(S'true'\ntR.",
    "a comment": b"// hello\n1",
    "a request": b"POST /accounts HTTP/1.1\r\nHost: x\r\n\r\n",
}


class Echo(Engine):
    async def handle_message(self, account_id: str, message: Any) -> Any:
        return message


class RawEcho(Echo):
    raw_messages = True


class Careless(Engine):
    """Takes every message for what it expects."""

    async def handle_message(self, account_id: str, message: Any) -> Any:
        return {"paid": message["amount"] + 1, "to": message["to"].upper()}


def is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return False
    return True


@pytest.mark.parametrize("make", [Echo, RawEcho, Careless, Engine])
async def test_whatever_a_peer_sends_is_answered_within_the_api(
    make: Callable[[Services], Engine], tmp_path: Path
) -> None:
    async with daemon(tmp_path, make) as (_, store, client):
        for name, body in BODIES.items():
            response = await client.post(
                "/accounts/alice/messages",
                content=body,
                headers={"Content-Type": "application/octet-stream"},
            )
            if make is Engine:
                expected = {400}
            elif make is RawEcho:
                expected = {201}
                assert response.content == body
            elif not is_json(body):
                expected = {400}
            else:
                expected = {500} if make is Careless else {201}
            assert response.status_code in expected, name
            problem = response.status_code != 201
            kind = "application/problem+json" if problem else "application/octet-stream"
            assert response.headers["Content-Type"] == kind
            if problem:
                assert "Traceback" not in response.text
                assert json.loads(response.text)["detail"].isprintable(), name
        await media_types(client)
        assert (await store.account("alice")).requested == 0


async def media_types(client: httpx2.AsyncClient) -> None:
    for wrong in ("application/json", "text/plain", "multipart/form-data; boundary=x", "", "x" * 9):
        response = await client.post(
            "/accounts/alice/messages", content=b"{}", headers={"Content-Type": wrong}
        )
        assert response.status_code == 415, wrong
    for body, status in ((b"x" * (limits.BODY_BYTES_MAX + 1), 413),):
        response = await client.post("/accounts/alice/messages", content=body)
        assert response.status_code == status


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=300) | st.text(max_size=50).map(str.encode), raw=st.booleans())
def test_any_bytes_reach_the_engine_or_are_refused(body: bytes, raw: bool) -> None:
    async def main() -> None:
        async def echo(account_id: str, message: object) -> object:
            seen.append(message)
            return message

        seen: list[object] = []
        engine = ScriptedEngine(handle_message=echo, raw_messages=raw)
        store = memory_store()
        await store.open_account("alice", setup=False)
        async with running(engine, store) as core:
            try:
                reply = await core.operations.handle_message("alice", body)
            except MessageRefused:
                assert not raw
                assert seen == []
            else:
                assert reply == body if raw else msgspec.json.decode(reply) == seen[0]

    trio.run(main)


@pytest.mark.parametrize("name", BODIES)
async def test_whatever_a_peer_replies_is_a_message_or_a_failure(name: str) -> None:
    body = BODIES[name]

    async def handle(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(head("200 OK", f"Content-Length: {len(body)}") + body)

    async with serving(handle) as url, trio.open_nursery() as nursery:
        services = Services(memory_store(), Connector(url), nursery)

        async def failure(send: Callable[[], Awaitable[object]]) -> str | None:
            try:
                await send()
            except MessageFailed as error:
                return str(error)
            return None

        as_json = await failure(lambda: services.send_message("alice", {"type": "hello"}))
        assert (as_json is None) == is_json(body)
        as_bytes = await failure(lambda: services.send_message("alice", b"hello"))
        assert (as_bytes is None) == (body != b"")
        for reason in (as_json, as_bytes):
            assert reason is None or reason.startswith("account alice: the peer's answer is")


async def test_a_message_that_is_none_is_the_engines_own_error() -> None:
    async with trio.open_nursery() as nursery:
        services = Services(memory_store(), Connector("http://127.0.0.1:1"), nursery)
        endless: list[object] = []
        endless.append(endless)
        for message in (object(), {1j: 2}, endless, memory_store):
            with pytest.raises((TypeError, RecursionError)):
                await services.send_message("alice", message)


async def test_a_handler_that_asks_the_peer_back_for_ever_ends_in_its_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two engines that ask each other before they answer: the connectors' patience ends it."""
    monkeypatch.setattr(limits, "MESSAGE_HANDLER_TIMEOUT_S", 0.3)
    store = memory_store()
    await store.open_account("alice", setup=False)

    async def handle(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await trio.sleep_forever()

    async with serving(handle) as url, trio.open_nursery() as nursery:
        services = Services(store, Connector(url), nursery)

        async def ask_back(account_id: str, message: object) -> object:
            return await services.send_message(account_id, message)

        async with running(ScriptedEngine(handle_message=ask_back), store) as core:
            with trio.fail_after(5), pytest.raises(HandlerFailed):
                await core.operations.handle_message("alice", b"1")
