"""Every error is a problem that says what to do, and an unknown outcome is no answer at all."""

import contextlib
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog
import trio
from structlog.testing import capture_logs

from settled import limits
from settled.errors import (
    AccountNotFound,
    HandlerFailed,
    KeyReused,
    MessageRefused,
    SettledError,
    StoreBroken,
    StoreBusy,
)
from settled.http import handlers, problems
from settled.http.problems import PROBLEMS, Problem, problem_reply, status_reply
from tests.http.checks import check_problem, parse_raw, read_answer
from tests.http.conftest import OCTETS, FakeOperations, Served, fake_app, read_all, serving

SETTLE = (
    b"POST /accounts/alice/settlements HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\n"
    b'Content-Length: 24\r\n\r\n{"amount":"1","scale":0}'
)


def raising(error: BaseException) -> Any:
    def act() -> None:
        raise error

    return act


async def every_request(client: httpx2.AsyncClient) -> list[httpx2.Response]:
    return [
        await client.post("/accounts", json={"id": "alice"}),
        await client.delete("/accounts/alice"),
        await client.post(
            "/accounts/alice/settlements",
            json={"amount": "1", "scale": 0},
            headers={"Idempotency-Key": "k"},
        ),
        await client.post("/accounts/alice/messages", content=b"m", headers=OCTETS),
    ]


@pytest.mark.parametrize(
    ("error", "problem", "said"),
    [
        (AccountNotFound("alice"), problems.ACCOUNT_NOT_FOUND, True),
        (KeyReused("alice", "k", "7"), problems.KEY_REUSED, True),
        (MessageRefused("account alice: no handler"), problems.MESSAGE_REFUSED, True),
        (HandlerFailed("secret cause"), problems.HANDLER_FAILED, False),
        (StoreBusy("secret cause"), problems.STORE_BUSY, False),
        (SettledError("secret cause"), problems.INTERNAL_ERROR, False),
        (ValueError("secret cause"), problems.INTERNAL_ERROR, False),
        (RecursionError("secret cause"), problems.INTERNAL_ERROR, False),
        (ExceptionGroup("secret cause", [ValueError()]), problems.INTERNAL_ERROR, False),
    ],
)
async def test_errors_become_their_problems_on_every_endpoint(
    error: Exception, problem: Problem, said: bool
) -> None:
    async with serving(fake_app(raising(error))) as served, served.client() as client:
        for response in await every_request(client):
            detail = check_problem(response, problem)
            assert (str(error) == detail) is said
            assert "secret" not in response.text
            retry_after = response.headers.get("Retry-After")
            assert retry_after == (str(limits.RETRY_AFTER_S) if problem.status == 503 else None)


async def test_an_unforeseen_error_is_logged_with_its_traceback() -> None:
    app = fake_app(raising(ValueError("the cause")))
    structlog.reset_defaults()
    with capture_logs() as logged:
        async with serving(app) as served, served.client() as client:
            await client.post("/accounts")
    (line,) = logged
    assert (line["event"], line["request"]) == ("request_failed", "post_account")
    assert line["exc_info"].args == ("the cause",)


@pytest.mark.parametrize(
    "error", [StoreBroken("disk"), ExceptionGroup("both", [ValueError(), StoreBroken("disk")])]
)
async def test_an_unknown_outcome_gets_no_answer(error: Exception) -> None:
    app = fake_app(raising(error))
    async with serving(app, grace_s=0.2) as served, await served.connect() as stream:
        await stream.send_all(SETTLE)
        with trio.move_on_after(0.2) as waited:
            await stream.receive_some()
        assert waited.cancelled_caught
        served.stop.set()
        assert await read_all(stream) == b""


async def test_the_handlers_let_an_unknown_outcome_out() -> None:
    operations: Any = FakeOperations(raising(StoreBroken("disk")))
    with pytest.raises(StoreBroken):
        await handlers.delete_account(operations, "alice")


async def test_what_is_no_ordinary_exception_ends_the_server_without_an_answer() -> None:
    answers: list[bytes] = []
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        async with serving(fake_app(raising(KeyboardInterrupt()))) as served:
            stream = await served.connect()
            await stream.send_all(SETTLE)
            try:
                with trio.move_on_after(3):
                    await served.ended.wait()
            finally:
                with trio.CancelScope(shield=True):
                    answers.append(await read_all(stream))
                    await stream.aclose()
    assert answers == [b""]


@pytest.mark.parametrize("status", [400, 404, 405, 408, 413, 415, 418, 431, 500, 501, 505])
def test_every_status_of_the_framework_has_a_problem(status: int) -> None:
    reply = status_reply(status)
    assert reply.content_type == problems.CONTENT_TYPE
    assert reply.status // 100 == status // 100


def test_the_problems_are_told_apart_by_their_types() -> None:
    assert len({problem.type for problem in PROBLEMS}) == len(PROBLEMS) >= 15
    for problem in PROBLEMS:
        assert problem_reply(problem, "detail").status == problem.status


