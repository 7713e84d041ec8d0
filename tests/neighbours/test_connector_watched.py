"""Connections that one task listens to: what comes on one that rests is the end of it."""

import errno
import fcntl
import os
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
import trio
import trio.lowlevel

from settled import kept as kept_module
from settled import limits
from settled.connector import Connector
from settled.courier import Courier
from settled.exchange import BrokenOff, Exchange, answer_to
from settled.kept import Kept
from settled.store.records import Ambiguous, Delivered, DeliveryOutcome
from tests.neighbours.servers import read_request, serving
from tests.neighbours.test_connector_connections import OK, no_socket_is_left
from tests.neighbours.test_connector_kept import OOPS, Server, at_once, keeping
from tests.promises.test_10_closed_by_default import CREDIT

__all__ = ["at_once", "no_socket_is_left"]


async def delivered(connector: Connector) -> DeliveryOutcome:
    """Send a credit on a connection that is there, and return what came of it."""
    outcomes: list[DeliveryOutcome] = []
    told = trio.Event()

    def tell(outcome: DeliveryOutcome) -> None:
        outcomes.append(outcome)
        told.set()

    assert connector.deliver_at_once(CREDIT, tell)
    await told.wait()
    (outcome,) = outcomes
    return outcome


async def taken(connector: Connector) -> None:
    assert isinstance(await delivered(connector), Delivered)


@pytest.mark.parametrize("late", [OK, b"x", b""], ids=["an answer", "a byte", "the end"])
@pytest.mark.parametrize("uses", [1, 5])
async def test_what_comes_late_ends_one_that_has_been_used_at_once(
    late: bytes, uses: int, at_once: None
) -> None:
    server = Server()

    async def handle(stream: Any) -> None:
        if server.counts.connections:
            await server.handle(stream)
            return
        server.counts.connections += 1
        for _ in range(uses + 1):
            await read_request(stream)
            await stream.send_all(OK)
        await trio.sleep(0.02)
        if late:
            await stream.send_all(late)
            await trio.sleep_forever()

    async with serving(handle) as url, keeping(url) as connector:
        assert isinstance(await connector.deliver(CREDIT), Delivered)
        for _ in range(uses):
            assert isinstance(await delivered(connector), Delivered)
        await trio.sleep(0.1)
        assert not connector.deliver_at_once(CREDIT, lambda _: None), "there is none any more"
        server._answers = OOPS
        assert isinstance(await connector.deliver(CREDIT), Ambiguous)
    assert server.counts.connections == 2


