"""What a connector answers, as it should not: each credit is credited once, and nothing else."""

import tracemalloc
from contextlib import suppress
from decimal import Decimal

import pytest
import trio
from msgspec.structs import replace

from settled import limits
from settled.connector import Connector
from settled.errors import MessageFailed
from settled.store.memory import MemoryStore
from settled.store.records import (
    AddCredit,
    Ambiguous,
    Credit,
    Delivered,
    DeliveryOutcome,
    NotDelivered,
)
from tests.harness import ScriptedConnector, ScriptedEngine, conserved, running
from tests.neighbours.faults import FAULTS, head
from tests.neighbours.servers import Books, read_request, serving
from tests.promises.test_10_closed_by_default import CREDIT

HARMLESS = 3  # so many times each fault is met before the connector is well


class BadConnector:
    """Commits the fault that an account is named after, some times; then it is well."""

    def __init__(self) -> None:
        self.books = Books()
        self.sent_bytes = 0

    async def handle(self, stream: trio.SocketStream) -> None:
        request = await read_request(stream)
        assert request is not None
        self.books.requests.append(request)
        fault = FAULTS[list(FAULTS)[int(request.account_id)]]
        if len(self.books.of(request.account_id)) <= HARMLESS:
            if fault.takes:
                self.books.credit(request)
            await fault.act(stream)
        else:
            self.books.credit(request)
            await stream.send_all(b"HTTP/1.1 201 Created\r\nContent-Length: 8\r\n\r\nRECEIVED")


async def undelivered(store: MemoryStore) -> bool:
    return any(account.undelivered for account in await store.accounts(limit=1000))


async def test_whatever_it_answers_each_credit_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All faults at once, an account each, with real sockets and a core that retries."""
    monkeypatch.setattr(limits, "CONNECTOR_TIMEOUT_S", 1.0)
    bad, store = BadConnector(), MemoryStore()
    outcomes: dict[str, list[DeliveryOutcome]] = {}
    async with serving(bad.handle) as url:
        connector = Connector(url)

        async def deliver(credit: Credit) -> DeliveryOutcome:
            outcome = await connector.deliver(credit)
            outcomes.setdefault(credit.account_id, []).append(outcome)
            return outcome

        for n in range(len(FAULTS)):
            await store.open_account(str(n), setup=False)
            await store.commit([AddCredit(str(n), "tx", Decimal(n + 1))])
        async with running(ScriptedEngine(), store, ScriptedConnector(deliver)):
            with trio.fail_after(60):
                while await undelivered(store):  # noqa: ASYNC110
                    await trio.sleep(0.05)
    await conserved(store)
    for n, (name, fault) in enumerate(FAULTS.items()):
        *failures, last = outcomes[str(n)]
        assert isinstance(last, Delivered)
        assert {type(failure) for failure in failures} <= {fault.outcome}, name
        assert len(failures) == (0 if fault.outcome is Delivered else HARMLESS), name
        sent = bad.books.of(str(n))
        assert len({(request.key, request.body) for request in sent}) == 1, name
        assert sent[0].body == f'{{"amount":"{n + 1}","scale":0}}'.encode()
        assert sent[0].key in bad.books.credited
    assert len(bad.books.credited) == len(FAULTS), "each once"


ENDLESS = [name for name in FAULTS if "without end" in name or "bomb" in name]


@pytest.mark.parametrize("name", ENDLESS)
async def test_an_answer_without_end_takes_no_memory(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECTOR_TIMEOUT_S", 0.3)

    async def handle(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await FAULTS[name].act(stream)

    async with serving(handle) as url:
        connector = Connector(url)
        await connector.deliver(CREDIT)
        tracemalloc.start()
        try:
            outcome = await connector.deliver(CREDIT)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert isinstance(outcome, FAULTS[name].outcome)
        assert peak_bytes < 1024 * 1024


@pytest.mark.parametrize("name", FAULTS)
async def test_a_message_gets_no_reply_but_a_whole_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MESSAGE_TIMEOUT_S", 0.2)

    async def handle(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await FAULTS[name].act(stream)

    async with serving(handle) as url:
        connector = Connector(url)
        with trio.fail_after(5):
            with suppress(MessageFailed):
                reply = await connector.send_message("alice", b"hello")
                assert FAULTS[name].outcome is Delivered
                assert 0 < len(reply) <= limits.CONNECTOR_REPLY_BYTES_MAX


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", "it closed the connection without an answer"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "it closed the connection without an answer"),
        (b"HTTP/1.1 201 Crea", "it closed the connection in the middle of its answer"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n", "what it sent is no HTTP answer"),
    ],
)
async def test_an_answer_that_is_none_is_told_in_our_words(sent: bytes, words: str) -> None:
    async def handle(stream: trio.SocketStream) -> None:
        await read_request(stream)
        if sent:
            await stream.send_all(sent)

    async with serving(handle) as url:
        connector = Connector(url)
        outcome = await connector.deliver(CREDIT)
        with pytest.raises(MessageFailed) as caught:
            await connector.send_message("alice", b"hello")
    assert isinstance(outcome, Ambiguous)
    assert outcome.reason.startswith(f"no clear answer from the connector at {url}: {words}")
    assert str(caught.value).startswith(
        f"account alice: no answer from the connector at {url}: {words}"
    )
    assert "ConnectionClosed" not in outcome.reason


async def test_every_status_means_one_of_three() -> None:
    async def handle(stream: trio.SocketStream) -> None:
        request = await read_request(stream)
        assert request is not None
        await stream.send_all(head(f"{request.account_id} Whatever", "Content-Length: 0"))

    async with serving(handle) as url:
        connector = Connector(url)
        for status in range(200, 1000):
            outcome = await connector.deliver(replace(CREDIT, account_id=str(status)))
            if 200 <= status < 300:
                assert isinstance(outcome, Delivered)
            elif status in (301, 307, 308) or (400 <= status < 500 and status not in (408, 409)):
                assert isinstance(outcome, NotDelivered)
                assert str(status) in outcome.reason
            else:
                assert isinstance(outcome, Ambiguous)
                assert str(status) in outcome.reason
