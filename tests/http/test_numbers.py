"""Numbers as strangers write them: exact, or refused; never an error of ours."""

from typing import Final

import httpx2
import pytest

from settled import limits
from settled.http import problems
from settled.http.problems import Problem
from tests.http.checks import check_problem

BODY: Final = problems.INVALID_BODY
QUANTITY: Final = problems.INVALID_QUANTITY


async def post(client: httpx2.AsyncClient, body: bytes | str, key: str = "k") -> httpx2.Response:
    return await client.post(
        "/accounts/alice/settlements",
        content=body,
        headers={"Idempotency-Key": key, "Content-Type": "application/json"},
    )


async def test_every_scale_echoes_exactly(client: httpx2.AsyncClient) -> None:
    for scale in range(limits.SCALE_MAX + 1):
        body = f'{{"amount":"{scale + 1}","scale":{scale}}}'
        response = await post(client, body, key=f"key-{scale}")
        assert (response.status_code, response.text) == (201, body)


@pytest.mark.parametrize("digits", [1000, limits.AMOUNT_DIGITS_MAX])
@pytest.mark.parametrize("scale", [0, 17, 255])
async def test_the_longest_amounts_echo_exactly(
    client: httpx2.AsyncClient, digits: int, scale: int
) -> None:
    body = f'{{"amount":"{("1234567890" * 103)[:digits]}","scale":{scale}}}'
    response = await post(client, body)
    assert (response.status_code, response.text) == (201, body)


async def test_leading_zeros_and_odd_but_valid_json_are_the_same_amount(
    client: httpx2.AsyncClient,
) -> None:
    first = await post(client, b'{"amount":"100","scale":2}')
    for body in (
        b'{"amount":"00100","scale":2}',
        b' \r\n\t{"scale" : 2 , "amount" : "100" } \n',
        b'{"amount":"7","scale":9,"amount":"100","scale":2}',
        b'{"amount":"\\u0031\\u0030\\u0030","scale":2}',
        b'{"amount":"100","scale":2,"x":{"y":[1.5e300,null,"\\n"]}}',
        b'{"amount":"1","scale":-0}',
    ):
        again = await post(client, body)
        assert (again.status_code, again.content) == (201, first.content)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('{"amount":"-0","scale":2}', QUANTITY),
        ('{"amount":"-1","scale":2}', QUANTITY),
        ('{"amount":"+1","scale":2}', QUANTITY),
        ('{"amount":"1e3","scale":2}', QUANTITY),
        ('{"amount":"1.5","scale":2}', QUANTITY),
        ('{"amount":"0x10","scale":2}', QUANTITY),
        ('{"amount":"\u0663","scale":2}', QUANTITY),
        ('{"amount":"\u00b2","scale":2}', QUANTITY),
        ('{"amount":" 1_000 ","scale":2}', QUANTITY),
        ('{"amount":"1_000","scale":2}', QUANTITY),
        ('{"amount":"1\\n","scale":2}', QUANTITY),
        ('{"amount":"","scale":2}', QUANTITY),
        ('{"amount":"NaN","scale":2}', QUANTITY),
        ('{"amount":"Infinity","scale":2}', QUANTITY),
        ('{"amount":"%s","scale":2}' % ("9" * 1025), QUANTITY),
        ('{"amount":"%s","scale":2}' % ("9" * 5000), QUANTITY),
        ('{"amount":"1","scale":-1}', QUANTITY),
        ('{"amount":"1","scale":256}', QUANTITY),
        ('{"amount":"1","scale":%s}' % ("9" * 30), QUANTITY),
        ('{"amount":"1","scale":%s}' % ("9" * 5000), BODY),
        ('{"amount":"1","scale":02}', BODY),
        ('{"amount":"1","scale":6.0}', BODY),
        ('{"amount":"1","scale":1e2}', BODY),
        ('{"amount":"1","scale":1e999}', BODY),
        ('{"amount":"1","scale":true}', BODY),
        ('{"amount":"1","scale":"2"}', BODY),
        ('{"amount":"1","scale":null}', BODY),
        ('{"amount":"1","scale":NaN}', BODY),
        ('{"amount":"1","scale":Infinity}', BODY),
        ('{"amount":"1","scale":[2]}', BODY),
        ('{"amount":1,"scale":2}', BODY),
        ('{"amount":%s,"scale":2}' % ("9" * 5000), BODY),
        ('{"amount":1.0,"scale":2}', BODY),
        ('{"amount":true,"scale":2}', BODY),
        ('{"amount":null,"scale":2}', BODY),
        ('{"amount":NaN,"scale":2}', BODY),
        ('{"amount":"1"}', BODY),
        ('{"scale":2}', BODY),
        ("{}", BODY),
        ("[]", BODY),
        ("null", BODY),
        ('"1"', BODY),
        ("", BODY),
        (" ", BODY),
        ('{"amount":"1","scale":2', BODY),
        ('{"amount":"1","scale":2}}', BODY),
        ('{"amount":"1","scale":2,}', BODY),
        ("{'amount':'1','scale':2}", BODY),
        ('\ufeff{"amount":"1","scale":2}', BODY),
    ],
)
async def test_what_is_no_quantity_is_refused(
    client: httpx2.AsyncClient, body: str, problem: Problem
) -> None:
    check_problem(await post(client, body), problem)
    # The key is still free: nothing was recorded under it.
    assert (await post(client, '{"amount":"42","scale":0}')).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        b'{"amount":"\xff","scale":2}',
        b'{"amount":"1","scale":2,"x":"\xff"}',
        b'{"amount":"\\ud800","scale":2}',
        b'{"am\xffount":"1","amount":"1","scale":2}',
        '{"amount":"1","scale":2}'.encode("utf-16"),
        b"\x00" * 1000,
        b"[" * 30_000 + b"]" * 30_000,
        b'{"amount":"1","scale":2,"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"amount":"1","scale":2,"x":' + b'{"a":' * 10_500 + b"1" + b"}" * 10_500 + b"}",
    ],
)
async def test_bad_text_and_deep_nesting_are_refused(
    client: httpx2.AsyncClient, body: bytes
) -> None:
    check_problem(await post(client, body), BODY)


async def test_nesting_a_hundred_thousand_deep_is_too_large(client: httpx2.AsyncClient) -> None:
    check_problem(await post(client, b"[" * 100_000), problems.BODY_TOO_LARGE)
