"""Connections that are kept: no answer ever comes to another request than its own."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import h11
import pytest
import trio
from msgspec.structs import replace

from settled import limits
from settled.answers import Ordinary, ordinary
from settled.connector import Connector
from settled.store.records import Ambiguous, Credit, Delivered, DeliveryOutcome, NotDelivered
from tests.neighbours.faults import FAULTS, TAKEN, head
from tests.neighbours.servers import read_request, serving
from tests.neighbours.test_connector_connections import (
    CA,
    OK,
    no_socket_is_left,
    nothing_left,
    sweep,
    tls_of,
    trusting,
)
from tests.promises.test_10_closed_by_default import CREDIT

__all__ = ["no_socket_is_left"]

OOPS = head("500 Oops", "Content-Length: 0")

WAYS = ("at once", "by a task")


@pytest.fixture(params=WAYS, autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have credits sent without a task where that can be done, or never."""
    by_a_task = Connector.deliver

    async def deliver(connector: Connector, credit: Credit) -> DeliveryOutcome:
        outcomes: list[DeliveryOutcome] = []
        told = trio.Event()

        def tell(outcome: DeliveryOutcome) -> None:
            outcomes.append(outcome)
            told.set()

        if not connector.deliver_at_once(credit, tell):
            return await by_a_task(connector, credit)
        with trio.CancelScope(shield=True):  # it goes on when nobody waits for it
            await told.wait()
        await trio.lowlevel.checkpoint()
        (outcome,) = outcomes
        return outcome

    if request.param == "at once":
        monkeypatch.setattr(Connector, "deliver", deliver)
    return str(request.param)


@dataclass
class Counts:
    connections: int = 0
    requests: int = 0
    open: int = 0


class Server:
    """Answers each request in turn; counts connections, and those that the client has not ended."""

    def __init__(self, answers: bytes | list[bytes] = OK) -> None:
        self.counts = Counts()
        self._answers = answers

    async def handle(self, stream: Any) -> None:
        self.counts.connections += 1
        self.counts.open += 1
        try:
            while await read_request(stream) is not None:
                await self.answer(stream)
        finally:
            self.counts.open -= 1

    async def answer(self, stream: Any) -> None:
        self.counts.requests += 1
        answers = self._answers
        await stream.send_all(answers if isinstance(answers, bytes) else answers.pop(0))


@asynccontextmanager
async def keeping(url: str) -> AsyncIterator[Connector]:
    connector = Connector(url)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connector.keep_connections)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(20):
            yield connector
        nursery.cancel_scope.cancel()
    nothing_left(connector)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a rest."""
    monkeypatch.setattr(limits, "CONNECTION_REST_MAX_S", 0)
    monkeypatch.setattr(limits, "CONNECTION_REST_MIN_S", 0)


async def test_a_connection_that_has_rested_is_used_again() -> None:
    server = Server()
    async with serving(server.handle) as url, keeping(url) as connector:
        assert isinstance(await connector.deliver(CREDIT), Delivered)
        await trio.sleep(limits.CONNECTION_REST_MAX_S)
        assert isinstance(await connector.deliver(CREDIT), Delivered)
    assert server.counts.connections == 1
    assert server.counts.requests == 2


async def test_a_second_answer_that_comes_late_ends_a_connection_that_rests() -> None:
    """The next credit is not acknowledged by it, however soon it is sent."""
    counts = Counts()

    async def handle(stream: trio.SocketStream) -> None:
        counts.connections += 1
        while await read_request(stream) is not None:
            counts.requests += 1
            if counts.requests == 1:
                await stream.send_all(OK)
                await trio.sleep(0.1)
                await stream.send_all(OK)
            else:
                await trio.sleep(0.2)
                await stream.send_all(OOPS)

    async with serving(handle) as url, keeping(url) as connector:
        assert isinstance(await connector.deliver(CREDIT), Delivered)
        assert isinstance(await connector.deliver(CREDIT), Ambiguous)
        await trio.sleep(limits.CONNECTION_REST_MAX_S)
        assert isinstance(await connector.deliver(CREDIT), Ambiguous)
    assert counts.connections == 3


@pytest.mark.parametrize("late", [OK, b"x", b""], ids=["an answer", "a byte", "the end"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_what_comes_while_a_connection_rests_ends_it(
    late: bytes, tls: bool, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting(monkeypatch)
    server = Server()

    async def handle(stream: Any) -> None:
        if server.counts.connections:
            await server.handle(stream)
        else:
            server.counts.connections += 1
            await read_request(stream)
            await stream.send_all(OK)
            if late:
                await stream.send_all(late)
                await trio.sleep_forever()

    context = tls_of(CA.issue_cert("127.0.0.1")) if tls else None
    async with serving(handle, tls=context) as url, keeping(url) as connector:
        assert isinstance(await connector.deliver(CREDIT), Delivered)
        await trio.sleep(0.05)
        server._answers = OOPS
        assert isinstance(await connector.deliver(CREDIT), Ambiguous)
    assert server.counts.connections == 2, "an end is no reason for a doubt, either"
    assert server.counts.requests == 1


async def test_an_answer_too_many_that_is_not_yet_deciphered_is_noticed(
    at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two records of TLS come in one piece; nothing more is to be seen on the socket."""
    trusting(monkeypatch)
    connections = 0

    async def handle(stream: Any) -> None:
        nonlocal connections
        connections += 1
        while await read_request(stream) is not None:
            if connections == 1:
                tickets = stream._delayed_outgoing or b""
                for _ in range(2):
                    stream._ssl_object.write(OK)
                await stream.transport_stream.send_all(tickets + stream._outgoing.read())
            else:
                await stream.send_all(OOPS)

    context = tls_of(CA.issue_cert("127.0.0.1"))
    async with serving(handle, tls=context) as url, keeping(url) as connector:
        assert isinstance(await connector.deliver(CREDIT), Delivered)
        assert isinstance(await connector.deliver(CREDIT), Ambiguous)
    assert connections == 2


