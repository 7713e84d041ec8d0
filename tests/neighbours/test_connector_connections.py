"""Connections to the connector that cannot be made, break, hang, or are somebody else's."""

import errno
import gc
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from settled import limits
from settled.connector import Connector
from settled.errors import MessageFailed
from settled.store.records import Ambiguous, Delivered, NotDelivered
from tests.neighbours.faults import FAULTS, reset
from tests.neighbours.servers import read_request, serving
from tests.promises.test_10_closed_by_default import CREDIT

OK = b"HTTP/1.1 201 Created\r\nContent-Length: 8\r\n\r\nRECEIVED"


def nothing_left(connector: Connector) -> None:
    """No place of ours is still taken; whether a socket is, ``no_socket_is_left`` looks."""
    assert not connector._courier._under_way
    assert connector._messages.borrowed_tokens == 0


@contextmanager
def connecting(url: str) -> Iterator[Connector]:
    connector = Connector(url)
    yield connector
    nothing_left(connector)


def open_descriptors() -> set[str]:
    links = {_link(fd) for fd in Path("/proc/self/fd").iterdir()}
    return {link for link in links if link.startswith("socket")}


def _link(fd: Path) -> str:
    try:
        return os.readlink(fd)
    except FileNotFoundError:  # the one that lists them
        return ""


@pytest.fixture(autouse=True)
async def no_socket_is_left() -> AsyncIterator[None]:
    """Every socket is closed by us, not by the garbage collector."""
    gc.disable()
    before = open_descriptors()
    try:
        yield
        assert open_descriptors() <= before
    finally:
        gc.enable()


async def answer(stream: Any) -> None:
    await read_request(stream)
    await stream.send_all(OK)


# --- connections that are never made ---


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "http://no-such-host.invalid:7771",
        "http://[::1]:1",
        "http://256.256.256.256:7771",
        "http://" + "a" * 300 + ".invalid",
        "https://127.0.0.1:1",
    ],
)
async def test_a_connector_that_cannot_be_reached_has_certainly_not_taken_it(url: str) -> None:
    with connecting(url) as connector:
        with trio.fail_after(10):
            outcome = await connector.deliver(CREDIT)
            assert isinstance(outcome, NotDelivered)
            assert "was not reached" in outcome.reason
            with pytest.raises(MessageFailed, match="alice"):
                await connector.send_message("alice", b"hello")
        nothing_left(connector)