def test_the_documentation_lists_every_problem_and_the_limits() -> None:
    text = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    for problem in PROBLEMS:
        assert f"| `{problem.name}` | {problem.status} |" in text
    for limit in (
        limits.BODY_BYTES_MAX,
        limits.ACCOUNT_ID_CHARS_MAX,
        limits.IDEMPOTENCY_KEY_CHARS_MAX,
        limits.AMOUNT_DIGITS_MAX,
        limits.SCALE_MAX,
    ):
        assert f"{limit:,}" in text
    for seconds in (
        limits.HEADER_TIMEOUT_S,
        limits.BODY_TIMEOUT_S,
        limits.MESSAGE_HANDLER_TIMEOUT_S,
    ):
        assert f"{seconds} s" in text


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/accounts", "POST"),
        ("HEAD", "/accounts", "POST"),
        ("OPTIONS", "/accounts", "POST"),
        ("PUT", "/accounts/alice", "DELETE"),
        ("POST", "/accounts/alice", "DELETE"),
        ("GET", "/accounts/alice/settlements", "POST"),
        ("DELETE", "/accounts/alice/messages", "POST"),
        ("OPTIONS", "/accounts/alice/messages", "POST"),
        ("TRACE", "/accounts", "POST"),
        ("BREW", "/accounts", "POST"),
    ],
)
async def test_other_methods_are_refused_with_those_allowed(
    client: httpx2.AsyncClient, method: str, path: str, allow: str
) -> None:
    response = await client.request(method, path)
    assert response.headers["Allow"] == allow
    if method == "HEAD":
        assert (response.status_code, response.content) == (405, b"")
    else:
        check_problem(response, problems.METHOD_NOT_ALLOWED)


@pytest.mark.parametrize(
    "path", ["/", "/account", "/accounts/alice/settlement", "/static/x", "/accounts/a/b/c"]
)
async def test_other_paths_are_not_found(client: httpx2.AsyncClient, path: str) -> None:
    check_problem(await client.post(path, content=b"{}"), problems.NOT_FOUND)


async def test_a_body_that_does_not_come_is_timed_out() -> None:
    app = fake_app()
    app.config["BODY_TIMEOUT"] = 0.1
    async with serving(app) as served:
        answer = await served.exchange(SETTLE[:-1])
    status, _, problem = parse_raw(answer)
    assert (status, problem["type"]) == (408, problems.REQUEST_TIMEOUT.type)


async def test_a_body_up_to_the_limit_is_taken(client: httpx2.AsyncClient) -> None:
    body = b"m" * limits.BODY_BYTES_MAX
    response = await client.post("/accounts/alice/messages", content=body, headers=OCTETS)
    assert (response.status_code, response.content) == (201, b"alice:" + body)


@pytest.mark.parametrize("size", [limits.BODY_BYTES_MAX + 1, 1_000_000, 17_000_000])
async def test_a_larger_body_is_refused(client: httpx2.AsyncClient, size: int) -> None:
    response = await client.post("/accounts/alice/messages", content=b"m" * size, headers=OCTETS)
    check_problem(response, problems.BODY_TOO_LARGE)


@pytest.mark.parametrize("size", [limits.BODY_BYTES_MAX + 1, 500_000])
@pytest.mark.parametrize("path", ["/accounts/alice/messages", "/nowhere"])
async def test_the_answer_survives_a_client_that_sends_everything_before_it_reads(
    served: Served, size: int, path: str
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n"
    answer = await served.exchange(head.encode() + b"Connection: close\r\n\r\n" + b"m" * size)
    assert parse_raw(answer)[0] == (404 if path == "/nowhere" else 413)


async def test_a_chunked_body_is_cut_at_the_limit_though_it_never_ends(served: Served) -> None:
    chunk = b"400\r\n" + b"m" * 1024 + b"\r\n"
    async with await served.connect() as stream:
        await stream.send_all(
            b"POST /accounts/alice/messages HTTP/1.1\r\nHost: x\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(limits.BODY_BYTES_MAX // 1024 + 1):
            await stream.send_all(chunk)
        assert parse_raw(await read_answer(stream))[0] == 413
        with trio.fail_after(4):
            await _send_until_cut(stream, chunk)


async def _send_until_cut(stream: trio.SocketStream, chunk: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await stream.send_all(chunk)


async def test_a_chunked_body_within_the_limit_is_taken(served: Served) -> None:
    answer = await served.exchange(
        b"POST /accounts/alice/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n"
    )
    assert parse_raw(answer)[::2] == (201, b"alice:abc")


async def test_the_handlers_work_without_any_server() -> None:
    operations: Any = FakeOperations()
    reply = await handlers.post_settlement(
        operations, handlers.PostSettlement("alice", None, ["k"], b'{"amount":"1","scale":0}')
    )
    assert (reply.status, reply.body) == (201, b'{"amount":"1","scale":0}')
    assert operations.calls == ["queue_settlement"]
