"""Retries to a connector that is broken for months, in virtual time and without sockets."""

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import Final

import pytest
import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, MockClock, memory_stream_pair

from settled import limits
from settled.connector import Connector
from settled.store.records import AddCredit, Ambiguous, Credit, Delivered, DeliveryOutcome
from tests.harness import ScriptedConnector, ScriptedEngine, conserved, memory_store, running
from tests.neighbours import ALL
from tests.neighbours.faults import REFUSED, TAKEN, UNCLEAR
from tests.neighbours.servers import Books, Request, read_request

HOUR_S = 3600
RETRIES: Final = 10_000 if ALL else 1000

Stream = trio.StapledStream[MemorySendStream, MemoryReceiveStream]
Answer = Callable[[Request], Awaitable[bytes | None]]


class Network:
    """In the place of TCP: a connector at any address, that ``answer`` speaks for.

    ``refuse`` says whether a connection is refused.
    """

    def __init__(self, nursery: trio.Nursery, answer: Answer, refuse: Callable[[], bool]) -> None:
        self.books = Books()
        self.open = 0
        self._nursery, self._answer, self._refuse = nursery, answer, refuse

    async def connect(self, host: str, port: int) -> Stream:
        if self._refuse():
            raise OSError(f"all attempts to connect to {host}:{port} failed")
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, stream: Stream) -> None:
        self.open += 1
        request = await read_request(stream)
        assert request is not None
        self.books.requests.append(request)
        answer = await self._answer(request)
        if answer is None:
            await stream.receive_some()  # it hangs until we hang up
        else:
            with suppress(trio.BrokenResourceError):  # we have, since it was too slow
                await stream.send_all(answer)
        await stream.aclose()
        self.open -= 1


@contextmanager
def in_place_of_tcp(network: Network, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connector]:
    monkeypatch.setattr(trio, "open_tcp_stream", network.connect)
    yield Connector("http://127.0.0.1:7771")


class Deliveries(ScriptedConnector):
    """Delivers, and takes the time between the end of one attempt and the start of the next."""

    def __init__(self, connector: Connector) -> None:
        super().__init__(self._deliver)
        self._connector = connector
        self._ended_s: dict[str, float] = {}
        self.gaps_s: dict[str, list[float]] = {}
        self.outcomes: dict[str, list[DeliveryOutcome]] = {}

    async def _deliver(self, credit: Credit) -> DeliveryOutcome:
        if credit.id in self._ended_s:
            gap_s = trio.current_time() - self._ended_s[credit.id]
            self.gaps_s.setdefault(credit.id, []).append(gap_s)
        outcome = await self._connector.deliver(credit)
        self._ended_s[credit.id] = trio.current_time()
        self.outcomes.setdefault(credit.id, []).append(outcome)
        return outcome


async def test_thousands_of_retries_of_one_credit(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """Months of refusals; then it is credited, once and under its first key."""
    monkeypatch.setattr(limits, "KEY_TICK_S", 24 * HOUR_S)  # not what this is about
    luck = random.Random(1)
    well = False

    async def answer(request: Request) -> bytes:
        if well:
            network.books.credit(request)
            return TAKEN["204"]
        await trio.sleep(luck.uniform(0, 9))
        return luck.choice(list(REFUSED.values()))

    network = Network(nursery, answer, lambda: not well and luck.random() < 0.5)
    store = memory_store()
    await store.open_account("alice", setup=False)
    await store.commit([AddCredit("alice", "tx", Decimal("1.25"))])
    with in_place_of_tcp(network, monkeypatch) as connector:
        deliveries = Deliveries(connector)
        async with running(ScriptedEngine(), store, deliveries):
            while len(deliveries.seen) < RETRIES:  # noqa: ASYNC110
                await trio.sleep(HOUR_S)
            well = True
            await trio.sleep(2 * HOUR_S)
    (gaps_s,) = deliveries.gaps_s.values()
    ceilings_s = [min(0.1 * 2 ** min(n, 40), HOUR_S) for n in range(len(gaps_s))]
    shares = [gap / ceiling for gap, ceiling in zip(gaps_s, ceilings_s, strict=True)]
    assert max(shares[20:]) <= 1.0001, "never later than that"
    assert all(gap <= ceiling + 0.001 for gap, ceiling in zip(gaps_s, ceilings_s, strict=True))
    assert 0.45 < sum(shares) / len(shares) < 0.55, "full jitter: uniform from 0"
    for tenth in range(10):
        assert 0.06 < sum(tenth <= share * 10 < tenth + 1 for share in shares) / RETRIES < 0.14
    assert {(request.key, request.body) for request in network.books.requests} == {
        (deliveries.seen[0].id, b'{"amount":"125","scale":2}')
    }
    assert len(network.books.credited) == 1
    account = await store.account("alice")
    assert (account.credited, account.undelivered, account.parked) == (Decimal("1.25"), 0, 0)
    await conserved(store)


@pytest.mark.parametrize("seed", range(2))
async def test_credits_to_a_connector_that_fails_in_every_way_for_most_of_a_day(
    seed: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """It takes some and does not say so; each counts once, and none is given up."""
    luck = random.Random(seed)
    well = False

    async def answer(request: Request) -> bytes | None:
        if well or luck.random() < 0.02:
            network.books.credit(request)
            await trio.sleep(luck.uniform(0, 9))
            return luck.choice(list(TAKEN.values()))
        if luck.random() < 0.3:
            network.books.credit(request)  # and the reply is lost, or too late
            await trio.sleep(luck.uniform(0, 20))
            return luck.choice([None, *UNCLEAR.values()])
        return luck.choice([None, *UNCLEAR.values(), *REFUSED.values()])

    network = Network(nursery, answer, lambda: not well and luck.random() < 0.2)
    store = memory_store()
    await store.open_account("alice", setup=False)
    payments = [AddCredit("alice", f"tx{n}", Decimal(n)) for n in range(1, 21)]
    await store.commit(payments)
    with in_place_of_tcp(network, monkeypatch) as connector:
        deliveries = Deliveries(connector)
        async with running(ScriptedEngine(), store, deliveries) as daemon:
            await trio.sleep(20 * HOUR_S)
            well = True
            account = await daemon.until(lambda account: not account.undelivered)
    assert account.credited == sum(payment.amount for payment in payments)
    assert len(network.books.credited) == len(payments)
    assert len({(request.key, request.body) for request in network.books.requests}) == 20
    assert len(network.books.requests) > 20 * 5
    for outcomes in deliveries.outcomes.values():
        assert isinstance(outcomes[-1], Delivered)
        assert not any(isinstance(outcome, Delivered) for outcome in outcomes[:-1])
    assert any(isinstance(o, Ambiguous) for each in deliveries.outcomes.values() for o in each)
    assert network.open == 0, "no connection is left"


async def test_no_more_connections_at_once_than_the_limit(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """A connector that hangs holds some connections, and deliveries that wait are in time."""
    most = 0

    async def answer(request: Request) -> bytes | None:
        nonlocal most
        most = max(most, network.open)
        return None

    network = Network(nursery, answer, lambda: False)
    store = memory_store()
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 12)
    for n in range(6):
        await store.open_account(f"peer{n}", setup=False)
        await store.commit([AddCredit(f"peer{n}", f"tx{m}", Decimal(1)) for m in range(12)])
    with in_place_of_tcp(network, monkeypatch) as connector:
        deliveries = Deliveries(connector)
        async with running(ScriptedEngine(), store, deliveries):
            await trio.sleep(600)
            await conserved(store)
    assert most == 12
    assert len(deliveries.outcomes) == 6 * 12, "each has had its turn"
