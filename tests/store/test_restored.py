"""What a restored backup holds back, and how the operator releases it."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from settled.amounts import Quantity
from settled.errors import AccountNotFound, NotResolvable
from settled.store.backup import back_up
from settled.store.records import (
    AddCredit,
    Ambiguous,
    Delivered,
    DeliveryOutcome,
    Held,
    NotDelivered,
    NotSent,
    Settled,
    Unknown,
)
from settled.store.sqlite import SqliteStore, open_sqlite
from tests.store.steps import HOUR_MS, KEPT_KEY_MS, START_MS, Clock

HELD = "held: a backup of 2023-11-14 22:13:20 UTC was restored; "


@dataclass
class Machine:
    """A database, its backups, and the clock of the machine it is on."""

    directory: Path
    clock: Clock

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[SqliteStore]:
        async with open_sqlite(
            self.directory / name,
            exclusive=True,
            create=True,
            now_ms=self.clock,
            uptime=self.clock.uptime,
        ) as store:
            yield store
            assert await store.audit() == []

    def back_up(self, name: str, target: str) -> None:
        back_up(
            self.directory / name,
            self.directory / target,
            now_ms=self.clock,
            uptime=self.clock.uptime,
        )


@pytest.fixture
def machine(tmp_path: Path, clock: Clock) -> Machine:
    return Machine(tmp_path, clock)


async def owe(store: SqliteStore, amount: int, key: str, account_id: str = "alice") -> int:
    account = await store.open_account(account_id, setup=False)
    await store.queue_settlement(account_id, Quantity(str(amount), 0), key)
    return account.number


@pytest.fixture
async def store(machine: Machine) -> AsyncIterator[SqliteStore]:
    """A restored backup in which 10 are queued for alice, and 5 of bob are in flight."""
    async with machine.open("first") as first:
        await owe(first, 10, "k1")
        bob = await owe(first, 5, "k2", "bob")
        await first.next_settlement(bob, "s-bob")
        machine.back_up("first", "copy")
    async with machine.open("copy") as restored:
        await restored.interrupt_settlements()
        yield restored


async def begun(store: SqliteStore, account_id: str = "alice") -> bool:
    number = (await store.account(account_id)).number
    step = await store.next_settlement(number, f"s-{account_id}-{START_MS}")
    if step.settlement is None:
        assert step.delay_ms is None, "it is not a matter of time"
    return step.begun


async def test_the_database_itself_goes_on_paying(machine: Machine) -> None:
    async with machine.open("first") as first:
        await owe(first, 10, "k1")
        machine.back_up("first", "copy")
        assert await begun(first)
        assert await first.held() is None
        for attempt in (first.release("alice", Decimal(0)), first.release_all()):
            with pytest.raises(NotResolvable):
                await attempt


async def test_what_is_queued_is_held_and_says_why(store: SqliteStore) -> None:
    assert await store.held() == Held(START_MS, (("alice", Decimal(10)),))
    assert not await begun(store)
    waiting = (await store.account("alice")).waiting
    assert waiting is not None
    assert waiting.startswith(HELD)
    assert waiting.endswith("then `settled release alice --paid AMOUNT`, or `--nothing-paid`")


async def test_that_it_is_held_is_said_before_any_daemon_has_looked(machine: Machine) -> None:
    async with machine.open("first") as first:
        await owe(first, 10, "k1")
        await first.open_account("idle", setup=False)
        await owe(first, 3, "k2", "gone")
        await first.close_account("gone")
        machine.back_up("first", "copy")
        assert (await first.account("alice")).waiting is None
    async with machine.open("copy") as restored:
        waiting = (await restored.account("alice")).waiting
        assert waiting is not None
        assert waiting.startswith(HELD)
        assert (await restored.account("idle")).waiting is None
        assert (await restored.account("gone")).waiting == "the account is closed"
        assert not await begun(restored)
        assert (await restored.account("alice")).waiting == waiting


async def test_neither_a_request_nor_a_retry_nor_a_start_releases_it(
    store: SqliteStore, clock: Clock
) -> None:
    assert not await begun(store)
    await owe(store, 3, "k3")
    assert not await begun(store)
    await store.retry_settlement("alice")
    assert not await begun(store)
    await store.interrupt_settlements()
    assert not await begun(store)
    clock.ms += 1000 * HOUR_MS
    assert not await begun(store)
    assert (await store.account("alice")).queued == 13


async def test_an_account_that_is_new_is_held_too(store: SqliteStore) -> None:
    """It may be one that was added, and paid, after the backup."""
    await owe(store, 3, "k3", "carol")
    assert not await begun(store, "carol")


async def test_a_payment_that_was_in_flight_is_looked_up_and_its_rest_is_held(
    store: SqliteStore,
) -> None:
    bob = (await store.account("bob")).number
    step = await store.next_settlement(bob, "s-new")
    assert step.settlement is not None
    assert (step.settlement.id, step.settlement.state, step.begun) == ("s-bob", "unknown", False)
    await store.record_outcome("s-bob", Settled(Decimal(4)))
    assert not await begun(store, "bob")
    assert (await store.account("bob")).queued == 1


async def test_released_it_is_paid(store: SqliteStore) -> None:
    assert not await begun(store)
    await store.release("alice", Decimal(0))
    assert (await store.account("alice")).waiting is None
    assert (await store.held()) == Held(START_MS, ())
    assert await begun(store)
    with pytest.raises(NotResolvable, match="alice is not held"):
        await store.release("alice", Decimal(3))


async def test_what_was_paid_since_is_taken_off_the_queue(store: SqliteStore) -> None:
    await store.release("alice", Decimal("7.5"))
    account = await store.account("alice")
    assert (account.queued, account.settled) == (Decimal("2.5"), Decimal("7.5"))
    (recorded,) = await store.settlements(account_id="alice")
    assert (recorded.state, recorded.settled) == ("settled", Decimal("7.5"))
    assert (recorded.failures, recorded.created_ms) == (0, START_MS)
    assert recorded.reason == "paid since the backup that was restored, by the operator's word"
    assert await begun(store)


async def test_more_than_is_queued_cannot_have_been_paid(store: SqliteStore) -> None:
    with pytest.raises(
        NotResolvable, match="2 or more were lost.*settle alice 2 --key THE-.*--paid 10"
    ):
        await store.release("alice", Decimal(12))
    assert not await begun(store)
    await owe(store, 2, "k3")
    await store.release("alice", Decimal(12))
    assert (await store.account("alice")).queued == 0


async def test_while_a_payment_is_in_doubt_what_was_paid_cannot_be_counted(
    store: SqliteStore,
) -> None:
    with pytest.raises(NotResolvable, match="whether 5 was paid is still open"):
        await store.release("bob", Decimal(1))
    await store.record_outcome("s-bob", Unknown("still"))
    with pytest.raises(NotResolvable, match="whether 5 was paid is still open"):
        await store.release("bob", Decimal(1))
    await store.record_outcome("s-bob", Settled(Decimal(0)))
    await store.release("bob", Decimal(5))
    assert (await store.account("bob")).queued == 0


async def test_of_a_closed_account_it_is_written_down_what_was_paid(store: SqliteStore) -> None:
    with pytest.raises(AccountNotFound):
        await store.release("nobody", Decimal(0))
    await store.close_account("alice")
    assert await store.held() == Held(START_MS, (), (("alice", Decimal(10)),))
    with pytest.raises(NotResolvable, match="it is closed: .* give --paid 10"):
        await store.release("alice", Decimal(12))
    await store.release("alice", Decimal(4))
    assert await store.held() == Held(START_MS, ())
    account = await store.account("alice")
    assert (account.queued, account.settled) == (6, 4)
    assert account.waiting == "the account is closed"
    with pytest.raises(NotResolvable, match="alice is not held"):
        await store.release("alice", Decimal(3))
    assert (await store.release_all(nothing_paid=True)).accounts == ()


async def test_what_was_paid_to_a_former_account_of_the_id_is_taken_off_its_queue_first(
    store: SqliteStore,
) -> None:
    """Nothing pays that queue, but somebody may do by hand what stays in it."""
    await store.close_account("alice")
    new = await owe(store, 4, "k3")
    assert await store.held() == Held(START_MS, (("alice", Decimal(4)),), (("alice", Decimal(10)),))
    with pytest.raises(NotResolvable, match="15 was paid but only 14 is queued"):
        await store.release("alice", Decimal(15))
    await store.release("alice", Decimal(11))
    former, latest = sorted(
        await store.accounts(account_id="alice"), key=lambda account: account.number
    )
    assert (former.queued, former.settled, former.waiting) == (0, 10, None)
    assert (latest.queued, latest.settled) == (3, 1)
    assert await store.held() == Held(START_MS, ())
    assert (await store.next_settlement(new, "s-new")).begun
    assert await store.audit() == []
    # A third account of the id is held like any other, and what is paid to it is not the second's.
    await store.record_outcome("s-new", NotSent("no funds", 0))
    await store.close_account("alice")
    await owe(store, 5, "k4")
    with pytest.raises(NotResolvable, match="7 was paid but only 5 is queued"):
        await store.release("alice", Decimal(7))


@pytest.mark.parametrize("owed", [0, 1])
async def test_a_former_account_counts_if_it_owes_the_least(store: SqliteStore, owed: int) -> None:
    if owed:
        await owe(store, owed, "k3", "carol")
    else:
        await store.open_account("carol", setup=False)
    await store.close_account("carol")
    await owe(store, 3, "k4", "carol")
    await store.release("carol", Decimal(1))
    by_life = [account for account in await store.accounts() if account.id == "carol"]
    latest, former = sorted(by_life, key=lambda account: -account.number)
    assert (former.settled, latest.settled) == (owed, 1 - owed)
    assert len(await store.settlements(account_id="carol")) == 1


async def test_what_is_released_is_due_at_once(machine: Machine) -> None:
    async with machine.open("first") as first:
        await owe(first, 10, "k1")
        assert await begun(first)
        await first.record_outcome(f"s-alice-{START_MS}", NotSent("no funds", HOUR_MS))
        machine.back_up("first", "copy")
    async with machine.open("copy") as restored:
        assert (await restored.account("alice")).retry_ms == START_MS + HOUR_MS
        await restored.release("alice", Decimal(0))
        assert (await restored.account("alice")).retry_ms == 0


async def test_while_a_former_account_owes_in_doubt_what_was_paid_cannot_be_counted(
    store: SqliteStore,
) -> None:
    await owe(store, 3, "k3", "bob")
    await store.close_account("bob")
    await owe(store, 4, "k4", "bob")
    with pytest.raises(NotResolvable, match="bob: whether 5 was paid is still open"):
        await store.release("bob", Decimal(2))


async def test_an_account_without_a_queue_cannot_be_released(store: SqliteStore) -> None:
    """What a connector sends again later would be paid without a look at the ledger."""
    await store.open_account("dave", setup=False)
    with pytest.raises(NotResolvable, match="dave has nothing queued"):
        await store.release("dave", Decimal(0))
    await owe(store, 3, "k3", "dave")
    assert not await begun(store, "dave")


async def test_all_released_it_is_a_database_like_any_other(store: SqliteStore) -> None:
    assert not await begun(store)
    await store.release("alice", Decimal(0))
    await owe(store, 3, "k3", "carol")
    assert not await begun(store, "carol")
    with pytest.raises(NotResolvable, match="carol .3.; release each"):
        await store.release_all()
    assert not await begun(store, "carol")
    await store.release("carol", Decimal(3))
    with pytest.raises(NotResolvable, match="account bob: a payment is still in doubt"):
        await store.release_all()
    await owe(store, 3, "k5", "erin")
    freed = await store.release_all(nothing_paid=True)
    assert freed.accounts == (("erin", Decimal(3)),)
    assert await store.held() is None
    assert (await store.account("erin")).waiting is None
    assert await begun(store, "alice")
    assert await begun(store, "erin")
    await owe(store, 1, "k4", "dave")
    assert await begun(store, "dave")


async def test_what_was_released_before_keeps_its_backoff_when_all_is_released(
    store: SqliteStore,
) -> None:
    await store.release("alice", Decimal(0))
    assert await begun(store)
    await store.record_outcome(f"s-alice-{START_MS}", NotSent("no funds", HOUR_MS))
    before = await store.account("alice")
    assert (before.waiting, before.retry_ms) == ("no funds", START_MS + HOUR_MS)
    former = await owe(store, 2, "k3", "carol")
    await store.close_account("carol")
    await owe(store, 3, "k4", "carol")
    assert (await store.release_all(nothing_paid=True)).accounts == (("carol", Decimal(3)),)
    assert await store.account("alice") == before
    lives = {account.number: account for account in await store.accounts()}
    assert lives.pop(former).waiting == "the account is closed"
    assert [life.retry_ms for life in lives.values() if life.id == "carol"] == [0]


async def test_of_many_that_are_held_or_in_doubt_the_first_are_named(store: SqliteStore) -> None:
    for n in range(4):
        await owe(store, n + 1, f"k{n}", f"held-{n}")
    said = r"held: alice .10., held-0 .1., held-1 .2., \.\.\.; release each"
    with pytest.raises(NotResolvable, match=said):
        await store.release_all()
    await store.release("alice", Decimal(10))
    await store.release("held-0", Decimal(0))
    assert await begun(store, "held-0")
    said = r"held: held-1 .2., held-2 .3., held-3 .4.; release each"
    with pytest.raises(NotResolvable, match=said):
        await store.release_all()
    for n in range(1, 4):
        await store.release(f"held-{n}", Decimal(0))
        assert await begun(store, f"held-{n}")
    with pytest.raises(NotResolvable, match="account bob: a payment is still in doubt"):
        await store.release_all()


async def test_backups_of_former_versions_are_known_by_these_marks(machine: Machine) -> None:
    async with machine.open("first") as first:
        await owe(first, 10, "k1")
        machine.back_up("first", "copy")

    def marks() -> dict[str, int]:
        with closing(sqlite3.connect(machine.directory / "copy")) as conn:
            return dict(conn.execute("SELECT name, value FROM counters WHERE name <> 'key_tick'"))

    steady_ms = marks()["backup_steady_ms"]
    taken = {"backup_ms": START_MS, "backup_steady_ms": steady_ms}
    assert marks() == {**taken, "backup_unused": 1}
    async with machine.open("copy") as restored:
        await restored.release("alice", Decimal(0))
        await restored.age_keys()
    assert marks() == {**taken, "released 1": 1}
    machine.clock.ms += HOUR_MS
    machine.back_up("copy", "second")
    (machine.directory / "second").replace(machine.directory / "copy")
    since = {"backup_ms 1": START_MS + HOUR_MS}
    assert marks() == {**taken, **since, "backup_unused": 1}


async def test_a_daemon_hears_of_it(store: SqliteStore, machine: Machine) -> None:
    numbers = [(await store.account(account_id)).number for account_id in ("alice", "bob")]
    await owe(store, 3, "k3", "carol")
    async with AsyncExitStack() as stack:
        beside = await stack.enter_async_context(
            open_sqlite(machine.directory / "copy", exclusive=False)
        )
        await beside.release("alice", Decimal(1))
        assert await store.wait_foreign_writes() == numbers[:1]
        await beside.release_all(nothing_paid=True)
        carol = (await store.account("carol")).number
        assert await store.wait_foreign_writes() == [carol]


async def test_a_backup_of_a_held_one_is_held_whole_each_account_since_its_last_reckoning(
    store: SqliteStore, machine: Machine
) -> None:
    await owe(store, 3, "k3", "carol")
    await store.release("alice", Decimal(10))
    await owe(store, 15, "k4")
    machine.clock.ms += HOUR_MS
    machine.back_up("copy", "second")
    owed = (("alice", Decimal(15)), ("carol", Decimal(3)))
    async with machine.open("second") as second:
        since_ms = {"alice": START_MS + HOUR_MS}
        assert await second.held() == Held(START_MS, owed, since_ms=since_ms)
        for account_id, at in (("alice", "23:13:20"), ("carol", "22:13:20")):
            assert not await begun(second, account_id)
            waiting = (await second.account(account_id)).waiting or ""
            assert f"a backup of 2023-11-14 {at} UTC was restored" in waiting
        machine.clock.ms += HOUR_MS
        machine.back_up("second", "third")
    async with machine.open("third") as third:
        assert await third.held() == Held(START_MS, owed, since_ms=since_ms), "still held"
        await third.release("alice", Decimal(0))
        machine.back_up("third", "fourth")
    async with machine.open("fourth") as fourth:
        held = await fourth.held()
        assert held is not None
        assert held.since_ms == {"alice": START_MS + 2 * HOUR_MS}
        await fourth.release_all(nothing_paid=True)
        machine.back_up("fourth", "fifth")
    async with machine.open("fifth") as fifth:
        assert await fifth.held() == Held(START_MS + 2 * HOUR_MS, owed)


# --- credits ---


async def credits(machine: Machine) -> None:
    """Leave a database with three credits in the states that a backup may find them in."""
    async with machine.open("first") as first:
        account = await first.open_account("alice", setup=False)
        outcomes: dict[str, DeliveryOutcome] = {
            "done": Delivered(),
            "refused": NotDelivered("404", 1),
            "unclear": Ambiguous("time-out", 1),
        }
        for name, outcome in outcomes.items():
            await first.commit([AddCredit("alice", name, Decimal(1))])
            (sent,) = (await first.next_deliveries(account.number, 1)).credits
            await first.record_delivery(sent, outcome)
            machine.clock.ms += HOUR_MS
        machine.back_up("first", "copy")


@pytest.mark.parametrize("reboot", [False, True])
async def test_credits_that_may_have_been_delivered_since_are_delivered_within_23_hours(
    machine: Machine, reboot: bool
) -> None:
    await credits(machine)
    taken_ms = machine.clock.ms
    if reboot:
        machine.clock.boot, machine.clock.uptime_ms = "second", 0
    machine.clock.ms += 21 * HOUR_MS
    async with machine.open("copy") as restored:
        number = (await restored.account("alice")).number
        await restored.add_credit(AddCredit("alice", "found again", Decimal(1)), hand_out=True)
        due = await restored.next_deliveries(number, 10)
        assert {credit.settlement_id for credit in due.credits} == {
            "refused",
            "unclear",
            "found again",
        }
        for credit in due.credits:
            since_ms = taken_ms - (HOUR_MS if credit.settlement_id == "unclear" else 0)
            assert credit.ambiguous_ms == since_ms, credit
            await restored.record_delivery(credit, NotDelivered("still 404", 0))
        machine.clock.ms = taken_ms + KEPT_KEY_MS - 1
        assert {c.settlement_id for c in (await restored.next_deliveries(number, 10)).credits} == {
            "refused",
            "found again",
        }


@pytest.mark.parametrize("reboot", [False, True])
async def test_from_an_older_backup_no_credit_is_delivered_by_guess(
    machine: Machine, reboot: bool
) -> None:
    await credits(machine)
    if reboot:
        machine.clock.boot, machine.clock.uptime_ms = "second", 0
    machine.clock.ms += KEPT_KEY_MS
    async with machine.open("copy") as restored:
        number = (await restored.account("alice")).number
        found_again = AddCredit("alice", "found again", Decimal(1))
        credit = await restored.add_credit(found_again, hand_out=True)
        assert credit is not None
        assert credit.attempts == 0, "it is not handed out"
        due = await restored.next_deliveries(number, 10)
        assert due.credits == ()
        assert {c.settlement_id for c in due.parked} == {"refused", "unclear", "found again"}
        reasons = {credit.settlement_id: credit.reason or "" for credit in due.parked}
        assert reasons["found again"].startswith(
            "it may have been delivered since the backup that was restored; "
        )
        assert all("`settled credits resolve`" in reason for reason in reasons.values())


async def test_what_comes_in_once_all_is_released_is_clear(machine: Machine) -> None:
    await credits(machine)
    machine.clock.ms += KEPT_KEY_MS
    async with machine.open("copy") as restored:
        number = (await restored.account("alice")).number
        await restored.next_deliveries(number, 10)
        await restored.release_all()
        await restored.commit([AddCredit("alice", "new", Decimal(1))])
        (credit,) = (await restored.next_deliveries(number, 10)).credits
        assert (credit.settlement_id, credit.ambiguous_ms) == ("new", None)
        newer = await restored.add_credit(AddCredit("alice", "newer", Decimal(1)), hand_out=True)
        assert newer is not None
        assert (newer.attempts, newer.ambiguous_ms) == (1, None)


async def test_in_the_database_itself_credits_stay_as_they_are(machine: Machine) -> None:
    await credits(machine)
    machine.clock.ms += KEPT_KEY_MS
    async with machine.open("first") as first:
        number = (await first.account("alice")).number
        due = await first.next_deliveries(number, 10)
        assert [credit.settlement_id for credit in due.credits] == ["refused"]
        assert [credit.settlement_id for credit in due.parked] == ["unclear"]
