"""A stranger's payment that the operator has dealt with is never credited, whatever comes."""

from decimal import Decimal
from typing import Any

import pytest
import trio

from engines.ethereum.dismissals import NotUnclaimed, dismiss
from engines.ethereum.signing import SignedTransaction
from settled import Services, State, StateChanged, Transaction
from settled.store.records import Change
from tests.engines.ethereum.anvil import CHAIN_ID, Chain
from tests.engines.ethereum.receiver import CONFIRMATIONS, OURS, Payer, Receiver, Running


@pytest.fixture
async def stranger(chain: Chain) -> Payer:
    return Payer(chain, await chain.signer())


@pytest.fixture
async def receiver(chain: Chain) -> Receiver:
    receiver = Receiver(chain)
    await receiver.store.open_account("b")
    async with receiver.running() as running:
        await chain.mine(CONFIRMATIONS + 2)
        await running.done()
    return receiver


async def paid(running: Running, stranger: Payer) -> SignedTransaction:
    """Have a stranger pay; return when that is noted."""
    signed = await stranger.pay(OURS, 5)
    await running.chain.mine(CONFIRMATIONS)
    await running.done()
    assert value_id(signed) in [key.split(":", 2)[2] for key, _ in await running.unclaimed()]
    return signed


def value_id(signed: SignedTransaction) -> str:
    return f"{CHAIN_ID}:{signed.hash}:value"


async def dismiss_in(services: Services, transfer_id: str, reason: str = "sent back") -> Any:
    """Do what the command does."""
    async with services.transaction() as changes:
        return await dismiss(services.state, changes, transfer_id, reason)


async def nothing_is_credited(running: Running, stranger: Payer) -> None:
    """See that its sender's account gets what it pays from now on, and that alone."""
    await running.side.peers.learn("b", stranger.address)
    later = await stranger.pay(OURS, 7)
    await running.chain.mine(CONFIRMATIONS)
    await running.done()
    await running.claimed(1)
    assert await running.credits() == [(value_id(later), Decimal("7E-18"))]
    assert await running.unclaimed() == []


async def test_it_is_not_credited_when_its_sender_is_known(
    receiver: Receiver, stranger: Payer
) -> None:
    async with receiver.running() as running:
        signed = await paid(running, stranger)
        record = await dismiss_in(running.side.services, value_id(signed))
        assert record["address"] == stranger.address
        assert (Decimal(record["amount"]), record["reason"]) == (Decimal("5E-18"), "sent back")
        assert await running.unclaimed() == []
        again = await dismiss_in(running.side.services, value_id(signed), "another reason")
        assert again == record
        await nothing_is_credited(running, stranger)


async def test_it_does_not_come_back_when_the_chain_is_looked_through_again(
    receiver: Receiver, stranger: Payer
) -> None:
    async with receiver.running() as running:
        before = await running.side.services.state.get("trail")
        signed = await paid(running, stranger)
        await dismiss_in(running.side.services, value_id(signed))
    # As if all that is remembered of these blocks were lost.
    services = Services(receiver.store, Any, Any)  # type: ignore[arg-type]
    await services.state.set("trail", before)
    await services.state.delete(f"seen:{value_id(signed)}")
    async with receiver.running() as running:
        await running.done()
        assert await running.unclaimed() == []
        await nothing_is_credited(running, stranger)


async def test_it_does_not_come_back_when_it_is_mined_again(
    receiver: Receiver, stranger: Payer
) -> None:
    async with receiver.running() as running:
        signed = await paid(running, stranger)
        await dismiss_in(running.side.services, value_id(signed))
        await receiver.reorg(CONFIRMATIONS + 1)
        await running.chain.mine(CONFIRMATIONS + 1)
        await running.done()
        assert receiver.log is not None
        ((_, _, gone),) = (
            line for line in receiver.log.lines if line[1] == "ethereum_payment_gone"
        )
        assert "it was dismissed (sent back)" in gone["reason"]
        await running.chain.rpc("eth_sendRawTransaction", "0x" + signed.raw.hex())
        await running.chain.mine(CONFIRMATIONS)
        await running.done()
        assert await running.unclaimed() == []
        await nothing_is_credited(running, stranger)


async def test_beside_it_the_others_are_credited(receiver: Receiver, stranger: Payer) -> None:
    async with receiver.running() as running:
        signed = [await stranger.pay(OURS, n) for n in range(1, 6)]
        await running.chain.mine(CONFIRMATIONS)
        await running.done()
        await dismiss_in(running.side.services, value_id(signed[2]))
        await running.side.peers.learn("b", stranger.address)
        await running.claimed(4)
        assert sorted(int(a.scaleb(18)) for _, a in await running.credits()) == [1, 2, 4, 5]


async def test_it_is_dismissed_or_credited_never_both(
    receiver: Receiver, stranger: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator is faster between the daemon's look and its commit, or the other way round."""
    async with receiver.running() as running:
        services = running.side.services
        signed = await paid(running, stranger)
        real = receiver.store.commit

        async def late(changes: list[Change]) -> list[int | None]:
            monkeypatch.setattr(receiver.store, "commit", real)
            await dismiss_in(services, value_id(signed))
            return await real(changes)

        await services.state.set("owner:" + stranger.address, {"account": "b", "closed": False})
        monkeypatch.setattr(receiver.store, "commit", late)
        await running.side.peers._claim(stranger.address)
        assert await running.credits() == []
        assert await running.unclaimed() == []

        await services.state.delete("owner:" + stranger.address)
        other = await paid(running, stranger)
        changes = Transaction()
        await dismiss(State(receiver.store), changes, value_id(other), "too late")
        await running.side.peers.learn("b", stranger.address)
        await running.claimed(1)
        with pytest.raises(StateChanged):
            await receiver.store.commit(changes.changes)
        with pytest.raises(NotUnclaimed, match="settled credits list"):
            await dismiss_in(services, value_id(other))
        assert [known for known, _ in await running.credits()] == [value_id(other)]
        await trio.sleep(0.01)
