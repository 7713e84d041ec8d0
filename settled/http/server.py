"""The server of the connector's API: the listening socket, TLS, and Hypercorn on each connection.

Hypercorn speaks HTTP/1.1 and HTTP/2 on a connection; accepting connections, containing their
faults and ending them is done here. ``hypercorn.trio.serve`` will not do: it lets an exception from
one connection end them all, and a few bytes of odd HTTP/2 are enough to raise one (a path that is
not ASCII, data on a stream that was answered already).
"""

import errno
import logging
import re
import select
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from socket import MSG_PEEK, socket
from ssl import SSLContext
from typing import Any, Final

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, Scope

from settled import limits
from settled.core.operations import Operations
from settled.http.connection import Connection, Stream, socket_of
from settled.http.listening import bind, tls_context
from settled.http.rounds import Rounds
from settled.http.slots import Slot, Slots
from settled.text import describe_error

__all__ = ["bind", "serve_http"]

log = structlog.get_logger()

# What accept(2) fails with when the machine or the process is short of something.
_SHORTAGES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

# What it fails with when a client has gone before, or the network fails him.
_PASSING: Final = {
    getattr(errno, name)
    for name in (
        *("EPERM", "ECONNABORTED", "ECONNRESET", "EPROTO", "ENOPROTOOPT", "EOPNOTSUPP"),
        *("ETIMEDOUT", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "ENONET"),
    )
    if hasattr(errno, name)
}

_CONTENT_LENGTH: Final = re.compile(rb"\ncontent-length: *([0-9]{1,5})\r?$", re.IGNORECASE | re.M)


