"""Dust by the thousand, from strangers: it fills no log, and it costs what it must and no more."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
import trio
import trio.testing

from engines.ethereum.entries import Entries
from engines.ethereum.notes import GONE, Notes
from engines.ethereum.telling import Counted
from engines.ethereum.trail import Trail
from engines.ethereum.transfers import Crediting, Transfer
from settled.store.records import AddCredit, Change
from settled.testing import MemoryStore
from tests.engines.ethereum.sides import KEYS, Log, Side

STRANGER, FRIEND = "0x" + "5a" * 20, "0x" + "f1" * 20


def transfers(count: int, *, block: int = 10, sender: str = STRANGER) -> list[Transfer]:
    return [
        Transfer(f"1:0x{block:032x}{n:032x}:value", sender, Decimal("1E-18"), block)
        for n in range(count)
    ]


def trail(number: int) -> Trail:
    return Trail(((0, None), (number, f"0x{number:064x}")))


class CountingStore(MemoryStore):
    """Counts what is committed at once, and notes what is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[int] = []
        self.credits_at_once = 0
        self.listed: list[str] = []
        self.got = 0

    async def commit(self, changes: Sequence[Change]) -> list[int | None]:
        self.commits.append(len(changes))
        credits = sum(isinstance(change, AddCredit) for change in changes)
        self.credits_at_once = max(self.credits_at_once, credits)
        return await super().commit(changes)

    async def list_state(self, account_id: str | None, prefix: str = "") -> list[tuple[str, bytes]]:
        self.listed.append(prefix)
        return await super().list_state(account_id, prefix)

    async def get_state(self, account_id: str | None, key: str) -> bytes | None:
        self.got += 1
        return await super().get_state(account_id, key)


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


def entries(side: Side, max_credit: Decimal | None = None) -> Entries:
    return Entries(side.services, side.peers, Crediting(max_credit))


def said(log: Log) -> list[dict[str, Any]]:
    return [fields for _, event, fields in log.lines if event == "ethereum_payment_unclaimed"]


async def test_many_payments_of_strangers_are_said_in_a_line_now_and_then(
    autojump_clock: trio.testing.MockClock, store: CountingStore
) -> None:
    async with trio.open_nursery() as nursery:
        side = Side(KEYS[0], nursery, store=store)
        entered = entries(side)
        for block in range(1, 31):
            paid = transfers(250, block=block)
            await entered.enter(paid, before=trail(block - 1), after=trail(block))
            await trio.sleep(12)
        counts = [fields["count"] for fields in said(side.log)]
        assert counts == [250, *[5 * 250] * 5]  # at once, and then once a minute
        assert said(side.log)[1]["transfer"] == transfers(250, block=6)[-1].id
        assert "`settled ethereum unclaimed`" in said(side.log)[0]["reason"]
        for block in range(31, 36):
            await entered.enter([], before=trail(block - 1), after=trail(block))
            await trio.sleep(12)
        assert sum(fields["count"] for fields in said(side.log)) == 30 * 250
        assert len(await side.services.state.items("unclaimed:")) == 30 * 250
        nursery.cancel_scope.cancel()


async def test_nothing_is_said_of_nothing() -> None:
    await trio.lowlevel.checkpoint()
    log = Log()
    Counted(log, "event").tell()
    assert log.lines == []


async def test_a_start_reads_nothing_that_strangers_have_paid(store: CountingStore) -> None:
    async with trio.open_nursery() as nursery:
        side = Side(KEYS[0], nursery, store=store)
        await entries(side).enter(transfers(500), before=trail(9), after=trail(10))
        nursery.cancel_scope.cancel()
    await store.open_account("a")
    async with trio.open_nursery() as nursery:
        store.listed.clear()
        side = Side(KEYS[0], nursery, store=store)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert store.listed == ["owner:"]
        await side.peers.learn("a", FRIEND)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert store.listed[1:] == [f"unclaimed:{FRIEND}:"]
        await side.peers.learn("a", STRANGER)
        with trio.fail_after(10):
            while len(await side.credits("a")) < 500:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert await side.services.state.items("unclaimed:") == []
        nursery.cancel_scope.cancel()
    assert store.credits_at_once == 200


async def test_a_sender_is_looked_up_once_for_many_payments(store: CountingStore) -> None:
    async with trio.open_nursery() as nursery:
        side = Side(KEYS[0], nursery, store=store)
        await entries(side).enter(transfers(500), before=trail(9), after=trail(10))
        assert store.got <= 2 + 3
        nursery.cancel_scope.cancel()


async def test_notes_are_forgotten_bit_by_bit_and_all_in_the_end(store: CountingStore) -> None:
    async with trio.open_nursery() as nursery:
        side = Side(KEYS[0], nursery, store=store)
        entered = entries(side)
        await entered.enter(transfers(2500), before=trail(9), after=trail(10))
        after = Trail(((10, None), (11, f"0x{11:064x}")))
        store.commits.clear()
        for left in (1500, 500, 0, 0):
            await entered.enter([], before=trail(10), after=after)
            assert len(await side.services.state.items("seen:")) == left
        assert max(store.commits) <= 1001
        # More come than that: so more are forgotten, too.
        await entered.enter(transfers(6000), before=trail(9), after=trail(10))
        await entered.enter(transfers(3000, block=11), before=trail(10), after=after)
        assert len(await side.services.state.items("seen:")) == 3000
        nursery.cancel_scope.cancel()


async def test_the_parts_of_few_payments_are_not_committed_all_at_once(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.ethereum.transfers._PARTS_MAX", 10)
    paid = [
        Transfer(f"1:0x{n:064x}:value", FRIEND, Decimal(amount), 10)
        for n, amount in enumerate([3, 7, 1, 9, 100, 4, 4, 4])
    ]
    await store.open_account("a")
    async with trio.open_nursery() as nursery:
        side = Side(KEYS[0], nursery, store=store, max_credit=Decimal(1))
        await side.peers.learn("a", FRIEND)
        await entries(side, Decimal(1)).enter(paid, before=trail(9), after=trail(10))
        assert sum(amount for _, amount in await side.credits("a")) == 132
        nursery.cancel_scope.cancel()
    assert store.credits_at_once == 10
    assert [len(batch) for batch in Crediting(Decimal(1)).batches(paid)] == [2, 2, 1, 2, 1]


def test_batches_are_of_all_transfers_in_their_order() -> None:
    assert list(Crediting(None).batches([])) == []
    paid = transfers(401)
    batches = list(Crediting(None).batches(paid))
    assert [len(batch) for batch in batches] == [200, 200, 1]
    assert [transfer for batch in batches for transfer in batch] == paid


def test_notes_are_found_by_their_blocks_wherever_these_have_moved() -> None:
    notes = Notes()
    for known, block in (("a", 5), ("b", 6), ("c", GONE), ("d", 5)):
        notes.put(known, {"block": block})
    assert sorted(notes.within(5, 5)) == ["a", "d"]
    assert sorted(notes.up_to(6, 10)) == ["a", "b", "d"]
    assert len([*notes.up_to(6, 2)]) == 2
    notes.put("a", {"block": 6})
    notes.put("d", None)
    notes.put("e", None)
    assert [*notes.within(5, 5)] == []
    assert sorted(notes.within(6, 7)) == ["a", "b"]
    assert (notes.get("a"), notes.get("d")) == ({"block": 6}, None)
