"""A whole daemon in a test: what engines are handed, messages, and the end, over real sockets."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from settled import Daemon, NotSettled, Services, open_sqlite, serve
from settled.store.protocol import Store
from tests.harness import conserved

OCTETS = {"Content-Type": "application/octet-stream"}


class Engine:
    """Pays at once, and keeps what it was handed."""

    def __init__(self, services: Services) -> None:
        self.services = services

    async def settle(self, account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
        return amount


@asynccontextmanager
async def daemon(
    path: Path, make: Callable[[Services], Any] = Engine, **settings: Any
) -> AsyncIterator[tuple[Daemon, Store, httpx2.AsyncClient]]:
    async def connect(services: Services) -> Any:
        return make(services)

    async with (
        open_sqlite(path / "s.db", exclusive=True, create=True) as store,
        serve(
            connect, store, listen="127.0.0.1:0", connector_url="http://127.0.0.1:1", **settings
        ) as running,
        httpx2.AsyncClient(base_url=running.url, trust_env=False, timeout=20) as client,
    ):
        await client.post("/accounts", json={"id": "alice"})
        yield running, store, client


async def request(client: httpx2.AsyncClient, amount: str, key: str) -> httpx2.Response:
    return await client.post(
        "/accounts/alice/settlements",
        json={"amount": amount, "scale": 0},
        headers={"Idempotency-Key": key},
    )


async def until(store: Store, what: str, amount: int) -> None:
    with trio.fail_after(10):
        while getattr(await store.account("alice"), what) != amount:  # noqa: ASYNC110
            await trio.sleep(0.01)


# --- requests ---


async def test_one_hundred_posts_of_one_key_at_once_have_one_effect(tmp_path: Path) -> None:
    answers: list[httpx2.Response] = []

    async with daemon(tmp_path) as (_, store, client):

        async def post() -> None:
            answers.append(await request(client, "5", "key"))

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(post)
        await until(store, "settled", 5)
        assert (await store.account("alice")).requested == 5
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (201, b'{"amount":"5","scale":0}')
    }


# --- what an engine is handed ---


async def test_state_is_kept_per_engine_and_per_account(tmp_path: Path) -> None:
    async with daemon(tmp_path) as (running, _, _):
        state = running.services.state
        await state.set("cursor", 17)
        await state.set("peer", {"address": "x"}, account_id="alice")
        await state.set("peers", [1], account_id="alice")
    async with daemon(tmp_path) as (running, _, _):
        state = running.services.state
        assert await state.get("cursor") == 17
        assert await state.get("cursor", account_id="alice") is None
        assert await state.items("peer", account_id="alice") == [
            ("peer", {"address": "x"}),
            ("peers", [1]),
        ]
        await state.delete("cursor")
        assert await state.items() == []
        with pytest.raises(ValueError, match="255"):
            await state.set("k" * 256, 1)


async def test_a_transaction_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    async with daemon(tmp_path) as (running, store, _):
        services = running.services
        async with services.transaction() as transaction:
            transaction.credit_settlement("alice", Decimal("1.5"), "tx1")
            transaction.set_state("cursor", 1)
            assert await services.state.get("cursor") is None, "only at the end"
        assert await services.state.get("cursor") == 1
        with pytest.raises(RuntimeError):
            async with services.transaction() as transaction:
                transaction.set_state("cursor", 2)
                transaction.delete_state("cursor")
                raise RuntimeError("never mind")
        with pytest.raises(LookupError, match="nobody"):
            async with services.transaction() as transaction:
                transaction.set_state("cursor", 3)
                transaction.credit_settlement("nobody", Decimal(1), "tx2")
        assert await services.state.get("cursor") == 1
        assert (await store.account("alice")).received == Decimal("1.5")


async def test_credits_without_an_id_are_each_their_own(tmp_path: Path) -> None:
    async with daemon(tmp_path) as (running, store, _):
        for _ in range(3):
            assert await running.services.credit_settlement("alice", Decimal(1))
        assert (await store.account("alice")).received == 3


async def test_try_settlement_goes_on_with_what_is_queued_now(tmp_path: Path) -> None:
    class Moody(Engine):
        funds = False

        async def settle(self, account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
            if not self.funds:
                self.refused = getattr(self, "refused", 0) + 1
                raise NotSettled("no funds")
            return amount

    engines: list[Moody] = []

    def make(services: Services) -> Moody:
        engines.append(Moody(services))
        return engines[0]

    async with daemon(tmp_path, make) as (running, store, client):
        await request(client, "5", "k")
        with trio.fail_after(20):
            while (await store.account("alice")).failures < 6:  # noqa: ASYNC110
                await trio.sleep(0.02)
        engines[0].funds = True
        await running.services.try_settlement("alice")
        with trio.fail_after(1):
            await until(store, "settled", 5)


# --- messages ---


class Handler(Engine):
    async def handle_message(self, account_id: str, message: Any) -> Any:
        match message:
            case "raise":
                raise RuntimeError("secret cause")
            case "hang":
                await trio.sleep_forever()
            case "nonsense":
                return object()
        return {"from": account_id, "got": message}


class RawHandler(Engine):
    raw_messages = True

    async def handle_message(self, account_id: str, message: bytes) -> bytes:
        return message[::-1]


async def test_messages_are_json_unless_the_engine_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("settled.limits.MESSAGE_HANDLER_TIMEOUT_S", 0.2)
    async with daemon(tmp_path, Handler) as (_, _, client):

        async def post(body: bytes, account: str = "alice") -> tuple[int, str]:
            path = f"/accounts/{account}/messages"
            response = await client.post(path, content=body, headers=OCTETS)
            assert "secret" not in response.text
            return response.status_code, response.headers["content-type"]

        answer = await client.post("/accounts/alice/messages", content=b'[1, "x"]', headers=OCTETS)
        assert answer.json() == {"from": "alice", "got": [1, "x"]}
        octets, problem = "application/octet-stream", "application/problem+json"
        assert await post(b"null") == (201, octets)
        assert await post(b"{") == (400, problem)
        assert await post(b"[" * 50_000) == (400, problem)
        assert await post(b'"raise"') == (500, problem)
        assert await post(b'"hang"') == (500, problem)
        assert await post(b'"nonsense"') == (500, problem)
        assert await post(b"{}", "nobody") == (404, problem)


async def test_raw_messages_are_bytes_both_ways(tmp_path: Path) -> None:
    async with daemon(tmp_path, RawHandler) as (_, _, client):
        answer = await client.post("/accounts/alice/messages", content=b"\xff\x00", headers=OCTETS)
        assert (answer.status_code, answer.content) == (201, b"\x00\xff")


async def test_an_engine_without_a_handler_refuses_messages(tmp_path: Path) -> None:
    async with daemon(tmp_path) as (_, _, client):
        answer = await client.post("/accounts/alice/messages", content=b"{}", headers=OCTETS)
        assert answer.status_code == 400


# --- the end ---


async def test_a_payment_under_way_is_seen_to_its_end(tmp_path: Path) -> None:
    class Slow(Engine):
        async def settle(self, account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
            await trio.sleep(0.5)
            return amount

    async with daemon(tmp_path, Slow) as (_, store, client):
        await request(client, "5", "k")
        await until(store, "in_flight", 5)
    async with open_sqlite(tmp_path / "s.db", exclusive=True) as store:
        assert (await store.account("alice")).settled == 5


async def test_a_payment_that_outlasts_the_grace_is_asked_for_at_the_next_start(
    tmp_path: Path,
) -> None:
    paid: list[str] = []

    class Hanging(Engine):
        async def settle(self, account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
            paid.append(settlement_id)
            await trio.sleep_forever()
            return amount

        async def find_settlement(self, account_id: str, settlement_id: str) -> Decimal:
            return Decimal(5 if settlement_id in paid else 0)

    async with daemon(tmp_path, Hanging, grace_s=0.1) as (_, store, client):
        await request(client, "5", "k")
        await until(store, "in_flight", 5)
    async with daemon(tmp_path, Hanging) as (_, store, _):
        await until(store, "settled", 5)
        await conserved(store)
    assert len(paid) == 1


async def test_a_crash_of_the_engine_loses_nothing(tmp_path: Path) -> None:
    crash = trio.Event()

    class Crashing(Engine):
        def __init__(self, services: Services) -> None:
            super().__init__(services)
            services.nursery.start_soon(self.watch)

        async def watch(self) -> None:
            await crash.wait()
            raise OSError("the ledger is gone")

        async def settle(self, account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
            raise NotSettled("no funds")

    with pytest.raises(ExceptionGroup, match="Exceptions from Trio nursery"):
        async with daemon(tmp_path, Crashing) as (running, store, client):
            await request(client, "5", "k")
            await running.services.credit_settlement("alice", Decimal(7), "tx")
            crash.set()
            await trio.sleep(10)
    async with daemon(tmp_path) as (_, store, client):
        await until(store, "settled", 5)
        account = await store.account("alice")
        assert (account.requested, account.received) == (5, 7)
        assert (await request(client, "5", "k")).status_code == 201
        assert (await store.account("alice")).requested == 5
        await conserved(store)


async def test_tasks_of_the_engine_end_before_it_disconnects(tmp_path: Path) -> None:
    order: list[str] = []

    class Connected(Engine):
        def __init__(self, services: Services) -> None:
            super().__init__(services)
            services.nursery.start_soon(self.watch)

        async def watch(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                order.append("task ended")

        async def disconnect(self) -> None:
            order.append("disconnected")

    async with daemon(tmp_path, Connected):
        pass
    assert order == ["task ended", "disconnected"]


@pytest.mark.parametrize("ends", ["by itself", "by an error"])
async def test_what_an_engine_credits_while_it_disconnects_is_recorded(
    tmp_path: Path, ends: str
) -> None:
    said: list[object] = []

    class Late(Engine):
        async def disconnect(self) -> None:
            with trio.CancelScope(shield=True):
                try:
                    said.append(await self.services.credit_settlement("alice", Decimal(3), "last"))
                except Exception as error:
                    said.append(error)

    try:
        async with daemon(tmp_path, Late):
            assert ends == "by itself"
    except* AssertionError:
        assert ends == "by an error"
    assert said == [True]
    async with open_sqlite(tmp_path / "s.db", exclusive=True) as store:
        assert (await store.account("alice")).undelivered == 3
        (credit,) = await store.credits()
        assert credit.ambiguous_ms is None, "it was not sent"


async def test_a_store_that_breaks_ends_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExceptionGroup) as caught, trio.fail_after(10):
        async with daemon(tmp_path) as (_, store, _):
            from settled.errors import StoreBroken

            monkeypatch.setattr(store._writer, "_broken", StoreBroken("torn"))  # type: ignore[attr-defined]
            await trio.sleep_forever()
    assert caught.group_contains(Exception, match="torn")
