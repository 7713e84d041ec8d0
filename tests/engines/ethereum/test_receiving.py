"""Receiving: every confirmed payment is credited once, on a real chain that changes its mind."""

from decimal import Decimal
from typing import Any

import pytest

from engines.ethereum import abi
from tests.engines.ethereum.anvil import CHAIN_ID, ETHER, RICH, Chain
from tests.engines.ethereum.receiver import CONFIRMATIONS, OURS, Payer, Receiver


@pytest.fixture
async def payer(chain: Chain) -> Payer:
    return Payer(chain, await chain.signer())


@pytest.fixture
async def receiver(chain: Chain, payer: Payer) -> Receiver:
    """Ether, with an account that the payer belongs to."""
    receiver = Receiver(chain)
    await receiver.store.open_account("a")
    async with receiver.running() as running:
        await running.side.peers.learn("a", payer.address)
    return receiver


@pytest.fixture
async def tokens(chain: Chain, payer: Payer) -> Receiver:
    """The same for a token."""
    token = await chain.deploy_token()
    await chain.mint(token, payer.address, 100 * ETHER)
    receiver = Receiver(chain, token=token)
    await receiver.store.open_account("a")
    async with receiver.running() as running:
        await running.side.peers.learn("a", payer.address)
    return receiver


def value_id(signed: Any) -> str:
    return f"{CHAIN_ID}:{signed.hash}:value"


async def test_ether_is_credited_exactly_once_confirmed(receiver: Receiver, payer: Payer) -> None:
    async with receiver.running() as running:
        signed = await payer.pay(OURS, ETHER + 1)
        await receiver.chain.mine(CONFIRMATIONS - 2)
        await running.done()
        assert await running.credits() == []
        await receiver.chain.mine()
        await running.done()
        assert await running.credits() == [(value_id(signed), Decimal("1.000000000000000001"))]
        await receiver.chain.mine(10)
        await running.done()
    assert len(await receiver.run_to_end()) == 1


async def test_one_confirmation_is_the_block_itself(receiver: Receiver, payer: Payer) -> None:
    receiver.confirmations = 1
    async with receiver.running() as running:
        await payer.pay(OURS, 1)
        await running.done()
        assert [amount for _, amount in await running.credits()] == [Decimal("1E-18")]


async def test_what_is_no_payment_to_us_is_none(receiver: Receiver, payer: Payer) -> None:
    chain = receiver.chain
    await chain.fund(OURS)
    await payer.pay(OURS, 0)
    await payer.pay(RICH, ETHER)
    await chain.mined(await chain.send(OURS, OURS, ETHER))
    await chain.mined(await chain.send(OURS, RICH, ETHER))
    await chain.deploy_token()
    await chain.mine(CONFIRMATIONS)
    assert await receiver.run_to_end() == []
    async with receiver.running() as running:
        assert await running.unclaimed() == []


async def test_what_was_paid_while_we_were_away_is_credited(
    receiver: Receiver, payer: Payer
) -> None:
    for wei in (3, 2, 1):
        await payer.pay(OURS, wei)
    await receiver.chain.mine(CONFIRMATIONS)
    assert [int(amount * ETHER) for _, amount in await receiver.run_to_end()] == [3, 2, 1]
    assert len(await receiver.run_to_end()) == 3


async def test_the_first_start_begins_at_the_head_or_at_the_block_that_is_given(
    chain: Chain, payer: Payer
) -> None:
    before = await payer.pay(OURS, 1)
    number = await chain.head()
    for start_block, expected in ((None, ["2"]), (number, ["1", "2"]), (number + 1, ["2"])):
        receiver = Receiver(chain, start_block=start_block)
        async with receiver.running() as running:
            await running.done()
        receiver.start_block = 0  # it counts at the very first start only
        if start_block is None:
            await payer.pay(OURS, 2)
            await chain.mine(CONFIRMATIONS)
        async with receiver.running() as running:
            await running.done()
            found = [note["amount"][-1] for _, note in await running.unclaimed()]
            assert found == expected or sorted(found) == expected, (start_block, before)


# --- tokens ---


