"""What every store must do with the engine's state, and with changes that commit together."""

from contextlib import suppress
from decimal import Decimal

import pytest
import trio

from settled import limits
from settled.errors import AccountNotFound, InvalidAmount, SettlementConflict, StateChanged
from settled.store.protocol import Store
from settled.store.records import AddCredit, Change, RequireState, SetState
from tests.store.steps import Clock, credited, opened, refused, snapshot


async def test_a_value_is_kept_until_it_is_set_again_or_deleted(store: Store) -> None:
    assert await store.get_state(None, "cursor") is None
    assert await store.commit([SetState(None, "cursor", b"1")]) == [None]
    assert await store.get_state(None, "cursor") == b"1"
    await store.commit([SetState(None, "cursor", b"\x00\xff")])
    assert await store.get_state(None, "cursor") == b"\x00\xff"
    await store.commit([SetState(None, "cursor", None)])
    assert await store.get_state(None, "cursor") is None
    assert await store.commit([SetState(None, "cursor", None)]) == [None]


async def test_an_empty_value_is_a_value(store: Store) -> None:
    await store.commit([SetState(None, "flag", b"")])
    assert await store.get_state(None, "flag") == b""
    assert await store.list_state(None) == [("flag", b"")]


async def test_the_state_of_the_engine_and_of_each_account_are_apart(store: Store) -> None:
    scopes = [None, "alice", "Alice", "never-opened"]
    await store.commit([SetState(scope, "k", repr(scope).encode()) for scope in scopes])
    for scope in scopes:
        assert await store.get_state(scope, "k") == repr(scope).encode()
        assert await store.list_state(scope) == [("k", repr(scope).encode())]
    await store.commit([SetState("alice", "k", None)])
    assert await store.list_state("alice") == []
    assert await store.get_state(None, "k") == b"None"


async def test_the_state_of_an_account_outlives_its_closing(store: Store) -> None:
    await opened(store)
    await store.commit([SetState("alice", "k", b"1")])
    await store.close_account("alice")
    await opened(store)
    assert await store.get_state("alice", "k") == b"1"


async def test_keys_are_listed_by_prefix_to_the_letter_and_in_order(store: Store) -> None:
    keys = ["b", "a", "A", "ab", "a%", "a_", "a_b", "aé", "a\U0001f600", "a ", "z"]
    keys += ["a\U0010ffff", "a" + "\U0010ffff" * 254, "\U0010ffff" * 255]
    await store.commit([SetState(None, key, key.encode()) for key in keys])

    async def listed(prefix: str) -> list[str]:
        return [key for key, _ in await store.list_state(None, prefix)]

    assert await listed("") == sorted(keys)
    assert await listed("a") == sorted(key for key in keys if key.startswith("a"))
    assert await listed("a_") == ["a_", "a_b"]
    assert await listed("a%") == ["a%"]
    assert await listed("A") == ["A"]
    assert await listed("aé") == ["aé"]
    assert await listed("a\U0010ffff") == ["a\U0010ffff", "a" + "\U0010ffff" * 254]
    assert await listed("nothing") == []


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_has_1_to_255_characters(store: Store, key: str) -> None:
    for value in (b"1", None):
        await refused(store, ValueError, store.commit([SetState(None, key, value)]))
    longest = "é" * 255
    await store.commit([SetState(None, longest, b"1")])
    assert await store.get_state(None, longest) == b"1"


async def test_a_value_has_64_kib_at_most(store: Store) -> None:
    most = b"x" * limits.STATE_VALUE_BYTES_MAX
    await store.commit([SetState(None, "k", most)])
    assert await store.get_state(None, "k") == most
    await refused(store, ValueError, store.commit([SetState(None, "k", most + b"x")]))


async def test_state_and_credits_commit_together(store: Store) -> None:
    account = await opened(store)
    changes: list[Change] = [
        AddCredit("alice", "tx-1", Decimal(1)),
        SetState(None, "cursor", b"7"),
        AddCredit("alice", "tx-2", Decimal(2)),
    ]
    assert await store.commit(changes) == [account.number, None, account.number]
    assert await store.get_state(None, "cursor") == b"7"
    assert (await store.account("alice")).received == 3
    assert await store.commit(changes) == [None, None, None]


