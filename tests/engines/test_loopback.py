"""The loopback engine on its own: a real ledger file, and a peer that is two lines of code."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio

from engines.loopback import LoopbackEngine, LoopbackOptions, create_engine
from engines.loopback_ledger import InsufficientFunds, Ledger
from settled import ConfigError, MessageFailed, MessageRefused, NotSettled, Services, SettledError
from settled.testing import MemoryStore

PEER = {"address": "bob", "tag": 7}


class Bench:
    """An engine that was connected, and what it is tested with."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger(path / "ledger.db")
        self.options = LoopbackOptions(
            wallet="alice", ledger=self.ledger.path, funds=Decimal(100), poll_s=0.01
        )
        self.store = MemoryStore()
        self.reply: object = PEER
        self.asked: list[tuple[str, Any]] = []

    async def send_message(self, account_id: str, body: bytes) -> bytes:
        self.asked.append((account_id, msgspec.json.decode(body)))
        if isinstance(self.reply, Exception):
            raise self.reply
        return msgspec.json.encode(self.reply)

    @asynccontextmanager
    async def engine(self, **options: Any) -> AsyncIterator[LoopbackEngine]:
        """Connect it, as a daemon does at each start."""
        async with trio.open_nursery() as nursery:
            services = Services(self.store, cast(Any, self), nursery)
            connecting = create_engine(replace(self.options, **options))(services)
            yield await cast(Awaitable[LoopbackEngine], connecting)
            nursery.cancel_scope.cancel()

    async def credits(self) -> list[tuple[str, str, Decimal]]:
        return [
            (credit.account_id, credit.settlement_id, credit.amount)
            for credit in reversed(await self.store.credits(limit=1000))
        ]

    async def wait_credits(self, count: int) -> list[tuple[str, str, Decimal]]:
        with trio.fail_after(5):
            while True:
                credits = await self.credits()
                if len(credits) >= count:
                    return credits
                await trio.sleep(0.01)


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    await bench.ledger.open_wallet("bob", Decimal(50))
    await bench.store.open_account("a")
    return bench


async def test_settle_pays_the_peers_wallet_with_his_tag(bench: Bench) -> None:
    async with bench.engine() as engine:
        assert await engine.settle("a", Decimal("1.5"), "s1") == Decimal("1.5")
    (transfer,) = await bench.ledger.transfers_to("bob", after=0, limit=10)
    assert (transfer.id, transfer.source, transfer.tag) == ("s1", "alice", 7)
    assert transfer.amount == Decimal("1.5")
    assert await bench.ledger.balance("alice") == Decimal("98.5")
    assert await bench.ledger.balance("bob") == Decimal("51.5")


async def test_a_settlement_id_is_paid_once_however_often_it_is_settled(bench: Bench) -> None:
    for _start in range(2):
        async with bench.engine() as engine:
            for _try in range(2):
                assert await engine.settle("a", Decimal(2), "s1") == 2
    assert await bench.ledger.balance("bob") == 52


async def test_amounts_of_any_size_are_exact(bench: Bench) -> None:
    tiny, huge = Decimal("1E-30"), Decimal(10) ** 60
    async with bench.engine(wallet="rich", funds=huge) as engine:
        assert await engine.settle("a", tiny, "s1") == tiny
    assert await bench.ledger.balance("rich") == Decimal("9" * 60 + "." + "9" * 30)
    assert await bench.ledger.balance("bob") == Decimal("50." + "0" * 29 + "1")


async def test_find_settlement_tells_the_amount_or_a_certain_zero(bench: Bench) -> None:
    async with bench.engine() as engine:
        await engine.settle("a", Decimal(2), "s1")
        assert await engine.find_settlement("a", "s1") == 2
        assert await engine.find_settlement("a", "s2") == 0


async def test_insufficient_funds_are_not_settled_and_nothing_moves(bench: Bench) -> None:
    async with bench.engine() as engine:
        with pytest.raises(NotSettled, match="alice holds 100, not 101"):
            await engine.settle("a", Decimal(101), "s1")
        assert await engine.find_settlement("a", "s1") == 0
    assert await bench.ledger.balance("alice") == 100


