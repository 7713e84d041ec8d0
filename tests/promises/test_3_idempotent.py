"""Promise 3: same key and amount: same answer and one effect, for a day after its last use."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from settled import limits
from settled.amounts import Quantity
from settled.errors import KeyReused
from settled.ids import credit_key
from settled.store.protocol import Store
from settled.store.sqlite import open_sqlite
from tests.harness import ScriptedEngine, conserved, memory_store, running

DAY_TICKS = 86_400 // limits.KEY_TICK_S


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield memory_store()
    else:
        async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as opened:
            yield opened


async def test_one_hundred_requests_at_once_under_one_key_have_one_effect(store: Store) -> None:
    await store.open_account("alice", setup=False)
    answers = []

    async def ask() -> None:
        answers.append(await store.queue_settlement("alice", Quantity("100", 2), "key"))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(ask)
    assert {answer.quantity for answer in answers} == {Quantity("100", 2)}
    assert sum(not answer.replayed for answer in answers) == 1
    assert (await store.account("alice")).requested == 1


async def test_the_answer_is_the_first_one_whatever_the_scale_of_the_replay(store: Store) -> None:
    await store.open_account("alice", setup=False)
    await store.queue_settlement("alice", Quantity("0100", 2), "key")
    replay = await store.queue_settlement("alice", Quantity("1", 0), "key")
    assert (replay.quantity, replay.replayed) == (Quantity("0100", 2), True)


async def test_another_amount_under_the_key_changes_nothing(store: Store) -> None:
    await store.open_account("alice", setup=False)
    await store.queue_settlement("alice", Quantity("1", 0), "key")
    with pytest.raises(KeyReused, match="alice"):
        await store.queue_settlement("alice", Quantity("2", 0), "key")
    assert (await store.account("alice")).requested == 1
    again = await store.queue_settlement("alice", Quantity("1", 0), "key")
    assert again.replayed


async def test_keys_of_different_accounts_are_different_keys(store: Store) -> None:
    for name in ("alice", "bob"):
        await store.open_account(name, setup=False)
        assert not (await store.queue_settlement(name, Quantity("1", 0), "key")).replayed


async def test_a_key_outlives_a_day_without_use_and_each_use_renews_it(store: Store) -> None:
    await store.open_account("alice", setup=False)
    await store.queue_settlement("alice", Quantity("1", 0), "key")
    for _ in range(5):
        for _ in range(DAY_TICKS + 1):
            await store.age_keys()
        while await store.purge_keys():
            pass
        assert (await store.queue_settlement("alice", Quantity("1", 0), "key")).replayed
    assert (await store.account("alice")).requested == 1


async def test_a_key_unused_for_its_life_is_purged_and_nothing_else_is(store: Store) -> None:
    await store.open_account("alice", setup=False)
    await store.queue_settlement("alice", Quantity("1", 0), "old")
    for _ in range(limits.KEY_LIFE_TICKS - 1):
        await store.age_keys()
    await store.queue_settlement("alice", Quantity("1", 0), "new")
    assert await store.purge_keys() == 0
    await store.age_keys()
    assert await store.purge_keys() == 1
    assert (await store.queue_settlement("alice", Quantity("1", 0), "new")).replayed
    await conserved(store)


@pytest.mark.parametrize("years", [10, -10])
async def test_a_jump_of_the_clock_expires_no_key(years: int, tmp_path: Path) -> None:
    now_ms = 1_900_000_000_000
    async with open_sqlite(
        tmp_path / "s.db", exclusive=True, create=True, now_ms=lambda: now_ms
    ) as store:
        await store.open_account("alice", setup=False)
        await store.queue_settlement("alice", Quantity("1", 0), "key")
        now_ms += years * 365 * 86_400_000
        await store.age_keys()
        assert await store.purge_keys() == 0
        assert (await store.queue_settlement("alice", Quantity("1", 0), "key")).replayed


async def test_the_daemon_ages_keys_by_the_time_it_runs(autojump_clock: MockClock) -> None:
    store = memory_store()
    await store.open_account("alice", setup=False)
    async with running(ScriptedEngine(), store) as daemon:
        await daemon.request("alice", "1", "key")
        await trio.sleep(47 * 3600)
        assert (await store.queue_settlement("alice", Quantity("1", 0), "key")).replayed
        await trio.sleep(49 * 3600)
        assert not (await store.queue_settlement("alice", Quantity("2", 0), "key")).replayed


async def test_a_replay_after_a_restart_is_the_same_answer(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    for attempt in range(3):
        async with open_sqlite(path, exclusive=True, create=True) as store:
            await store.open_account("alice", setup=False)
            answer = await store.queue_settlement("alice", Quantity("100", 2), "key")
            assert (answer.quantity, answer.replayed) == (Quantity("100", 2), attempt > 0)
            assert (await store.account("alice")).requested == 1


async def test_a_replay_that_crosses_the_closing_of_its_account_is_answered_as_before(
    store: Store,
) -> None:
    """Else the connector would take the request for lost and ask for the money again."""
    await store.open_account("alice", setup=False)
    await store.queue_settlement("alice", Quantity("1", 0), "key")
    await store.close_account("alice")
    assert (await store.queue_settlement("alice", Quantity("1", 0), "key")).replayed
    await store.open_account("alice", setup=False)
    assert (await store.queue_settlement("alice", Quantity("1", 0), "key")).replayed
    assert [account.requested for account in await store.accounts()] == [0, 1]


@given(st.text(min_size=1), st.text(min_size=1))
def test_the_key_of_a_credit_depends_on_nothing_but_the_payment(account_id: str, tx: str) -> None:
    namespace = uuid.UUID("6f6bfa32-6a4c-5d55-9d1e-6a86d1f0a7c5")
    assert credit_key(account_id, tx) == str(uuid.uuid5(namespace, f"{account_id}/{tx}"))
    assert credit_key(account_id, tx) != credit_key(account_id, tx + "!")


def test_the_key_of_a_credit_is_the_same_in_every_version_of_the_program() -> None:
    assert credit_key("alice", "tx1") == "e004aadf-a39e-5391-84df-4ef959b08441"
