"""What a broken or hostile connector does with a request: bytes, on a raw socket."""

import gzip
import random
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from settled.store.records import Ambiguous, Delivered, NotDelivered

Act = Callable[[trio.SocketStream], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """How a connector answers a request that it has read, and what that means for the credit.

    ``takes``: whether it has credited the amount, whatever it says.
    """

    act: Act
    outcome: type[Delivered | NotDelivered | Ambiguous]
    takes: bool = False


def says(answer: bytes) -> Act:
    return partial(_say, answer)


async def _say(answer: bytes, stream: trio.SocketStream) -> None:
    await stream.send_all(answer)


def endless(start: bytes, again: bytes, *, drip_s: float = 0.001) -> Act:
    async def act(stream: trio.SocketStream) -> None:
        await stream.send_all(start)
        while True:
            await stream.send_all(again)
            await trio.sleep(drip_s)

    return act


def resets(answer: bytes = b"") -> Act:
    async def act(stream: trio.SocketStream) -> None:
        await stream.send_all(answer)
        await trio.sleep(0.01)  # a reset overtakes what was not read yet
        reset(stream)

    return act


def reset(stream: trio.SocketStream) -> None:
    """Close the connection so that the other side gets an RST."""
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def silence(_stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


def head(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1")


def chunked(body: bytes) -> bytes:
    return head("200 OK", "Transfer-Encoding: chunked") + body


_OK: Final = head("200 OK", "Content-Length: 0")
_BOMB: Final = gzip.compress(bytes(50_000_000), 9)
_NOISE: Final = random.Random(1).randbytes(5000)
_H2: Final = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # an empty SETTINGS frame

REFUSED: Final = {
    "301 elsewhere": head("301 Moved", "Location: http://127.0.0.1:1/", "Content-Length: 0"),
    "307 to itself": head("307 Temporary Redirect", "Location: ", "Content-Length: 0"),
    "308": head("308 Permanent Redirect", "Location: /", "Content-Length: 0"),
    "400": head("400 Bad Request", "Content-Length: 0"),
    "401": head("401 Unauthorized", "WWW-Authenticate: Basic", "Content-Length: 0"),
    "404": head("404 Not Found", "Content-Length: 0"),
    "404 broken off": head("404 Not Found", "Content-Length: 10") + b"Acc",
    "413": head("413 Content Too Large", "Content-Length: 0"),
    "429": head("429 Too Many Requests", "Retry-After: 86400", "Content-Length: 0"),
    "a redirect of two": head("301 Moved", "Content-Length: 0") + _OK,
}

TAKEN: Final = {
    "200": _OK,
    "200 without a reason": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    "200 of HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n",
    "200 of HTTP/3": b"HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "202": head("202 Accepted", "Content-Length: 0"),
    "204": head("204 No Content"),
    "204 with a body": head("204 No Content", "Content-Length: 5") + b"hello",
    "205": head("205 Reset Content", "Content-Length: 0"),
    "299": head("299 Whatever", "Content-Length: 0"),
    "100 before": head("100 Continue") + _OK,
    "103 before": head("103 Early Hints", "Link: </x>") * 50 + _OK,
    "two answers": _OK + head("500 Oops", "Content-Length: 0"),
    "not the JSON that was asked for": head("200 OK", "Content-Length: 6") + b"<html>",
    "a body broken off": head("200 OK", "Content-Length: 100") + b"x",
    "a false length": head("200 OK", "Content-Length: 1") + b"much more than that",
    "a huge length": head("200 OK", "Content-Length: 99999999999999999") + b"x",
    "a gzip bomb": head("200 OK", "Content-Encoding: gzip") + _BOMB,
    "false gzip": head("200 OK", "Content-Encoding: gzip", "Content-Length: 3") + b"bad",
    "a chunk with no size": chunked(b"\r\n\r\n"),
    "a chunk with a negative size": chunked(b"-5\r\nhello\r\n0\r\n\r\n"),
    "a chunk too large to be": chunked(b"fffffffffffffffff\r\nhello"),
    "a chunk that is shorter": chunked(b"10\r\nhello\r\n0\r\n\r\n"),
    "a chunk that is longer": chunked(b"1\r\nhello\r\n0\r\n\r\n"),
    "chunks without an end": chunked(b"5\r\nhello\r\n"),
    "noise for chunks": chunked(_NOISE),
}

UNCLEAR: Final = {
    "101": head("101 Switching Protocols", "Upgrade: h2c", "Connection: Upgrade"),
    "300": head("300 Multiple Choices", "Content-Length: 0"),
    "302": head("302 Found", "Location: /done", "Content-Length: 0"),
    "303": head("303 See Other", "Location: /done", "Content-Length: 0"),
    "304": head("304 Not Modified"),
    "408": head("408 Request Timeout", "Connection: close"),
    "409": head("409 Conflict", "Content-Length: 0"),
    "500": head("500 Oops", "Content-Length: 0"),
    "502": head("502 Bad Gateway", "Content-Length: 0"),
    "503": head("503 Busy", "Retry-After: 86400", "Content-Length: 0"),
    "600": head("600 Odd", "Content-Length: 0"),
    "999": head("999 Odd", "Content-Length: 0"),
    "nothing": b"",
    "100 and no more": head("100 Continue"),
    "noise": _NOISE,
    "zeros": bytes(5000),
    "HTTP/2 only": _H2,
    "TLS": b"\x15\x03\x01\x00\x02\x02\x16",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/0.9": b"<html>it works</html>",
    "ICY": b"ICY 200 OK\r\n\r\n",
    "a status that is none": head("abc OK"),
    "a status of four digits": head("2000 OK", "Content-Length: 0"),
    "a status line broken off": b"HTTP/1.1 20",
    "headers broken off": b"HTTP/1.1 200 OK\r\nContent-Le",
    "headers without an end": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
    "a NUL in a header": head("200 OK", "X: a\0b", "Content-Length: 0"),
    "a space before the colon": head("200 OK", "Content-Length : 0"),
    "a header that is none": head("200 OK", "no colon here"),
    "two lengths": head("200 OK", "Content-Length: 0", "Content-Length: 5"),
    "a negative length": head("200 OK", "Content-Length: -1"),
    "a length that is none": head("200 OK", "Content-Length: ten"),
    "an unknown encoding": head("200 OK", "Transfer-Encoding: gzip"),
    "a header without an end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000,
    "200 after the separator of others": b"\n\n\n\0HTTP/1.1 200 OK\r\n\r\n",
}

FAULTS: Final[dict[str, Fault]] = {
    **{name: Fault(says(answer), NotDelivered) for name, answer in REFUSED.items()},
    **{name: Fault(says(answer), Delivered, takes=True) for name, answer in TAKEN.items()},
    **{name: Fault(says(answer), Ambiguous) for name, answer in UNCLEAR.items()},
    **{
        f"{name}, though it was taken": Fault(says(UNCLEAR[name]), Ambiguous, takes=True)
        for name in ("409", "500", "303", "nothing", "headers broken off", "noise")
    },
    "reset": Fault(resets(), Ambiguous),
    "reset, though it was taken": Fault(resets(), Ambiguous, takes=True),
    "reset in the headers": Fault(resets(b"HTTP/1.1 200 OK\r\n"), Ambiguous),
    "reset in the body": Fault(
        resets(head("200 OK", "Content-Length: 9") + b"x"), Delivered, takes=True
    ),
    "silence": Fault(silence, Ambiguous),
    "silence, though it was taken": Fault(silence, Ambiguous, takes=True),
    "100 without end": Fault(endless(b"", head("100 Continue")), Ambiguous),
    "headers without end": Fault(endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), Ambiguous),
    "headers, dripping": Fault(endless(b"HTTP/1.1 200 OK\r\n", b"x", drip_s=0.05), Ambiguous),
    "a body without end": Fault(endless(head("200 OK"), bytes(65536)), Delivered, takes=True),
    "a body, dripping": Fault(endless(head("200 OK"), b"x", drip_s=0.05), Delivered, takes=True),
    "chunks without end": Fault(endless(chunked(b""), b"1\r\nx\r\n"), Delivered, takes=True),
    "chunk extensions without end": Fault(
        endless(chunked(b"1;"), b"x" * 1000), Delivered, takes=True
    ),
    "trailers without end": Fault(endless(chunked(b"0\r\n"), b"X: y\r\n"), Delivered, takes=True),
    "a refusal without end": Fault(endless(head("404 Not Found"), bytes(65536)), NotDelivered),
    "an error without end": Fault(endless(head("500 Oops"), bytes(65536)), Ambiguous),
}