async def test_many_that_are_heard_of_bit_by_bit_are_used_all_the_same(
    at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that may have left some out says nothing of silence."""
    monkeypatch.setattr(limits, "ROUND_MAX", 2)
    server = Server()
    async with serving(server.handle) as url, keeping(url) as connector:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(connector.deliver, CREDIT)
        opened = server.counts.connections
        assert opened > 1
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                for _ in range(opened):
                    nursery.start_soon(taken, connector)
    assert server.counts.connections == opened


@asynccontextmanager
async def keeps() -> AsyncIterator[Kept]:
    kept = Kept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.run)
        await trio.testing.wait_all_tasks_blocked()
        yield kept
        nursery.cancel_scope.cancel()


def pair() -> tuple[trio.SocketStream, socket.socket]:
    """Return a connection, and its other end."""
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    listener.close()
    return trio.SocketStream(trio.socket.from_stdlib_socket(ours)), theirs


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When it was looked whether anything has come."""
    looks, look = list[float](), Kept._look

    def counted(kept: Kept) -> None:
        looks.append(trio.current_time())
        look(kept)

    monkeypatch.setattr(Kept, "_look", counted)
    return looks


async def test_one_look_serves_all_that_have_rested_by_then(
    autojump_clock: trio.testing.MockClock, looks: list[float]
) -> None:
    async with keeps() as kept:
        pairs = [pair() for _ in range(4)]
        for stream, _ in pairs[:3]:
            kept.put(stream)
        await trio.sleep(1)
        for stream, _ in pairs[:3]:
            assert kept.take_at_once() is stream
        assert len(looks) == 1
        kept.put(pairs[0][0], again=True)
        assert kept.take_at_once() is None, "it has not rested yet"
        await trio.sleep(1)
        kept.put(pairs[3][0])
        assert kept.take_at_once() is pairs[0][0]
        assert len(looks) == 2
        await trio.sleep(1)
        assert kept.take_at_once() is pairs[3][0]
        assert len(looks) == 3
        for stream, other in pairs:
            kept_module.close(stream)
            other.close()


async def test_a_look_is_good_for_a_moment(
    autojump_clock: trio.testing.MockClock, looks: list[float]
) -> None:
    async with keeps() as kept:
        pairs = [pair() for _ in range(3)]
        for stream, _ in pairs:
            kept.put(stream)
        await trio.sleep(1)
        assert kept.take_at_once() is pairs[0][0]
        await trio.sleep(0.0009)
        assert kept.take_at_once() is pairs[1][0]
        assert len(looks) == 1
        pairs[2][1].send(b"x")
        await trio.sleep(0.0002)
        assert kept.take_at_once() is None, "what has come since is found"
        assert len(looks) == 2
        for stream, other in pairs:
            kept_module.close(stream)
            other.close()


@pytest.mark.parametrize("again", [False, True])
async def test_what_has_come_on_one_ends_that_alone(
    again: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with keeps() as kept:
        pairs = [pair() for _ in range(3)]
        for stream, _ in pairs:
            kept.put(stream)
        if again:
            await trio.sleep(1)
            assert [kept.take_at_once() for _ in pairs] == [stream for stream, _ in pairs]
            for stream, _ in pairs:
                kept.put(stream, again=True)
        pairs[0][1].send(b"x")
        pairs[2][1].close()
        await trio.sleep(1)
        assert kept.take_at_once() is pairs[1][0]
        assert kept.take_at_once() is None
        assert [stream.socket.fileno() < 0 for stream, _ in pairs] == [True, False, True]
        kept_module.close(pairs[1][0])
        for _, other in pairs:
            other.close()


async def test_what_comes_on_a_closed_connection_that_a_child_has_open_ends_no_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The kernel still tells of it, under a number that is another's by now."""
    async with keeps() as kept:
        first, other = pair()
        kept.put(first)
        await trio.sleep(1)
        assert kept.take_at_once() is first
        fd = first.socket.fileno()
        in_child = fcntl.fcntl(fd, fcntl.F_DUPFD, fd + 100)
        kept_module.close(first)
        other.send(b"x")
        second, another = pair()
        assert second.socket.fileno() == fd, "the lowest that is free"
        kept.put(second)
        await trio.sleep(1)
        assert kept._epoll.poll(0)
        assert kept.take_at_once() is second
        os.close(in_child)
        kept_module.close(second)
        other.close()
        another.close()


@pytest.mark.parametrize("way", ["at once", "by a task", "none"])
async def test_a_descriptor_that_is_used_again_is_another_connection(
    way: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with keeps() as kept:
        first, other = pair()
        fd = first.socket.fileno()
        kept.put(first)
        other.send(b"x")
        await trio.sleep(0.1)
        kept._look()
        assert first.socket.fileno() < 0
        second, another = pair()
        assert second.socket.fileno() == fd, "the lowest that is free"
        kept.put(second)
        await trio.sleep(1)
        if way == "at once":
            assert kept.take_at_once() is second
        elif way == "by a task":
            assert await kept.take() is second
        if way != "none":
            assert kept.take_at_once() is None
            kept_module.close(second)
        other.close()
        another.close()
    assert second.socket.fileno() < 0


REFUSED = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def carrying(count: int) -> AsyncIterator[tuple[Kept, Courier, dict[Any, socket.socket]]]:
    """Keep connections that have rested after a request, with their other ends."""
    kept = Kept()
    courier = Courier(kept)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.run)
        nursery.start_soon(courier.run)
        await trio.testing.wait_all_tasks_blocked()
        others = dict(pair() for _ in range(count))
        for stream in others:
            kept.put(stream)
        await trio.sleep(limits.CONNECTION_REST_MAX_S)
        told: list[int | Exception] = []
        assert all(courier.send(lambda: b"x", told.append) for _ in others)
        for other in others.values():
            other.send(OK)
        while len(told) < count:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.001)
        await trio.sleep(limits.CONNECTION_REST_MAX_S)
        yield kept, courier, others
        nursery.cancel_scope.cancel()
    for other in others.values():
        other.close()


@pytest.mark.parametrize("late", [OK, b"x", b""], ids=["an answer", "a byte", "a half end"])
async def test_what_the_courier_hears_of_one_that_rests_ends_it_however_lately_it_was_looked_at(
    late: bytes,
) -> None:
    async with carrying(2) as (kept, courier, others):
        oldest, next_one = [resting.stream for resting in kept._resting]
        assert courier.send(lambda: b"x", lambda _: None)
        assert kept._resting[0].stream is next_one, "it was silent at this look"
        if late:
            others[next_one].send(late)
        else:
            others[next_one].shutdown(socket.SHUT_WR)
        for _ in range(4):
            await trio.lowlevel.checkpoint()
        kept._looked_s = trio.current_time()  # however slow the machine is
        assert not courier.send(lambda: b"y", lambda _: None)
        assert isinstance(next_one, trio.SocketStream)
        assert isinstance(oldest, trio.SocketStream)
        assert next_one.socket.fileno() < 0 <= oldest.socket.fileno()


LONG = b"y" * 4_000_000  # more than a socket takes at once


async def read(other: socket.socket, count: int) -> bytes:
    """Read so many bytes, while the other end sends them."""
    other.setblocking(False)
    received = b""
    with trio.fail_after(10):
        while len(received) < count:
            with suppress(BlockingIOError):
                received += other.recv(count)
            await trio.lowlevel.checkpoint()
    return received


async def test_a_request_that_is_not_taken_at_once_is_sent_whole() -> None:
    async with carrying(1) as (_, courier, others):
        ((stream, other),) = others.items()
        told: list[int | Exception] = []
        await read(other, 1)
        assert courier.send(lambda: LONG, told.append)
        assert await read(other, len(LONG)) == LONG
        assert told == []
        other.send(OK)
        while not told:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.001)
        assert told == [201]
        assert stream.socket.fileno() >= 0