@pytest.mark.parametrize(
    "reply",
    [
        MessageFailed("no answer"),
        None,
        [],
        {"address": "bob"},
        {"address": 5, "tag": 7},
        {"address": "bob", "tag": -1},
        {"address": "bob", "tag": 2**32},
        {"address": "bob", "tag": "7"},
    ],
)
async def test_without_a_good_answer_of_the_peer_nothing_is_paid(
    bench: Bench, reply: object
) -> None:
    bench.reply = reply
    async with bench.engine() as engine:
        with pytest.raises(NotSettled, match="has not told us"):
            await engine.settle("a", Decimal(1), "s1")
        bench.reply = PEER
        assert await engine.settle("a", Decimal(1), "s2") == 1


async def test_the_peer_is_asked_once_and_his_answer_survives_a_restart(bench: Bench) -> None:
    async with bench.engine() as engine:
        await engine.setup_account("a")
    bench.reply = MessageFailed("gone")
    async with bench.engine() as engine:
        await engine.setup_account("a")
        assert await engine.settle("a", Decimal(1), "s1") == 1
    assert bench.asked == [("a", {"type": "paymentDetails"})]


async def test_failures_are_half_before_and_half_after_paying(bench: Bench) -> None:
    before = after = 0
    async with bench.engine(failure_rate=1.0) as engine:
        for n in range(40):
            try:
                await engine.settle("a", Decimal(1), f"s{n}")
            except NotSettled:
                before += 1
                assert await engine.find_settlement("a", f"s{n}") == 0
            except ConnectionError:
                after += 1
                assert await engine.find_settlement("a", f"s{n}") == 1
    assert before + after == 40
    assert min(before, after) > 3
    assert await bench.ledger.balance("bob") == 50 + after


async def test_a_settle_that_was_cancelled_never_pays_later(bench: Bench) -> None:
    async with bench.engine(delay_s=0.05) as engine:
        with trio.move_on_after(0.01):
            await engine.settle("a", Decimal(1), "s1")
        found = await engine.find_settlement("a", "s1")
        await trio.sleep(0.1)
        assert found == await engine.find_settlement("a", "s1") == 0


async def test_a_settle_that_was_cancelled_while_it_pays_has_paid(bench: Bench) -> None:
    async with bench.engine() as engine:
        await engine.setup_account("a")
        # Held up by another process, the payment is under way when the cancellation comes.
        other = sqlite3.connect(bench.ledger.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.settle, "a", Decimal(1), "s1")
            await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
            other.execute("COMMIT")
        other.close()
        assert await engine.find_settlement("a", "s1") == 1


async def test_the_peer_is_always_told_the_same_tag(bench: Bench) -> None:
    await bench.store.open_account("b")
    answers = []
    for _start in range(2):
        async with bench.engine() as engine, trio.open_nursery() as nursery:

            async def ask(account_id: str, handle: Callable[..., Any]) -> None:
                answers.append((account_id, await handle(account_id, {"type": "paymentDetails"})))

            for account_id in ("a", "b", "a", "b"):
                nursery.start_soon(ask, account_id, engine.handle_message)
    told = dict(answers)
    assert all(answer == told[account_id] for account_id, answer in answers)
    assert told["a"]["address"] == told["b"]["address"] == "alice"
    assert told["a"]["tag"] != told["b"]["tag"]


@pytest.mark.parametrize("message", [None, 5, [], {}, {"type": "other"}, "paymentDetails"])
async def test_other_messages_are_errors(bench: Bench, message: object) -> None:
    async with bench.engine() as engine:
        with pytest.raises(MessageRefused, match="paymentDetails"):
            await engine.handle_message("a", message)


async def tag_of(engine: LoopbackEngine, account_id: str) -> int:
    answer = await engine.handle_message(account_id, {"type": "paymentDetails"})
    return cast(int, answer["tag"])


async def test_what_arrives_is_credited_to_the_account_of_its_tag(bench: Bench) -> None:
    await bench.store.open_account("b")
    async with bench.engine() as engine:
        await bench.ledger.pay("t1", "bob", "alice", await tag_of(engine, "a"), Decimal("0.25"))
        await bench.ledger.pay("t2", "bob", "alice", await tag_of(engine, "b"), Decimal(3))
        credits = await bench.wait_credits(2)
    assert credits == [("a", "t1", Decimal("0.25")), ("b", "t2", Decimal(3))]


