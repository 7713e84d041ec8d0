"""An engine that credits what it should not: it is told so, and nobody's books are touched."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio

from settled import AccountNotFound, InvalidAmount, Services, SettlementConflict
from settled.store.protocol import Store
from tests.harness import conserved
from tests.neighbours.engines import LyingDecimal, LyingNumber
from tests.test_daemon import daemon


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[tuple[Services, Store]]:
    """A daemon on a real file, whose books must be whole at the end."""
    async with daemon(path) as (running, store, _):
        yield running.services, store
        await conserved(store)
        async with running.services.transaction() as still_well:
            still_well.set_state("k", 1)


NO_AMOUNTS: dict[str, Any] = {
    "zero": Decimal(0),
    "minus zero": Decimal("-0"),
    "negative": Decimal(-1),
    "NaN": Decimal("NaN"),
    "sNaN": Decimal("sNaN"),
    "infinity": Decimal("Infinity"),
    "too fine": Decimal("1E-256"),
    "far too fine": Decimal("1E-999999"),
    "a monster": Decimal("1E+1024"),
    "a larger monster": Decimal("1E+999999"),
    "a monster int": 10**5000,
    "a float": 1.5,
    "a float that is whole": 2.0,
    "a bool": True,
    "text": "5",
    "bytes": b"5",
    "None": None,
    "a lying NaN": LyingDecimal("NaN"),
    "a lying negative": LyingDecimal("-5"),
}

NO_ACCOUNTS: dict[str, Any] = {
    "never used": "nobody",
    "empty": "",
    "long": "a" * 10_000,
    "a surrogate": "\ud800",
    "a NUL": "alice\0",
    "upper case": "ALICE",
    "padded": " alice",
    "SQL": "alice' OR '1'='1",
    "None": None,
    "a number": 1,
    "bytes": b"alice",
    "a list": ["alice"],
}

NO_IDS: dict[str, Any] = {
    "empty": "",
    "long": "x" * 256,
    "a line": "tx\n1",
    "a surrogate": "\ud800",
    "not ASCII": "tx\u20131",
    "a number": 1,
    "bytes": b"tx1",
    "an object": object(),
}


async def test_what_is_no_credit_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    async with connected(tmp_path) as (services, store):

        async def refused(kind: Any, *arguments: Any) -> None:
            with pytest.raises(kind):
                await services.credit_settlement(*arguments)
            with pytest.raises(kind):
                async with services.transaction() as transaction:
                    transaction.set_state("cursor", 1)
                    account_id, amount, *known_as = arguments
                    transaction.credit_settlement(account_id, amount, *(known_as or ["tx"]))

        for amount in NO_AMOUNTS.values():
            await refused(InvalidAmount, "alice", amount, "tx")
        with pytest.raises(RuntimeError, match="mind your own business"):
            await services.credit_settlement("alice", LyingNumber(), "tx")  # type: ignore[arg-type]
        for account_id in NO_ACCOUNTS.values():
            await refused((AccountNotFound, ValueError, TypeError), account_id, Decimal(1), "tx")
        for known_as in NO_IDS.values():
            await refused(ValueError, "alice", Decimal(1), known_as)
        assert await store.credits() == []
        assert await services.state.get("cursor") is None, "whole, or not at all"


async def test_a_payment_that_is_reported_at_once_and_in_two_ways_counts_once(
    tmp_path: Path,
) -> None:
    async with connected(tmp_path) as (services, store):
        new, conflicts = 0, 0

        async def report(amount: int) -> None:
            nonlocal new, conflicts
            try:
                was_new = await services.credit_settlement("alice", Decimal(amount), "tx")
            except SettlementConflict:
                conflicts += 1
            else:
                new += was_new

        async with trio.open_nursery() as nursery:
            for amount in [5, 6] * 50:
                nursery.start_soon(report, amount)
        (credit,) = await store.credits()
        assert (new, conflicts) == (1, 50)
        assert (await store.account("alice")).received == credit.amount


async def test_the_largest_credits_are_exact(tmp_path: Path) -> None:
    largest = Decimal("9" * 1024)
    finest = Decimal(1).scaleb(-255)
    async with connected(tmp_path) as (services, store):
        for n, amount in enumerate([largest, largest, finest, 10**1023, LyingDecimal("7")]):
            assert await services.credit_settlement("alice", amount, f"tx{n}")  # type: ignore[arg-type]
        found = [credit.amount for credit in await store.credits()]
        assert found == [7, Decimal("1E+1023"), finest, largest, largest]


async def test_credits_of_closed_and_former_accounts_stay_in_their_books(tmp_path: Path) -> None:
    async with connected(tmp_path) as (services, store):
        await store.close_account("alice")
        assert await services.credit_settlement("alice", Decimal(5), "tx")
        await store.open_account("alice")
        assert not await services.credit_settlement("alice", Decimal(5), "tx"), "known already"
        with pytest.raises(SettlementConflict):
            await services.credit_settlement("alice", Decimal(6), "tx")
        assert sum(life.received for life in await store.accounts(account_id="alice")) == 5


async def test_state_that_is_none_is_refused(tmp_path: Path) -> None:
    async with connected(tmp_path) as (services, _):
        for key in ("", "k" * 256, "\ud800", 5, None, b"k"):
            with pytest.raises((ValueError, TypeError)):
                await services.state.set(key, 1)  # type: ignore[arg-type]
        for value in ("x" * 70_000, object(), {1j: 2}):
            with pytest.raises((ValueError, TypeError)):
                await services.state.set("k", value)
        for account_id in ("\ud800", 5, b"alice"):
            with pytest.raises((ValueError, TypeError, LookupError)):
                await services.state.set("k", 1, account_id=account_id)  # type: ignore[arg-type]
        for nobody in (None, ["alice"], 1):
            with pytest.raises(TypeError):
                await services.try_settlement(nobody)  # type: ignore[arg-type]
        assert await services.state.items() == []
