"""The chain changes its mind: what is credited is what stays, once."""

from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from engines.ethereum import abi
from engines.ethereum.signing import SignedTransaction
from engines.ethereum.trail import Trail
from tests.engines.ethereum.anvil import CHAIN_ID, ETHER, Chain
from tests.engines.ethereum.receiver import CONFIRMATIONS, OURS, Payer, Receiver


@pytest.fixture
async def payer(chain: Chain) -> Payer:
    return Payer(chain, await chain.signer())


@pytest.fixture
async def receiver(chain: Chain, payer: Payer) -> Receiver:
    """Ether, with an account that the payer belongs to, and a few blocks that were done."""
    receiver = Receiver(chain)
    await receiver.store.open_account("a")
    async with receiver.running() as running:
        await running.side.peers.learn("a", payer.address)
        await chain.mine(CONFIRMATIONS + 2)
        await running.done()
    return receiver


@pytest.mark.parametrize("depth", range(1, CONFIRMATIONS))
async def test_a_payment_that_the_chain_drops_before_it_is_confirmed_is_none(
    receiver: Receiver, payer: Payer, depth: int
) -> None:
    chain = receiver.chain
    async with receiver.running() as running:
        await payer.pay(OURS, ETHER)
        await chain.mine(depth - 1)
        await running.done()
        await receiver.reorg(depth)
        await chain.mine(CONFIRMATIONS + 3)
        await running.done()
        assert await running.credits() == []
    assert receiver.log is not None
    assert receiver.log.events("error") == []


@pytest.mark.parametrize("depth", range(1, CONFIRMATIONS))
async def test_a_payment_that_is_mined_again_before_it_is_confirmed_counts_once(
    receiver: Receiver, payer: Payer, depth: int
) -> None:
    chain = receiver.chain
    async with receiver.running() as running:
        signed = await payer.pay(OURS, ETHER)
        await chain.mine(CONFIRMATIONS - 2)  # one less than it takes
        await running.done()
        await receiver.reorg(CONFIRMATIONS - 1, [(signed, CONFIRMATIONS - 1 - depth)])
        await chain.mine(depth - 1)
        await running.done()
        await chain.mine(CONFIRMATIONS)
        await running.done()
        assert await running.credits() == [(f"{CHAIN_ID}:{signed.hash}:value", 1)]
    assert receiver.log is not None
    assert receiver.log.events("error") == []


async def deeply(receiver: Receiver, payer: Payer, *, again: bool) -> SignedTransaction:
    """Have a payment credited, and then taken back by the chain."""
    chain = receiver.chain
    async with receiver.running() as running:
        signed = await payer.pay(OURS, ETHER)
        await chain.mine(CONFIRMATIONS)
        await running.done()
        depth = CONFIRMATIONS + 1
        await receiver.reorg(depth, [(signed, 2)] if again else [])
        await chain.mine(CONFIRMATIONS)
        await running.done()
    return signed


async def test_a_payment_that_is_mined_again_after_it_was_credited_is_not_credited_again(
    receiver: Receiver, payer: Payer
) -> None:
    signed = await deeply(receiver, payer, again=True)
    assert receiver.log is not None
    assert receiver.log.events("error") == ["ethereum_chain_changed"]
    assert await receiver.run_to_end() == [(f"{CHAIN_ID}:{signed.hash}:value", 1)]


async def test_neither_another_account_nor_another_max_credit_makes_it_count_twice(
    receiver: Receiver, payer: Payer
) -> None:
    chain = receiver.chain
    async with receiver.running() as running:
        signed = await payer.pay(OURS, ETHER)
        await chain.mine(CONFIRMATIONS)
        await running.done()
    await receiver.store.open_account("b")
    await receiver.store.close_account("a")
    receiver.max_credit = Decimal("0.3")
    await receiver.reorg(CONFIRMATIONS + 1, [(signed, 1)])
    await chain.mine(CONFIRMATIONS)
    async with receiver.running() as running:
        await running.side.peers.release("a")
        await running.side.peers.learn("b", payer.address)
        await running.done()
        assert await running.credits() == [(f"{CHAIN_ID}:{signed.hash}:value", 1)]


