"""All the requests of one transaction together come to the same as one after the other."""

from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from settled import limits
from settled.amounts import Quantity
from settled.errors import AccountNotFound, InvalidAmount, KeyReused, SettledError
from settled.store.memory import MemoryStore
from settled.store.records import Account, NotSent, Queued, Request, Unknown
from settled.store.sql.ledger import Tx
from settled.store.sqlite import SqliteStore, open_sqlite

REQUESTS = st.builds(
    Request,
    st.sampled_from(["alice", "bob", "closed", "nobody"]),
    st.builds(Quantity, st.sampled_from(["0", "1", "10", "100", "9" * 1024]), st.integers(0, 3)),
    st.sampled_from(["k1", "k2", "k3", "k4"]),
)


async def prepared(store: SqliteStore | MemoryStore) -> None:
    for account_id in ("alice", "bob", "closed"):
        await store.open_account(account_id, setup=False)
    await store.close_account("closed")


async def one_by_one(batch: list[Request]) -> tuple[list[object], list[Account]]:
    store = MemoryStore()
    await prepared(store)
    results: list[object] = []
    for request in batch:
        try:
            results.append(await store.queue_settlement(*request))
        except SettledError as error:
            results.append(error)
    return results, await store.accounts()


async def together(path: Path, batches: list[list[Request]]) -> tuple[list[object], list[Account]]:
    async with open_sqlite(path, exclusive=True, create=True) as store:
        await prepared(store)
        results: list[object] = []
        for batch in batches:
            results += await store._writer.write(partial(queue, store, batch))
        assert await store.audit() == []
        return results, await store.accounts()


def queue(store: SqliteStore, batch: list[Request], tx: Tx) -> list[Queued | SettledError]:
    return store._requests.queue(tx, batch)


def told(results: list[object]) -> list[object]:
    return [r if isinstance(r, Queued) else type(r) for r in results]


def books(accounts: list[Account]) -> list[object]:
    return [(a.number, a.id, a.state, a.requested, a.queued, a.retry_ms) for a in accounts]


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(REQUESTS, min_size=1, max_size=15), min_size=1, max_size=8))
def test_a_batch_comes_to_the_same_as_its_requests_one_by_one(
    batches: list[list[Request]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("batch") / "s.db"
    expected, accounts = trio.run(one_by_one, [request for batch in batches for request in batch])
    found, kept = trio.run(together, path, batches)
    assert told(found) == told(expected)
    assert books(kept) == books(accounts)


async def test_refusals_leave_the_others_of_their_batch(tmp_path: Path) -> None:
    one, two = Quantity("1", 0), Quantity("2", 0)
    batch = [
        Request("alice", one, "k"),
        Request("alice", two, "k"),
        Request("nobody", one, "k"),
        Request("alice", Quantity("0", 0), "z"),
        Request("alice", Quantity("10", 1), "k"),
        Request("bob", two, "k"),
    ]
    results, accounts = await together(tmp_path / "s.db", [batch])
    assert results[0] == Queued(1, one, replayed=False)
    assert [type(result) for result in results[1:4]] == [
        KeyReused,
        AccountNotFound,
        InvalidAmount,
    ]
    assert results[4] == Queued(1, one, replayed=True)
    assert results[5] == Queued(2, two, replayed=False)
    assert {account.id: account.queued for account in accounts} == {
        "alice": 1,
        "bob": 2,
        "closed": 0,
    }


@pytest.mark.parametrize("with_it", [0, 1])
async def test_a_key_is_renewed_by_a_use_in_the_second_half_of_its_life_only(
    with_it: int, tmp_path: Path
) -> None:
    """Whether it comes alone or with another."""
    request = Request("alice", Quantity("1", 0), "k")
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await prepared(store)

        async def use_at(tick: int) -> int:
            def run(tx: Tx) -> int:
                tx.conn.execute("UPDATE counters SET value = ? WHERE name = 'key_tick'", (tick,))
                nobody = Request("nobody", Quantity("1", 0), "k")
                result = store._requests.queue(tx, [request, *[nobody] * with_it])[0]
                assert isinstance(result, Queued)
                (found,) = tx.conn.execute("SELECT tick FROM idempotency_keys").fetchone()
                return int(found)

            return await store._writer.write(run)

        half = limits.KEY_LIFE_TICKS // 2
        assert [await use_at(t) for t in (5, 5 + half - 1, 5 + half, 6 + half)] == [
            5,
            5,
            5 + half,
            5 + half,
        ]


async def test_a_request_makes_its_account_due_but_does_not_hasten_a_retry(tmp_path: Path) -> None:
    one = Quantity("1", 0)
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        for account_id in ("fresh", "failing", "doubtful"):
            number = (await store.open_account(account_id, setup=False)).number
            if account_id != "fresh":
                await store.queue_settlement(account_id, one, "k1")
                await store.next_settlement(number, account_id, asset_scale=None)
        failing = await store.record_outcome("failing", NotSent("no funds", 3_600_000))
        doubtful = await store.record_outcome("doubtful", Unknown("who knows", 3_600_000))
        before = {account.id: account for account in await store.accounts()}
        for account_id in before:
            await store.queue_settlement(account_id, one, "k2")
        after = {account.id: account for account in await store.accounts()}
        assert (failing.state, doubtful.state) == ("not_sent", "unknown")
        assert (after["fresh"].retry_ms, after["fresh"].waiting) == (0, None)
        assert before["failing"].retry_ms
        assert before["failing"].waiting == "no funds"
        for account_id, what in (("failing", "no funds"), ("doubtful", "who knows")):
            assert after[account_id].waiting == what
            assert after[account_id].queued == before[account_id].queued + 1
        assert after["failing"].retry_ms == before["failing"].retry_ms
        assert after["doubtful"].retry_ms == 0


async def test_the_journal_says_under_which_key_something_was_asked_for(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await prepared(store)
        for account_id, key in (("alice", "k1"), ("bob", "k2"), ("alice", "k3")):
            await store.queue_settlement(account_id, Quantity("7", 1), key)
        journal = await store._writer.write(
            lambda tx: tx.conn.execute(
                "SELECT account, source, target, amount, ref FROM journal ORDER BY seq"
            ).fetchall()
        )
        assert journal == [
            (1, "requested", "queued", "0.7", "k1"),
            (2, "requested", "queued", "0.7", "k2"),
            (1, "requested", "queued", "0.7", "k3"),
        ]
