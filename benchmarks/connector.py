"""A connector that answers at once: it echoes credits and messages, and counts them.

``GET /counts`` tells how many different credits came, how many requests in all, and when the last.
"""

import sys
import time
from dataclasses import dataclass, field

import msgspec
import trio

from benchmarks.plain import Request, answer, created, serve

_ECHO = created(b'{"type":"echo"}')


@dataclass(slots=True)
class Connector:
    """What came in."""

    keys: set[str] = field(default_factory=set)
    messages: int = 0
    credits: int = 0
    last_ns: int = 0

    async def handle(self, request: Request) -> bytes:
        """Take a credit or a message, or tell what came."""
        if request.path == "/counts":
            return answer(b"200 OK", msgspec.json.encode(self._counts()))
        self.last_ns = time.monotonic_ns()
        if request.path.endswith("/messages"):
            self.messages += 1
            return _ECHO
        self.credits += 1
        self.keys.add(request.key)
        return created(request.body)

    def _counts(self) -> dict[str, int]:
        return {
            "different": len(self.keys),
            "credits": self.credits,
            "messages": self.messages,
            "last_ns": self.last_ns,
        }


async def main() -> None:
    """Serve until the process is ended."""
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve, Connector().handle)
        sys.stdout.write(f"listens on {url}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main)
