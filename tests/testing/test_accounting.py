"""The accounting system must behave as the connectors that it stands in for do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx2
import pytest
import trio
from quart import Response, request
from quart_trio import QuartTrio

from settled.errors import InvalidAmount, SettledError
from settled.testing import AccountingSystem, accounting_system, accounting_systems, connect_peers
from settled.testing.faults import ProfileName
from settled.testing.wire import WireServer


@dataclass
class EngineStub:
    """Answers as a settlement engine would; ``statuses`` are its next answers to settlements."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    settlements: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    reply: tuple[bytes, int] = (b"pong", 201)


@asynccontextmanager
async def engine_stub() -> AsyncIterator[EngineStub]:
    stub = EngineStub()
    app = QuartTrio("engine_stub")

    @app.post("/accounts")
    async def accounts() -> tuple[dict[str, str], int]:
        return {"id": (await request.get_json())["id"] or "minted"}, 201

    @app.post("/accounts/<account_id>/settlements")
    async def settlements(account_id: str) -> Response:
        body = await request.get_json()
        stub.settlements.append((account_id, request.headers["Idempotency-Key"], body))
        return Response(b"", stub.statuses.pop(0) if stub.statuses else 201)

    @app.post("/accounts/<account_id>/messages")
    async def messages(account_id: str) -> Response:
        content, status = stub.reply
        return Response(account_id.encode() + b" " + await request.body + content, status)

    async with trio.open_nursery() as nursery:
        stub.url = f"http://127.0.0.1:{WireServer(app, nursery).port}"
        yield stub
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def one(**arguments: Any) -> AsyncIterator[tuple[AccountingSystem, EngineStub]]:
    async with engine_stub() as engine, accounting_system(**arguments) as system:
        system.engine_url = engine.url
        await system.add_account("bob", asset_scale=2)
        yield system, engine


async def post_credit(
    system: AccountingSystem, amount: str, scale: int, key: str | None, account_id: str = "bob"
) -> httpx2.Response:
    async with httpx2.AsyncClient() as client:
        return await client.post(
            f"{system.url}/accounts/{account_id}/settlements",
            json={"amount": amount, "scale": scale},
            headers={} if key is None else {"Idempotency-Key": key},
        )


async def post_message(system: AccountingSystem, body: bytes) -> httpx2.Response:
    async with httpx2.AsyncClient() as client:
        return await client.post(
            f"{system.url}/accounts/bob/messages",
            content=body,
            headers={"Content-Type": "application/octet-stream"},
        )


@pytest.mark.parametrize(
    ("profile", "answer", "credited", "remainder"),
    [
        ("interledger-rs", (201, None, b"RECEIVED"), "1.23", "0.004"),
        ("java", (200, "application/json", b'{"amount":"123","scale":2}'), "1.23", "0"),
        ("rfc", (201, None, b""), "1.234", "0"),
    ],
)
async def test_a_credit_is_answered_and_rounded_as_the_profile_does(
    profile: ProfileName,
    answer: tuple[int, str | None, bytes],
    credited: str,
    remainder: str,
) -> None:
    async with one(profile=profile) as (system, _):
        system.accounts["bob"].lend(Decimal(5))
        response = await post_credit(system, "1234", 3, "k")
        content_type = response.headers.get("Content-Type")
        assert (response.status_code, content_type, response.content) == answer
        account = system.accounts["bob"]
        assert account.credited == Decimal(credited)
        assert account.receivable == Decimal(5) - Decimal(credited)
        assert account.remainder == Decimal(remainder)


async def test_the_remainder_that_interledger_rs_keeps_makes_up_a_unit_later() -> None:
    async with one(profile="interledger-rs") as (system, _):
        await post_credit(system, "1234", 3, "k1")
        await post_credit(system, "6", 3, "k2")
        assert system.accounts["bob"].credited == Decimal("1.24")


async def test_it_serves_on_the_port_that_it_is_told() -> None:
    async with accounting_system() as system:
        port = int(system.url.rpartition(":")[2])
    async with accounting_system(port=port) as again:
        assert again.url == f"http://127.0.0.1:{port}"
        assert (await post_credit(again, "5", 0, "k")).status_code == 404  # no such account


