"""Paths as real connectors write them, taken without a redirect."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settled.http.edge import plain_path
from tests.http.checks import parse_raw
from tests.http.conftest import Served

SETTLEMENTS = "/accounts/alice/settlements"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/accounts", 201),
        ("/accounts/", 201),
        ("//accounts", 201),
        ("//accounts///", 201),
        ("/accounts?x=/y//z", 201),
        ("/%61ccounts", 201),
        ("http://127.0.0.1:3000/accounts", 201),
        ("http://127.0.0.1:3000//accounts/?a=b", 201),
        (f"{SETTLEMENTS}/", 201),
        ("//accounts//alice//settlements//", 201),
        ("/se//accounts", 404),
        ("/accounts%2Falice%2Fsettlements", 404),
        ("/accounts/alice%2Fsettlements", 405),
        ("/accounts/../accounts", 404),
        ("/./accounts", 404),
        ("?", 404),
        ("*", 404),
        ("http://", 404),
        ("x", 404),
    ],
)
async def test_slashes_too_many_are_tolerated_and_never_redirected(
    served: Served, target: str, status: int
) -> None:
    body = '{"amount":"1","scale":0}' if "settlements" in target else ""
    answer = await served.exchange(
        f"POST {target} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    assert parse_raw(answer)[0] == status


@pytest.mark.parametrize(
    "host", ["a b", "[::1", "x:y:z", "\u00fc", "x" * 5000, "evil.example", "..", "%00"]
)
async def test_no_host_header_can_break_it(served: Served, host: str) -> None:
    answer = await served.exchange(
        f"POST /accounts HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("latin-1")
    )
    assert parse_raw(answer)[0] in {201, 400}


@given(st.binary())
def test_any_path_becomes_plain(raw_path: bytes) -> None:
    path = plain_path(b"/" + raw_path)
    assert path.startswith("/")
    assert "//" not in path
    assert path == "/" or not path.endswith("/")


@given(st.lists(st.text(min_size=1), max_size=5), st.data())
def test_slashes_too_many_change_nothing(segments: list[str], data: st.DataObject) -> None:
    quoted = [quote(segment, safe="") for segment in segments]
    slashes = st.sampled_from(["/", "//", "///"])
    messy = "".join(data.draw(slashes) + segment for segment in quoted)
    messy += data.draw(st.sampled_from(["", "/", "//"]))
    assert plain_path(messy.encode() or b"/") == plain_path(("/" + "/".join(quoted)).encode())
