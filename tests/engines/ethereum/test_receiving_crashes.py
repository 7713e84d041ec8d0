"""Killed at every await of receiving and claiming: nothing is credited twice, nothing is lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import trio
from hypothesis import given
from hypothesis import strategies as st

from engines.ethereum.transfers import Crediting, Transfer
from engines.ethereum.units import to_amount, to_units
from settled import Transaction
from settled.store.records import AddCredit, Change, SetState
from settled.testing import MemoryStore
from tests.engines.ethereum.anvil import ETHER, Chain
from tests.engines.ethereum.receiver import CONFIRMATIONS, OURS, Payer, Receiver


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Fuse:
    """Kills at the n-th await from now; never, if that is 0."""

    left: int = 0

    def burn(self) -> None:
        if self.left:
            self.left -= 1
            if not self.left:
                raise Killed


class FragileStore(MemoryStore):
    """A store whose user may be killed before each call has had an effect, or after."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self.fuse = fuse

    async def commit(self, changes: Sequence[Change]) -> list[int | None]:
        self.fuse.burn()
        result = await super().commit(changes)
        self.fuse.burn()
        return result

    async def get_state(self, account_id: str | None, key: str) -> bytes | None:
        self.fuse.burn()
        return await super().get_state(account_id, key)

    async def list_state(self, account_id: str | None, prefix: str = "") -> list[tuple[str, bytes]]:
        self.fuse.burn()
        return await super().list_state(account_id, prefix)


async def one_life(receiver: Receiver, stranger: Payer, count: int) -> None:
    async with receiver.running() as running:
        await running.done()
        await running.side.peers.learn("b", stranger.address)
        await running.claimed(count)


async def test_killed_anywhere_everything_is_credited_once(chain: Chain) -> None:
    payer, stranger = [Payer(chain, await chain.signer()) for _ in range(2)]
    start = await chain.head() + 1
    for wei in (1, 2, 3):
        await payer.pay(OURS, wei)
        await stranger.pay(OURS, wei + 10)
    await chain.mine(CONFIRMATIONS)
    kills = 0
    while True:
        fuse = Fuse()
        receiver = Receiver(
            chain,
            store=FragileStore(fuse),
            start_block=start,
            blocks_max=2,
            poll_s=0.001,
            max_credit=Decimal("9E-18"),
        )
        for account in ("a", "b"):
            await receiver.store.open_account(account)
        owner = b'{"account":"a","closed":false}'
        await receiver.store.commit(_state(f"owner:{payer.address}", owner))
        fuse.left = kills + 1
        killed = False
        try:
            await one_life(receiver, stranger, 9)
        except* Killed:
            killed = True
        fuse.left = 0
        await one_life(receiver, stranger, 9)
        credits = await receiver.store.credits(limit=1000)
        by_account = {
            name: sorted(
                int(credit.amount * ETHER) for credit in credits if credit.account_id == name
            )
            for name in ("a", "b")
        }
        assert by_account == {"a": [1, 2, 3], "b": [2, 3, 4, 9, 9, 9]}, f"killed at {kills + 1}"
        assert await receiver.store.list_state(None, "unclaimed:") == []
        if not killed:
            break
        kills += 1
    assert kills > 30


def _state(key: str, value: bytes) -> list[Change]:
    return [SetState(None, key, value)]


AMOUNTS = st.integers(min_value=1, max_value=10**30)
LIMITS = st.integers(min_value=1, max_value=300)


def parts(amount: Decimal, most: Decimal | None) -> list[tuple[str, Decimal]]:
    changes = Transaction()
    Crediting(most).credit(changes, "a", Transfer("id", "0x1", amount, 1))
    return [
        (change.settlement_id, change.amount)
        for change in changes.changes
        if isinstance(change, AddCredit)
    ]


@given(AMOUNTS, LIMITS, LIMITS, st.integers(min_value=0, max_value=2))
def test_parts_add_up_and_another_limit_cannot_credit_twice(
    units: int, times: int, other_times: int, more: int
) -> None:
    amount = to_amount(units, 18)  # Decimal's own arithmetic would round it
    most, other = (to_amount(units // n + more, 18) for n in (times, other_times))
    most, other = max(most, Decimal("1E-18")), max(other, Decimal("1E-18"))
    found = parts(amount, most)
    assert sum(to_units(part, 18) for _, part in found) == units
    assert all(0 < part <= most for _, part in found)
    assert len({known for known, _ in found}) == len(found)
    assert found[0][0] == "id"
    again = parts(amount, other)
    # The same first part means the same parts; another one is refused, and all with it.
    assert (again == found) == (again[0] == found[0])
    assert parts(amount, None) == [("id", amount)]


def test_a_limit_that_is_far_too_low_gives_way() -> None:
    found = parts(Decimal(10), Decimal("1E-18"))
    assert len(found) == 10_000
    assert sum(part for _, part in found) == 10
    assert found[1] == ("id-2/10000", Decimal("0.001"))


async def test_a_changed_limit_credits_nothing_again_even_without_a_note(chain: Chain) -> None:
    """As a claim that was committed, but whose sender's payment is claimed again."""
    stranger = Payer(chain, await chain.signer())
    receiver = Receiver(chain)
    await receiver.store.open_account("b")
    async with receiver.running() as running:
        await stranger.pay(OURS, 10)
        await chain.mine(CONFIRMATIONS)
        await running.done()
        ((key, note),) = await running.unclaimed()
        await running.side.peers.learn("b", stranger.address)
        await running.claimed(1)
        await running.side.services.state.set(key, note)
    receiver.max_credit = Decimal("3E-18")
    async with receiver.running() as running:
        await running.done()
        while await running.unclaimed():  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert len(await running.credits()) == 1
    assert receiver.log is not None
    assert "ethereum_payment_credited_before" in receiver.log.events("error")
