"""The exact requests of the connectors in the field, byte for byte."""

import json
import uuid

import httpx2
import pytest

from tests.http.checks import parse_raw, read_answer
from tests.http.conftest import Served

RUST_ID = "9c1b3f66-64a2-4b3c-8f9e-2d5f2f0a7a11"


def http(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


@pytest.mark.parametrize("base", ["", "/"])
async def test_interledger_rs_creates_settles_and_sends_messages(served: Served, base: str) -> None:
    settle = http(
        f"POST {base}/accounts/{RUST_ID}/settlements HTTP/1.1",
        "content-type: application/json",
        f"idempotency-key: {uuid.uuid4()}",
        "accept: */*",
        "host: localhost:3000",
        body=b'{"amount":"18446744073709551615","scale":9}',
    )
    async with await served.connect() as stream:

        async def ask(request: bytes) -> tuple[int, object]:
            await stream.send_all(request)
            status, _, body = parse_raw(await read_answer(stream))
            return status, body

        create = http(
            f"POST {base}/accounts HTTP/1.1",
            "content-type: application/json",
            "accept: */*",
            "host: localhost:3000",
            body=f'{{"id":"{RUST_ID}"}}'.encode(),
        )
        assert await ask(create) == (201, {"id": RUST_ID})
        assert await ask(create) == (201, {"id": RUST_ID})
        quantity = {"amount": "18446744073709551615", "scale": 9}
        assert await ask(settle) == (201, quantity)
        assert await ask(settle) == (201, quantity)
        message = http(
            f"POST {base}/accounts/{RUST_ID}/messages HTTP/1.1",
            "content-type: application/octet-stream",
            f"idempotency-key: {uuid.uuid4()}",
            "accept: */*",
            "host: localhost:3000",
            body=b"hi",
        )
        assert await ask(message) == (201, f"{RUST_ID}:hi".encode())


async def test_the_java_connector_gets_the_json_that_it_requires(
    client: httpx2.AsyncClient,
) -> None:
    accept = {"Accept": "application/json"}
    response = await client.post(
        "/accounts",
        content=b'{"id":null}',
        headers=accept | {"Content-Type": "application/json; charset=utf-8"},
    )
    assert response.status_code == 201
    account_id = response.json()["id"]
    assert 0 < len(account_id) < 64

    response = await client.post(
        f"/accounts/{account_id}/settlements",
        content=b'{"scale":9,"amount":"1000"}',
        headers=accept
        | {
            "Content-Type": "application/json; charset=utf-8",
            "Idempotency-Key": str(uuid.uuid4()),
        },
    )
    assert response.status_code == 201
    assert json.loads(response.content) == {"amount": "1000", "scale": 9}

    response = await client.post(
        f"/accounts/{account_id}/messages",
        content=b"\x00\x01",
        headers={"Accept": "application/octet-stream", "Content-Type": "application/octet-stream"},
    )
    assert response.status_code == 201
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.content == account_id.encode() + b":\x00\x01"


async def test_settlement_core_writes_the_charset_without_a_space(
    client: httpx2.AsyncClient,
) -> None:
    response = await client.post(
        "/accounts/alice/settlements",
        content=b'{"scale":2,"amount":"100"}',
        headers={
            "Accept": "application/json, text/plain, */*",
            "Content-Type": "application/json;charset=utf-8",
            "Idempotency-Key": "anything goes, up to 255",
        },
    )
    assert (response.status_code, response.json()) == (201, {"amount": "100", "scale": 2})
