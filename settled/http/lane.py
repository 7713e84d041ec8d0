"""The short lane: ordinary settlements and messages, from the socket straight to their endpoint.

Nearly all that a busy daemon is sent are requests of two kinds, and their way through Hypercorn and
Quart costs many times what it takes to commit one. So on a connection that speaks HTTP/1.1 those
requests are read here, and answered by the same functions that the Quart views call. Without TLS
the settlements of all connections are even answered together (see ``settled.http.rounds``).

Nothing else is. At the first request that is not quite ordinary (see ``settled.http.ordinary``) the
connection, with all that was read of it, is handed to Hypercorn, and stays there: that is why the
two cannot answer differently.
"""

from collections.abc import Awaitable
from contextlib import suppress
from socket import SHUT_RD
from typing import Final

import trio
from hypercorn.trio.worker_context import WorkerContext

from settled import limits
from settled.http import handlers
from settled.http.ordinary import NotOrdinary, Request
from settled.http.replies import Reply
from settled.http.rounds import Rounds, send_now
from settled.http.slots import Slot

_GONE: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class ShortLane:
    """The lane of one connection.

    Args:
        rounds: answers the settlements of connections without TLS.
        stream: the connection.
        sock: its socket.
        slot: its place.
        context: is told when the server stops.
    """

    def __init__(
        self,
        rounds: Rounds,
        stream: trio.abc.Stream,
        sock: trio.socket.SocketType,
        *,
        slot: Slot,
        context: WorkerContext,
    ) -> None:
        self._rounds = rounds
        self._stream = stream
        self._sock = sock
        self._plain = isinstance(stream, trio.SocketStream)
        self._slot = slot
        self._context = context
        self._left = b""

    async def serve(self) -> bytes:
        """Answer ordinary requests, in their order.

        Returns what was read and is for Hypercorn to answer; nothing when the connection is over.
        """
        async with trio.open_nursery() as nursery:
            # A task of its own: whatever it awaits costs more, the deeper it stands.
            nursery.start_soon(self._serve, nursery.cancel_scope)
            await self._stop_reading()
        return self._left

    async def _serve(self, lane: trio.CancelScope) -> None:
        """Answer requests until one is not for the lane; leave what was read, and end the lane."""
        self._left = await self._answer()
        lane.cancel()

    async def _answer(self) -> bytes:
        said = await self._receive()
        while said:
            try:
                request = Request(said)
            except NotOrdinary:
                return said
            if not request.whole:
                rest = await self._rest()
                if not rest:
                    return said
                said += rest
                continue
            self._slot.request_whole()
            answer = (await handlers.answered(self._reply_to(request))).encoded()
            self._slot.answer_begun()
            if not await self._send(answer):
                return b""
            said = said[request.end :]
            if not said:
                said = await self._receive()
                await self._slot.turn()
        return b""

    def _reply_to(self, request: Request) -> Awaitable[Reply]:
        if request.is_message:
            return handlers.post_message(
                self._rounds.operations,
                request.account_id,
                content_type=request.content_type,
                body=request.body,
            )
        return handlers.post_settlement(self._rounds.operations, request.post)

    async def _receive(self) -> bytes:
        """Wait for a client to begin a request; nothing when it does not.

        Settlements may be answered meanwhile.
        """
        if self._plain:
            return await self._rounds.receive(self._sock, self._slot)
        return await self._more()

    async def _more(self) -> bytes:
        """Wait for a client to go on; nothing when it does not."""
        try:
            return bytes(await self._stream.receive_some(limits.READ_BYTES_MAX))
        except _GONE:
            return b""

    async def _rest(self) -> bytes:
        """Wait for more of a request, not for long: Hypercorn knows what to do with the slow."""
        rest = b""
        with trio.move_on_after(limits.LANE_REST_S):
            rest = await self._more()
        await self._slot.turn()  # outside, where no time-out can lose what was read
        return rest

    async def _send(self, answer: bytes) -> bool:
        """Send an answer; return whether the client is still there."""
        try:
            # A stream would wait its turn first.
            sent = send_now(self._sock, answer) if self._plain else 0
            if sent < len(answer):
                # Half an answer would break those to the other requests of the connection.
                with trio.CancelScope(shield=True):
                    await self._stream.send_all(answer[sent:])
        except _GONE:
            return False
        return True

    async def _stop_reading(self) -> None:
        """Take no more from a client that asks for nothing, or from any when the server stops.

        One that has been answered may stay for longer: it keeps the connection for the next time.

        What has arrived by then is still read, and answered.
        """
        while (rest_s := self._idle_until() - trio.current_time()) > 0:
            with trio.move_on_after(rest_s):
                await self._context.terminated.wait()
                break
        with suppress(OSError):
            self._sock.shutdown(SHUT_RD)

    def _idle_until(self) -> float:
        """Return until when the client may be silent, as it looks now."""
        if self._slot.whole_requests:
            return trio.current_time() + limits.HEADER_TIMEOUT_S
        if self._slot.answered:
            return self._slot.waiting_since + limits.KEEP_ALIVE_S
        return self._slot.waiting_since + limits.HEADER_TIMEOUT_S
