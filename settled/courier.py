"""Requests on connections that were kept: one task waits for the answers to all of them.

What costs most of an ordinary request is not its parts but a task for each, that waits. So a
request for which a connection is there is sent at once, and all that are under way are waited for
together (with an epoll of its own). An ordinary answer that comes in one piece is told at once.
Whatever else comes is left to a task, which goes on with what was read; see ``settled.exchange``.

A connection stays in the epoll for good, also while it rests or a task has it. What the epoll says
is only a hint, given once each time that something comes (``EPOLLET``), and may be of a connection
that is closed: what is true is what can be read.
"""

import os
import select
from collections.abc import Callable
from itertools import takewhile
from weakref import WeakSet

import trio

from settled import limits
from settled.answers import ordinary
from settled.exchange import RECEIVE_BYTES, TWO_ANSWERS, BrokenOff, Exchange, answer_to
from settled.kept import Kept, close

Told = Callable[[int | Exception], None]
"""Takes the status of the answer, or why there is none."""


class _Sent:
    """A request that is under way.

    Attributes:
        due_s: when it is given up.
        rest: what of it is still to be sent.
    """

    __slots__ = ("due_s", "fd", "rest", "stream", "told")

    def __init__(self, stream: trio.SocketStream, told: Told) -> None:
        self.stream = stream
        self.fd = stream.socket.fileno()
        self.due_s = trio.current_time() + limits.CONNECTOR_TIMEOUT_S
        self.rest = b""
        self.told = told


class Courier:
    """Sends requests on the connections that were kept, while ``run`` runs.

    Args:
        kept: the connections.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._runs = False
        self._epoll: select.epoll
        self._known: WeakSet[trio.SocketStream] = WeakSet()  # are in the epoll
        self._nursery: trio.Nursery
        self._under_way: dict[int, _Sent] = {}  # by descriptor, the oldest first

    async def run(self) -> None:
        """Tell of answers until cancelled; what is under way then is closed, and not told of."""
        self._known.clear()
        with select.epoll() as self._epoll:
            try:
                async with trio.open_nursery() as self._nursery:
                    self._nursery.start_soon(self._give_up)
                    self._runs = True
                    while True:
                        await trio.lowlevel.wait_readable(self._epoll.fileno())
                        self._read()
            finally:
                self._runs = False
                for sent in self._under_way.values():
                    close(sent.stream)
                self._under_way.clear()

    def send(self, make_request: Callable[[], bytes], told: Told) -> bool:
        """Send a request if a connection is there that has rested; return whether it is sent.

        Then ``told`` is called later, and once. It never raises.
        """
        stream = self._kept.take_at_once() if self._runs else None
        if stream is None:
            return False
        try:
            request = make_request()
        except Exception:
            self._kept.put(stream, again=True)
            return False  # who sends it otherwise says why it cannot be sent
        sent = _Sent(stream, told)
        if not self._listens_to(stream):
            close(stream)
            return False
        try:
            sent.rest = request[os.write(sent.fd, request) :]
        except OSError:
            sent.rest = request
        if sent.rest:
            self._nursery.start_soon(self._go_on, sent, None)
        else:
            self._under_way[sent.fd] = sent
        return True

    def _listens_to(self, stream: trio.SocketStream) -> bool:
        """See to it that answers on the connection are heard; return whether they are."""
        if stream not in self._known:
            try:
                self._epoll.register(stream.socket.fileno(), select.EPOLLIN | select.EPOLLET)
            except OSError:  # the system has no room for it
                return False
            self._known.add(stream)
        return True

    def _read(self) -> None:
        for fd, _ in self._epoll.poll(0, limits.ROUND_MAX):
            sent = self._under_way.get(fd)
            if sent is None:
                self._kept.heard(fd)
            else:
                self._read_answer(sent)

    def _read_answer(self, sent: _Sent) -> None:
        try:
            received = os.read(sent.fd, RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(sent, error)
            return
        answer = ordinary(received)
        if answer is None or len(answer.body) < answer.length:
            del self._under_way[sent.fd]
            self._nursery.start_soon(self._go_on, sent, received)
        elif answer.is_followed:
            self._end(sent, BrokenOff(TWO_ANSWERS))
        elif not answer.is_last:
            self._end(sent, answer.status)
        else:
            del self._under_way[sent.fd]
            self._kept.put(sent.stream, again=True)
            sent.told(answer.status)

    def _end(self, sent: _Sent, answer: int | Exception) -> None:
        """Tell of the answer, and close the connection."""
        del self._under_way[sent.fd]
        close(sent.stream)
        sent.told(answer)

    async def _go_on(self, sent: _Sent, received: bytes | None) -> None:
        """Send the rest of a request, or understand what is not ordinary."""
        exchange = Exchange(sent.stream, limits.CONNECTOR_REPLY_BYTES_MAX, self._kept, again=True)
        answer: int | Exception
        try:
            answer, _ = await answer_to(exchange.send(sent.rest, received), sent.due_s)
        except Exception as error:
            answer = error
        sent.told(answer)

    async def _give_up(self) -> None:
        """Give up what has no answer when it is due."""
        while True:
            oldest = next(iter(self._under_way.values()), None)
            soonest_s = trio.current_time() + limits.CONNECTOR_TIMEOUT_S
            await trio.sleep_until(soonest_s if oldest is None else oldest.due_s)
            for sent in self._late():
                self._end(sent, trio.TooSlowError())

    def _late(self) -> list[_Sent]:
        now_s = trio.current_time()
        return list(takewhile(lambda sent: sent.due_s <= now_s, self._under_way.values()))