async def test_a_key_counts_once_in_24_hours_from_its_first_use() -> None:
    now_s = 0.0
    async with one(clock=lambda: now_s) as (system, _):
        for now_s in (0.0, 23 * 3600.0, 24 * 3600.0 - 1):  # noqa: B007
            assert (await post_credit(system, "5", 0, "k")).status_code == 201
        assert system.accounts["bob"].credited == 5
        now_s = 24 * 3600.0
        await post_credit(system, "5", 0, "k")
        assert system.accounts["bob"].credited == 10
        assert [sent.credited for sent in system.requests] == [5, 0, 0, 5]


@pytest.mark.parametrize(("profile", "status"), [("interledger-rs", 409), ("rfc", 409)])
async def test_a_key_with_another_amount_is_a_conflict(profile: ProfileName, status: int) -> None:
    async with one(profile=profile) as (system, _):
        await post_credit(system, "5", 0, "k")
        assert (await post_credit(system, "50", 1, "k")).status_code == 201
        assert (await post_credit(system, "6", 0, "k")).status_code == status
        assert system.accounts["bob"].credited == 5


async def test_the_java_profile_repeats_the_first_answer_whatever_the_amount() -> None:
    async with one(profile="java") as (system, _):
        await post_credit(system, "5", 0, "k")
        response = await post_credit(system, "6", 0, "k")
        assert (response.status_code, response.json()) == (200, {"amount": "5", "scale": 0})
        assert system.accounts["bob"].credited == 5


async def test_bad_credits_are_refused_and_recorded() -> None:
    async with one() as (system, _):
        assert (await post_credit(system, "5", 0, "k", "nobody")).status_code == 404
        assert (await post_credit(system, "5", 0, None)).status_code == 400
        assert (await post_credit(system, "-5", 0, "k")).status_code == 400
        assert (await post_credit(system, "5", 256, "k")).status_code == 400
        assert [sent.status for sent in system.requests] == [404, 400, 400, 400]
        assert system.accounts["bob"].credited == 0


async def test_a_failure_happens_before_anything_is_done() -> None:
    async with one() as (system, _):
        system.faults.fail_rate = 1
        assert (await post_credit(system, "5", 0, "k")).status_code == 503
        assert system.accounts["bob"].credited == 0
        system.faults.fail_rate = 0
        assert (await post_credit(system, "5", 0, "k")).status_code == 201
        assert system.accounts["bob"].credited == 5


async def test_a_lost_reply_was_done_and_the_connection_is_closed() -> None:
    async with one() as (system, _):
        system.faults.lose_reply_rate = 1
        with pytest.raises(httpx2.TransportError):
            await post_credit(system, "5", 0, "k")
        assert system.accounts["bob"].credited == 5
        assert system.requests[0].reply_lost


async def test_a_conflict_on_replay_was_credited_all_the_same() -> None:
    async with one(profile="interledger-rs") as (system, _):
        system.faults.conflict_on_replay = True
        assert (await post_credit(system, "5", 0, "k")).status_code == 201
        assert (await post_credit(system, "5", 0, "k")).status_code == 409
        assert system.accounts["bob"].credited == 5


async def test_a_slow_system_waits_before_it_answers() -> None:
    async with one() as (system, _):
        system.faults.delay_s = 0.2
        began_s = trio.current_time()
        await post_credit(system, "5", 0, "k")
        assert trio.current_time() - began_s >= 0.2


async def test_a_system_that_is_down_refuses_connections_until_it_comes_up_again() -> None:
    async with one() as (system, _), httpx2.AsyncClient() as client:
        await client.get(system.url)  # leaves a connection open
        system.go_down()
        for _again in range(2):
            with pytest.raises(httpx2.ConnectError):
                await client.get(system.url)
        system.come_up()
        assert (await client.get(system.url)).status_code == 404


async def test_faults_come_again_in_the_same_order_with_the_same_seed() -> None:
    runs = []
    for seed in (1, 1, 2):
        async with one(seed=seed) as (system, _):
            system.faults.fail_rate = 0.5
            answers = [await post_credit(system, "5", 0, f"k{n}") for n in range(20)]
            runs.append([answer.status_code for answer in answers])
    assert runs[0] == runs[1] != runs[2]
    assert set(runs[0]) == {201, 503}


