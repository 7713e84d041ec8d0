"""Ordinary answers to a request of ours, told from all others at a glance.

An ordinary one says success, tells its length once, and has nothing in it that changes where it
ends. Nothing is guessed: what is not ordinary is left to h11, and so is one whose head comes in
pieces.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

_HEAD: Final = re.compile(
    rb"HTTP/1\.1 (20[012])(?: [\x20-\x7e]*)?((?:\r\n[-!#$%&'*+.^_`|~0-9a-zA-Z]+:[\t\x20-\x7e]*)+)"
)
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,6})[ \t]*(?=\r\n|\Z)")
_ODD: Final = re.compile(rb"\r\n(?:transfer-encoding|upgrade|trailer):")
_CLOSED: Final = re.compile(rb"\r\nconnection:(?![ \t]*keep-alive[ \t]*(?:\r\n|\Z))")


class Ordinary(NamedTuple):
    """An ordinary answer, as far as it has come.

    Attributes:
        status: 200, 201 or 202.
        length: how many bytes its body has.
        body: what has come after the head.
        keeps: whether the server leaves the connection open.
    """

    status: int
    length: int
    body: bytes
    keeps: bool

    @property
    def is_last(self) -> bool:
        """Whether it has come whole, and the connection may carry another request.

        Not with more behind it: that would pass for the answer to the next request.
        """
        return self.keeps and len(self.body) == self.length

    @property
    def is_followed(self) -> bool:
        """Whether more has come behind it, so that it may be the answer to an earlier request."""
        return len(self.body) > self.length


@lru_cache(maxsize=16)  # a server says the same again and again
def ordinary(received: bytes) -> Ordinary | None:
    """Return the answer that begins with ``received``, if it is an ordinary one."""
    head, blank, body = received.partition(b"\r\n\r\n")
    match = _HEAD.fullmatch(head)
    if match is None or not blank:
        return None
    fields = match[2].lower()
    length = _LENGTH.search(fields)
    if length is None or fields.count(b"\r\ncontent-length") != 1 or _ODD.search(fields):
        return None
    return Ordinary(int(match[1]), int(length[1]), body, _CLOSED.search(fields) is None)
