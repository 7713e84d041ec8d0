"""The rounds of the short lane: what is read, committed and answered together."""

import contextlib
import os
import select
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any, cast

import outcome
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from settled import limits
from settled.core.operations import Operations
from settled.errors import StoreBroken
from settled.http.rounds import Rounds
from settled.http.slots import Slots
from settled.store.records import Request
from tests.http.conftest import FakeOperations, Served, app_of, read_all, serving
from tests.http.test_lane import BODY, ORDINARY, post

ANSWER = b"HTTP/1.1 201 \r\n"


class Together:
    """Operations that note what comes together, and wait for the test to let them end."""

    may_begin = True
    end_settlements = staticmethod(FakeOperations.end_settlements)

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.end: Callable[[], Any] = lambda: None

    def begin_settlements(self, requests: Sequence[Request], done: Callable[[Any], None]) -> None:
        self.calls.append(sorted(request.key for request in requests))
        FakeOperations(self.end).begin_settlements(requests, done)


class Held(Together):
    """Operations that record something when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Callable[[], None]] = []

    def begin_settlements(self, requests: Sequence[Request], done: Callable[[Any], None]) -> None:
        results = [outcome.Value(request.quantity) for request in requests]
        self._held.append(lambda: done(results))

    def tell(self) -> None:
        while self._held:
            self._held.pop(0)()


class Client:
    """One end of a connection; the task of the other waits in the rounds."""

    def __init__(self) -> None:
        self.sock, server = socket.socketpair()
        self.sock.setblocking(False)
        server.setblocking(False)
        self.server = trio.socket.from_stdlib_socket(server)
        self.slot = Slots().take(lambda: None)
        self.scope = trio.CancelScope()
        self.left: bytes | None = None

    async def serve(self, rounds: Rounds) -> None:
        with self.scope:
            self.left = await rounds.receive(self.server, self.slot)

    def answer(self) -> bytes:
        try:
            return self.sock.recv(65536)
        except BlockingIOError:
            return b""


class Lane:
    """Rounds that run."""

    def __init__(self, nursery: trio.Nursery, rounds: Rounds) -> None:
        self.nursery = nursery
        self.rounds = rounds

        self.clients: list[Client] = []

    def client(self, client: Client | None = None) -> Client:
        client = client or Client()
        self.clients.append(client)
        self.nursery.start_soon(client.serve, self.rounds)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.sock.close()
            client.server.close()


@asynccontextmanager
async def running(operations: Together) -> AsyncIterator[Lane]:
    with select.epoll() as epoll:
        rounds = Rounds(cast(Operations, operations), epoll)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rounds.run)
            with closing(Lane(nursery, rounds)) as lane:
                yield lane
                nursery.cancel_scope.cancel()


async def test_what_has_come_on_all_connections_is_committed_together() -> None:
    operations = Together()
    async with running(operations) as lane:
        clients = [lane.client() for _ in range(5)]
        await wait_all_tasks_blocked()
        for again in range(2):
            for n, client in enumerate(clients):
                client.sock.send(post(f"Idempotency-Key: {again}{n}"))
            await wait_all_tasks_blocked(0.01)
            assert all(client.answer().startswith(ANSWER) for client in clients)
    assert operations.calls == [[f"{again}{n}" for n in range(5)] for again in range(2)]


async def test_a_round_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROUND_MAX", 2)
    operations = Together()
    async with running(operations) as lane:
        clients = [lane.client() for _ in range(5)]
        for client in clients:
            client.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        assert all(client.answer().startswith(ANSWER) for client in clients)
    assert max(len(call) for call in operations.calls) == 2


async def test_no_round_waits_for_a_former_one() -> None:
    operations, busy = Together(), trio.Event()
    operations.end = busy.wait
    async with running(operations) as lane:
        first, other = [lane.client() for _ in range(20)], lane.client()
        for client in first:
            client.sock.send(ORDINARY)
            await wait_all_tasks_blocked(0.01)
        operations.end = lambda: None
        other.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        assert ([client.answer() for client in first], other.answer()[:15]) == ([b""] * 20, ANSWER)
        busy.set()
        await wait_all_tasks_blocked(0.01)
        assert all(client.answer().startswith(ANSWER) for client in first)


@pytest.mark.parametrize(
    "said",
    [
        ORDINARY[:-1],
        ORDINARY + b"P",
        ORDINARY * 2,
        post(path="/accounts/alice/messages"),
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
    ],
)
async def test_what_is_not_one_whole_settlement_is_left_to_the_task(said: bytes) -> None:
    async with running(operations := Together()) as lane:
        client = lane.client()
        client.sock.send(said) if said else client.sock.close()
        await wait_all_tasks_blocked(0.01)
        assert client.left == said
    assert operations.calls == []


async def test_what_comes_before_the_answer_waits_for_it() -> None:
    operations, go_on = Together(), trio.Event()
    operations.end = go_on.wait
    async with running(operations) as lane:
        client = lane.client()
        client.sock.send(post("Idempotency-Key: first"))
        await wait_all_tasks_blocked(0.01)
        client.sock.send(post("Idempotency-Key: second"))
        client.sock.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked(0.05)
        assert client.answer() == b""
        go_on.set()
        await wait_all_tasks_blocked(0.05)
        assert client.answer().count(ANSWER) == 2
        assert client.left == b""
    assert operations.calls == [["first"], ["second"]]


@pytest.mark.parametrize("closed_first", [True, False])
async def test_an_answer_goes_to_nobody_else_when_the_connection_has_gone(
    closed_first: bool,
) -> None:
    """Not even when another connection has its number by then."""
    operations, go_on = Together(), trio.Event()
    operations.end = go_on.wait
    async with running(operations) as lane:
        gone = lane.client()
        gone.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        other, number = Client(), gone.server.fileno()
        if closed_first:
            gone.server.close()
        gone.scope.cancel()
        gone.server.close()
        own = other.server.detach()
        os.dup2(own, number)
        os.close(own)
        other.server = trio.socket.from_stdlib_socket(socket.socket(fileno=number))
        lane.client(other)
        await wait_all_tasks_blocked(0.01)
        go_on.set()
        await wait_all_tasks_blocked(0.01)
        assert (other.answer(), gone.left, other.left) == (b"", None, None)
        other.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        assert other.answer().startswith(ANSWER)


async def test_what_is_committed_after_the_end_is_told_to_nobody() -> None:
    """Not even to whoever has the number of what was closed."""
    operations = Held()
    async with running(operations) as lane:
        lane.client().sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        before = {int(fd) for fd in os.listdir("/proc/self/fd")}
    with contextlib.ExitStack() as stack:
        others = [os.eventfd(0, os.EFD_NONBLOCK) for _ in before]
        for fd in others:
            stack.callback(os.close, fd)
        assert before & set(others), "the numbers are in use again"
        operations.tell()
        for fd in others:
            with pytest.raises(BlockingIOError):
                os.eventfd_read(fd)


async def test_one_that_has_gone_when_it_is_answered_holds_up_nobody() -> None:
    """Even if something came on it in the same turn."""
    operations = Held()
    async with running(operations) as lane:
        gone, other = lane.client(), lane.client()
        for client in (gone, other):
            client.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        operations.tell()
        gone.sock.send(ORDINARY)
        gone.sock.close()
        await wait_all_tasks_blocked(0.01)
        assert (gone.left, other.answer()[: len(ANSWER)]) == (b"", ANSWER)
        other.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        operations.tell()
        await wait_all_tasks_blocked(0.01)
        assert other.answer().startswith(ANSWER)


async def test_one_that_is_cut_off_is_not_answered() -> None:
    operations = Held()
    async with running(operations) as lane:
        client = lane.client()
        client.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        client.scope.cancel()
        await wait_all_tasks_blocked(0.01)
        operations.tell()
        await wait_all_tasks_blocked(0.01)
        assert (client.answer(), client.left) == (b"", None)


async def test_no_answer_is_given_when_nothing_can_be_recorded_any_more() -> None:
    operations = Together()

    def begin(requests: Sequence[Request], done: Callable[[Any], None]) -> None:
        raise StoreBroken("torn")

    operations.begin_settlements = begin  # type: ignore[method-assign]
    async with running(operations) as lane:
        clients = [lane.client() for _ in range(3)]
        await wait_all_tasks_blocked()
        for client in clients:
            client.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        assert [(client.answer(), client.left) for client in clients] == [(b"", None)] * 3
        for client in clients:
            client.scope.cancel()


async def test_without_room_a_settlement_is_left_to_its_task() -> None:
    async with running(operations := Together()) as lane:
        operations.may_begin = False
        client = lane.client()
        client.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        assert (client.left, operations.calls) == (ORDINARY, [])


async def test_an_unknown_outcome_gets_no_answer_and_holds_up_no_end() -> None:
    def break_it() -> None:
        raise StoreBroken("torn")

    operations = Together()
    operations.end = break_it
    async with running(operations) as lane:
        client = lane.client()
        client.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        client.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        assert (client.answer(), client.left) == (b"", None)
        client.scope.cancel()
    assert len(operations.calls) == 1


async def test_a_client_that_takes_no_answer_holds_up_nobody() -> None:
    async with running(Together()) as lane:
        deaf, other = lane.client(), lane.client()
        filled = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += os.write(deaf.server.fileno(), b"." * 1000)
        deaf.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        other.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        assert other.answer().startswith(ANSWER)
        assert deaf.left is None
        received = b""
        while more := deaf.answer():
            received += more
            await wait_all_tasks_blocked(0.01)
        assert received[filled:].startswith(ANSWER)
        assert received.endswith(BODY)
        deaf.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        assert deaf.answer().startswith(ANSWER)


async def test_one_that_is_closed_before_the_rest_of_its_answer_is_sent_holds_up_nobody() -> None:
    operations = Held()
    async with running(operations) as lane:
        deaf, other = lane.client(), lane.client()
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(deaf.server.fileno(), b"." * 1000)
        deaf.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        closing_it = lane.rounds._send_rest

        async def closed_first(place: Any, rest: bytes) -> None:
            deaf.server.close()
            await closing_it(place, rest)

        lane.rounds._send_rest = closed_first  # type: ignore[method-assign]
        operations.tell()
        await wait_all_tasks_blocked(0.01)
        other.sock.send(ORDINARY)
        await wait_all_tasks_blocked(0.01)
        operations.tell()
        await wait_all_tasks_blocked(0.01)
        assert other.answer().startswith(ANSWER)


async def test_a_refusal_in_a_round_is_its_own(operations: Operations) -> None:
    async with serving(app_of(operations)) as served:
        answers = await _all_at_once(
            served,
            [
                post("Idempotency-Key: good"),
                post("Idempotency-Key: nobody", path="/accounts/nobody/settlements"),
                post("Idempotency-Key: empty", body=b'{"amount":"0","scale":2}'),
                post("Idempotency-Key: bad", body=b'{"amount":"-1","scale":2}'),
                post(),
                post("Idempotency-Key: good"),
            ],
        )
    assert [answer[9:12] for answer in answers] == [b"201", b"404", b"400", b"400", b"400", b"201"]


async def _all_at_once(served: Served, requests: Sequence[bytes]) -> list[bytes]:
    answers: dict[int, bytes] = {}

    async def ask(n: int, request: bytes) -> None:
        async with await served.connect() as stream:
            await stream.send_all(request)
            await stream.send_eof()
            answers[n] = await read_all(stream)

    async with trio.open_nursery() as nursery:
        for n, request in enumerate(requests):
            nursery.start_soon(ask, n, request)
    return [answers[n] for n in range(len(requests))]
