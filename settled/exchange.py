"""One HTTP/1.1 request, with every phase of it in sight.

Money hangs on whether a request may have been seen: what fails before the first byte of it was sent
is told apart from all that fails later. Whatever happens, also at every cancellation, the
connection is closed in the end; only after an ordinary answer it may be kept for another request,
if the caller says so: see ``settled.kept``. An answer that is anything but ordinary is h11's to
understand, on a connection that is then closed.
"""

from collections.abc import Awaitable
from typing import Final

import h11
import trio

from settled import limits
from settled.answers import Ordinary, ordinary
from settled.kept import Kept
from settled.text import describe_error, one_line

RECEIVE_BYTES: Final = 16 * 1024

TWO_ANSWERS: Final = "more came than one answer, so which is to this request cannot be told"

# All that h11 must know of ours to understand an answer.
_REQUEST: Final = h11.Request(method="POST", target="/", headers=[("Host", "any")])


class NotReached(Exception):
    """Nothing of the request was sent."""


class BrokenOff(Exception):
    """The request was sent, at least in part, and there was no proper answer."""


class Exchange:
    """A request that is sent; ``status`` is that of the answer.

    Args:
        stream: the connection.
        body_bytes_max: how much of the answer's body may be read.
        kept: where a connection goes that may carry another request.
        again: it has carried a request before, to which a second answer may have come late.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        body_bytes_max: int,
        kept: Kept | None,
        *,
        again: bool,
    ) -> None:
        self._again = again
        self._stream = stream
        self._body_bytes_max = body_bytes_max
        self._kept = kept
        self._answer: Ordinary | None = None
        self._reusable = False
        self._ended = False  # by the server
        self.status = 0

    async def send(self, request: bytes, received: bytes | None = None) -> "Exchange":
        """Send the request, wait for the status of its answer, and return this exchange.

        When it fails, the connection is closed.

        Args:
            request: what is to be sent, or still to be sent, of it.
            received: what has come of the answer, if all was sent before.

        Raises:
            BrokenOff: when the answer is none.
        """
        try:
            if received is None:
                received = await self._sent(request)
            await self._understand(received)
        except BaseException as error:
            await self.aclose()
            if isinstance(error, Exception):
                raise BrokenOff(reason(error)) from error
            raise
        return self

    async def _sent(self, request: bytes) -> bytes:
        try:
            await self._stream.send_all(request)
        except trio.BrokenResourceError:  # it may have answered before it hung up
            self._kept = None
        return await self._receive()

    async def _understand(self, received: bytes) -> None:
        self._ended = not received
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
        """Return the answer's body; ``None`` if it breaks off or is too long.

        Raises:
            BrokenOff: when more came with it, and it may be the answer to an earlier request.
        """
        try:
            if self._answer is not None:
                body, followed = await self._ordinary_body(self._answer)
            else:
                body, followed = await self._other_body()
        except Exception:  # whatever it made us stumble over: the status was said before
            return None
        if followed and self._again:
            raise BrokenOff(TWO_ANSWERS)
        return body

    async def _ordinary_body(self, answer: Ordinary) -> tuple[bytes | None, bool]:
        """Return the body, and whether more came with it."""
        body = answer.body
        if answer.length > self._body_bytes_max:
            return None, False
        while len(body) < answer.length:
            more = await self._stream.receive_some(RECEIVE_BYTES)
            if not more:
                return None, False
            body += more
        whole = answer._replace(body=body)
        self._reusable = whole.is_last
        return body[: answer.length], whole.is_followed

    async def _other_body(self) -> tuple[bytes | None, bool]:
        """Do the same for an answer that is not ordinary."""
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > self._body_bytes_max:
                return None, False
        followed, _ = self._http.trailing_data
        return bytes(body), bool(followed)

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._receive())
        return event

    async def _receive(self) -> bytes:
        received = bytes(await self._stream.receive_some(RECEIVE_BYTES))
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
            self._kept.put(self._stream)
        else:
            await trio.aclose_forcefully(self._stream)


async def answer_to(asking: Awaitable[Exchange], due_s: float) -> tuple[int, bytes | None]:
    """Return the status and the body: ``None`` if it broke off, was slow or is too long.

    What happens to the body does not change what the status said.

    Args:
        asking: what sends the request.
        due_s: when to give it up, on trio's clock.

    Raises:
        NotReached: when nothing was sent.
        TooSlowError: when there is no status by then.
        Exception: what else became of it.
    """
    exchange, reply = None, None
    try:
        with trio.move_on_at(due_s):
            exchange = await asking
            reply = await exchange.body()
    finally:
        if exchange is not None:
            await exchange.aclose()
    if exchange is None:
        raise trio.TooSlowError
    return exchange.status, reply


def reason(error: BaseException) -> str:
    """Return what went wrong in one line; trio says so of the network in the cause."""
    if isinstance(error, trio.TooSlowError):
        return "time-out"
    if isinstance(error, trio.BrokenResourceError) and error.__cause__ is not None:
        error = error.__cause__
    return one_line(error) or describe_error(error)
