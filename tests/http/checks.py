"""What every test of the HTTP API asks of an answer."""

import json
from typing import Any

import httpx2
import trio

from settled.http.problems import CONTENT_TYPE, Problem


def check_problem(response: httpx2.Response, problem: Problem) -> str:
    """Check that the response reports this problem in full; return its detail."""
    assert response.status_code == problem.status, response.text
    assert response.headers["Content-Type"] == CONTENT_TYPE
    body = response.json()
    detail = body.pop("detail")
    assert body == {"type": problem.type, "title": problem.title, "status": problem.status}
    assert isinstance(detail, str)
    assert detail
    assert "Traceback" not in detail
    return detail


def check_client_error(response: httpx2.Response) -> None:
    """Check for some documented 4xx problem."""
    assert 400 <= response.status_code < 500, response.text
    assert response.headers["Content-Type"] == CONTENT_TYPE
    assert response.json()["type"].startswith("urn:settled:problem:")


async def read_answer(stream: trio.abc.ReceiveStream) -> bytes:
    """Return one raw answer from a connection that stays open."""
    answer = b""
    with trio.fail_after(4):
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive_some()
        head, _, body = answer.partition(b"\r\n\r\n")
        length = int(parse_raw(head + b"\r\n\r\n{}")[1]["content-length"])
        while len(body) < length:
            body += await stream.receive_some()
    return head + b"\r\n\r\n" + body


def parse_raw(answer: bytes) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and body of one raw HTTP/1.1 answer; JSON bodies are decoded."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if "json" in headers.get("content-type", ""):
        return int(status_line.split()[1]), headers, json.loads(body)
    return int(status_line.split()[1]), headers, body