async def test_what_arrived_while_the_engine_was_away_is_credited_once(bench: Bench) -> None:
    async with bench.engine() as engine:
        tag = await tag_of(engine, "a")
        await bench.ledger.pay("t0", "bob", "alice", tag, Decimal(1))
        await bench.wait_credits(1)
    for n in range(1, 251):  # more than a batch
        await bench.ledger.pay(f"t{n}", "bob", "alice", tag, Decimal("0.1"))
    async with bench.engine():
        await bench.wait_credits(200)
    async with bench.engine():
        credits = await bench.wait_credits(251)
        await trio.sleep(0.05)
        assert await bench.credits() == credits
    assert [settlement_id for _, settlement_id, _ in credits] == [f"t{n}" for n in range(251)]


async def test_an_unknown_tag_is_remembered_and_stops_nothing(bench: Bench) -> None:
    async with bench.engine() as engine:
        tag = await tag_of(engine, "a")
        await bench.ledger.pay("stray", "bob", "alice", (tag + 1) % 2**32, Decimal(4))
        await bench.ledger.pay("t1", "bob", "alice", tag, Decimal(1))
        assert await bench.wait_credits(1) == [("a", "t1", Decimal(1))]
    ((_, value),) = await bench.store.list_state(None, "unclaimed:")
    assert msgspec.json.decode(value) == {"id": "stray", "amount": "4"}


async def test_a_ledger_that_cannot_be_opened_is_named(bench: Bench, tmp_path: Path) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(SettledError, match="nowhere/ledger.db")):
        async with bench.engine(ledger=tmp_path / "nowhere/ledger.db"):
            pass


async def test_a_wallet_that_is_not_named_is_made_up_and_kept(bench: Bench) -> None:
    addresses = set()
    for _start in range(2):
        async with bench.engine(wallet=None) as engine:
            answer = await engine.handle_message("a", {"type": "paymentDetails"})
            addresses.add(answer["address"])
    (address,) = addresses
    assert await bench.ledger.balance(address) == 100


async def test_the_opening_funds_are_minted_once_and_are_no_credit(bench: Bench) -> None:
    for _start in range(2):
        async with bench.engine():
            await trio.sleep(0.03)
    assert await bench.ledger.balance("alice") == 100
    assert await bench.ledger.balance("mint") == -150
    assert await bench.credits() == []


async def test_a_ledger_that_is_locked_for_a_while_ends_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.loopback_ledger._BUSY_TIMEOUT_S", 0.01)
    async with bench.engine() as engine:
        tag = await tag_of(engine, "a")
        await bench.ledger.pay("t1", "bob", "alice", tag, Decimal(1))
        other = sqlite3.connect(bench.ledger.path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        await trio.sleep(0.1)
        other.execute("COMMIT")
        other.close()
        assert await bench.wait_credits(1) == [("a", "t1", Decimal(1))]


async def test_the_ledger_refuses_to_pay_nothing_or_less(bench: Bench) -> None:
    for amount in (Decimal(0), Decimal(-1)):
        with pytest.raises(ValueError, match="cannot pay"):
            await bench.ledger.pay("t", "bob", "alice", 0, amount)


async def test_the_ledger_conserves_money_among_concurrent_payers(bench: Bench) -> None:
    async def pay(n: int) -> None:
        source, target = ("alice", "bob") if n % 2 else ("bob", "alice")
        with suppress(InsufficientFunds):
            await bench.ledger.pay(f"t{n % 30}", source, target, 0, Decimal(n % 7 + 1) / 8)

    await bench.ledger.open_wallet("alice", Decimal(1))
    async with trio.open_nursery() as nursery:
        for n in range(60):
            nursery.start_soon(pay, n)
    balances = [await bench.ledger.balance(wallet) for wallet in ("alice", "bob", "mint")]
    assert sum(balances) == 0
    assert min(balances[:2]) >= 0


async def test_another_ledger_or_a_missing_one_is_refused(bench: Bench) -> None:
    """There, every settlement in doubt would seem not to have been sent."""
    async with bench.engine():
        pass
    with pytest.raises(ExceptionGroup) as caught:
        async with bench.engine(ledger=bench.ledger.path.with_name("other.db")):
            pass
    assert caught.group_contains(ConfigError, match="bring it back")
    bench.ledger.path.unlink()
    with pytest.raises(ExceptionGroup) as caught:
        async with bench.engine():
            pass
    assert caught.group_contains(ConfigError, match="bring it back")
    assert not bench.ledger.exists