async def test_a_debt_is_settled_from_the_threshold_on() -> None:
    async with one() as (system, engine):
        account = system.accounts["bob"]
        account.settle_threshold = Decimal(10)
        system.owe("bob", Decimal("9.99"))
        await system.wait_posted()
        assert (account.payable, engine.settlements) == (Decimal("9.99"), [])
        system.owe("bob", Decimal("0.01"))
        await system.wait_posted()
        (account_id, key, body) = engine.settlements[0]
        assert (account_id, body) == ("bob", {"amount": "1000", "scale": 2})
        assert [account.payable, account.requested, account.owed] == [0, 10, 10]
        (post,) = system.posts
        assert [post.key, post.amount, post.status] == [key, 10, 201]


async def test_a_debt_finer_than_the_asset_scale_is_refused() -> None:
    async with one() as (system, _):
        with pytest.raises(InvalidAmount):
            system.owe("bob", Decimal("0.001"))
        assert system.accounts["bob"].owed == 0


@pytest.mark.parametrize("new_key", [False, True])
async def test_a_failed_post_is_repeated_under_the_same_key_unless_told_otherwise(
    new_key: bool,
) -> None:
    async with one() as (system, engine):
        system.faults.new_key_on_retry = new_key
        engine.statuses = [503, 500]
        system.owe("bob", Decimal(1))
        await system.wait_posted()
        keys = [key for _, key, _ in engine.settlements]
        assert len(keys) == 3
        assert len(set(keys)) == (3 if new_key else 1)
        assert [post.status for post in system.posts] == [503, 500, 201]


async def test_a_refused_settlement_is_payable_again() -> None:
    async with one() as (system, engine):
        engine.statuses = [400]
        system.owe("bob", Decimal(1))
        await system.wait_posted()
        account = system.accounts["bob"]
        assert [account.payable, account.requested, account.owed] == [1, 0, 1]


async def test_a_duplicate_is_the_same_post_again() -> None:
    async with one() as (system, engine):
        system.faults.duplicate_rate = 1
        system.owe("bob", Decimal(1))
        await system.wait_posted()
        assert len(engine.settlements) == 2
        assert engine.settlements[0] == engine.settlements[1]
        assert system.accounts["bob"].requested == 1


async def test_an_account_that_the_engine_does_not_take_is_an_error() -> None:
    async with engine_stub() as engine, accounting_system() as system:
        system.engine_url = engine.url + "/nowhere"
        with pytest.raises(SettledError, match="404"):
            await system.add_account("bob")


async def test_the_engine_may_mint_an_account_id() -> None:
    async with engine_stub() as engine, accounting_system(profile="java") as system:
        system.engine_url = engine.url
        assert (await system.add_account(None)).id == "minted"


@asynccontextmanager
async def pair(
    profile: ProfileName = "rfc",
) -> AsyncIterator[tuple[AccountingSystem, AccountingSystem, EngineStub]]:
    async with (
        engine_stub() as engine,
        accounting_systems((profile, "rfc")) as (alice, bob),
    ):
        alice.engine_url = bob.engine_url = engine.url
        await connect_peers(alice, "bob", bob, "alice", asset_scale=2)
        yield alice, bob, engine


async def test_a_debt_is_in_both_books() -> None:
    async with pair() as (alice, bob, _):
        alice.owe("bob", Decimal(7))
        assert bob.accounts["alice"].receivable == 7
        bob.owe("alice", Decimal(3))
        assert alice.accounts["bob"].receivable == 3


@pytest.mark.parametrize(("profile", "status"), [("interledger-rs", 201), ("java", 200)])
async def test_a_message_goes_to_the_peers_engine_and_its_reply_comes_back(
    profile: ProfileName, status: int
) -> None:
    async with pair(profile) as (alice, _bob, _):
        response = await post_message(alice, b"ping ")
        assert (response.status_code, response.content) == (status, b"alice ping pong")
        assert response.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("profile", "status"), [("interledger-rs", 502), ("rfc", 502), ("java", 200)]
)
async def test_a_message_that_failed_at_the_peer_is_told_as_the_profile_does(
    profile: ProfileName, status: int
) -> None:
    async with pair(profile) as (alice, bob, engine):
        engine.reply = (b"no", 500)
        response = await post_message(alice, b"ping")
        assert response.status_code == status
        if status == 200:
            assert response.content == b""
        bob.engine_url = "http://127.0.0.1:1"
        assert (await post_message(alice, b"ping")).status_code == status
