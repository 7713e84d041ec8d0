"""Requests on connections that were kept: one task waits for the answers to all of them.

What costs most of an ordinary request is not its parts but a task for each, that waits. So a
request for which a connection is there is sent at once, and all that are under way are waited for
together (with an epoll of its own). An ordinary answer that comes in one piece is told at once.
Whatever else comes is left to a task, which goes on with what was read; see ``settled.exchange``.
"""

import os
import select
from collections.abc import Callable
from itertools import takewhile

import trio

from settled import limits
from settled.answers import ordinary
from settled.exchange import RECEIVE_BYTES, Exchange, answer_to
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
        self._nursery: trio.Nursery
        self._under_way: dict[int, _Sent] = {}  # by descriptor, the oldest first

    async def run(self) -> None:
        """Tell of answers until cancelled; what is under way then is closed, and not told of."""
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
            self._kept.put(stream)
            return False  # who sends it otherwise says why it cannot be sent
        sent = _Sent(stream, told)
        try:
            sent.rest = request[os.write(sent.fd, request) :]
        except OSError:
            sent.rest = request
        if sent.rest:
            self._nursery.start_soon(self._go_on, sent, None)
        else:
            self._under_way[sent.fd] = sent
            self._epoll.register(sent.fd, select.EPOLLIN)
        return True

    def _read(self) -> None:
        for fd, _ in self._epoll.poll(0, limits.ROUND_MAX):
            sent = self._under_way[fd]
            try:
                received = os.read(fd, RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                self._forget(sent)
                close(sent.stream)
                sent.told(error)
                continue
            self._forget(sent)
            answer = ordinary(received)
            if answer is None or len(answer.body) < answer.length:
                self._nursery.start_soon(self._go_on, sent, received)
                continue
            if answer.is_last:
                self._kept.put(sent.stream)
            else:
                close(sent.stream)
            sent.told(answer.status)

    def _forget(self, sent: _Sent) -> None:
        self._epoll.unregister(sent.fd)
        del self._under_way[sent.fd]

    async def _go_on(self, sent: _Sent, received: bytes | None) -> None:
        """Send the rest of a request, or understand what is not ordinary."""
        exchange = Exchange(sent.stream, limits.CONNECTOR_REPLY_BYTES_MAX, self._kept)
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
                self._forget(sent)
                close(sent.stream)
                sent.told(trio.TooSlowError())

    def _late(self) -> list[_Sent]:
        now_s = trio.current_time()
        return list(takewhile(lambda sent: sent.due_s <= now_s, self._under_way.values()))
