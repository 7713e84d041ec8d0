"""The records of payments: memory is as the disk is, whatever is torn off in between."""

from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

import pytest

from engines.ethereum.payments import Payments, fail, settle
from settled import Services
from settled.testing import MemoryStore
from tests.engines.ethereum.test_verdicts import payment


@pytest.fixture
def services() -> Services:
    return Services(MemoryStore(), cast(Any, None), cast(Any, None))


async def test_what_a_task_wrote_down_that_was_torn_off_is_found_and_looked_after(
    services: Services,
) -> None:
    ours = Payments(services)
    await ours.load()
    assert await ours.find("s1") is None
    assert not ours.added.is_set()
    await Payments(services).add(payment(), 0)  # committed, and not in the memory of ours
    assert ours.pending() == []
    found = await ours.find("s1")
    assert found is not None
    assert found == payment(begun_s=found.begun_s)
    assert ours.pending() == [found]
    assert ours.added.is_set()
    assert await ours.find("s1") is found
    assert await ours.next_nonce() == 1


async def test_only_what_is_over_and_still_in_the_chain_is_forgotten(services: Services) -> None:
    payments = Payments(services)
    first = payment(settlement_id="s1", nonce=5)
    others = [
        payment(settlement_id="s2", nonce=6),  # of the same account, and open
        settle(payment(settlement_id="s3", nonce=7, account_id="carol"), Decimal(1)),
        settle(payment(settlement_id="s4", nonce=9), Decimal(1)),  # undone
    ]
    for one in (first, *others):
        await payments.add(replace(one, settled=None), 0)
    await payments.change([fail(first, "why"), *others])
    new = payment(settlement_id="s5", nonce=10)
    await payments.add(new, 9)
    fresh = Payments(services)
    await fresh.load()
    for known in (payments, fresh):
        assert await known.find("s1") is None
        assert {p.settlement_id for p in known.from_nonce(0)} == {"s2", "s3", "s4", "s5"}
        assert {p.settlement_id for p in known.from_nonce(9)} == {"s4", "s5"}
        assert [p.settlement_id for p in known.pending()] == ["s2", "s5"]
