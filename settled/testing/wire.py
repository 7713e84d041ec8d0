"""A real HTTP server on a loopback socket that can go down, come back, and hang up on a client."""

import socket
from typing import Final, cast

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from hypercorn.utils import wrap_app

_BACKLOG: Final = 256
_BODY_BYTES_MAX: Final = 64 * 1024


class WireServer:
    """Serves an ASGI app on 127.0.0.1, on one port that it keeps.

    Args:
        app: the application.
        nursery: where the connections are handled; the server ends with it.
        port: to listen on; 0: one of the system's choice.
    """

    def __init__(self, app: ASGIFramework, nursery: trio.Nursery, port: int = 0) -> None:
        self._config = Config()
        self._config.errorlog = None
        self._config.accesslog = None
        self._app = wrap_app(app, _BODY_BYTES_MAX, "asgi")
        self._nursery = nursery
        self._listener: trio.SocketListener | None = None
        self._streams: dict[tuple[str, int], trio.SocketStream] = {}
        self.port = port
        self.come_up()

    def come_up(self) -> None:
        """Listen; a server that is up already stays as it is."""
        if self._listener is not None:
            return
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        sock.listen(_BACKLOG)
        self.port = sock.getsockname()[1]
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        self._nursery.start_soon(self._accept, self._listener)

    def go_down(self) -> None:
        """Refuse connections from now on, and cut those that are open."""
        if self._listener is None:
            return
        self._listener.socket.close()
        self._listener = None
        for client in list(self._streams):
            self.hang_up(client)

    def hang_up(self, client: tuple[str, int]) -> None:
        """Close the connection of a client (his host and port), whatever he waits for."""
        stream = self._streams.pop(client, None)
        if stream is not None:
            stream.socket.close()

    async def _accept(self, listener: trio.SocketListener) -> None:
        try:
            await trio.serve_listeners(self._handle, [listener], handler_nursery=self._nursery)
        except* trio.ClosedResourceError:
            pass  # we went down

    async def _handle(self, stream: trio.SocketStream) -> None:
        try:
            host, port = stream.socket.getpeername()[:2]
        except OSError:
            return
        self._streams[host, port] = stream
        # Hypercorn takes plain streams too, but says in its types that it wants TLS ones.
        tls_or_not = cast(trio.SSLStream[trio.SocketStream], stream)
        state = ConnectionState({})
        try:
            await TCPServer(self._app, self._config, WorkerContext(None), state, tls_or_not)
        finally:
            self._streams.pop((host, port), None)
            stream.socket.close()
