"""The HTTP server that we send requests to: where it is, how to get there, and who we are."""

import base64
import ipaddress
import re
import socket
import ssl
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import trio

from settled import limits
from settled.errors import ConfigError
from settled.exchange import Exchange, NotReached, reason
from settled.kept import Kept

_PORTS: Final = {"http": 80, "https": 443}

_PATH: Final = re.compile(r"[\x21-\x7e]+")
_VALUE: Final = re.compile(r"[\x20-\x7e]*")


class Server:
    """An HTTP server: where it is, how to get there, and who we are.

    Args:
        url: ``http`` or ``https``; it may have a path, a user name and a password.

    Attributes:
        kept: the connections that may be used again.

    Raises:
        ConfigError: when it is no such URL.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ConfigError("the connector's URL must be an http or https one, with a host")
        self._host = parts.hostname
        self._port = parts.port or _PORTS[parts.scheme]
        self._look_ups = trio.CapacityLimiter(limits.LOOK_UPS_MAX)
        self._path = parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._headers = {
            "Host": parts.netloc.rpartition("@")[2],
            "Accept-Encoding": "identity",
            **_authorization(parts),
        }
        self.kept = Kept()
        shown_host = f"[{self._host}]" if ":" in self._host else self._host
        self.shown_url = f"{parts.scheme}://{shown_host}:{parts.port or ''}".rstrip(":")

    async def keep_connections(self) -> None:
        """Keep connections for requests that may take them, until cancelled."""
        await self.kept.run()

    async def post(
        self,
        path: str,
        body: bytes,
        headers: str,
        *,
        body_bytes_max: int,
        repeatable: bool,
    ) -> Exchange:
        """Send a request and return it when the status of its answer is there.

        The caller closes the exchange.

        Args:
            path: where to, after the path of the server's URL.
            body: what to send.
            headers: the lines of those that this request has besides the server's own, as
                ``header_lines`` returns them.
            body_bytes_max: how much of the answer's body is read.
            repeatable: it is sent again if it fails, so it may take a connection that was kept,
                which the server may be closing just now.

        Raises:
            NotReached: when nothing was sent.
            BrokenOff: when something was sent, but the answer is none.
        """
        try:
            request = self.request(path, body, headers, keep=repeatable)
            stream = await self.kept.take() if repeatable else None
            again = stream is not None
            if stream is None:
                stream = await self._connect()
        except Exception as error:
            raise NotReached(reason(error)) from error
        kept = self.kept if repeatable else None
        exchange = Exchange(stream, body_bytes_max, kept, again=again)
        return await exchange.send(request)

    def request(self, path: str, body: bytes, headers: str, *, keep: bool) -> bytes:
        """Return the bytes of a request; the connection may be kept after it, or not.

        Raises:
            ValueError: when there is something in it that cannot be sent.
        """
        target = self._path + path
        if not _PATH.fullmatch(target):
            raise ValueError(f"{target!r} cannot be a path")
        head = f"POST {target} HTTP/1.1\r\n{self._own_lines}{headers}"
        close = "" if keep else "Connection: close\r\n"
        return f"{head}Content-Length: {len(body)}\r\n{close}\r\n".encode() + body

    @cached_property
    def _own_lines(self) -> str:
        return header_lines(self._headers)

    async def _connect(self) -> trio.abc.Stream:
        with trio.fail_after(limits.CONNECTOR_CONNECT_TIMEOUT_S):
            tcp = await self._connect_tcp()
            if self._tls is None:
                return tcp
            tls = trio.SSLStream(tcp, self._tls, server_hostname=self._host, https_compatible=True)
            try:
                await tls.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(tcp)
                raise
            return tls

    async def _connect_tcp(self) -> trio.SocketStream:
        """Connect to the first address that lets us.

        A look-up that hangs keeps its thread even when it is given up: it must not be one of those
        that everything else shares.
        """
        addresses = [self._host]
        if not _is_address(self._host):
            found = await trio.to_thread.run_sync(
                partial(socket.getaddrinfo, self._host, self._port, type=socket.SOCK_STREAM),
                abandon_on_cancel=True,
                limiter=self._look_ups,
            )
            addresses = [str(address[0]) for *_, address in found]
        failed: OSError | None = None
        for address in addresses:
            try:
                return await trio.open_tcp_stream(address, self._port)
            except OSError as error:
                failed = error
        raise failed or OSError(f"{self._host} has no address")


def header_lines(headers: Mapping[str, str]) -> str:
    """Return the lines of a request that say the headers.

    Raises:
        ValueError: when there is something in one that cannot be sent.
    """
    return "".join([header_line(name, value) for name, value in headers.items()])


def header_line(name: str, value: str) -> str:
    """Return the line of one."""
    if not _VALUE.fullmatch(value):
        raise ValueError(f"the header {name} cannot be sent")
    return f"{name}: {value}\r\n"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _authorization(parts: SplitResult) -> dict[str, str]:
    if parts.username is None:
        return {}
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}
