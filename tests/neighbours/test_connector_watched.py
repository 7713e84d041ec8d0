"""Connections that one task listens to: what comes on one that rests is the end of it."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from settled import kept as kept_module
from settled import limits
from settled.connector import Connector
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
        if late:
            await stream.send_all(late)
            await trio.sleep_forever()

    async with serving(handle) as url, keeping(url) as connector:
        assert isinstance(await connector.deliver(CREDIT), Delivered)
        for _ in range(uses):
            assert isinstance(await delivered(connector), Delivered)
        await trio.sleep(0.05)
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


def pair() -> tuple[trio.SocketStream, int, socket.socket]:
    """Return a connection, its descriptor, and the other end."""
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    listener.close()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    return stream, stream.socket.fileno(), theirs


async def test_what_was_silent_at_a_look_after_its_rest_is_not_asked_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[trio.abc.Stream] = []
    has_nothing = kept_module._has_nothing

    def ask(stream: trio.abc.Stream) -> bool:
        asked.append(stream)
        return has_nothing(stream)

    monkeypatch.setattr(kept_module, "_has_nothing", ask)
    async with keeps() as kept:
        stream, fd, other = pair()
        for look_s, asks in [(1.0, 0), (0.01, 1)]:
            kept.put_watched(stream, fd)
            await trio.sleep(look_s)
            kept.silent_at(trio.current_time())
            assert (kept.take_at_once() is None) is bool(asks), "it has not rested yet"
            if asks:
                await trio.sleep(1)
                assert kept.take_at_once() == (stream, True)
            assert len(asked) == asks
        kept.put(stream)
        await trio.sleep(1)
        kept.silent_at(trio.current_time())
        assert kept.take_at_once() == (stream, False)
        assert len(asked) == 2, "nobody listens to that one"
        kept_module.close(stream)
        other.close()


async def test_what_came_without_a_look_is_found_by_asking(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with keeps() as kept:
        stream, fd, other = pair()
        kept.put_watched(stream, fd)
        kept.silent_at(trio.current_time())
        other.send(b"x")
        await trio.sleep(1)
        assert kept.take_at_once() is None
        assert stream.socket.fileno() < 0
        other.close()


async def test_a_hint_without_a_byte_ends_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with keeps() as kept:
        stream, fd, other = pair()
        kept.put_watched(stream, fd)
        kept.came(fd)
        kept.came(fd + 1000)
        await trio.sleep(1)
        assert await kept.take() is stream
        kept_module.close(stream)
        other.close()


@pytest.mark.parametrize("way", ["at once", "by a task", "none"])
async def test_a_descriptor_that_is_used_again_is_another_connection(
    way: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with keeps() as kept:
        first, fd, other = pair()
        kept.put_watched(first, fd)
        other.send(b"x")
        kept.came(fd)
        assert first.socket.fileno() < 0
        second, second_fd, another = pair()
        assert second_fd == fd, "the lowest that is free"
        kept.put_watched(second, fd)
        await trio.sleep(1)
        if way == "at once":
            assert kept.take_at_once() == (second, True)
        elif way == "by a task":
            assert await kept.take() is second
        if way != "none":
            assert kept.take_at_once() is None
            kept_module.close(second)
        for end in (other, another):
            end.close()
    assert second.socket.fileno() < 0