async def test_a_connection_over_tls_is_used_again(
    at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting(monkeypatch)
    server = Server()
    context = tls_of(CA.issue_cert("127.0.0.1"))
    async with serving(server.handle, tls=context) as url, keeping(url) as connector:
        for _ in range(3):
            assert isinstance(await connector.deliver(CREDIT), Delivered)
            await trio.sleep(0.01)
    assert server.counts.connections == 1


ORDINARY = ("200", "200 without a reason", "202", "not the JSON that was asked for", "false gzip")
NOT_ORDINARY = {
    **{name: answer for name, answer in TAKEN.items() if name not in ORDINARY},
    "it will be closed": head("200 OK", "Content-Length: 0", "Connection: close"),
    "upgraded": head("200 OK", "Content-Length: 0", "Upgrade: h2c"),
    "chunked, and a length": head("200 OK", "Content-Length: 0", "Transfer-Encoding: chunked"),
    "404": head("404 Not Found", "Content-Length: 0"),
    "500": OOPS,
    "too long": head("200 OK", "Content-Length: 65537") + bytes(65537),
}


@pytest.mark.parametrize("name", NOT_ORDINARY)
async def test_only_after_an_ordinary_answer_a_connection_is_kept(
    name: str, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECTOR_TIMEOUT_S", 0.2)
    server = Server([NOT_ORDINARY[name], OK])
    async with serving(server.handle) as url, keeping(url) as connector:
        await connector.deliver(CREDIT)
        assert isinstance(await connector.deliver(CREDIT), Delivered)
    assert server.counts.connections == 2


async def test_one_that_ends_under_the_request_is_unclear_and_then_sent_anew(
    at_once: None,
) -> None:
    keys: list[str] = []

    async def handle(stream: trio.SocketStream) -> None:
        for answer in (OK, b""):
            request = await read_request(stream)
            if request is None:
                return
            keys.append(request.key)
            await stream.send_all(answer)

    async with serving(handle) as url, keeping(url) as connector:
        assert isinstance(await connector.deliver(CREDIT), Delivered)
        assert isinstance(await connector.deliver(CREDIT), Ambiguous)
        assert isinstance(await connector.deliver(CREDIT), Delivered)
    assert keys == [CREDIT.id] * 3


async def test_a_message_has_a_connection_of_its_own(at_once: None) -> None:
    """It is under no key: nobody sends it again if the connection ends under it."""
    server = Server()
    async with serving(server.handle) as url, keeping(url) as connector:
        assert isinstance(await connector.deliver(CREDIT), Delivered)
        assert await connector.send_message("alice", b"hello") == b"RECEIVED"
        await connector.send_message("alice", b"hello")
        await trio.sleep(0.05)
        assert server.counts.open == 1
    assert server.counts.connections == 3


async def test_they_are_closed_before_the_server_ends_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECTION_KEPT_S", 0.1)
    server = Server()
    async with serving(server.handle) as url, keeping(url) as connector:
        await connector.deliver(CREDIT)
        await trio.sleep(0.02)
        assert server.counts.open == 1
        await trio.sleep(0.2)
        assert server.counts.open == 0


async def test_only_so_many_are_kept_and_none_beyond_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_KEPT_MAX", 2)
    server = Server()
    async with serving(server.handle) as url:
        async with keeping(url) as connector:
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(connector.deliver, CREDIT)
            await trio.sleep(0.05)
            assert server.counts.open == 2
        await trio.sleep(0.05)
        assert server.counts.open == 0


async def test_what_is_under_way_at_the_end_is_not_kept() -> None:
    let_go = trio.Event()

    async def handle(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await let_go.wait()
        await stream.send_all(OK)
        await trio.sleep_forever()

    async with serving(handle) as url, trio.open_nursery() as nursery:
        async with keeping(url) as connector:
            nursery.start_soon(connector.deliver, CREDIT)
            await trio.sleep(0.05)
        let_go.set()


async def test_what_is_sent_at_once_is_closed_at_the_end_and_not_told_of(at_once: None) -> None:
    server, told = Server([OK, b""]), list[DeliveryOutcome]()
    async with serving(server.handle) as url:
        async with keeping(url) as connector:
            assert not connector.deliver_at_once(CREDIT, told.append), "there is no connection yet"
            await connector.deliver(CREDIT)
            assert connector.deliver_at_once(CREDIT, told.append)
            await trio.sleep(0.05)
            assert server.counts.requests == 2
            connector_was = connector
        assert not connector_was.deliver_at_once(CREDIT, told.append), "it is over"
        await trio.sleep(0.05)
        assert server.counts.open == 0
    assert told == []


async def test_a_credit_that_cannot_be_sent_is_left_to_who_says_why(at_once: None) -> None:
    async with serving(Server().handle) as url, keeping(url) as connector:
        await connector.deliver(CREDIT)
        broken = replace(CREDIT, account_id="alice bob")
        assert not connector.deliver_at_once(broken, lambda _: None)
        assert isinstance(await connector.deliver(broken), NotDelivered)
        assert isinstance(await connector.deliver(CREDIT), Delivered)


# More than one answer: the first may be a late one to the request before.
TOO_MUCH = ("two answers", "a false length", "a redirect of two", "204 with a body")


@pytest.mark.parametrize("name", FAULTS)
async def test_what_an_answer_means_is_the_same_on_a_connection_that_was_kept(
    name: str, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECTOR_TIMEOUT_S", 0.5)
    connections = 0

    async def handle(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        await read_request(stream)
        await stream.send_all(OK)
        await read_request(stream)
        await FAULTS[name].act(stream)

    async with serving(handle) as url, keeping(url) as connector:
        assert isinstance(await connector.deliver(CREDIT), Delivered)
        outcome = Ambiguous if name in TOO_MUCH else FAULTS[name].outcome
        assert isinstance(await connector.deliver(CREDIT), outcome)
    assert connections == 1


FIRST = {
    "ordinary": [OK],
    "no body": [head("204 No Content")],
    "chunked": [head("200 OK", "Transfer-Encoding: chunked") + b"0\r\n\r\n"],
    "an odd reason": [OK.replace(b"Created", "Cré".encode())],
    "the head in two": [OK[:10], OK[10:]],
    "the body in two": [OK[:-1], OK[-1:]],
}


@pytest.mark.parametrize("first", FIRST)
async def test_of_two_answers_none_is_taken_however_they_come(first: str, at_once: None) -> None:
    async def handle(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(OK)
        await read_request(stream)
        *begun, rest = FIRST[first]
        for part in begun:
            await stream.send_all(part)
            await trio.sleep(0.01)
        await stream.send_all(rest + OOPS)

    async with serving(handle) as url, keeping(url) as connector:
        assert isinstance(await connector.deliver(CREDIT), Delivered)
        assert isinstance(await connector.deliver(CREDIT), Ambiguous)


async def test_an_answer_that_comes_in_any_pieces_is_understood(at_once: None) -> None:
    ways = [OK, head("202 Fine", "Transfer-Encoding: chunked") + b"2\r\nhi\r\n0\r\n\r\n", OOPS]
    for answer in ways:
        for cut in range(1, len(answer)):

            async def handle(stream: trio.SocketStream, answer: bytes = answer) -> None:
                await read_request(stream)
                await stream.send_all(OK)
                await read_request(stream)
                await stream.send_all(answer[:cut])  # noqa: B023 - it is over before the next
                await trio.sleep(0.002)
                await stream.send_all(answer[cut:])  # noqa: B023

            async with serving(handle) as url, keeping(url) as connector:
                assert isinstance(await connector.deliver(CREDIT), Delivered)
                outcome = await connector.deliver(CREDIT)
                assert isinstance(outcome, Ambiguous if answer == OOPS else Delivered)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_deliveries_cut_off_at_any_moment_mix_up_no_answers(
    tls: bool, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connector takes what alice is credited and fails on all that bob is."""
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 1)
    trusting(monkeypatch)
    luck = random.Random(1)
    at_most = 0

    async def handle(stream: Any) -> None:
        nonlocal at_most
        requests = 0
        while (request := await read_request(stream)) is not None:
            requests += 1
            at_most = max(at_most, requests)
            answer = OK if request.account_id == "alice" else OOPS
            await stream.send_all(answer[:-3])
            await trio.lowlevel.checkpoint()
            await stream.send_all(answer[-3:])

    async def deliver(connector: Connector) -> None:
        account_id = luck.choice(["alice", "alice", "bob"])
        outcome = await connector.deliver(replace(CREDIT, account_id=account_id))
        assert isinstance(outcome, Delivered if account_id == "alice" else Ambiguous)

    context = tls_of(CA.issue_cert("127.0.0.1")) if tls else None
    async with serving(handle, tls=context) as url, keeping(url) as connector:
        for _ in range(3):
            await sweep(connector, partial(deliver, connector))
            for _ in range(20):
                await deliver(connector)
    assert at_most > 1


def by_h11(received: bytes) -> tuple[int, bytes | None]:
    """Return the status and the body, ``None`` if it is not whole, as h11 has them."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
    http.send(h11.EndOfMessage())
    http.receive_data(received)
    response, body = http.next_event(), b""
    assert isinstance(response, h11.Response)
    while isinstance(event := http.next_event(), h11.Data):
        body += event.data
    return response.status_code, body if isinstance(event, h11.EndOfMessage) else None


def mutated(answer: bytes, luck: random.Random) -> bytes:
    changed = bytearray(answer)
    for _ in range(luck.randrange(3)):
        at = luck.randrange(len(changed))
        changed[at : at + luck.randrange(3)] = luck.choice(
            [b"", b"\r\n", b" ", b"\n", b":", b"\0", b"0", b"9", b"X: y\r\n", b"\xff", b"close"]
        )
    return bytes(changed)


async def test_an_ordinary_answer_is_what_h11_takes_it_for() -> None:
    luck, seen = random.Random(1), 0
    answers = [
        *(answer for answer in TAKEN.values() if len(answer) < 500),
        head("201 Created", "content-length:\t5 ", "Connection: Keep-Alive", "X-Y: z") + b"hello",
        head("202 Fine", "Connection: close", "Content-Length: 12") + b'{"amount":1}',
        *NOT_ORDINARY.values(),
    ]
    for answer in answers:
        for _ in range(300 if len(answer) < 500 else 3):
            received = mutated(answer, luck)
            seen += agrees(received, ordinary(received))
    assert seen > 1000
    for name, fault in FAULTS.items():
        if fault.outcome is not Delivered:
            assert ordinary(getattr(fault.act, "args", (b"",))[0]) is None, name


def agrees(received: bytes, found: Ordinary | None) -> bool:
    if found is None:
        return False
    status, body = by_h11(received)
    assert found.status == status
    whole = found.body[: found.length] if len(found.body) >= found.length else None
    assert whole == body
    return True