async def test_a_credited_payment_that_has_gone_is_told_and_may_come_back(
    receiver: Receiver, payer: Payer
) -> None:
    signed = await deeply(receiver, payer, again=False)
    assert receiver.log is not None
    assert receiver.log.events("error") == ["ethereum_chain_changed", "ethereum_payment_gone"]
    fields = receiver.log.lines[-1][2]
    assert fields["account"] == "a"
    assert fields["transfer"] == f"{CHAIN_ID}:{signed.hash}:value"
    await receiver.chain.mine(100)
    await receiver.run_to_end()
    await receiver.chain.rpc("eth_sendRawTransaction", "0x" + signed.raw.hex())
    await receiver.chain.mine(CONFIRMATIONS)
    receiver.max_credit = Decimal("0.3")
    assert await receiver.run_to_end() == [(f"{CHAIN_ID}:{signed.hash}:value", 1)]
    assert len(receiver.log.events("error")) == 2  # it was known that this is the one


async def test_an_unclaimed_payment_that_has_gone_cannot_be_claimed(receiver: Receiver) -> None:
    stranger = Payer(receiver.chain, await receiver.chain.signer())
    await deeply(receiver, stranger, again=False)
    await receiver.store.open_account("b")
    async with receiver.running() as running:
        assert await running.unclaimed() == []
        await running.side.peers.learn("b", stranger.address)
        await running.done()
        assert await running.credits() == []


async def test_blocks_that_were_changed_far_below_are_looked_through_again(
    receiver: Receiver, payer: Payer
) -> None:
    chain = receiver.chain
    receiver.blocks_max = 7
    await payer.pay(OURS, 1)
    await chain.mine(60)
    assert len(await receiver.run_to_end()) == 1
    second = await payer.sign(OURS, 2)
    await receiver.reorg(50, [(second, 0)])
    await chain.mine()
    assert [int(amount * ETHER) for _, amount in await receiver.run_to_end()] == [1, 2]


async def test_a_log_that_moves_within_its_block_is_the_same_payment(
    chain: Chain, payer: Payer
) -> None:
    token = await chain.deploy_token()
    other = Payer(chain, await chain.signer())
    for each in (payer, other):
        await chain.mint(token, each.address, ETHER)
    receiver = Receiver(chain, token=token)
    await receiver.store.open_account("a")
    async with receiver.running() as running:
        await running.side.peers.learn("a", payer.address)
        data = abi.transfer_call(OURS, 5)
        signed = await payer.pay(token, data=data)
        await chain.mine(CONFIRMATIONS)
        await running.done()
        before = await chain.receipt(signed.hash)
        first = await other.sign(token, data=data)
        await receiver.reorg(CONFIRMATIONS + 1, [(first, 0), (signed, 0)])
        await chain.mine(CONFIRMATIONS)
        await running.done()
        after = await chain.receipt(signed.hash)
        assert (before["logs"][0]["logIndex"], after["logs"][0]["logIndex"]) == ("0x0", "0x1")
        assert await running.credits() == [(f"{CHAIN_ID}:{signed.hash}:0", Decimal("5E-18"))]
        assert len(await running.unclaimed()) == 1


def test_the_trail_reaches_back_far_and_stays_short() -> None:
    trail = Trail.begin(99)
    for number in range(100, 2000):
        trail = trail.advance(number, hex(number), 12)
        assert len(trail.marks) <= 20
        assert (trail.number, trail.hash) == (number, hex(number))
        assert trail.reach == 99 or number - trail.reach >= 12 * 15
        numbers = [mark[0] for mark in trail.marks]
        assert numbers == sorted(set(numbers))
        assert all(later - earlier <= 24 for earlier, later in pairwise(numbers))
    assert Trail.read(trail.stored()) == trail


def test_a_trail_of_which_nothing_holds_begins_again_at_its_first_block() -> None:
    trail: Any = Trail.begin(5).advance(30, "0x1", 12).advance(60, "0x2", 12)
    while trail.hash is not None:
        trail = trail.back()
    assert trail == Trail.begin(5)
    full = Trail(tuple((number, hex(number)) for number in range(10)))
    while full.hash is not None:
        full = full.back()
    assert full == Trail.begin(0)
