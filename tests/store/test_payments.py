"""Settlements begun and ended together come to the same as one after the other."""

from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from settled.amounts import Quantity
from settled.errors import NotResolvable, SettledError
from settled.store.memory import MemoryStore
from settled.store.records import NotSent, Parked, Settled, SettlementOutcome, Unknown
from settled.store.sql.ledger import Tx
from settled.store.sql.payments import Ended, Look, next_settlements, record_outcomes
from settled.store.sql.restored import mark
from settled.store.sqlite import SqliteStore, open_sqlite
from tests.store.steps import Clock, snapshot

LIVES = {  # by account number
    1: "alice",
    2: "bob",
    3: "carol",
    4: "idle",
    5: "again",  # closed with a payment of its own in doubt
    6: "again",
    7: "new",  # not set up
    8: "failing",  # a payment was not sent: not due yet
    9: "lent",  # more was settled than asked
}
NUMBERS = st.sampled_from([*LIVES, 1, 2, 3, 99])
SCALES = st.sampled_from([None, None, 0, 3])
OUTCOMES: st.SearchStrategy[SettlementOutcome] = st.one_of(
    st.just(None).map(lambda _: Settled(Decimal("7.5"))),  # in full
    st.builds(Settled, st.sampled_from([Decimal(7), Decimal("7.50"), Decimal(0), Decimal(100)])),
    st.builds(NotSent, st.just("no funds"), st.just(5)),
    st.builds(Unknown, st.just("who knows"), st.just(5)),
    st.builds(Parked, st.just("who knows")),
)
ROUNDS = st.lists(
    st.tuples(
        st.lists(st.tuples(NUMBERS, SCALES), max_size=12),
        # Which of those begun last, the same one perhaps twice, and what became of it.
        st.lists(st.tuples(st.integers(0, 12), OUTCOMES), max_size=12),
    ),
    min_size=1,
    max_size=4,
)


async def prepared(store: SqliteStore | MemoryStore) -> None:
    for number, account_id in LIVES.items():
        account = await store.open_account(account_id, setup=account_id == "new")
        assert account.number == number
        if account_id != "idle":
            await store.queue_settlement(account_id, Quantity("75", 1), f"key-{number}")
        match number:
            case 5:
                await store.next_settlement(5, "old")
                await store.close_account("again")
            case 8:
                await store.next_settlement(8, "failed")
                await store.record_outcome("failed", NotSent("down", 100))
            case 9:
                await store.next_settlement(9, "generous")
                await store.record_outcome("generous", Settled(Decimal(20)))


