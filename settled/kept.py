"""Connections that have carried a request and may carry another: how long they rest, and when.

The danger is a second answer that comes late: it would pass for the answer to the next request,
and acknowledge a credit that was never taken. HTTP/1.1 has nothing by which to tell. So a
connection is kept only after a clear, ordinary answer with nothing behind it; it rests before it is
used again, those that have rested longest first; and anything that comes meanwhile, up to the last
millisecond, the end of it included, is the end of it. The fewer rest, the longer: a quarter of a
second at little load, less only where hundreds are sent a second, a hundredth where thousands are.

What remains is a second answer of success that comes after so long, alone, and after the next
request was sent; of two that come together none is taken. No HTTP server sends one: it would have
to answer one request twice. Every other client that keeps connections trusts it in this, too, most
of them without any rest.
"""

import math
import select
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import trio

from settled import limits

_MOMENT_S: Final = 0.001
_ALL: Final = 65536  # more than may be open


class _Resting:
    """A connection that rests.

    Attributes:
        fd: its descriptor; -1 with TLS, where more may have come than the kernel knows of.
    """

    __slots__ = ("fd", "since_s", "stream")

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.fd = stream.socket.fileno() if isinstance(stream, trio.SocketStream) else -1
        self.since_s = trio.current_time()


class Kept:
    """The connections to one server that rest; none are kept but while ``run`` runs."""

    def __init__(self) -> None:
        self._resting: deque[_Resting] = deque()  # the oldest first
        self._by_fd: dict[int, _Resting] = {}
        self._epoll: select.epoll  # knows all without TLS that have ever rested here and are open
        self._looked_s = -math.inf
        self._running = False
        self._changed = trio.Event()

    async def run(self) -> None:
        """Keep connections until cancelled, none for so long that the server ends it itself."""
        with select.epoll() as self._epoll:
            self._running = True
            try:
                while True:
                    self._changed = trio.Event()
                    if not self._resting:
                        await self._changed.wait()
                        continue
                    await trio.sleep_until(self._resting[0].since_s + limits.CONNECTION_KEPT_S)
                    self._close_until(trio.current_time() - limits.CONNECTION_KEPT_S)
            finally:
                self._running = False
                self._close_until(math.inf)

    def put(self, stream: trio.abc.Stream, *, again: bool = False) -> None:
        """Have a connection rest that nothing is to come on, or close it.

        Args:
            stream: the connection.
            again: it was taken from here at once.
        """
        if not self._running or len(self._resting) >= limits.CONNECTIONS_KEPT_MAX:
            close(stream)
            return
        resting = _Resting(stream)
        if resting.fd >= 0:
            try:
                if not again:
                    self._epoll.register(resting.fd, select.EPOLLIN)
            except FileExistsError:
                pass  # it may have been here all the same
            except OSError:  # the system has no room for it
                close(stream)
                return
            self._by_fd[resting.fd] = resting
        self._resting.append(resting)
        self._changed.set()

    async def take(self) -> trio.abc.Stream | None:
        """Return a connection that has rested and was silent all the time, if there is one."""
        while self._has_rested():
            stream: trio.abc.Stream | None = self.take_at_once()
            if stream is None and self._has_rested() and self._resting[0].fd < 0:
                stream = self._resting.popleft().stream
                if not await _is_silent(stream):
                    close(stream)
                    continue
            return stream
        return None

    def take_at_once(self) -> trio.SocketStream | None:
        """Like ``take``, without waiting; a connection with TLS must be waited for."""
        while self._resting and self._resting[0].fd >= 0:
            now_s, rested_s = trio.current_time(), self._rested_s()
            if now_s < rested_s:
                break
            # To ask the kernel for each would cost as much as a third of the sending.
            if self._looked_s < max(rested_s, now_s - _MOMENT_S):
                self._look()
                continue
            resting = self._resting.popleft()
            del self._by_fd[resting.fd]
            return _tcp(resting.stream)
        return None

    def heard(self, fd: int) -> None:
        """Close the connection that rests under this descriptor, if something has come on it."""
        self._close_heard([fd])

    def _look(self) -> None:
        """Close the connections on which something has come, the end included."""
        self._looked_s = trio.current_time()
        self._close_heard([fd for fd, _ in self._epoll.poll(0, _ALL)])

    def _close_heard(self, fds: Sequence[int]) -> None:
        over: set[_Resting] = set()
        for fd in fds:
            resting = self._by_fd.get(fd)
            # It may be said of a connection that is closed, and that a child process has open.
            if resting is not None and not _has_nothing(resting.stream):
                del self._by_fd[fd]
                close(resting.stream)
                over.add(resting)
        if over:
            self._resting = deque(resting for resting in self._resting if resting not in over)

    def _has_rested(self) -> bool:
        return bool(self._resting) and trio.current_time() >= self._rested_s()

    def _rested_s(self) -> float:
        """Return when the oldest has rested."""
        return self._resting[0].since_s + self._rest_s()

    def _rest_s(self) -> float:
        share = 1 - len(self._resting) / limits.RESTING_MANY
        return max(limits.CONNECTION_REST_MAX_S * share, limits.CONNECTION_REST_MIN_S)

    def _close_until(self, since_s: float) -> None:
        """Close those that have rested since then, or longer."""
        while self._resting and self._resting[0].since_s <= since_s:
            resting = self._resting.popleft()
            self._by_fd.pop(resting.fd, None)
            close(resting.stream)


async def _is_silent(stream: trio.abc.Stream) -> bool:
    """Return whether nothing has come over TLS, not even an end; the caller sends at once then."""
    if not _has_nothing(stream):
        return False
    # What has come may have been taken from the socket, and not yet deciphered.
    try:
        with suppress(trio.BrokenResourceError), trio.move_on_after(limits.TLS_LOOK_S) as look:
            await stream.receive_some(1)
    except BaseException:
        close(stream)
        raise
    return look.cancelled_caught


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
