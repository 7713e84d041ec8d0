"""What a group of credits does together keeps the rules of what one does."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from settled.errors import InvalidId, NotFound, SettledError
from settled.store.records import AddCredit
from settled.store.sql.ledger import Tx
from settled.store.sql.moves import Moves
from settled.store.sqlite import open_sqlite
from tests.harness import conserved


def moving(account: int, amount: int) -> Callable[[Tx], None]:
    def run(tx: Tx) -> None:
        moves = Moves(tx, ("undelivered", "credited"))
        moves.load([1])
        moves.move(account, "undelivered", "credited", Decimal(amount), "tx")
        moves.write()

    return run


async def test_no_more_is_moved_than_is_there(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        assert (await store.open_account("alice", setup=False)).number == 1
        await store.commit([AddCredit("alice", "tx", Decimal(5))])
        with pytest.raises(SettledError, match="would leave -1: run `settled audit`"):
            await store._writer.write(moving(1, 6))
        with pytest.raises(NotFound, match="no account has the number 2"):
            await store._writer.write(moving(2, 1))
        await conserved(store)
        await store._writer.write(moving(1, 5))
        account = await store.account("alice")
        assert (account.undelivered, account.credited) == (0, 5)


async def test_what_is_no_credit_leaves_those_beside_it(tmp_path: Path) -> None:
    refused: list[str] = []
    async with open_sqlite(tmp_path / "s.db", exclusive=True, create=True) as store:
        await store.open_account("alice", setup=False)

        async def credit(settlement_id: str) -> None:
            try:
                await store.add_credit(AddCredit("alice", settlement_id, Decimal(1)))
            except InvalidId:
                refused.append(settlement_id)

        async with trio.open_nursery() as nursery:
            for settlement_id in ("a", "\ud800", "b", "", "c"):
                nursery.start_soon(credit, settlement_id)
        assert sorted(refused) == ["", "\ud800"]
        assert (await store.account("alice")).undelivered == 3
        await conserved(store)


async def test_a_credit_that_is_known_tells_a_daemon_of_nothing(tmp_path: Path) -> None:
    """Beside a daemon, which another process tells what to look at."""
    async with open_sqlite(tmp_path / "s.db", exclusive=False, create=True) as store:
        await store.open_account("alice", setup=False)
        credit = AddCredit("alice", "tx", Decimal(1))
        assert await store.commit([credit]) == [1]
        assert await store.commit([credit]) == [None]
        assert await store.commit([credit, AddCredit("alice", "ty", Decimal(1))]) == [None, 1]
        assert set(await store.wait_foreign_writes()) == {1}
