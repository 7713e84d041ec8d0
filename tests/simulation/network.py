"""The simulated network: requests and replies are lost, late, repeated, reordered or cut off."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import httpx2
import trio

from settled import exchange
from settled.exchange import Exchange
from settled.server import Server
from tests.simulation.world import HOST, HOUR_S, World

_HOP_S: Final = 0.02
_CLOG_S: Final = 20.0
_PARTITION_S: Final = 120.0
_LATE_S: Final = HOUR_S / 4  # how late a copy of a request may arrive

Serve = Callable[[], Awaitable["Answer | None"]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answers."""

    status: int
    body: bytes = b""


class NotReached(Exception):
    """Nothing of the request was delivered."""


class NoAnswer(Exception):
    """The request may have been delivered."""


class Network:
    """Carries requests over named links, each of which is broken now and then."""

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self._world = world
        self._nursery = nursery
        self._cut_until_s: dict[str, float] = {}

    async def call(self, link: str, serve: Serve, *, repeats: bool = True) -> Answer:
        """Have ``serve`` answer a request, if the network lets it, and return its answer.

        Args:
            link: the name of the way from the client to the server.
            serve: what the server does; it returns ``None`` when it died or gives no answer. It may
                be called several times, and go on after the client has gone.
            repeats: whether copies may arrive, and late ones.

        Raises:
            NotReached: the server has not seen it, and will not.
            NoAnswer: it has, or may have, or will.
        """
        world, rates = self._world, self._world.rates
        if self._is_cut(link):
            await trio.sleep(self._world.delay_s(_HOP_S))
            raise NotReached("connection refused")
        if world.fault("request lost", rates.loss / 2, link=link):
            if world.chance(0.5):
                await trio.sleep_forever()
            raise NoAnswer("connection reset")
        if repeats and world.fault("request repeated", rates.replay / 5, link=link):
            self._nursery.start_soon(self._late, serve)
        if repeats and world.fault("request late", rates.loss / 10, link=link):
            self._nursery.start_soon(self._late, serve)
            raise NoAnswer("connection reset")
        await self._hop()
        answer = await self._served(serve)
        await self._hop()
        if answer is None or world.fault("reply lost", rates.loss / 2, link=link):
            if world.chance(0.5):
                await trio.sleep_forever()
            raise NoAnswer("connection reset")
        return answer

    def _is_cut(self, link: str) -> bool:
        if self._world.fault("partition", self._world.rates.partition, link=link):
            length_s = self._world.delay_s(min(_PARTITION_S, self._world.horizon_s / 10))
            self._cut_until_s[link] = trio.current_time() + length_s
        return self._world.faulty and trio.current_time() < self._cut_until_s.get(link, -math.inf)

    async def _hop(self) -> None:
        clogged = self._world.fault("clog", self._world.rates.clog)
        await trio.sleep(self._world.delay_s(_CLOG_S if clogged else _HOP_S))

    async def _late(self, serve: Serve) -> None:
        HOST.set(None)
        await trio.sleep(self._world.dice.uniform(0, min(_LATE_S, self._world.horizon_s / 10)))
        await serve()

    async def _served(self, serve: Serve) -> "Answer | None":
        """Serve, going on with it when the client hangs up, or not."""
        answers: list[Answer | None] = []
        ended = trio.Event()
        scope = trio.CancelScope()

        async def run() -> None:
            HOST.set(None)
            with scope:
                answers.append(await serve())
            ended.set()

        self._nursery.start_soon(run)
        try:
            await ended.wait()
        except trio.Cancelled:
            if self._world.fault("client hung up", 0.5):
                scope.cancel()
            raise
        return answers[0] if answers else None


class Transport(Server):
    """How a daemon reaches its connector over the network.

    Args:
        network: the network.
        link: the name of the way to the connector.
        serve: the connector: it is given a request that was read whole.
    """

    def __init__(
        self,
        network: Network,
        link: str,
        serve: Callable[[httpx2.Request], Awaitable[Answer | None]],
    ) -> None:
        super().__init__("http://connector")
        self._network = network
        self._link = link
        self._serve = serve

    async def post(
        self,
        path: str,
        body: bytes,
        headers: str,
        *,
        body_bytes_max: int,
        repeatable: bool,
    ) -> Exchange:
        named = dict(line.split(": ", 1) for line in headers.splitlines())
        request = httpx2.Request("POST", f"http://connector{path}", content=body, headers=named)
        try:
            answer = await self._network.call(self._link, lambda: self._serve(request))
        except NotReached as error:
            raise exchange.NotReached(str(error)) from None
        except NoAnswer as error:
            raise exchange.BrokenOff(str(error)) from None
        return _Answered(answer)


class _Answered(Exchange):
    """An exchange whose answer is there already."""

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        self._body = answer.body

    async def body(self) -> bytes | None:
        return self._body

    async def aclose(self) -> None:
        pass