async def test_no_change_at_all_is_no_fault(store: Store) -> None:
    assert await store.commit([]) == []


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (AddCredit("nobody", "tx-9", Decimal(1)), AccountNotFound),
        (AddCredit("alice", "tx-0", Decimal(2)), SettlementConflict),
        (AddCredit("alice", "tx-9", Decimal(0)), InvalidAmount),
        (SetState(None, "", b"x"), ValueError),
        (SetState(None, "cursor", b"x" * (limits.STATE_VALUE_BYTES_MAX + 1)), ValueError),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2, 3])
async def test_one_bad_change_undoes_all_of_them(
    store: Store, bad: Change, error: type[Exception], place: int
) -> None:
    await credited(store, "1", "tx-0")
    changes: list[Change] = [
        AddCredit("alice", "tx-1", Decimal(1)),
        SetState(None, "cursor", b"7"),
        SetState("alice", "note", b"new"),
    ]
    changes.insert(place, bad)
    await refused(store, error, store.commit(changes))
    assert await store.get_state(None, "cursor") is None


async def test_changes_are_made_only_to_the_state_that_they_require(store: Store) -> None:
    await opened(store)
    absent = RequireState(None, "k", None)
    assert await store.commit([SetState(None, "k", b"1"), absent]) == [None, None]
    for wrong in (absent, RequireState(None, "k", b"2"), RequireState("alice", "k", b"1")):
        changes: list[Change] = [SetState(None, "k", b"3"), wrong]
        changes.append(AddCredit("alice", "tx-1", Decimal(1)))
        await refused(store, StateChanged, store.commit(changes))
    right = RequireState(None, "k", b"1")
    assert await store.commit([SetState(None, "k", None), right]) == [None, None]
    assert await store.commit([absent, SetState("alice", "k", b"")]) == [None, None]
    assert await store.commit([RequireState("alice", "k", b"")]) == [None]


async def test_of_many_who_require_the_same_one_has_his_way(store: Store) -> None:
    made: list[int] = []

    async def take(n: int) -> None:
        with suppress(StateChanged):
            await store.commit([RequireState(None, "k", None), SetState(None, "k", b"%d" % n)])
            made.append(n)

    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(take, n)
    (winner,) = made
    assert await store.get_state(None, "k") == b"%d" % winner


async def test_a_bad_commit_beside_good_ones_undoes_only_itself(store: Store) -> None:
    await opened(store)
    refusals = 0

    async def commit(n: int) -> None:
        nonlocal refusals
        changes: list[Change] = [AddCredit("alice", f"tx-{n}", Decimal(1))]
        if n % 3 == 0:
            changes.append(AddCredit("nobody", "tx", Decimal(1)))
        try:
            await store.commit(changes)
        except AccountNotFound:
            refusals += 1

    async with trio.open_nursery() as nursery:
        for n in range(30):
            nursery.start_soon(commit, n)
    assert refusals == 10
    assert (await store.account("alice")).received == 20


async def test_a_commit_that_is_cancelled_before_it_starts_changes_nothing(store: Store) -> None:
    await opened(store)
    before = await snapshot(store)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.commit([AddCredit("alice", "tx-1", Decimal(1)), SetState("alice", "k", b"1")])
    assert scope.cancelled_caught
    assert await snapshot(store) == before


async def test_a_commit_once_started_is_not_undone_by_cancellation(
    store: Store, clock: Clock
) -> None:
    """Whatever the caller is told, what it reads afterwards is all of the change or none."""
    await opened(store)
    changes: list[Change] = [AddCredit("alice", "tx-1", Decimal(1)), SetState(None, "k", b"1")]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.commit, changes)
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert (await store.account("alice")).received == (await store.get_state(None, "k") == b"1")