async def serve_http(
    app: ASGIFramework,
    sock: socket,
    *,
    operations: Operations | None = None,
    certfile: str | None = None,
    keyfile: str | None = None,
    shutdown: Callable[[], Awaitable[object]],
    grace_s: float = limits.SHUTDOWN_GRACE_S,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI app on a listening socket, until ``shutdown`` returns and the rest is done.

    From then on no connection is accepted and idle ones are closed; requests under way have
    ``grace_s`` to end, and then are cut off without an answer. The app's lifespan is not run: what
    it needs is opened and closed around it.

    Args:
        app: the app, such as ``make_app`` returns.
        sock: a socket as ``bind`` returns it; it is closed in the end.
        operations: what ``app`` answers with, for the short lane; without it there is none.
        certfile: the server's certificate chain in PEM; serves TLS, together with ``keyfile``.
        keyfile: the certificate's private key in PEM, not encrypted.
        shutdown: returns when it is time to stop.
        grace_s: how long requests may go on after that, in seconds.
        task_status: is told when connections are accepted.

    Raises:
        ConfigError: the certificate or the key cannot be used.

    Example::

        sock = bind("127.0.0.1:3000")
        await nursery.start(partial(serve_http, make_app(operations), sock, shutdown=stop.wait))
    """
    with sock, select.epoll() as epoll:
        tls = tls_context(certfile, keyfile)
        sock.setblocking(False)
        rounds = None if operations is None else Rounds(operations, epoll)
        async with trio.open_nursery() as lanes:
            if rounds is not None:
                lanes.start_soon(rounds.run)
            async with trio.open_nursery() as connections:
                server = _Server(app, rounds, connections)
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(server.accept, sock, tls)
                    task_status.started()
                    await shutdown()
                    accepting.cancel_scope.cancel()
                await server.end()
                connections.cancel_scope.deadline = trio.current_time() + grace_s
            lanes.cancel_scope.cancel()


class _Server:
    """Serves each connection with Hypercorn, and keeps what fails on one from the others."""

    def __init__(self, app: ASGIFramework, rounds: Rounds | None, nursery: trio.Nursery) -> None:
        self._context = WorkerContext(max_requests=None)
        self._app = app
        self._rounds = rounds
        self._nursery = nursery
        self._config = _config()
        self._slots = Slots()

    async def accept(self, sock: socket, tls: SSLContext | None) -> None:
        """Accept connections, a few for each round of other work, until cancelled."""
        with sock:
            while True:
                await self._slots.room_to_connect()
                await trio.lowlevel.wait_readable(sock)
                try:
                    for _ in range(limits.NEWCOMERS_AT_ONCE):
                        self._begin(_stream(sock.accept()[0], tls))
                        if self._slots.full:
                            break
                except BlockingIOError:
                    pass
                except OSError as error:
                    if error.errno in _SHORTAGES:
                        await self._slots.out_of_descriptors(error)
                    elif error.errno not in _PASSING:
                        raise

    def _begin(self, stream: Stream) -> None:
        scope = trio.CancelScope()
        slot = self._slots.take(scope.cancel)
        self._nursery.start_soon(self._serve, stream, slot, scope)

    async def end(self) -> None:
        """Close the connections that are idle; the others end with their last answer."""
        self._slots.close_silent()
        await self._context.terminated.set()

    async def _serve(self, stream: Stream, slot: Slot, scope: trio.CancelScope) -> None:
        """Serve one connection until it ends."""
        with scope:
            try:
                if said := await _first_bytes(socket_of(stream)):
                    await slot.speak(in_full=_is_whole(said))
                    if await _first_bytes(socket_of(stream)):  # and has not gone since
                        await self._converse(stream, slot)
            finally:
                self._slots.leave(slot)
                socket_of(stream).close()

    async def _converse(self, stream: Stream, slot: Slot) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_close_when_cancelled, socket_of(stream))
                over = nursery.cancel_scope.cancel
                await Connection(
                    self._call_app,
                    self._config,
                    self._context,
                    stream,
                    slot=slot,
                    rounds=self._rounds,
                    over=over,
                ).run()
                over()
        except* Exception as faults:
            log.warning("connection_dropped", reason=describe_error(faults))

    async def _call_app(
        self,
        scope: Scope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        sync_spawn: Callable[..., Any],
        call_soon: Callable[..., Any],
    ) -> None:
        """Call the app; Hypercorn would answer 500 to a ``KeyboardInterrupt``, and go on."""
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            fatal = _fatal(error)
            if fatal is None:
                raise
            self._nursery.start_soon(_raise, fatal)
            await trio.sleep_forever()


def _stream(sock: socket, tls: SSLContext | None) -> Stream:
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    if tls is None:
        return stream
    return trio.SSLStream(stream, tls, server_side=True, https_compatible=True)


async def _first_bytes(sock: trio.socket.SocketType) -> bytes:
    """Wait for a client to speak: until then, a connection should cost next to nothing.

    Returns what he has sent, which is still there to be read, or nothing if he has gone.
    """
    with trio.move_on_after(limits.HEADER_TIMEOUT_S), suppress(OSError):
        return await sock.recv(limits.READ_BYTES_MAX, MSG_PEEK)
    return b""


def _is_whole(said: bytes) -> bool:
    """Return whether this looks like a whole request, as honest clients send it."""
    head, blank, body = said.partition(b"\r\n\r\n")
    length = _CONTENT_LENGTH.search(head)
    return bool(blank) and len(body) >= (int(length[1]) if length else 0)


async def _close_when_cancelled(sock: trio.socket.SocketType) -> None:
    """Pull the socket away when the time is up.

    Hypercorn shields its writes from cancellation, so that a client who does not read what he is
    sent could hold up the end for ever.
    """
    try:
        await trio.sleep_forever()
    finally:
        sock.close()


def _fatal(error: BaseException) -> BaseException | None:
    """Return what is neither an ordinary exception nor a cancellation."""
    if isinstance(error, BaseExceptionGroup):
        return error.split((Exception, trio.Cancelled))[1]
    return None if isinstance(error, Exception | trio.Cancelled) else error


async def _raise(error: BaseException) -> None:
    raise error


def _config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger(__name__)
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.HEADERS_BYTES_MAX
    config.h2_max_concurrent_streams = limits.STREAMS_MAX
    config.h2_max_header_list_size = limits.HEADERS_BYTES_MAX
    # At this many requests Hypercorn closes an HTTP/2 connection even under requests that run, and
    # their settlements would be recorded but not answered.
    config.keep_alive_max_requests = sys.maxsize
    return config
