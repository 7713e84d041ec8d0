"""The settlements of all connections without TLS, answered in rounds.

What costs most of an ordinary settlement is not its parts but switching between them: a task, a
wait and a message to the writing thread for each. So all connections of the short lane are waited
for at once (with an epoll of its own). In a round whatever has come on any of them is read, handed
over to be committed together, and answered together; meanwhile the next round begins.

A connection goes round only as long as one ordinary settlement follows the answer to the other. At
anything else the task of the connection goes on with what was read; see ``settled.http.lane``.
"""

import os
import select
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Final

import trio
from outcome import Value

from settled import limits
from settled.core.operations import Operations
from settled.http.handlers import PostSettlement, PostSettlements
from settled.http.ordinary import NotOrdinary, Request
from settled.http.replies import Reply
from settled.http.slots import Slot

# ``ValueError`` is what trio says of a socket that is closed already.
_GONE: Final = (OSError, ValueError, trio.ClosedResourceError)


class _Place:
    """A connection whose task waits for something that is not for the rounds.

    Attributes:
        fd: its descriptor, when it came.
        under_way: a settlement of it is not answered yet.
        listening: its descriptor is in the epoll.
        gone: its task waits no more.
    """

    __slots__ = ("fd", "gone", "listening", "slot", "sock", "task", "under_way")

    def __init__(self, sock: trio.socket.SocketType, slot: Slot) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.slot = slot
        self.task = trio.lowlevel.current_task()
        self.under_way = self.listening = self.gone = False


_Round = tuple[list[_Place], PostSettlements]


class _Committed:
    """The rounds that are committed: the thread that writes puts them here, their task takes them.

    Attributes:
        fd: readable while there are any; waiting for it costs less than being woken as a task.
    """

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rounds: deque[_Round] = deque()
        self._lock = threading.Lock()
        self._closed = False

    def put(self, round_: _Round) -> None:
        """Leave a round; any thread may, even when nobody takes it any more."""
        with self._lock:
            if not self._closed:
                self._rounds.append(round_)
                os.eventfd_write(self.fd, 1)

    def take(self) -> Iterator[_Round]:
        """Yield those that are there."""
        os.eventfd_read(self.fd)
        while self._rounds:
            yield self._rounds.popleft()

    def close(self) -> None:
        """Give ``fd`` back."""
        with self._lock:
            self._closed = True
            os.close(self.fd)


class Rounds:
    """Answers settlements, until ``run`` is cancelled.

    Args:
        operations: what the daemon can do.
        epoll: a new one, which its maker closes.

    Attributes:
        operations: the same.
    """

    def __init__(self, operations: Operations, epoll: select.epoll) -> None:
        self.operations = operations
        self._epoll = epoll
        self._places: dict[int, _Place] = {}

    async def run(self) -> None:
        """Answer what comes, round for round; reading waits for no commit."""
        async with trio.open_nursery() as nursery:
            with closing(_Committed()) as committed:
                self._epoll.register(committed.fd, select.EPOLLIN)
                while True:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    self._turn(nursery, committed)

    async def receive(self, sock: trio.socket.SocketType, slot: Slot) -> bytes:
        """Answer the settlements of a connection; return the first that it sends of anything else.

        Returns nothing when its client has gone. When it is cancelled, a settlement that is under
        way is recorded, but not answered.

        Args:
            sock: the connection, which nobody else reads or writes meanwhile.
            slot: its place.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        place = _Place(sock, slot)
        if place.fd < 0:
            return b""

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._forget(place)
            return trio.lowlevel.Abort.SUCCEEDED

        self._listen(place)
        said: bytes = await trio.lowlevel.wait_task_rescheduled(abort)
        return said

    def _turn(self, nursery: trio.Nursery, committed: _Committed) -> None:
        """Answer what is committed, read what has come, and have that committed together."""
        places: list[_Place] = []
        posts: list[PostSettlement] = []
        for fd, _ in self._epoll.poll(0, limits.ROUND_MAX):
            if fd == committed.fd:
                self._answer_all(nursery, committed)
                continue
            place = self._places.get(fd)  # it may have gone with its answer
            if place is not None and (post := self._read(place)) is not None:
                places.append(place)
                posts.append(post)
        if places:
            asked = PostSettlements(self.operations, posts)
            asked.begin(partial(committed.put, (places, asked)))

    def _read(self, place: _Place) -> PostSettlement | None:
        """Return the settlement that has come from a connection, if that is what has."""
        if place.under_way:
            self._ignore(place)  # until it is answered
            return None
        try:
            said = os.read(place.fd, limits.READ_BYTES_MAX)
        except BlockingIOError:
            return None
        except OSError:
            said = b""
        post = _settlement(said) if self.operations.may_begin else None
        if post is None:
            self._leave(place, said)
            return None
        place.under_way = True
        place.slot.request_whole()
        return post

    def _answer_all(self, nursery: trio.Nursery, committed: _Committed) -> None:
        for places, asked in committed.take():
            for place, reply in zip(places, asked.replies(), strict=True):
                if not place.gone:
                    self._answer(nursery, place, reply)

    def _answer(self, nursery: trio.Nursery, place: _Place, reply: Reply | None) -> None:
        if reply is None:  # any answer could be a lie; the daemon is stopping
            self._ignore(place)
            return
        answer = reply.encoded()
        place.slot.answer_begun()
        try:
            sent = send_now(place.sock, answer)
        except OSError:
            self._leave(place, b"")
            return
        if sent < len(answer):
            nursery.start_soon(self._send_rest, place, answer[sent:])
        else:
            self._go_on(place)

    async def _send_rest(self, place: _Place, rest: bytes) -> None:
        """Wait for a client who does not take his answer; his server closes the socket some day."""
        try:
            while rest:
                await trio.lowlevel.wait_writable(place.sock)
                rest = rest[send_now(place.sock, rest) :]
        except _GONE:
            self._leave(place, b"")
        else:
            self._go_on(place)

    def _go_on(self, place: _Place) -> None:
        """Wait for the next request of a connection that was answered."""
        place.under_way = False
        if not place.listening and not place.gone:
            self._listen(place)

    def _leave(self, place: _Place, said: bytes) -> None:
        """Let the task of a connection go on."""
        if not place.gone:
            self._forget(place)
            trio.lowlevel.reschedule(place.task, Value(said))

    def _listen(self, place: _Place) -> None:
        self._places[place.fd] = place
        self._epoll.register(place.fd, select.EPOLLIN)
        place.listening = True

    def _ignore(self, place: _Place) -> None:
        if place.listening:
            place.listening = False
            # One that is closed has gone from the epoll; its number may be another's by now.
            if place.sock.fileno() == place.fd:
                self._epoll.unregister(place.fd)

    def _forget(self, place: _Place) -> None:
        place.gone = True
        self._ignore(place)
        if self._places.get(place.fd) is place:
            del self._places[place.fd]


def send_now(sock: trio.socket.SocketType, answer: bytes) -> int:
    """Send what the kernel takes at once, nearly always all; return how many bytes that is.

    Raises:
        OSError: when the client has gone.
    """
    try:
        return os.write(sock.fileno(), answer)
    except BlockingIOError:
        return 0


def _settlement(said: bytes) -> PostSettlement | None:
    """Return what was sent if it is one ordinary settlement, and nothing else."""
    try:
        request = Request(said)
    except NotOrdinary:
        return None
    if not request.whole or request.end < len(said) or request.is_message:
        return None
    return request.post
