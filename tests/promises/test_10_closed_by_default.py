"""Promise 10: loopback, limits on all that a stranger sends, secrets nowhere to be seen.

The limits of the API are tested in ``tests/http``, those of options in ``tests/engine``.
"""

from pathlib import Path

import httpx2
import pytest
import trio

from settled import MessageFailed, Quantity, limits
from settled.config import Settings
from settled.connector import Connector
from settled.store.records import Ambiguous, Credit, Delivered, NotDelivered
from tests.daemon_process import daemon_process
from tests.raw_server import answering

ENGINE = """
from dataclasses import dataclass
from settled import option

@dataclass
class Options:
    key: str = option(secret=True, help="signs payments")

def create_engine(options: Options):
    async def connect(services):
        services.log.info("connected", options=options)
        return Engine(options)
    return connect

class Engine:
    def __init__(self, options):
        self.options = options
    async def settle(self, account_id, amount, settlement_id):
        raise RuntimeError(f"cannot pay with {self.options}")
"""

CREDIT = Credit(
    number=1,
    id="560307c5-3d84-5b48-b814-eb5506fe32ba",
    account=1,
    account_id="alice",
    settlement_id="tx",
    amount=Quantity("150", 2).value,
    state="undelivered",
    created_ms=0,
    updated_ms=0,
)


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    assert Settings().listen == "127.0.0.1:3000"


async def test_a_secret_is_in_no_log_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "correct-horse-battery"
    (tmp_path / "my_engine.py").write_text(ENGINE)
    (tmp_path / "key").write_text(f"{secret}\n")
    log_file = tmp_path / "log"
    with daemon_process(
        tmp_path, "--engine", "my_engine:create_engine", "-o", "key_file=key", "--debug"
    ) as daemon:
        async with httpx2.AsyncClient(trust_env=False, base_url=daemon.url) as client:
            await client.post("/accounts", json={"id": "alice"})
            await client.post(
                "/accounts/alice/settlements",
                json={"amount": "1", "scale": 0},
                headers={"Idempotency-Key": "k"},
            )
            with trio.fail_after(10):
                while "settlement_parked" not in log_file.read_text():  # noqa: ASYNC110
                    await trio.sleep(0.05)
        arguments = Path(f"/proc/{daemon.process.pid}/cmdline")
        assert secret.encode() not in arguments.read_bytes()
    log = log_file.read_text()
    assert "connected" in log
    assert secret not in log
    assert secret.encode() not in (tmp_path / "settled.db").read_bytes()


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 201 Created\r\nContent-Length: 8\r\n\r\nRECEIVED", Delivered),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Delivered),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Delivered),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbroke off", Delivered),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nbad", Delivered),
        (b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\n\r\n", NotDelivered),
        (b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n", NotDelivered),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", NotDelivered),
        (b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n", Ambiguous),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", Ambiguous),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", Ambiguous),
        (b"no HTTP at all\r\n\r\n", Ambiguous),
        (b"", Ambiguous),
    ],
    ids=lambda value: value.decode()[:40] if isinstance(value, bytes) else "",
)
async def test_what_each_answer_to_a_credit_means(answer: bytes, outcome: type) -> None:
    async with answering(answer) as server:
        connector = Connector(server.url)
        with trio.fail_after(5):
            assert isinstance(await connector.deliver(CREDIT), outcome)
    (request,) = server.requests
    assert request.startswith(b"POST /accounts/alice/settlements HTTP/1.1\r\n")
    assert b"\r\nidempotency-key: 560307c5-3d84-5b48-b814-eb5506fe32ba\r\n" in request.lower()
    assert b"\r\ncontent-type: application/json\r\n" in request.lower()
    assert request.endswith(b'{"amount":"15","scale":1}')


async def test_a_connector_that_is_not_there_was_certainly_not_reached() -> None:
    connector = Connector("http://127.0.0.1:1")
    assert isinstance(await connector.deliver(CREDIT), NotDelivered)


async def test_an_endless_answer_is_cut_off_and_its_status_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECTOR_TIMEOUT_S", 0.5)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for drip_s in (0.0, 0.1):
        async with answering(head, endless=b"5\r\nhello\r\n", drip_s=drip_s) as server:
            with trio.fail_after(5):
                outcome = await Connector(server.url).deliver(CREDIT)
            assert isinstance(outcome, Delivered)


async def test_a_connector_that_never_answers_is_ambiguous(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECTOR_TIMEOUT_S", 0.3)
    async with answering(None) as server:
        connector = Connector(server.url)
        with trio.fail_after(5):
            assert isinstance(await connector.deliver(CREDIT), Ambiguous)


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbroke off", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000, None),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nhi", None),
        (b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\n\r\n", None),
        (b"", None),
    ],
)
async def test_what_each_answer_to_a_message_means(answer: bytes, reply: bytes | None) -> None:
    async with answering(answer) as server:
        connector = Connector(server.url)
        with trio.fail_after(5):
            if reply is None:
                with pytest.raises(MessageFailed, match="alice"):
                    await connector.send_message("alice", b"hello")
            else:
                assert await connector.send_message("alice", b"hello") == reply
    (request,) = server.requests
    assert b"\r\ncontent-type: application/octet-stream\r\n" in request.lower()
    assert b"idempotency-key" not in request.lower()
    assert request.endswith(b"\r\n\r\nhello")


async def test_cancelled_deliveries_leave_no_connection_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever await a delivery is cut off at, the next ones find the whole pool free."""
    monkeypatch.setattr(limits, "DELIVERIES_MAX", 2)
    monkeypatch.setattr(limits, "MESSAGES_MAX", 0)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    async with answering(answer) as server:
        connector = Connector(server.url)
        for n in range(60):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_after, n, scope)
                    await connector.deliver(CREDIT)
                    nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(connector.deliver, CREDIT)


async def _cancel_after(checkpoints: int, scope: trio.CancelScope) -> None:
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    scope.cancel()
