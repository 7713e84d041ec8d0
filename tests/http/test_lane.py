"""The short lane: what it takes, what it leaves to Hypercorn, and how a connection ends in it."""

import os
import socket
from functools import partial

import pytest
import trio

from settled import limits
from settled.core.operations import Operations
from settled.errors import StoreBroken
from settled.http import lane, ordinary, rounds
from settled.http.ordinary import NotOrdinary, Request
from settled.http.replies import Reply
from tests.hostile import two_ways
from tests.http.checks import parse_raw, read_answer
from tests.http.conftest import Served, app_of, fake_app, read_all, serving

BODY = b'{"amount":"100","scale":2}'


def post(*headers: str, path: str = "/accounts/alice/settlements", body: bytes = BODY) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


ORDINARY = post("Content-Type: application/json", "Idempotency-Key: k")


def is_ordinary(said: bytes) -> bool:
    try:
        return Request(said).whole
    except NotOrdinary:
        return False


def test_an_ordinary_request_is_read_whole_wherever_it_is_cut() -> None:
    for length in range(1, len(ORDINARY)):
        assert not Request(ORDINARY[:length]).whole
    for more in (b"", b"POST", ORDINARY, b"\x00"):
        request = Request(ORDINARY + more)
        assert request.whole
        assert request.end == len(ORDINARY)
        assert (request.account_id, request.keys, request.body) == ("alice", ["k"], BODY)
        assert request.content_type == "application/json"


@pytest.mark.parametrize(
    "said",
    [
        b"GET ",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01",
        post(path="/accounts/alice/message"),
        post(path="/accounts/alice/messages?x"),
        post(path="/accounts/al%69ce/settlements"),
        post(path="/accounts/alice/settlements?x"),
        ORDINARY.replace(b"HTTP/1.1", b"HTTP/1.0"),
        ORDINARY.replace(b"Host: x\r\n", b""),
        ORDINARY.replace(b"\r\n", b"\n"),
        ORDINARY.replace(b"Content-Length: 26", b"Content-Length: 026"),
        ORDINARY.replace(b"Content-Length: 26", b"Content-Length: +26"),
        ORDINARY.replace(b"Content-Length: 26\r\n", b""),
        post(body=b""),
        post(body=b" " * limits.READ_BYTES_MAX),
        *(
            post(header)
            for header in (
                *("Host: y", "Content-Length: 26", "Transfer-Encoding: chunked", "Origin: x"),
                *("Expect: 100-continue", "Upgrade: h2c", "Connection: close", "TE: trailers"),
                *("X: \xe9", "X: a\x01", "X : y", " folded", "Connection: upgrade", "X"),
            )
        ),
        post("Content-Type: application/json", "Content-Type: application/json"),
    ],
)
def test_what_is_not_ordinary_is_left_to_hypercorn(said: bytes) -> None:
    assert is_ordinary(ORDINARY)
    with pytest.raises(NotOrdinary):
        Request(said)


def test_a_request_that_never_ends_is_left_to_hypercorn() -> None:
    with pytest.raises(NotOrdinary):
        Request(b"POST /accounts/" + b"a" * limits.READ_BYTES_MAX)
    with pytest.raises(NotOrdinary):
        Request(post()[:60] + b"x" * limits.READ_BYTES_MAX)


@pytest.mark.parametrize("seed", [1, 2])
async def test_both_ways_answer_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("settled.http.slots._go_slowly", trio.lowlevel.checkpoint)
    assert await two_ways.compare(250, seed) > 250


async def test_a_lane_that_reads_a_header_wrongly_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("settled.http.slots._go_slowly", trio.lowlevel.checkpoint)
    monkeypatch.setattr(ordinary, "_NOT_ORDINARY", frozenset())
    with pytest.raises((AssertionError, ExceptionGroup)):
        await two_ways.compare(500, 1)


async def test_pipelined_requests_are_answered_in_their_order(served: Served) -> None:
    requests = [
        post(f"Idempotency-Key: p{n}", body=b'{"amount":"%d","scale":0}' % (n + 1))
        for n in range(20)
    ]
    async with await served.connect() as stream:
        await stream.send_all(b"".join(requests))
        await stream.send_eof()
        answers = (await read_all(stream)).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"201"] * 20
    amounts = [parse_raw(b"HTTP/1.1 " + answer)[2]["amount"] for answer in answers]
    assert amounts == [str(n + 1) for n in range(20)]


async def test_the_rest_of_a_connection_is_hypercorns(served: Served) -> None:
    async with await served.connect() as stream:
        for n in range(2):
            await stream.send_all(post(f"Idempotency-Key: a{n}"))
            assert (await read_answer(stream)).startswith(b"HTTP/1.1 201")
            await stream.send_all(post(path="/accounts", body=b'{"id":"bob"}'))
            assert (await read_answer(stream)).startswith(b"HTTP/1.1 201")


