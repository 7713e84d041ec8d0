"""Ordinary requests: those that the short lane reads, told from all others.

Ordinary is what has one meaning to every server: a documented path, one Host, one Content-Length,
nothing that changes how messages are framed or whether the connection stays, and all of it short.
"""

import re
from typing import Final

import httptools

from settled import limits
from settled.http.handlers import PostSettlement

_LINE: Final = re.compile(
    rb"POST /+accounts/+([A-Za-z0-9._~-]+)/+(settlements|messages)/* HTTP/1\.1\r\n", re.ASCII
)
_BEGIN: Final = b"POST /"
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"[1-9][0-9]{0,3}", re.ASCII)
_PRINTABLE: Final = re.compile(rb"[\t\r\n\x20-\x7e]*", re.ASCII)

# They say how messages are framed, how the connection goes on, or that a web page asks.
_NOT_ORDINARY: Final = frozenset(
    {b"transfer-encoding", b"expect", b"upgrade", b"trailer", b"te", b"origin"}
)


class NotOrdinary(Exception):
    """This is for Hypercorn."""


class Request:
    """One ordinary request, read from the beginning of ``said``.

    Args:
        said: what a client has sent so far.

    Attributes:
        account_id: of the path.
        is_message: whether it is a message; else it is a settlement.
        content_type: the Content-Type header, if there is one.
        keys: every Idempotency-Key header.
        body: the body, or as much of it as has come.
        end: where the next request begins in ``said``.
        whole: whether all of it has come.

    Raises:
        NotOrdinary: what was sent, so far, is no ordinary request, or will not become one.
    """

    __slots__ = (
        "_hosts",
        "_length",
        "account_id",
        "body",
        "content_type",
        "end",
        "is_message",
        "keys",
        "whole",
    )

    def __init__(self, said: bytes) -> None:
        self.whole = False
        line = _LINE.match(said)
        head_end = said.find(_HEAD_END) + len(_HEAD_END)
        if line is None or head_end < len(_HEAD_END):
            if len(said) > limits.READ_BYTES_MAX or not (line or _may_begin(said)):
                raise NotOrdinary
            return
        self.account_id = line[1].decode()
        self.is_message = line[2] == b"messages"
        self.content_type: str | None = None
        self.keys: list[str] = []
        self._hosts = 0
        self._length = b""
        head = said[:head_end]
        if not _PRINTABLE.fullmatch(head):
            raise NotOrdinary
        try:
            httptools.HttpRequestParser(self).feed_data(head)
        except httptools.HttpParserError as error:
            raise NotOrdinary from error
        if self._hosts != 1 or not _LENGTH.fullmatch(self._length):
            raise NotOrdinary
        self.end = head_end + int(self._length)
        if self.end > limits.READ_BYTES_MAX:
            raise NotOrdinary
        self.body = said[head_end : self.end]
        self.whole = self.end <= len(said)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; the parser calls this, and turns what it raises into an error of its own.

        Raises:
            NotOrdinary: a request with this header is none for the lane.
        """
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"idempotency-key":
            self.keys.append(value.decode().strip(" \t"))
        elif name == b"content-type":
            if self.content_type is not None:
                raise NotOrdinary
            self.content_type = value.decode().strip(" \t")
        elif name == b"content-length":
            if self._length:
                raise NotOrdinary
            self._length = value
        elif name in _NOT_ORDINARY or (name == b"connection" and value.lower() != b"keep-alive"):
            raise NotOrdinary

    @property
    def post(self) -> PostSettlement:
        """This request, whole, as a settlement."""
        return PostSettlement(self.account_id, self.content_type, self.keys, self.body)


def _may_begin(said: bytes) -> bool:
    """Return whether this, without a whole first line, may still become an ordinary request."""
    return b"\n" not in said and said[: len(_BEGIN)] == _BEGIN[: len(said)]