@pytest.mark.parametrize("way", ["at once", "at once, in pieces", "by a task"])
async def test_of_two_answers_that_come_together_none_is_taken(way: str) -> None:
    """The first is a late one to the request before; nothing tells which is ours."""
    async with carrying(1) as (kept, courier, others):
        (stream,) = others
        told: list[int | Exception] = []
        if way != "by a task":
            request = b"y" if way == "at once" else LONG
            assert courier.send(lambda: request, told.append)
            others[stream].send(OK + REFUSED)
            await read(others[stream], len(b"x" + request))
            while not told:  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.001)
            (answer,) = told
            assert isinstance(answer, BrokenOff)
            assert "more came than one answer" in str(answer)
        else:
            assert await kept.take() is stream
            assert isinstance(stream, trio.SocketStream)
            others[stream].send(OK + REFUSED)
            exchange = Exchange(stream, 1000, kept, again=True)
            with pytest.raises(BrokenOff, match="more came than one answer"):
                await answer_to(exchange.send(b"y"), trio.current_time() + 10)
        assert stream.socket.fileno() < 0


class Full:
    """An epoll for which the system has no room."""

    def register(self, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_connection_that_cannot_be_heard_is_not_sent_on() -> None:
    async with carrying(1) as (_, courier, others):
        ((stream, other),) = others.items()
        courier._known.clear()
        full = cast("select.epoll", Full())
        epoll, courier._epoll = courier._epoll, full
        assert not courier.send(lambda: b"y", lambda _: None)
        courier._epoll = epoll
        assert stream.socket.fileno() < 0
        assert await read(other, 1) == b"x"
        assert other.recv(1) == b"", "it is closed, and nothing was sent"


async def test_a_connection_that_cannot_be_watched_is_not_kept() -> None:
    async with keeps() as kept:
        stream, other = pair()
        epoll, kept._epoll = kept._epoll, cast("select.epoll", Full())
        kept.put(stream)
        kept._epoll = epoll
        assert stream.socket.fileno() < 0
        assert not kept._resting
        other.close()


async def test_what_follows_the_first_answer_of_a_connection_makes_it_no_less_one(
    at_once: None,
) -> None:
    async def handle(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(OK + b"\r\n")

    async with serving(handle) as url, keeping(url) as connector:
        assert isinstance(await connector.deliver(CREDIT), Delivered)
        assert isinstance(await connector.deliver(CREDIT), Delivered)
