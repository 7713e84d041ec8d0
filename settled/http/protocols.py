"""HTTP/1.1 and HTTP/2 on one connection: Hypercorn's, hardened against clients that misbehave."""

from collections.abc import Sequence
from typing import Any

import h2.errors
import h2.events
import h11
import outcome
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import EndBody
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol

from settled import limits
from settled.http.slots import Slot


class Protocol:
    """What the client of one connection speaks.

    Args:
        alpn_protocol: what was agreed under TLS, if anything.
        slot: the place of the connection.
        arguments: what Hypercorn's protocols take.
    """

    def __init__(self, alpn_protocol: str | None, slot: Slot, *arguments: Any) -> None:
        self._slot = slot
        self._arguments = arguments
        self._protocol: H11Protocol | H2Protocol
        if alpn_protocol == "h2":
            self._protocol = _H2(self._slot, *self._arguments)
        else:
            self._protocol = _H11(*self._arguments)

    @property
    def has_whole_request(self) -> bool:
        """Whether a client that sends no more may wait for its answer: its request came whole."""
        if not isinstance(self._protocol, H11Protocol):
            return False
        return self._protocol.connection.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)

    async def initiate(self) -> None:
        """Begin."""
        await self._protocol.initiate()

    async def handle(self, event: Event) -> None:
        """Take what was received, or that the connection is closed."""
        try:
            await self._protocol.handle(event)
        except H2ProtocolAssumedError as error:
            self._protocol = _H2(self._slot, *self._arguments)
            await self._protocol.initiate()
            await self._protocol.handle(RawData(error.data))

    def forget(self) -> None:
        """Free what the connection took up, once nothing goes on any more.

        Left to the garbage collector, it would pile up, and then hold up all others for long.
        """
        if isinstance(self._protocol, H2Protocol):
            self._protocol.streams.clear()
        else:
            self._protocol.stream = None
        del self._protocol, self._arguments


class _H11(H11Protocol):
    def __init__(self, app: Any, config: Config, *arguments: Any) -> None:
        super().__init__(app, config, *arguments)
        self.connection: _H11Connection = _H11Connection(
            h11.SERVER, max_incomplete_event_size=config.h11_max_incomplete_size
        )

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            # What waits for an answer to go, before it reads the next request, would wait for ever.
            self.connection.end()
            await self.can_read.set()


class _H11Connection(h11.Connection):
    """Reads requests that have one meaning, up to the last one, and no ``Upgrade``.

    What has come of a body is one event. Each one costs the tasks that hand it on more than it
    costs to parse, and a client may send its body in chunks of one byte.
    """

    _following: outcome.Maybe[Any] | None = None
    _ended = False

    def end(self) -> None:
        """Read no more, not even what has come already."""
        self._ended = True

    def receive_data(self, data: bytes) -> None:
        if self.their_state is not h11.MUST_CLOSE:
            super().receive_data(data)

    def next_event(self) -> Any:
        if self._ended:
            return h11.NEED_DATA
        if self.their_state is h11.MUST_CLOSE:
            # h11 takes what follows the last request for an error, and Hypercorn would answer 400
            # where the answer to that request belongs, which may have been carried out.
            return h11.NEED_DATA
        event = super().next_event()
        if isinstance(event, h11.Request):
            return self._checked(event)
        return event

    def _extract_next_receive_event(self) -> Any:
        """Join data that is there; the state moves on only once what follows it is asked for."""
        if self._following is not None:
            following, self._following = self._following, None
            return following.unwrap()
        event = super()._extract_next_receive_event()
        if not isinstance(event, h11.Data):
            return event
        data = bytearray(event.data)
        while True:
            following = outcome.capture(super()._extract_next_receive_event)
            match following:
                case outcome.Value(h11.Data() as more):
                    data += more.data
                case outcome.Value(h11.NEED_DATA):
                    break
                case _:
                    self._following = following
                    break
        return h11.Data(data=bytes(data))

    def _checked(self, request: h11.Request) -> h11.Request:
        names = {name for name, _ in request.headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            # A proxy may take another of the two for the length than we do (RFC 9112, 6.1).
            raise self._refused("two lengths of the body", 400)
        if not request.http_version.startswith(b"1.") and request.method != b"PRI":
            raise self._refused("a version of HTTP that is none", 505)
        if b"upgrade" in names:
            # A server may ignore it (RFC 9110, 7.8). WebSockets are not for us, and the upgrade to
            # HTTP/2 was given up (RFC 9113, 3.1), but for smuggling requests past a proxy.
            return h11.Request(
                method=request.method,
                target=request.target,
                headers=[header for header in request.headers if header[0] != b"upgrade"],
                http_version=request.http_version,
            )
        return request

    def _refused(self, reason: str, status: int) -> h11.RemoteProtocolError:
        self._process_error(self.their_role)
        return h11.RemoteProtocolError(reason, error_status_hint=status)


class _H2(H2Protocol):
    """Has requests wait for their turn, and ends what asks for nothing: pings, settings, resets."""

    def __init__(self, slot: Slot, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._slot = slot
        self._idle_frames_left = limits.IDLE_FRAMES_MAX

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            # Nothing takes the rest of the answers any more, and Hypercorn would wait for it.
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()

    async def _handle_events(self, events: Sequence[h2.events.Event]) -> None:
        for event in events:
            if not _is_of_use(event):
                self._idle_frames_left -= 1
            if self._idle_frames_left < 0:
                self.connection.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
                await self._flush()
                await self.send(Closed())
            if self.closed:
                return
            await self._handle_event(event)
        await self._flush()

    async def _handle_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            await self._slot.turn()
            if not self._slot.room_for_request():
                # It says that nothing was done, so that the client may ask again (RFC 9113, 8.7).
                self.connection.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
                return
        if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
            # The rest of a body that was not waited for. Hypercorn would drop the connection.
            self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            return
        await super()._handle_events([event])

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, EndBody):
            # An honest client has some for each answer: windows to update, settings to agree to.
            self._idle_frames_left += limits.IDLE_FRAMES_PER_ANSWER
        await super().stream_send(event)


def _is_of_use(event: h2.events.Event) -> bool:
    if isinstance(event, h2.events.DataReceived):
        return bool(event.data)
    return isinstance(event, h2.events.RequestReceived | h2.events.StreamEnded)