async def test_a_name_that_cannot_be_looked_up_for_long_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang(*_arguments: object, **_named: object) -> object:
        await trio.sleep_forever()

    monkeypatch.setattr(limits, "CONNECTOR_CONNECT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(trio.socket, "getaddrinfo", hang)
    with connecting("http://slow.invalid") as connector:
        with trio.fail_after(5):
            assert isinstance(await connector.deliver(CREDIT), NotDelivered)
        nothing_left(connector)


async def test_a_backlog_that_is_full_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTOR_CONNECT_TIMEOUT_S", 0.3)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(address)
        with connecting(f"http://127.0.0.1:{address[1]}") as connector:
            with trio.fail_after(5):
                assert isinstance(await connector.deliver(CREDIT), NotDelivered)
            nothing_left(connector)
        for sock in waiting:
            sock.close()


async def test_no_free_descriptor_is_a_connector_not_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with serving(answer) as url:
        connector = Connector(url)
        with monkeypatch.context() as patch:
            patch.setattr("trio._highlevel_open_tcp_stream.socket", refuse)
            assert isinstance(await connector.deliver(CREDIT), NotDelivered)
        assert isinstance(await connector.deliver(CREDIT), Delivered)
        nothing_left(connector)


# --- TLS ---

CA = trustme.CA()


def tls_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust our authority, as a machine does the public ones."""
    context = ssl.create_default_context()
    CA.configure_trust(context)
    monkeypatch.setattr(ssl, "create_default_context", lambda: context)


BAD_CERTIFICATES = {
    "for another host": lambda: CA.issue_cert("connector.example"),
    "expired": lambda: CA.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1)),
    "not valid yet": lambda: CA.issue_cert(
        "127.0.0.1", not_before=datetime.now(UTC) + timedelta(days=1)
    ),
    "of an unknown authority": lambda: trustme.CA().issue_cert("127.0.0.1"),
}


@pytest.mark.parametrize("name", BAD_CERTIFICATES)
async def test_a_certificate_that_is_not_the_connectors_gets_no_credit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting(monkeypatch)
    served = []

    async def handle(stream: Any) -> None:
        served.append(await read_request(stream))

    tls = tls_of(BAD_CERTIFICATES[name]())
    async with serving(handle, tls=tls) as url:
        connector = Connector(url)
        with trio.fail_after(5):
            outcome = await connector.deliver(CREDIT)
        assert isinstance(outcome, NotDelivered)
        assert "certificate" in outcome.reason.lower()
        nothing_left(connector)
    assert [request for request in served if request] == []


async def test_the_connectors_own_certificate_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    trusting(monkeypatch)
    tls = tls_of(CA.issue_cert("127.0.0.1"))
    async with serving(answer, tls=tls) as url:
        connector = Connector(url)
        assert isinstance(await connector.deliver(CREDIT), Delivered)
        nothing_left(connector)


async def test_a_tls_connector_that_speaks_plainly_or_not_at_all_was_not_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECTOR_CONNECT_TIMEOUT_S", 0.3)

    async def plain(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 this is not TLS\r\n\r\n")

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async def rude(stream: trio.SocketStream) -> None:
        reset(stream)

    for handle in (plain, silent, rude):
        async with serving(handle) as url:
            with connecting(url.replace("http:", "https:")) as connector:
                with trio.fail_after(5):
                    assert isinstance(await connector.deliver(CREDIT), NotDelivered)
                nothing_left(connector)


async def test_a_plain_connector_that_expects_tls_is_unclear() -> None:
    tls = tls_of(CA.issue_cert("127.0.0.1"))
    async with serving(answer, tls=tls) as url:
        with connecting(url.replace("https:", "http:")) as connector:
            with trio.fail_after(5):
                assert isinstance(await connector.deliver(CREDIT), Ambiguous)
            nothing_left(connector)


# --- connections that break, or whose answer is not to this request ---


async def early(answer: bytes, stream: trio.SocketStream) -> None:
    await stream.send_all(answer)
    await trio.sleep(0.2)


@pytest.mark.parametrize(
    ("handle", "outcome"),
    [
        (partial(early, OK), Delivered),
        (partial(early, b"HTTP/1.1 503 Busy\r\nConnection: close\r\n\r\n"), Ambiguous),
        (partial(early, b"HTTP/1.1 403 No\r\nConnection: close\r\n\r\n"), NotDelivered),
        (partial(early, b""), Ambiguous),
    ],
    ids=["201", "503", "403", "nothing"],
)
async def test_an_answer_before_the_request_was_read_is_an_answer(
    handle: Callable[[trio.SocketStream], Awaitable[None]], outcome: type
) -> None:
    async with serving(handle) as url:
        connector = Connector(url)
        with trio.fail_after(5):
            assert isinstance(await connector.deliver(CREDIT), outcome)
        nothing_left(connector)


async def test_a_connection_reset_at_once_is_unclear() -> None:
    """It was accepted, so that bytes of ours may have been read."""

    async def handle(stream: trio.SocketStream) -> None:
        reset(stream)

    async with serving(handle) as url:
        connector = Connector(url)
        with trio.fail_after(5):
            for _ in range(20):
                assert isinstance(await connector.deliver(CREDIT), Ambiguous)
        nothing_left(connector)


async def test_a_connection_is_used_once_so_that_no_answer_comes_to_another_request() -> None:
    """A connector that sends one answer too many, late, must not acknowledge the next credit."""
    counts = {"connections": 0, "requests": 0}

    async def handle(stream: trio.SocketStream) -> None:
        counts["connections"] += 1
        while await read_request(stream) is not None:
            counts["requests"] += 1
            if counts["requests"] == 1:
                await stream.send_all(OK)
                await trio.sleep(0.1)
                await stream.send_all(OK)  # by now the next request may be there
            else:
                await trio.sleep(0.2)
                await stream.send_all(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")

    async with serving(handle) as url:
        connector = Connector(url)
        assert isinstance(await connector.deliver(CREDIT), Delivered)
        assert isinstance(await connector.deliver(CREDIT), Ambiguous)
        nothing_left(connector)
    assert counts == {"connections": 2, "requests": 2}


# --- cancellation ---

SWEPT = ["200", "nothing", "noise", "reset", "a body without end", "chunks without an end", "404"]


async def act(name: str, stream: Any) -> None:
    await read_request(stream)
    await FAULTS[name].act(stream)


async def refuse(stream: Any) -> None:
    reset(stream)


async def sweep(connector: Connector, deliver: Callable[[], Awaitable[object]]) -> int:
    """Cancel after every number of checkpoints, until it is through; return how many that is.

    Beyond the first they grow in steps: what then still waits, waits for a socket.
    """
    checkpoints = 0
    while checkpoints < 100_000:
        with trio.CancelScope() as scope, trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_after, checkpoints, scope)
                await deliver()
                nursery.cancel_scope.cancel()
        nothing_left(connector)
        if not scope.cancelled_caught and checkpoints > 40:
            return checkpoints
        checkpoints += max(1, checkpoints // 5 - 20)
    raise AssertionError


async def cancel_after(checkpoints: int, scope: trio.CancelScope) -> None:
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    scope.cancel()


@pytest.mark.parametrize("name", SWEPT)
async def test_a_delivery_cut_off_at_any_moment_leaves_nothing_behind(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECTOR_TIMEOUT_S", 0.2)
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 1)
    monkeypatch.setattr(limits, "MESSAGES_MAX", 1)

    async def message(connector: Connector) -> None:
        with suppress(MessageFailed):
            await connector.send_message("alice", b"hello")

    async with serving(partial(act, name)) as url:
        connector = Connector(url)
        await sweep(connector, lambda: connector.deliver(CREDIT))
        await sweep(connector, partial(message, connector))


async def test_a_delivery_over_tls_cut_off_at_any_moment_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 1)
    trusting(monkeypatch)
    tls = tls_of(CA.issue_cert("127.0.0.1"))
    async with serving(answer, tls=tls) as url:
        connector = Connector(url)
        assert await sweep(connector, lambda: connector.deliver(CREDIT)) > 40
        assert isinstance(await connector.deliver(CREDIT), Delivered)


async def test_a_name_server_that_hangs_keeps_no_thread_of_anybody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECTOR_CONNECT_TIMEOUT_S", 0.05)
    let_go = threading.Event()

    def hang(*_arguments: object, **_options: object) -> list[object]:
        let_go.wait(10)
        return []

    monkeypatch.setattr("settled.server.socket.getaddrinfo", hang)
    connector = Connector("http://connector.invalid:7771")
    try:
        for _ in range(limits.LOOK_UPS_MAX + 3):
            assert isinstance(await connector.deliver(CREDIT), NotDelivered)
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        nothing_left(connector)
    finally:
        let_go.set()
