"""The server of the connector's API: the listening socket, TLS, and Hypercorn on each connection.

Hypercorn speaks HTTP/1.1 and HTTP/2 on a connection; accepting connections, containing their
faults and ending them is done here. ``hypercorn.trio.serve`` will not do: it lets an exception from
one connection end them all, and a few bytes of odd HTTP/2 are enough to raise one (a path that is
not ASCII, data on a stream that was answered already).
"""

import logging
import sys
from collections.abc import Awaitable, Callable
from socket import socket
from typing import Any

import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGISendCallable,
    ConnectionState,
    LifespanState,
    Scope,
)

from settled import limits
from settled.http.listening import bind, tls_context
from settled.text import describe_error

__all__ = ["bind", "serve_http"]

log = structlog.get_logger()

_Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


async def serve_http(
    app: ASGIFramework,
    sock: socket,
    *,
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
    with sock:
        tls = tls_context(certfile, keyfile)
        tcp_listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        listener: trio.abc.Listener[Any] = tcp_listener
        if tls is not None:
            listener = trio.SSLListener(tcp_listener, tls, https_compatible=True)
        async with trio.open_nursery() as connections:
            server = _Server(app, connections)
            async with trio.open_nursery() as accepting:
                accepting.start_soon(server.accept, listener)
                task_status.started()
                await shutdown()
                accepting.cancel_scope.cancel()
            await server.context.terminated.set()
            connections.cancel_scope.deadline = trio.current_time() + grace_s


class _Server:
    """Serves each connection with Hypercorn, and keeps what fails on one from the others."""

    def __init__(self, app: ASGIFramework, nursery: trio.Nursery) -> None:
        self.context = WorkerContext(max_requests=None)
        self._app = app
        self._nursery = nursery
        self._config = _config()

    async def accept(self, listener: trio.abc.Listener[Any]) -> None:
        """Accept connections, and close the listener when cancelled."""
        await trio.serve_listeners(self.serve, [listener], handler_nursery=self._nursery)

    async def serve(self, stream: _Stream) -> None:
        """Serve one connection until it ends."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_close_when_cancelled, _socket_of(stream))
                await _Connection(
                    nursery.cancel_scope.cancel,
                    self._call_app,
                    self._config,
                    self.context,
                    ConnectionState(LifespanState()),
                    stream,
                )
                nursery.cancel_scope.cancel()
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


class _Connection(TCPServer):
    """A connection that is over once it is closed.

    Hypercorn keeps what a client sends after the last answer for a next request that it will not
    take, and waits for ever for the moment to take it.
    """

    def __init__(self, over: Callable[[], None], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._over = over

    async def protocol_send(self, event: Event) -> None:
        await super().protocol_send(event)
        if isinstance(event, Closed):
            self._over()


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


def _socket_of(stream: _Stream) -> trio.socket.SocketType:
    if isinstance(stream, trio.SSLStream):
        return stream.transport_stream.socket
    return stream.socket


def _config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger(__name__)
    config.include_server_header = False
    config.keep_alive_timeout = limits.HEADER_TIMEOUT_S
    config.ssl_handshake_timeout = limits.HEADER_TIMEOUT_S
    config.read_timeout = limits.SILENCE_S
    config.h11_max_incomplete_size = limits.HEADERS_BYTES_MAX
    config.h2_max_header_list_size = limits.HEADERS_BYTES_MAX
    # At this many requests Hypercorn closes an HTTP/2 connection even under requests that run, and
    # their settlements would be recorded but not answered.
    config.keep_alive_max_requests = sys.maxsize
    return config
