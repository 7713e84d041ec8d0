"""A connector that answers at once: it echoes credits and messages, and counts them.

``GET /counts`` tells how many different credits came, how many requests in all, and when the last.
It has to share the processors with those it is asked by, so it does no more than it must: all
connections in one loop, and of a request what is looked at is read by a pattern.
"""

import re
import select
import socket
import sys
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from benchmarks.plain import answer, created

_BACKLOG: Final = 1024
_RECEIVE_BYTES: Final = 65536
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")
_KEY: Final = re.compile(rb"(?i)\r\nidempotency-key: *([^\r]*)")
_MESSAGE: Final = re.compile(rb"POST \S+/messages ")


_ECHO: Final = created(b'{"type":"echo"}')


class Connector:
    """What came in."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()
        self._messages = 0
        self._credits = 0
        self._last_ns = 0

    def answer(self, head: bytes, body: bytes) -> bytes:
        """Take a credit or a message, or tell what came."""
        if head.startswith(b"GET /counts "):
            return answer(b"200 OK", msgspec.json.encode(self._counts()))
        self._last_ns = time.monotonic_ns()
        if _MESSAGE.match(head):
            self._messages += 1
            return _ECHO
        self._credits += 1
        if key := _KEY.search(head):
            self._keys.add(key[1])
        return created(body)

    def _counts(self) -> dict[str, int]:
        return {
            "different": len(self._keys),
            "credits": self._credits,
            "messages": self._messages,
            "last_ns": self._last_ns,
        }


class _Client:
    """One connection, and what has come on it of a request that is not whole."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._said = b""

    def requests(self) -> Iterator[tuple[bytes, bytes]]:
        """Read what has come, and yield head and body of each request that is whole.

        Raises:
            ConnectionError: when the client has gone.
        """
        received = self.sock.recv(_RECEIVE_BYTES)
        if not received:
            raise ConnectionError
        self._said += received
        while (head_end := self._said.find(_HEAD_END)) >= 0:
            head, begin = self._said[: head_end + 2], head_end + len(_HEAD_END)
            length = _LENGTH.search(head)
            end = begin + (int(length[1]) if length else 0)
            if end > len(self._said):
                return
            body, self._said = self._said[begin:end], self._said[end:]
            yield head, body


def main() -> None:
    """Serve on a free port of the loopback interface until the process is ended."""
    connector, clients = Connector(), dict[int, _Client]()
    with (
        socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listener,
        select.epoll() as all_,
    ):
        all_.register(listener.fileno(), select.EPOLLIN)
        sys.stdout.write(f"listens on http://127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            for fd, _ in all_.poll():
                if fd == listener.fileno():
                    sock, _ = listener.accept()
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    clients[sock.fileno()] = _Client(sock)
                    all_.register(sock.fileno(), select.EPOLLIN)
                    continue
                try:
                    for head, body in clients[fd].requests():
                        clients[fd].sock.sendall(connector.answer(head, body))
                except OSError:
                    clients.pop(fd).sock.close()


if __name__ == "__main__":
    main()
