"""Connections that have carried a request and may carry another: how long they rest, and when.

The danger is a second answer that comes late: it would pass for the answer to the next request,
and acknowledge a credit that was never taken. HTTP/1.1 has nothing by which to tell. So a
connection is kept only after a clear, ordinary answer with nothing behind it; it rests before it is
used again, those that have rested longest first; and anything that comes meanwhile, the end of it
included, is the end of it. The fewer rest, the longer: a quarter of a second at little load, less
only where hundreds are sent a second, a hundredth where thousands are.

What remains is a second answer of success that comes after so long, and after the next request was
sent. No HTTP server sends one: it would have to answer one request twice. Every other client that
keeps connections trusts it in this, too, most of them without any rest.
"""

import math
import select
from collections import deque
from contextlib import suppress

import trio

from settled import limits


class Kept:
    """The connections to one server that rest; none are kept but while ``run`` runs.

    Some are watched: whoever put them here hears what comes on any of them, and says so.
    """

    def __init__(self) -> None:
        # Since when; the descriptor if it is watched, else -1. The oldest are first.
        self._resting: deque[tuple[float, trio.abc.Stream, int]] = deque()
        self._watched: dict[int, trio.SocketStream] = {}  # by descriptor
        self._silent_at_s = -math.inf
        self._running = False
        self._changed = trio.Event()

    async def run(self) -> None:
        """Keep connections until cancelled, none for so long that the server ends it itself."""
        self._running = True
        try:
            while True:
                self._changed = trio.Event()
                if not self._resting:
                    await self._changed.wait()
                    continue
                await trio.sleep_until(self._resting[0][0] + limits.CONNECTION_KEPT_S)
                self._close_until(trio.current_time() - limits.CONNECTION_KEPT_S)
        finally:
            self._running = False
            self._close_until(math.inf)

    def put(self, stream: trio.abc.Stream) -> None:
        """Have a connection rest that nothing is to come on, or close it."""
        self._put(stream, -1)

    def put_watched(self, stream: trio.SocketStream, fd: int) -> None:
        """Have a connection rest of which the caller tells ``came`` and ``silent_at``."""
        if self._put(stream, fd):
            self._watched[fd] = stream

    def _put(self, stream: trio.abc.Stream, fd: int) -> bool:
        if not self._running or len(self._resting) >= limits.CONNECTIONS_KEPT_MAX:
            close(stream)
            return False
        self._resting.append((trio.current_time(), stream, fd))
        self._changed.set()
        return True

    def came(self, fd: int) -> None:
        """Close the connection that is watched under this descriptor, if something has come."""
        stream = self._watched.get(fd)
        if stream is not None and not _has_nothing(stream):
            del self._watched[fd]
            close(stream)

    def silent_at(self, time_s: float) -> None:
        """Take note that all that came on watched connections by then has been told of."""
        self._silent_at_s = time_s

    async def take(self) -> trio.abc.Stream | None:
        """Return a connection that has rested and was silent all the time, if there is one."""
        while self._has_rested():
            _, stream, fd = self._resting.popleft()
            if self._was_closed(stream, fd):
                continue
            if await _is_silent(stream):
                return stream
            close(stream)
        return None

    def take_at_once(self) -> tuple[trio.SocketStream, bool] | None:
        """Like ``take``, without waiting; return also whether it is one that is watched.

        A connection with TLS must be waited for.
        """
        while self._has_rested() and isinstance(self._resting[0][1], trio.SocketStream):
            since_s, stream, fd = self._resting.popleft()
            if self._was_closed(stream, fd):
                continue
            # To ask the kernel for each would cost as much as half of the sending.
            silent = fd >= 0 and self._silent_at_s >= since_s + self._rest_s()
            if silent or _has_nothing(stream):
                return _tcp(stream), fd >= 0
            close(stream)
        return None

    def _was_closed(self, stream: trio.abc.Stream, fd: int) -> bool:
        """Return whether something came on a connection that rests no more."""
        if fd < 0:
            return False
        if self._watched.get(fd) is not stream:  # the descriptor may be another's by now
            return True
        del self._watched[fd]
        return False

    def _has_rested(self) -> bool:
        if not self._resting:
            return False
        return trio.current_time() >= self._resting[0][0] + self._rest_s()

    def _rest_s(self) -> float:
        share = 1 - len(self._resting) / limits.RESTING_MANY
        return max(limits.CONNECTION_REST_MAX_S * share, limits.CONNECTION_REST_MIN_S)

    def _close_until(self, since: float) -> None:
        """Close those that have rested since then, or longer."""
        while self._resting and self._resting[0][0] <= since:
            _, stream, fd = self._resting.popleft()
            if not self._was_closed(stream, fd):
                close(stream)


async def _is_silent(stream: trio.abc.Stream) -> bool:
    """Return whether nothing has come, not even an end; the caller sends at once then."""
    if not _has_nothing(stream):
        return False
    if isinstance(stream, trio.SSLStream):
        # What has come may have been taken from the socket, and not yet deciphered.
        try:
            with suppress(trio.BrokenResourceError), trio.move_on_after(limits.TLS_LOOK_S) as look:
                await stream.receive_some(1)
        except BaseException:
            close(stream)
            raise
        return look.cancelled_caught
    return True


def _has_nothing(stream: trio.abc.Stream) -> bool:
    poll = select.poll()
    poll.register(_tcp(stream).socket.fileno(), select.POLLIN)
    return not poll.poll(0)


def close(stream: trio.abc.Stream) -> None:
    """Close a connection that nobody waits for; that does not wait, either."""
    _tcp(stream).socket.close()


def _tcp(stream: trio.abc.Stream) -> trio.SocketStream:
    tcp = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    assert isinstance(tcp, trio.SocketStream)  # noqa: S101 - there is no other
    return tcp
