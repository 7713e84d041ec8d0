"""A reply to the connector, before any server or framework has a say in how it is sent."""

from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from time import time
from typing import Final

import msgspec

JSON: Final = "application/json"
OCTET_STREAM: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request is answered with.

    Args:
        status: the HTTP status.
        body: the bytes of the body; empty for none.
        content_type: the media type of the body; ``None`` when there is none.
        headers: further headers, in the order in which they are sent.

    Example::

        >>> json_reply(201, {"id": "alice"}).body
        b'{"id":"alice"}'
    """

    status: int
    body: bytes = b""
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def encoded(self) -> bytes:
        """Return it as Hypercorn sends it over HTTP/1.1; it has a media type."""
        more = "".join(f"{name.lower()}: {value}\r\n" for name, value in self.headers)
        head = (
            f"HTTP/1.1 {self.status} \r\ncontent-type: {self.content_type}\r\n"
            f"content-length: {len(self.body)}\r\n{more}date: {_date(int(time()))}\r\n\r\n"
        )
        return head.encode() + self.body


def json_reply(status: int, value: object) -> Reply:
    """Return a reply whose body is ``value`` as compact JSON."""
    return Reply(status, msgspec.json.encode(value), JSON)


@lru_cache(maxsize=1)
def _date(at_s: int) -> str:
    return formatdate(at_s, usegmt=True)