async def _result(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except (SettledError, ValueError) as error:
        return type(error)


async def singly(store: SqliteStore | MemoryStore, items: Sequence[Look | Ended]) -> list[Any]:
    results = []
    for item in items:
        if isinstance(item, Look):
            call: Awaitable[Any] = store.next_settlement(
                item.account, item.settlement_id, asset_scale=item.asset_scale
            )
        else:
            call = store.record_outcome(*item)
        results.append(await _result(call))
    return results


async def together(store: SqliteStore, items: Sequence[Look | Ended]) -> list[Any]:
    """As the writer does it: what cannot be done as a whole is done one by one."""
    looking = bool(items) and isinstance(items[0], Look)
    run: Callable[..., Sequence[Any]] = next_settlements if looking else record_outcomes
    try:
        return list(await store._writer.write(lambda tx: run(tx, items)))
    except (SettledError, ValueError):
        return await singly(store, items)


async def compare(path: Path, rounds: list[Any]) -> None:
    clock = Clock()
    memory = MemoryStore(now_ms=clock, uptime=clock.uptime)
    async with open_sqlite(
        path, exclusive=True, create=True, now_ms=clock, uptime=clock.uptime
    ) as store:
        await prepared(memory)
        await prepared(store)
        for n, (looked, ended) in enumerate(rounds):
            looks = [Look(number, f"s-{n}-{i}", scale) for i, (number, scale) in enumerate(looked)]
            outcomes = [Ended(f"s-{n}-{i}", outcome) for i, outcome in ended]
            for items in (looks, outcomes):
                there = await together(store, items)
                assert repr(there) == repr(await singly(memory, items))
            assert repr(await snapshot(store)) == repr(await snapshot(memory))
            clock.ms += 50
        assert await store.audit() == []


@settings(max_examples=100, deadline=None)
@given(rounds=ROUNDS)
def test_a_group_comes_to_the_same_as_one_after_the_other(
    rounds: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    trio.run(compare, tmp_path_factory.mktemp("group") / "s.db", rounds)


async def test_one_settlement_id_is_never_that_of_two_payments(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await prepared(store)
        before = await snapshot(store)
        looks = [Look(1, "s", None), Look(2, "s", None)]
        with pytest.raises(Exception, match="UNIQUE"):
            await store._writer.write(lambda tx: next_settlements(tx, looks))
        assert await snapshot(store) == before


async def test_what_is_no_amount_is_refused_beside_what_is_one(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await prepared(store)
        await store.next_settlement(1, "a")
        await store.next_settlement(2, "b")
        results: dict[str, Any] = {}

        async def record(settlement_id: str, amount: Any) -> None:
            results[settlement_id] = await _result(
                store.record_outcome(settlement_id, Settled(amount))
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(record, "a", 7.5)  # a float is not exact
            nursery.start_soon(record, "b", Decimal("7.5"))
        assert results["a"].__name__ == "InvalidAmount"
        assert results["b"].state == "settled"
        assert (await store.settlement("a")).state == "in_flight"
        assert await store.audit() == []


async def test_nothing_of_a_restored_backup_is_begun_in_a_group(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await prepared(store)
        await store._writer.write(mark)
        looks = [Look(number, f"s-{number}", None) for number in (1, 2)]
        steps = await store._writer.write(lambda tx: next_settlements(tx, looks))
        assert [step.begun for step in steps] == [False, False]
        assert "held" in str((await store.account("alice")).waiting)


async def test_the_first_word_on_a_settlement_holds_in_a_group_too(tmp_path: Path) -> None:
    said: list[SettlementOutcome] = [NotSent("no funds", 5), Settled(Decimal("7.5"))]
    for words in permutations(said):
        path = tmp_path / f"{type(words[0]).__name__}.db"
        async with open_sqlite(path, exclusive=True, create=True) as store:
            await prepared(store)
            await store.next_settlement(1, "a")
            ended = [Ended("a", word) for word in words]
            first, second = await together(store, ended)
            assert first.state == ("not_sent" if isinstance(words[0], NotSent) else "settled")
            assert second is NotResolvable
            assert (await store.settlement("a")).state == first.state


async def test_ordinary_ones_take_the_same_few_statements_however_many(tmp_path: Path) -> None:
    """Each statement is a wait for Python's lock: see ``settled.store.sql.requests``."""
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        for number in range(1, 41):
            await store.open_account(f"a{number}", setup=False)
            if number % 2:
                await store.queue_settlement(f"a{number}", Quantity("75", 1), "key")
        await store.open_account("other", setup=False)
        await store.queue_settlement("other", Quantity("1", 0), "key")
        await store.next_settlement(41, "open")  # it is in nobody else's way
        counts = []

        def traced(run: Callable[..., Any], items: Sequence[Any]) -> Callable[[Tx], Any]:
            def work(tx: Tx) -> Any:
                statements: list[str] = []
                tx.conn.set_trace_callback(statements.append)
                try:
                    return run(tx, items)
                finally:
                    tx.conn.set_trace_callback(None)
                    counts.append(len(statements))

            return work

        looks = [Look(number, f"s-{number}", None) for number in range(1, 41)]
        steps = await store._writer.write(traced(next_settlements, looks))
        assert [step.begun for step in steps] == [True, False] * 20
        ended = [Ended(f"s-{n}", Settled(Decimal("7.5"))) for n in range(1, 41, 2)]
        await store._writer.write(traced(record_outcomes, ended))
        again = await store._writer.write(traced(next_settlements, looks))
        assert not any(step.begun or step.settlement for step in again)
        assert counts == [6, 4, 2]
        assert await store.audit() == []