async def test_a_slow_request_is_handed_over_and_answered(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LANE_REST_S", 0.05)
    request = post("Idempotency-Key: slow")
    async with await served.connect() as stream:
        await stream.send_all(request[:50])
        await trio.sleep(0.2)
        await stream.send_all(request[50:-3])
        await trio.sleep(0.2)
        await stream.send_all(request[-3:])
        assert (await read_answer(stream)).startswith(b"HTTP/1.1 201")


async def test_nothing_is_lost_while_a_connection_waits_for_its_turn(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LANE_REST_S", 0.05)
    request = post("Idempotency-Key: late")
    async with await served.connect() as stream:
        await stream.send_all(request[:-5])
        await trio.testing.wait_all_tasks_blocked(0.01)
        monkeypatch.setattr("settled.http.slots._go_slowly", partial(trio.sleep, 0.2))
        await stream.send_all(request[-5:])
        assert (await read_answer(stream)).startswith(b"HTTP/1.1 201")


async def test_an_idle_connection_is_closed_and_an_answered_one_is_kept_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "HEADER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(limits, "KEEP_ALIVE_S", 0.8)
    async with serving(fake_app()) as served, await served.connect() as stream:
        await stream.send_all(post("Idempotency-Key: k"))
        await read_answer(stream)
        answered = trio.current_time()
        assert await read_all(stream) == b""
        assert 0.7 < trio.current_time() - answered < 2


async def test_a_connection_in_the_lane_ends_with_the_server() -> None:
    async with serving(fake_app()) as served, await served.connect() as stream:
        await stream.send_all(post("Idempotency-Key: k"))
        await read_answer(stream)
        served.stop.set()
        with trio.fail_after(1):
            await served.ended.wait()
        assert await read_all(stream) == b""


async def test_a_request_under_way_is_answered_before_the_end() -> None:
    go_on = trio.Event()
    async with serving(fake_app(go_on.wait), grace_s=5) as served:
        async with await served.connect() as stream:
            await stream.send_all(post("Idempotency-Key: k"))
            await trio.testing.wait_all_tasks_blocked(0.05)
            served.stop.set()
            await trio.testing.wait_all_tasks_blocked(0.05)
            go_on.set()
            assert (await read_all(stream)).startswith(b"HTTP/1.1 201")
        with trio.fail_after(1):
            await served.ended.wait()


async def test_an_answer_that_is_taken_in_part_is_sent_whole(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_part(sock: trio.socket.SocketType, answer: bytes) -> int:
        return os.write(sock.fileno(), answer[:3])

    monkeypatch.setattr(lane, "send_now", in_part)
    monkeypatch.setattr(rounds, "send_now", in_part)
    async with await served.connect() as stream:
        for path in ("settlements", "settlements", "messages", "settlements"):
            await stream.send_all(post("Idempotency-Key: k", path=f"/accounts/alice/{path}"))
            answer = await read_answer(stream)
            assert answer.startswith(b"HTTP/1.1 201")
            assert answer.endswith(BODY)


async def test_a_client_that_is_gone_does_not_end_the_request_of_another(
    operations: Operations,
) -> None:
    async with serving(app_of(operations)) as served:
        for n in range(20):
            stream = await served.connect()
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await stream.send_all(post(f"Idempotency-Key: k{n}"))
            await stream.aclose()  # with a reset
        async with await served.connect() as stream:
            await stream.send_all(post("Idempotency-Key: last"))
            assert (await read_answer(stream)).startswith(b"HTTP/1.1 201")


async def test_an_outcome_that_nobody_knows_is_not_answered() -> None:
    def break_it() -> None:
        raise StoreBroken("torn")

    async with serving(fake_app(break_it), grace_s=0.2) as served, await served.connect() as stream:
        await stream.send_all(post("Idempotency-Key: k"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        served.stop.set()
        assert await read_all(stream) == b""


@pytest.mark.parametrize("short_lane", [True, False])
async def test_only_the_lane_takes_ordinary_requests(
    short_lane: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[Reply] = []
    encoded = Reply.encoded

    def count(reply: Reply) -> bytes:
        answered.append(reply)
        return encoded(reply)

    monkeypatch.setattr(Reply, "encoded", count)
    async with (
        serving(fake_app(), short_lane=short_lane) as served,
        await served.connect() as stream,
    ):
        for path in ("settlements", "messages", "settlements"):
            await stream.send_all(post("Idempotency-Key: k", path=f"/accounts/alice/{path}"))
            assert (await read_answer(stream)).startswith(b"HTTP/1.1 201")
    assert [reply.status for reply in answered] == ([201] * 3 if short_lane else [])
