"""One open connection: its bytes, its protocol, and its place among the others."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import TrioSingleTask, WorkerContext
from hypercorn.typing import (
    AppWrapper,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    ConnectionState,
    LifespanState,
    Scope,
)
from hypercorn.utils import parse_socket_addr

from settled import limits
from settled.http.lane import ShortLane
from settled.http.protocols import Protocol
from settled.http.rounds import Rounds
from settled.http.slots import Slot

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

_CLOSED: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class Connection:
    """A connection that is over once it is closed.

    Args:
        app: what answers a request, as Hypercorn calls it.
        config: Hypercorn's.
        context: is told when the server stops.
        stream: the connection.
        slot: its place.
        rounds: of the short lane; without them there is no such lane.
        over: is called when it is closed: what its client still sends is for nobody.
    """

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        stream: Stream,
        *,
        slot: Slot,
        rounds: Rounds | None,
        over: Callable[[], None],
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._stream = stream
        self._slot = slot
        self._rounds = rounds
        self._over = over
        self._tasks = TaskGroup()
        self._sending = trio.Lock()
        self._idle = TrioSingleTask()
        self._under_way = 0  # requests
        self._answered = trio.Event()
        self._ended = False
        self._protocol: Protocol

    async def run(self) -> None:
        """Serve until either side closes."""
        try:
            alpn_protocol = await self._handshake()
            said = b""
            if self._rounds is not None and alpn_protocol != "h2":
                said = await self._short_lane(self._rounds)
                if not said:
                    return
            await self._converse(alpn_protocol, said)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError):
            pass  # The client has gone, or never began.
        finally:
            await self._close()

    async def _short_lane(self, rounds: Rounds) -> bytes:
        """Serve what the lane can; return what was read and is not for it, nothing at the end."""
        sock = socket_of(self._stream)
        return await ShortLane(
            rounds, self._stream, sock, slot=self._slot, context=self._context
        ).serve()

    async def _converse(self, alpn_protocol: str | None, said: bytes) -> None:
        """Speak the client's protocol, beginning with what was read already."""
        sock = socket_of(self._stream)
        self._protocol = Protocol(
            alpn_protocol,
            self._slot,
            self._call_app,
            self._config,
            self._context,
            self._tasks,
            ConnectionState(LifespanState()),
            isinstance(self._stream, trio.SSLStream),
            parse_socket_addr(sock.family, sock.getpeername()),
            parse_socket_addr(sock.family, sock.getsockname()),
            self._send,
        )
        try:
            async with self._tasks:
                await self._protocol.initiate()
                await self._idle.restart(self._tasks, self._close_when_idle)
                await self._read(said)
                self._ended = True
                await self._idle.stop()
        finally:
            self._protocol.forget()

    async def _handshake(self) -> str | None:
        if not isinstance(self._stream, trio.SSLStream):
            return None
        with trio.fail_after(limits.HEADER_TIMEOUT_S):
            await self._stream.do_handshake()
        chosen: str | None = self._stream.selected_alpn_protocol()
        return chosen

    async def _read(self, said: bytes) -> None:
        """Read a little at a time, so that nobody has us parse thousands of frames in one go.

        Args:
            said: what was read already.
        """
        first = not said
        if said:
            await self._protocol.handle(RawData(said))
        while True:
            try:
                with trio.fail_after(limits.SILENCE_S):
                    data = await self._stream.receive_some(limits.READ_BYTES_MAX)
            except (*_CLOSED, trio.TooSlowError):
                break
            if not first:
                await self._slot.turn()
            first = False
            await self._protocol.handle(RawData(bytes(data)))
            if not data:
                await self._answer()
                break
        await self._protocol.handle(Closed())

    async def _answer(self) -> None:
        """Give a client that sends no more the answers that it may still wait for."""
        if self._protocol.has_whole_request:
            with trio.move_on_after(limits.HALF_CLOSED_S):
                while self._under_way:
                    self._answered = trio.Event()
                    await self._answered.wait()

    async def _send(self, event: Event) -> None:
        """Do what the protocol wants to happen on the connection."""
        if isinstance(event, RawData):
            async with self._sending:
                try:
                    # Half an answer would break those to the other requests of the connection.
                    with trio.CancelScope(shield=True):
                        await self._stream.send_all(event.data)
                except (*_CLOSED, trio.BusyResourceError):  # busy with the end of the connection
                    await self._protocol.handle(Closed())
        elif isinstance(event, Closed):
            await self._close()
            await self._protocol.handle(Closed())
            self._over()
        elif isinstance(event, Updated):
            if event.idle and not self._ended:
                await self._idle.restart(self._tasks, self._close_when_idle)
            else:
                await self._idle.stop()

    async def _close_when_idle(self) -> None:
        with trio.move_on_after(limits.HEADER_TIMEOUT_S):
            await self._context.terminated.wait()
        with trio.CancelScope(shield=True):
            await self._protocol.handle(Closed())
            await self._stream.aclose()

    async def _close(self) -> None:
        if isinstance(self._stream, trio.SocketStream):
            # The client hears at once that nothing follows, before what he sent is thrown away.
            with suppress(
                trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError
            ):
                await self._stream.send_eof()
        await self._stream.aclose()

    async def _call_app(
        self,
        scope: Scope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        sync_spawn: Callable[..., Any],
        call_soon: Callable[..., Any],
    ) -> None:
        """Call the app, and tell the slot how the request stands."""
        counted = _Counted(self._slot, receive, send)
        self._under_way += 1
        try:
            await self._app(scope, counted.receive, counted.send, sync_spawn, call_soon)
        except BaseExceptionGroup as group:
            if group.split(trio.Cancelled)[1] is not None:
                raise
        else:
            return
        finally:
            self._under_way -= 1
            self._answered.set()
            counted.over()
        # Hypercorn would keep the group in a cycle with all that it has to do with.
        await trio.lowlevel.checkpoint()


class _Counted:
    """One request, as the slot of its connection counts it."""

    def __init__(self, slot: Slot, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        self._slot = slot
        self._receive = receive
        self._send = send
        self._held_bytes = limits.REQUEST_BYTES
        self._slot.hold(self._held_bytes)
        self._whole = False
        self._answering = False

    async def receive(self) -> ASGIReceiveEvent:
        message = await self._receive()
        if message["type"] == "http.request":
            # What is over the limit is dropped as it comes.
            room_bytes = limits.REQUEST_BYTES + limits.BODY_BYTES_MAX - self._held_bytes
            body_bytes = min(len(message["body"]), room_bytes)
            self._held_bytes += body_bytes
            self._slot.hold(body_bytes)
            if not message["more_body"] and not self._answering and not self._whole:
                self._whole = True
                self._slot.request_whole()
        return message

    async def send(self, message: ASGISendEvent) -> None:
        self._answer_begun()
        await self._send(message)

    def over(self) -> None:
        self._answer_begun()
        self._slot.hold(-self._held_bytes)

    def _answer_begun(self) -> None:
        self._answering = True
        if self._whole:
            self._whole = False
            self._slot.answer_begun()


def socket_of(stream: Stream) -> trio.socket.SocketType:
    """Return the socket under a connection."""
    if isinstance(stream, trio.SSLStream):
        return stream.transport_stream.socket
    return stream.socket
