"""Account ids and idempotency keys as strangers write them."""

from urllib.parse import quote

import httpx2
import pytest

from settled.http import problems
from tests.http.checks import check_client_error, check_problem, parse_raw
from tests.http.conftest import Served

BODY = b'{"amount":"1","scale":0}'

BAD_IDS = [
    ".",
    "..",
    "%2e%2e",
    "a%2Fb",
    "%2F",
    "%2Fetc%2Fpasswd",
    "..%2f..%2fetc",
    "%00",
    "a%00b",
    "a%0Ab",
    "a%0D%0ASet-Cookie:x",
    "%ff",
    "%",
    "%zz",
    "a:b",
    "a@b",
    "a%20b",
    "a+b",
    "a;b",
    "a,b",
    "a" * 256,
    "a" * 10_000,
    quote("\u00fcn\u00efcode"),
    quote("\u0661"),
    quote("\U0001f4b8"),
    quote("\u202e"),
    quote("'; DROP TABLE accounts; --", safe=""),
    quote("1' OR '1'='1", safe=""),
    quote("{0.__class__}", safe=""),
    quote("%s%s%n", safe=""),
    quote("${jndi:ldap://x}", safe=""),
    quote("<script>", safe=""),
]


def request(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@pytest.mark.parametrize("account_id", BAD_IDS)
async def test_a_bad_id_in_the_path_is_refused(served: Served, account_id: str) -> None:
    for method, path, headers in (
        ("DELETE", f"/accounts/{account_id}", ()),
        ("POST", f"/accounts/{account_id}/settlements", ("Idempotency-Key: k",)),
        ("POST", f"/accounts/{account_id}/messages", ()),
    ):
        answer = await served.exchange(request(method, path, *headers, body=BODY))
        status, _, problem = parse_raw(answer)
        assert status == 400, answer
        assert problem["type"] == problems.INVALID_ACCOUNT_ID.type


async def test_an_id_of_20_000_characters_is_refused(served: Served) -> None:
    path = f"/accounts/{'a' * 20_000}/settlements"
    answer = await served.exchange(request("POST", path, "Idempotency-Key: k", body=BODY))
    assert parse_raw(answer)[0] in {400, 431}


async def test_an_empty_id_is_no_path(served: Served) -> None:
    answer = await served.exchange(request("POST", "/accounts//messages", body=b"m"))
    assert parse_raw(answer)[0] == 405


@pytest.mark.parametrize("account_id", ["a" * 255, "~.-_0Zz", "...", "%61lice"])
async def test_good_ids_are_taken_also_percent_encoded(served: Served, account_id: str) -> None:
    async with served.client() as client:
        decoded = account_id.replace("%61", "a")
        assert (await client.post("/accounts", json={"id": decoded})).status_code == 201
    path = f"/accounts/{account_id}/settlements"
    answer = await served.exchange(request("POST", path, "Idempotency-Key: k", body=BODY))
    assert parse_raw(answer)[0] == 201


@pytest.mark.parametrize("key", ["k", "k" * 255, '"8e03978e-40d5"', "a b", "!~'%s{0}"])
async def test_printable_keys_are_taken(served: Served, key: str) -> None:
    path = "/accounts/alice/settlements"
    answer = await served.exchange(request("POST", path, f"Idempotency-Key: {key}", body=BODY))
    assert parse_raw(answer)[0] == 201


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Idempotency-Key:",),
        ("Idempotency-Key:   ",),
        (f"Idempotency-Key: {'k' * 256}",),
        (f"Idempotency-Key: {'k' * 10_000}",),
        ("Idempotency-Key: \u00fc",),
        ("Idempotency-Key: \u0080",),
        ("Idempotency-Key: a\tb",),
        ("Idempotency-Key: k", "Idempotency-Key: k"),
        ("Idempotency-Key: k", "idempotency-key: other"),
    ],
)
async def test_missing_odd_and_double_keys_are_refused(
    served: Served, headers: tuple[str, ...]
) -> None:
    path = "/accounts/alice/settlements"
    answer = await served.exchange(request("POST", path, *headers, body=BODY))
    status, _, problem = parse_raw(answer)
    assert status == 400
    assert problem["type"] == problems.INVALID_KEY.type


async def test_a_key_of_another_account_is_another_key(client: httpx2.AsyncClient) -> None:
    await client.post("/accounts", json={"id": "bob"})
    for account, amount in (("alice", "1"), ("bob", "2")):
        response = await client.post(
            f"/accounts/{account}/settlements",
            json={"amount": amount, "scale": 0},
            headers={"Idempotency-Key": "k"},
        )
        assert response.status_code == 201


async def test_an_id_cannot_put_lines_into_the_answer(client: httpx2.AsyncClient) -> None:
    response = await client.post("/accounts", json={"id": "a\r\nSet-Cookie: x"})
    check_problem(response, problems.INVALID_ACCOUNT_ID)
    assert "Set-Cookie" not in response.text
    check_client_error(await client.delete("/accounts/a%0D%0Ab"))
