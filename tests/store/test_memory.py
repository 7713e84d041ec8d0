"""The store in memory is the reference for the others: its audit, too, must see what is off."""

from dataclasses import replace
from decimal import Decimal

import pytest

from settled.amounts import to_text
from settled.store.memory import MemoryStore
from settled.store.records import Bucket, Difference
from tests.store.test_contract_audit import worked

OUTGOING: tuple[Bucket, ...] = ("queued", "in_flight", "unknown", "settled")
INCOMING: tuple[Bucket, ...] = ("undelivered", "parked", "credited")


@pytest.mark.parametrize("bucket", ["requested", *OUTGOING, "received", *INCOMING])
async def test_a_balance_that_is_off_is_told(bucket: Bucket) -> None:
    store = MemoryStore()
    await worked(store)
    assert await store.audit() == []
    for number, account in list(store._accounts.items()):
        right = getattr(account, bucket)
        wrong = replace(account, **{bucket: right + 1})
        store._accounts[number] = wrong
        subject = f"account {account.id} (number {number})"
        pair = to_text(right), to_text(right + 1)
        expected = [Difference(subject, f"{bucket} by the journal", *pair)]
        origin = "requested" if bucket in ("requested", *OUTGOING) else "received"
        parts = OUTGOING if origin == "requested" else INCOMING
        total = sum((getattr(wrong, part) for part in parts), Decimal(0))
        equation = f"{origin} = {' + '.join(parts)}"
        found = to_text(total), to_text(getattr(wrong, origin))
        expected.append(Difference(subject, equation, *found))
        if bucket in ("in_flight", "unknown", "settled"):
            expected.append(Difference(subject, f"{bucket} by the settlements", *pair))
        if bucket in INCOMING:
            expected.append(Difference(subject, f"{bucket} by the credits", *pair))
        assert await store.audit() == expected
        store._accounts[number] = account