async def test_every_transfer_of_a_transaction_counts(tokens: Receiver, payer: Payer) -> None:
    assert tokens.token is not None
    receivers = [OURS, RICH, OURS, payer.address, OURS]
    words = "".join(abi.address_word(receiver) for receiver in receivers)
    data = f"0x11c4d70f{64:064x}{ETHER:064x}{len(receivers):064x}{words}"
    signed = await payer.pay(tokens.token, data=data)
    await tokens.chain.mine(CONFIRMATIONS)
    assert await tokens.run_to_end() == [
        (f"{CHAIN_ID}:{signed.hash}:{place}", Decimal(1)) for place in (0, 2, 4)
    ]


async def test_only_our_token_to_us_counts(tokens: Receiver, payer: Payer) -> None:
    chain, token = tokens.chain, str(tokens.token)
    other = await chain.deploy_token()
    await chain.mint(other, payer.address, ETHER)
    await chain.mint(token, OURS, 5 * ETHER)  # from nobody: kept
    await payer.pay(other, data=abi.transfer_call(OURS, 1))
    await payer.pay(token, data=abi.transfer_call(RICH, 1))
    await payer.pay(token, data=abi.transfer_call(OURS, 0))
    await payer.pay(OURS, ETHER)  # ether, which this engine does not settle
    await chain.fund(OURS)
    await chain.transfer(token, OURS, OURS, 1)
    signed = await payer.pay(token, data=abi.transfer_call(OURS, 7))
    await chain.mine(CONFIRMATIONS)
    assert await tokens.run_to_end() == [(f"{CHAIN_ID}:{signed.hash}:0", Decimal("7E-18"))]
    async with tokens.running() as running:
        ((key, note),) = await running.unclaimed()
    assert key.startswith("unclaimed:0x" + "0" * 40)
    assert Decimal(note["amount"]) == 5


# --- senders that nobody knows ---


async def test_a_stranger_is_never_in_the_way_and_credited_once_known(
    receiver: Receiver, payer: Payer
) -> None:
    chain = receiver.chain
    stranger = Payer(chain, await chain.signer())
    await receiver.store.open_account("b")
    async with receiver.running() as running:
        first = await stranger.pay(OURS, 5)
        await payer.pay(OURS, 1)
        await stranger.pay(OURS, 6)
        await chain.mine(CONFIRMATIONS)
        await running.done()
        assert len(await running.credits()) == 1
        (key, note), _ = sorted(await running.unclaimed(), key=lambda item: item[1]["amount"])
        assert key == f"unclaimed:{stranger.address}:{value_id(first)}"
        assert (Decimal(note["amount"]) * ETHER, note["block"]) == (5, await chain.head() - 6)
        await running.side.peers.learn("b", stranger.address)
        await running.claimed(3)
        await stranger.pay(OURS, 7)
        await chain.mine(CONFIRMATIONS)
        await running.done()
        assert [int(a * ETHER) for _, a in await running.side.credits("b")] == [5, 6, 7]
        assert await running.unclaimed() == []


async def test_what_could_not_be_claimed_before_a_crash_is_claimed_at_the_next_start(
    receiver: Receiver,
) -> None:
    chain = receiver.chain
    stranger = Payer(chain, await chain.signer())
    await stranger.pay(OURS, 5)
    await chain.mine(CONFIRMATIONS)
    assert await receiver.run_to_end() == []
    async with receiver.running() as running:
        await receiver.store.open_account("b")
        owner = {"account": "b", "closed": False}
        await running.side.services.state.set(f"owner:{stranger.address}", owner)
    async with receiver.running() as running:
        await running.claimed(1)
        assert await running.unclaimed() == []


async def test_a_closed_account_is_credited_until_another_proves_the_address(
    receiver: Receiver, payer: Payer
) -> None:
    chain, store = receiver.chain, receiver.store
    await store.open_account("b")
    async with receiver.running() as running:
        await payer.pay(OURS, 1)
        await store.close_account("a")
        await running.side.peers.release("a")
        await chain.mine(CONFIRMATIONS)
        await running.done()
        assert len(await running.side.credits("a")) == 1
        assert await running.side.peers.address("a") is None
        await running.side.peers.learn("b", payer.address)
        await payer.pay(OURS, 2)
        await chain.mine(CONFIRMATIONS)
        await running.done()
        assert [int(a * ETHER) for _, a in await running.side.credits("b")] == [2]
