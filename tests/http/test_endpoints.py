"""The API table of ``docs/http.md``, case by case, over a real socket."""

import uuid
from typing import Any

import httpx2
import pytest

from settled.http import problems
from settled.http.problems import Problem
from tests.http.checks import check_problem
from tests.http.conftest import OCTETS

SETTLEMENTS = "/accounts/alice/settlements"
MESSAGES = "/accounts/alice/messages"
QUANTITY = {"amount": "100", "scale": 2}


async def settle(
    client: httpx2.AsyncClient, quantity: Any = QUANTITY, key: str = "k", account: str = "alice"
) -> httpx2.Response:
    return await client.post(
        f"/accounts/{account}/settlements", json=quantity, headers={"Idempotency-Key": key}
    )


async def test_creating_an_account_returns_its_id_and_again_the_same(
    client: httpx2.AsyncClient,
) -> None:
    for _ in range(2):
        response = await client.post("/accounts", json={"id": "bob"})
        assert (response.status_code, response.content) == (201, b'{"id":"bob"}')
        assert response.headers["Content-Type"] == "application/json"
    assert (await settle(client, account="bob")).status_code == 201


@pytest.mark.parametrize("body", [b"", b"{}", b'{"id":null}', b'{"name":"x","nested":{"id":"y"}}'])
async def test_creating_an_account_without_an_id_mints_one(
    client: httpx2.AsyncClient, body: bytes
) -> None:
    response = await client.post(
        "/accounts", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 201
    minted = response.json()["id"]
    assert uuid.UUID(minted).version == 4
    assert (await settle(client, account=minted)).status_code == 201


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"id":""}', problems.INVALID_ACCOUNT_ID),
        (b'{"id":".."}', problems.INVALID_ACCOUNT_ID),
        (b'{"id":"a/b"}', problems.INVALID_ACCOUNT_ID),
        (b'{"id":"a:b"}', problems.INVALID_ACCOUNT_ID),
        (b'{"id":"\\u0000"}', problems.INVALID_ACCOUNT_ID),
        (b'{"id":7}', problems.INVALID_BODY),
        (b'{"id":true}', problems.INVALID_BODY),
        (b'{"id":["x"]}', problems.INVALID_BODY),
        (b'{"id":"x"', problems.INVALID_BODY),
        (b'["x"]', problems.INVALID_BODY),
        (b'"x"', problems.INVALID_BODY),
        (b"null", problems.INVALID_BODY),
        (b"id=x", problems.INVALID_BODY),
        (b'{"id":"\xff"}', problems.INVALID_BODY),
        (b'{"other":"\xff"}', problems.INVALID_BODY),
        (b'{"other":"\\ud800"}', problems.INVALID_BODY),
        (b" ", problems.INVALID_BODY),
    ],
)
async def test_creating_an_account_refuses_what_is_no_id(
    client: httpx2.AsyncClient, body: bytes, problem: Problem
) -> None:
    check_problem(await client.post("/accounts", content=body), problem)


async def test_deleting_an_account_closes_it(client: httpx2.AsyncClient) -> None:
    response = await client.delete("/accounts/alice")
    assert (response.status_code, response.content) == (204, b"")
    assert not {"content-type", "content-length"} & set(response.headers)
    check_problem(await client.delete("/accounts/alice"), problems.ACCOUNT_NOT_FOUND)
    check_problem(await settle(client), problems.ACCOUNT_NOT_FOUND)
    check_problem(
        await client.post(MESSAGES, content=b"m", headers=OCTETS), problems.ACCOUNT_NOT_FOUND
    )


async def test_an_account_that_never_was_is_not_found(client: httpx2.AsyncClient) -> None:
    check_problem(await client.delete("/accounts/nobody"), problems.ACCOUNT_NOT_FOUND)
    detail = check_problem(await settle(client, account="nobody"), problems.ACCOUNT_NOT_FOUND)
    assert "nobody" in detail
    assert "POST /accounts" in detail


async def test_a_settlement_is_echoed_as_it_was_sent(client: httpx2.AsyncClient) -> None:
    response = await settle(client)
    assert (response.status_code, response.content) == (201, b'{"amount":"100","scale":2}')
    assert response.headers["Content-Type"] == "application/json"
    assert "server" not in response.headers


async def test_the_same_key_answers_the_same_also_for_the_same_value_at_another_scale(
    client: httpx2.AsyncClient,
) -> None:
    first = await settle(client)
    again = await settle(client)
    same_value = await settle(client, {"amount": "1", "scale": 0})
    assert first.content == again.content == same_value.content == b'{"amount":"100","scale":2}'
    assert first.status_code == again.status_code == same_value.status_code == 201


async def test_the_same_key_for_another_amount_is_refused(client: httpx2.AsyncClient) -> None:
    await settle(client)
    check_problem(await settle(client, {"amount": "101", "scale": 2}), problems.KEY_REUSED)


@pytest.mark.parametrize("zero", ["0", "000"])
async def test_an_amount_of_zero_is_refused(client: httpx2.AsyncClient, zero: str) -> None:
    check_problem(await settle(client, {"amount": zero, "scale": 2}), problems.INVALID_QUANTITY)


async def test_a_message_gets_the_reply_of_the_engine(client: httpx2.AsyncClient) -> None:
    for message in (b"\x00\xff{not json", b""):
        response = await client.post(MESSAGES, content=message, headers=OCTETS)
        assert (response.status_code, response.content) == (201, b"alice:" + message)
        assert response.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        "application/json; charset=utf-8",
        "APPLICATION/JSON;charset=UTF-8",
        "application/vnd.api+json",
    ],
)
async def test_json_is_taken_under_its_media_types(
    client: httpx2.AsyncClient, content_type: str | None
) -> None:
    headers = {"Idempotency-Key": "k"} | ({"Content-Type": content_type} if content_type else {})
    body = b'{"amount":"100","scale":2}'
    response = await client.post(SETTLEMENTS, content=body, headers=headers)
    assert response.status_code == 201
    response = await client.post("/accounts", content=b'{"id":"x"}', headers=headers)
    assert response.status_code == 201


@pytest.mark.parametrize("content_type", [None, "application/octet-stream; v=1"])
async def test_messages_are_taken_under_their_media_type(
    client: httpx2.AsyncClient, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = await client.post(MESSAGES, content=b"m", headers=headers)
    assert response.status_code == 201


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        (SETTLEMENTS, "text/plain"),
        (SETTLEMENTS, "application/x-www-form-urlencoded"),
        (SETTLEMENTS, "application/octet-stream"),
        (SETTLEMENTS, "json"),
        (SETTLEMENTS, "text/x+json"),
        ("/accounts", "text/plain;application/json"),
        ("/accounts", "multipart/form-data; boundary=x"),
        (MESSAGES, "application/json"),
        (MESSAGES, "application/x+json"),
        (MESSAGES, "text/plain"),
    ],
)
async def test_other_media_types_are_refused(
    client: httpx2.AsyncClient, path: str, content_type: str
) -> None:
    headers = {"Idempotency-Key": "k", "Content-Type": content_type}
    response = await client.post(path, content=b'{"amount":"1","scale":0}', headers=headers)
    detail = check_problem(response, problems.UNSUPPORTED_MEDIA_TYPE)
    assert "application/" in detail


async def test_a_media_type_without_a_body_does_not_matter(client: httpx2.AsyncClient) -> None:
    response = await client.post("/accounts", headers={"Content-Type": "text/plain"})
    assert response.status_code == 201
