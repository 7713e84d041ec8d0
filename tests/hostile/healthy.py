"""The connector that goes on with its work while others attack, and what it costs the daemon."""

import math
import os
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.hostile.wire import post, settlement


@dataclass
class Healthy:
    """A client that queues settlements at a steady pace, mostly on a connection that it keeps.

    Attributes:
        pid: of the daemon.
        account_id: of the settlements, each of 1.
        latencies_s: how long each answer took.
        own_latencies_s: the same, less the time for which the daemon or we were ready to run but
            had no processor.
        again: how often a connection was closed instead of an answer, and a second try was made.
        refused: what was answered instead of 201.
    """

    port: int
    pid: int
    account_id: str = "alice"
    latencies_s: list[float] = field(default_factory=list)
    own_latencies_s: list[float] = field(default_factory=list)
    again: int = 0
    refused: list[bytes] = field(default_factory=list)
    _stream: trio.SocketStream | None = None

    async def run(self, pause_s: float = 0.02, end_s: float = math.inf) -> None:
        """Go on until this time, or until cancelled."""
        try:
            while trio.current_time() < end_s:
                await self._request()
                if random.random() < 0.2:
                    self._hang_up()
                await trio.sleep(pause_s)
        finally:
            self._hang_up()

    async def _request(self) -> None:
        request = settlement(f"{random.getrandbits(64):x}", account_id=self.account_id)
        begun, delayed_s = trio.current_time(), self._delayed_s()
        while (status := await self._ask(request)) is None:
            self.again += 1
            self._hang_up()
        latency_s = trio.current_time() - begun
        self.latencies_s.append(latency_s)
        self.own_latencies_s.append(max(0, latency_s - self._delayed_s() + delayed_s))
        if not status.startswith(b"HTTP/1.1 201"):
            self.refused.append(status)

    async def _ask(self, request: bytes) -> bytes | None:
        """Return the status line, or ``None`` when the connection was closed instead."""
        try:
            if self._stream is None:
                self._stream = await trio.open_tcp_stream("127.0.0.1", self.port)
            await self._stream.send_all(request)
            answer = await self._stream.receive_some()
            while answer and not answer.endswith(b"}"):
                answer += await self._stream.receive_some()
        except (OSError, trio.BrokenResourceError):
            return None
        return answer.partition(b"\r\n")[0] or None

    def _hang_up(self) -> None:
        if self._stream is not None:
            self._stream.socket.close()
            self._stream = None

    def _delayed_s(self) -> float:
        return sum(
            int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
            for pid in (self.pid, os.getpid())
        )


def percentile_ms(latencies_s: list[float], percent: float) -> float:
    ordered = sorted(latencies_s)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)] * 1000


async def open_account(port: int, account_id: str = "alice") -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(post("/accounts", b'{"id":"%s"}' % account_id.encode()))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 201")


def rss_kib(pid: int) -> int:
    """Return how much memory a process has resident, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+)", status)
    assert match is not None
    return int(match[1])


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@dataclass
class Cost:
    """What an attack costs the daemon, from just before it began."""

    pid: int
    rss_before_kib: int = 0
    rss_peak_kib: int = 0

    def __post_init__(self) -> None:
        self.rss_before_kib = self.rss_peak_kib = rss_kib(self.pid)

    async def watch(self) -> None:
        """Look at the daemon until cancelled."""
        while True:
            self.rss_peak_kib = max(self.rss_peak_kib, rss_kib(self.pid))
            await trio.sleep(0.02)

    @property
    def growth_mib(self) -> float:
        return (self.rss_peak_kib - self.rss_before_kib) / 1024
