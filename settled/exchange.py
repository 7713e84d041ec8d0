"""One HTTP/1.1 request on a connection of its own, with every phase of it in sight.

Money hangs on whether a request may have been seen: what fails before the first byte of it was sent
is told apart from all that fails later. A connection carries one request, since on one that is used
again a late second answer to the request before would pass for the answer to this one. Whatever
happens, also at every cancellation, the connection is closed in the end.
"""

import base64
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import h11
import trio

from settled import limits
from settled.errors import ConfigError
from settled.text import describe_error, one_line

_PORTS: Final = {"http": 80, "https": 443}
_RECEIVE_BYTES: Final = 16 * 1024


class NotReached(Exception):
    """Nothing of the request was sent."""


class BrokenOff(Exception):
    """The request was sent, at least in part, and there was no proper answer."""


class Server:
    """An HTTP server: where it is, how to get there, and who we are.

    Args:
        url: ``http`` or ``https``; it may have a path, a user name and a password.

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
            "Connection": "close",
            **_authorization(parts),
        }
        shown_host = f"[{self._host}]" if ":" in self._host else self._host
        self.shown_url = f"{parts.scheme}://{shown_host}:{parts.port or ''}".rstrip(":")

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, body_bytes_max: int
    ) -> "Exchange":
        """Send a request and return it when the status of its answer is there.

        The caller closes the exchange.

        Raises:
            NotReached: when nothing was sent.
            BrokenOff: when something was sent, but the answer is none.
        """
        try:
            all_headers = {**self._headers, **headers, "Content-Length": str(len(body))}
            request = h11.Request(
                method="POST", target=self._path + path, headers=list(all_headers.items())
            )
            stream = await self._connect()
        except Exception as error:
            raise NotReached(_reason(error)) from error
        exchange = Exchange(stream, body_bytes_max)
        try:
            await exchange.send(request, body)
        except BaseException as error:
            await exchange.aclose()
            if isinstance(error, Exception):
                raise BrokenOff(_reason(error)) from error
            raise
        return exchange

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


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Exchange:
    """A request that was sent; ``status`` is that of the answer.

    Args:
        stream: the connection.
        body_bytes_max: how much of the answer's body may be read.
    """

    def __init__(self, stream: trio.abc.Stream, body_bytes_max: int) -> None:
        self._stream = stream
        self._body_bytes_max = body_bytes_max
        self._http = h11.Connection(h11.CLIENT, limits.HEADERS_BYTES_MAX)
        self.status = 0

    async def send(self, request: h11.Request, body: bytes) -> None:
        """Send the request, and wait for the status of its answer."""
        events = (request, h11.Data(data=body), h11.EndOfMessage())
        sent = b"".join(self._http.send(event) or b"" for event in events)
        with suppress(trio.BrokenResourceError):  # it may have answered before it hung up
            await self._stream.send_all(sent)
        while not self.status:
            match await self._next_event():
                case (
                    h11.Response(status_code=status)
                    | h11.InformationalResponse(status_code=101 as status)
                ):
                    self.status = status
                case h11.InformationalResponse():
                    pass  # an answer is to come yet; not so after 101
                case _:
                    raise BrokenOff("there is no answer")

    async def body(self) -> bytes | None:
        """Return the answer's body; ``None`` if it breaks off or is too long."""
        body = bytearray()
        try:
            while isinstance(event := await self._next_event(), h11.Data):
                body += event.data
                if len(body) > self._body_bytes_max:
                    return None
        except Exception:  # whatever it made us stumble over: the status was said before
            return None
        return bytes(body)

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(bytes(await self._stream.receive_some(_RECEIVE_BYTES)))
        return event

    async def aclose(self) -> None:
        """Close the connection, also when cancelled, and without a farewell to wait for."""
        await trio.aclose_forcefully(self._stream)


def _authorization(parts: SplitResult) -> dict[str, str]:
    if parts.username is None:
        return {}
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}


def _reason(error: BaseException) -> str:
    """Return what went wrong in one line; trio says so of the network in the cause."""
    if isinstance(error, trio.TooSlowError):
        return "time-out"
    if isinstance(error, trio.BrokenResourceError) and error.__cause__ is not None:
        error = error.__cause__
    return one_line(error) or describe_error(error)
