"""What every store must see when its books are right."""

from decimal import Decimal
from pathlib import Path

from settled.store.protocol import Store
from settled.store.records import Delivered, NotSent, Parked, Settled, SettlementOutcome, Unknown
from settled.store.sqlite import open_sqlite
from tests.store.steps import asked, begun, credited, opened


async def worked(store: Store) -> None:
    """Leave something of everything in the store."""
    outcomes: dict[str, SettlementOutcome] = {
        "s-1": Settled(Decimal(4)),
        "s-2": Unknown("time-out"),
        "s-3": NotSent("empty"),
        "s-4": Parked("cannot tell"),
        "s-5": Settled(Decimal(99)),
    }
    for n, (settlement_id, outcome) in enumerate(outcomes.items()):
        account = await asked(store, "10.25", f"k{n}", f"a{n}")
        await store.next_settlement(account.number, settlement_id, asset_scale=1)
        await store.record_outcome(settlement_id, outcome)
    await store.close_account("a0")
    await begun(store, "1", "s-6")
    credit = await credited(store, "3", "tx-1")
    await store.next_deliveries(credit.account, 1)
    await store.record_delivery(credit, Delivered())
    await credited(store, "5", "tx-2")


async def test_an_empty_store_is_right(store: Store) -> None:
    assert await store.audit() == []
    await opened(store)
    assert await store.audit() == []


async def test_a_store_with_something_of_everything_is_right(store: Store) -> None:
    await worked(store)
    assert await store.audit() == []
    await store.interrupt_settlements()
    assert await store.audit() == []


async def test_an_audit_says_how_far_it_is(store: Store) -> None:
    await worked(store)
    calls: list[tuple[int, int]] = []
    assert await store.audit(lambda done, total: calls.append((done, total))) == []
    assert calls
    assert all(0 <= done <= total for done, total in calls)
    assert calls[-1][0] == calls[-1][1] > 0


async def test_the_audit_of_a_small_file_needs_no_temporary_file(tmp_path: Path) -> None:
    """A full disk, or a temporary directory that is read-only, must not stand in its way."""
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await store.open_account("alice")
        assert await store.audit() == []
        stores = await store._read(lambda conn: conn.execute("PRAGMA temp_store").fetchone())
        assert stores == (2,), "2 is memory"
