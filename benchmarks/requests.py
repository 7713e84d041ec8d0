"""Single requests, for all that is not load: accounts, a first look, and what engines are told."""

import http.client
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from benchmarks.errors import BenchmarkError

_TIMEOUT_S: Final = 30
_WANTED: Final = {"POST": 201, "GET": 200}


def post(url: str, path: str, body: object, *, key: str | None = None) -> bytes:
    """Post JSON, as the path wants it; return the answer's body.

    Raises:
        BenchmarkError: when the answer is anything but 201.
    """
    media_type = "application/octet-stream" if path.endswith("/messages") else "application/json"
    headers = {"Content-Type": media_type}
    if key is not None:
        headers["Idempotency-Key"] = key
    return _request(url, "POST", path, json.dumps(body).encode(), headers)


def get(url: str, path: str) -> bytes:
    """Return the body of what is at the path.

    Raises:
        BenchmarkError: when the answer is anything but 200.
    """
    return _request(url, "GET", path)


def _request(
    url: str,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    parts = urlsplit(url)
    conn = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    try:
        conn.request(method, path, body, dict(headers))
        response = conn.getresponse()
        answer = response.read()
    except OSError as error:
        raise BenchmarkError(f"{method} {url}{path} failed: {error}") from error
    finally:
        conn.close()
    if response.status != _WANTED[method]:
        raise BenchmarkError(
            f"{method} {url}{path} was answered with {response.status}: {answer[:200]!r}"
        )
    return answer


def open_accounts(url: str, count: int) -> None:
    """Open the accounts a0, a1, ... of a side that has none.

    Raises:
        BenchmarkError: when one is refused.
    """
    for number in range(count):
        post(url, "/accounts", {"id": f"a{number}"})
