"""One HTTP/1.1 request, with every phase of it in sight.

Money hangs on whether a request may have been seen: what fails before the first byte of it was sent
is told apart from all that fails later. Whatever happens, also at every cancellation, the
connection is closed in the end; only after an ordinary answer it may be kept for another request,
if the caller says so: see ``settled.kept``. An answer that is anything but ordinary is h11's to
understand, on a connection that is then closed.
"""

import base64
import ipaddress
import re
import socket
import ssl
from collections.abc import Mapping
from functools import partial
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import h11
import trio

from settled import limits
from settled.answers import Ordinary, ordinary
from settled.errors import ConfigError
from settled.kept import Kept
from settled.text import describe_error, one_line

_PORTS: Final = {"http": 80, "https": 443}
_RECEIVE_BYTES: Final = 16 * 1024

_PATH: Final = re.compile(r"[\x21-\x7e]+")
_VALUE: Final = re.compile(r"[\x20-\x7e]*")

# All that h11 must know of ours to understand an answer.
_REQUEST: Final = h11.Request(method="POST", target="/", headers=[("Host", "any")])


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
            **_authorization(parts),
        }
        self._kept = Kept()
        shown_host = f"[{self._host}]" if ":" in self._host else self._host
        self.shown_url = f"{parts.scheme}://{shown_host}:{parts.port or ''}".rstrip(":")

    async def keep_connections(self) -> None:
        """Keep connections for requests that may take them, until cancelled."""
        await self._kept.run()

    async def post(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        body_bytes_max: int,
        repeatable: bool,
    ) -> "Exchange":
        """Send a request and return it when the status of its answer is there.

        The caller closes the exchange.

        Args:
            path: where to, after the path of the server's URL.
            body: what to send.
            headers: those that this request has besides the server's own.
            body_bytes_max: how much of the answer's body is read.
            repeatable: it is sent again if it fails, so it may take a connection that was kept,
                which the server may be closing just now.

        Raises:
            NotReached: when nothing was sent.
            BrokenOff: when something was sent, but the answer is none.
        """
        try:
            request = self._request(path, body, headers, keep=repeatable)
            stream = await self._kept.take() if repeatable else None
            if stream is None:
                stream = await self._connect()
        except Exception as error:
            raise NotReached(_reason(error)) from error
        exchange = Exchange(stream, body_bytes_max, self._kept if repeatable else None)
        try:
            await exchange.send(request)
        except BaseException as error:
            await exchange.aclose()
            if isinstance(error, Exception):
                raise BrokenOff(_reason(error)) from error
            raise
        return exchange

    def _request(self, path: str, body: bytes, headers: Mapping[str, str], *, keep: bool) -> bytes:
        target, lines = self._path + path, {**self._headers, **headers}
        if not _PATH.fullmatch(target):
            raise ValueError(f"{target!r} cannot be a path")
        for name, value in lines.items():
            if not _VALUE.fullmatch(value):
                raise ValueError(f"the header {name} cannot be sent")
        lines["Content-Length"] = str(len(body))
        if not keep:
            lines["Connection"] = "close"
        head = "".join([f"{name}: {value}\r\n" for name, value in lines.items()])
        return f"POST {target} HTTP/1.1\r\n{head}\r\n".encode() + body

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
    """A request that is sent; ``status`` is that of the answer.

    Args:
        stream: the connection.
        body_bytes_max: how much of the answer's body may be read.
        kept: where a connection goes that may carry another request.
    """

    def __init__(self, stream: trio.abc.Stream, body_bytes_max: int, kept: Kept | None) -> None:
        self._stream = stream
        self._body_bytes_max = body_bytes_max
        self._kept = kept
        self._answer: Ordinary | None = None
        self._reusable = False
        self._ended = False  # by the server
        self.status = 0

    async def send(self, request: bytes) -> None:
        """Send the request, and wait for the status of its answer."""
        try:
            await self._stream.send_all(request)
        except trio.BrokenResourceError:  # it may have answered before it hung up
            self._kept = None
        received = await self._receive()
        self._answer = ordinary(received)
        if self._answer is not None:
            self.status = self._answer.status
            return
        self._http = h11.Connection(h11.CLIENT, limits.HEADERS_BYTES_MAX)
        self._http.send(_REQUEST)
        self._http.send(h11.EndOfMessage())
        self._http.receive_data(received)
        try:
            await self._read_status()
        except h11.RemoteProtocolError as error:
            raise BrokenOff(self._fault(error)) from error

    async def _read_status(self) -> None:
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
        try:
            if self._answer is not None:
                return await self._ordinary_body(self._answer)
            body = bytearray()
            while isinstance(event := await self._next_event(), h11.Data):
                body += event.data
                if len(body) > self._body_bytes_max:
                    return None
        except Exception:  # whatever it made us stumble over: the status was said before
            return None
        return bytes(body)

    async def _ordinary_body(self, answer: Ordinary) -> bytes | None:
        body = answer.body
        if answer.length > self._body_bytes_max:
            return None
        while len(body) < answer.length:
            more = await self._stream.receive_some(_RECEIVE_BYTES)
            if not more:
                return None
            body += more
        # Not with more behind it: that would pass for the answer to the next request.
        self._reusable = answer.keeps and len(body) == answer.length
        return body[: answer.length]

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._receive())
        return event

    async def _receive(self) -> bytes:
        received = bytes(await self._stream.receive_some(_RECEIVE_BYTES))
        self._ended = not received
        return received

    def _fault(self, error: h11.RemoteProtocolError) -> str:
        """Say what is wrong with an answer; h11 says so of its own states."""
        if not self._ended:
            return f"what it sent is no HTTP answer ({one_line(error)})"
        begun, _ = self._http.trailing_data
        return (
            f"it closed the connection {'in the middle of its' if begun else 'without an'} answer"
        )

    async def aclose(self) -> None:
        """Close the connection, also when cancelled, or keep it if all is well with it."""
        if self._kept is not None and self._reusable:
            await self._kept.put(self._stream)
        else:
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
