"""Payments that do not go well: dropped, stuck, undone, replaced. One nonce, paid once or never."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import trio

from engines.ethereum.fees import Fees
from engines.ethereum.signing import SignedTransaction
from engines.ethereum.transactions import UnsignedTransaction
from settled import NotSettled, Services
from tests.engines.ethereum.anvil import CHAIN_ID, ETHER, GWEI, REVERT, RICH, Chain
from tests.engines.ethereum.bench import Bench, eventually, found, settling
from tests.engines.ethereum.front import front


@pytest.fixture
async def bench(chain: Chain) -> Bench:
    return Bench(chain, await chain.signer(), confirmations=5)


async def foreign(bench: Bench, nonce: int, to: str, wei: int = 7, fees: Fees | None = None) -> str:
    """Send a transaction with our key that the engine knows nothing of."""
    fees = fees or Fees(100 * GWEI, 10 * GWEI)
    signed = await bench.signer.sign_transaction(
        UnsignedTransaction(CHAIN_ID, nonce, to, wei, b"", 21_000, fees.max_fee, fees.priority_fee)
    )
    await bench.chain.rpc("eth_sendRawTransaction", "0x" + signed.raw.hex())
    return signed.hash


# --- in no block ---


async def test_a_dropped_transaction_is_sent_again(bench: Bench) -> None:
    bob = await bench.add_peer()
    await bench.chain.automine(False)
    async with bench.engine(bump_after_s=0.2) as sender, settling(sender) as task:
        (ours,) = await bench.wait_pool()
        await bench.chain.rpc("anvil_dropTransaction", ours)
        assert await bench.chain.pool() == []
        assert await bench.wait_pool() == [ours]
        await bench.chain.mine(5)
        assert await task.wait() == Decimal("1.5")
    assert await bench.chain.balance(bob) == 15 * ETHER // 10


async def test_a_transaction_that_the_node_refuses_is_offered_until_it_is_taken(
    bench: Bench,
) -> None:
    bob = await bench.add_peer()
    await bench.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(20 * GWEI))
    async with bench.engine() as sender, settling(sender):
        await bench.wait_said("transaction_refused")
        await bench.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        await eventually(lambda: bench.chain.balance(bob), bool)
    assert bench.log.events().count("transaction_refused") == 1


async def stuck(bench: Bench) -> None:
    """Have the chain take more than was offered, for some blocks."""
    for _block in range(3):
        await bench.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(20 * GWEI))
        await bench.chain.mine(1)


async def test_a_stuck_transaction_is_replaced_with_a_higher_fee_by_the_same_nonce(
    bench: Bench,
) -> None:
    bob = await bench.add_peer()
    await bench.chain.automine(False)
    async with bench.engine(bump_after_s=0.1) as sender, settling(sender) as task:
        (first,) = await bench.wait_pool()
        await stuck(bench)
        await eventually(bench.kept, lambda kept: kept[0].fees.max_fee > 20 * GWEI)
        await eventually(bench.chain.pool, lambda pool: pool != [first])
        (payment,) = await bench.kept()
        assert (payment.nonce, payment.hashes[0]) == (0, first)
        await bench.chain.mine(5)
        assert await task.wait() == Decimal("1.5")
        raised = [fields for _, event, fields in bench.log.lines if event == "fee_raised"]
        assert raised[-1]["transaction"] == (await bench.kept())[0].hashes[-1]
    assert await bench.chain.balance(bob) == 15 * ETHER // 10
    assert await bench.chain.nonce(bench.address) == 1


async def test_the_first_of_many_versions_may_be_the_one_that_is_mined(bench: Bench) -> None:
    bob = await bench.add_peer()
    await bench.chain.automine(False)
    async with bench.engine(bump_after_s=0.1) as sender, settling(sender):
        (first,) = await bench.wait_pool()
        (payment,) = await bench.kept()
        await stuck(bench)
        await eventually(bench.kept, lambda kept: len(kept[0].hashes) > 1)
    await bench.chain.rpc("anvil_dropAllTransactions")
    await bench.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    await bench.chain.mine(1)
    await bench.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    await bench.chain.rpc("eth_sendRawTransaction", payment.raw)
    await bench.chain.mine(5)
    async with bench.engine() as sender:
        amount = await eventually(lambda: found(sender, "s1"), lambda amount: amount is not None)
    assert amount == Decimal("1.5")
    assert (await bench.kept())[0].hashes[-1] == first, "what paid is what is told"
    assert (await bench.chain.receipt(first))["status"] == "0x1"
    assert await bench.chain.balance(bob) == 15 * ETHER // 10


async def test_at_the_cap_it_is_sent_as_it_is_and_said_once(bench: Bench) -> None:
    await bench.add_peer()
    await bench.chain.automine(False)
    options = {"bump_after_s": 0.05, "max_fee_gwei": Decimal(4)}
    async with bench.engine(**options) as sender, settling(sender) as task:
        await bench.wait_pool()
        for _time in range(5):
            await stuck(bench)
            await trio.sleep(0.1)
        (payment,) = await bench.kept()
        assert 3 * GWEI < payment.fees.max_fee <= 4 * GWEI
        assert bench.log.events().count("payment_stuck") == 1
        assert "nonce_used_by_unknown" not in bench.log.events()  # nothing has used it
        await bench.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        await bench.wait_pool()
        await bench.chain.mine(5)
        assert await task.wait() == Decimal("1.5")


async def test_no_fee_is_raised_while_no_block_is_made(bench: Bench) -> None:
    await bench.add_peer()
    await bench.chain.automine(False)
    async with bench.engine(bump_after_s=0.05) as sender, settling(sender):
        await bench.wait_pool()
        await trio.sleep(0.5)
        (payment,) = await bench.kept()
        assert len(payment.hashes) == 1


async def test_no_fee_is_raised_before_its_time(bench: Bench) -> None:
    await bench.add_peer()
    await bench.chain.automine(False)
    async with bench.engine(bump_after_s=60) as sender, settling(sender):
        await bench.wait_pool()
        await stuck(bench)
        await trio.sleep(0.2)
        (payment,) = await bench.kept()
        assert len(payment.hashes) == 1


async def test_no_fee_is_raised_that_we_could_not_pay(bench: Bench) -> None:
    bob = await bench.add_peer()
    await bench.chain.automine(False)
    async with bench.engine(bump_after_s=0.05) as sender, settling(sender) as task:
        (payment,) = await bench.wait_kept()
        sent = await bench.wait_pool()
        await bench.chain.fund(bench.address, payment.cost)
        await stuck(bench)
        await bench.wait_said("payment_stuck")
        assert len((await bench.kept())[0].hashes) == 1
        await bench.chain.fund(bench.address, 100 * ETHER)
        await eventually(bench.kept, lambda kept: kept[0].fees.max_fee > 20 * GWEI)
        await eventually(bench.chain.pool, lambda pool: pool != sent)
        await bench.chain.mine(5)
        assert await task.wait() == Decimal("1.5")
    assert await bench.chain.balance(bob) == 15 * ETHER // 10


async def test_a_signer_that_is_away_ends_nothing_and_is_asked_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = await bench.add_peer()
    await bench.add_peer("carol")
    sign = bench.signer.sign_transaction

    async def closed(transaction: UnsignedTransaction) -> SignedTransaction:
        raise OSError("the vault is closed")

    async def silent(transaction: UnsignedTransaction) -> SignedTransaction:
        await trio.sleep_forever()

    monkeypatch.setattr("engines.ethereum.wallet._SIGN_MAX_S", 0.05)
    await bench.chain.automine(False)
    async with bench.engine(bump_after_s=0.1) as sender, settling(sender) as task:
        sent = await bench.wait_pool()
        monkeypatch.setattr(bench.signer, "sign_transaction", closed)
        await stuck(bench)
        await bench.wait_said("payment_stuck")
        assert "nothing was signed: OSError the vault is closed" in str(bench.log.lines[-1])
        for keeper in (closed, silent):
            monkeypatch.setattr(bench.signer, "sign_transaction", keeper)
            with pytest.raises(NotSettled, match="nothing was signed: "):
                await sender.settle("carol", Decimal(1), "s2")
        monkeypatch.setattr(bench.signer, "sign_transaction", sign)
        await eventually(bench.kept, lambda kept: kept[0].fees.max_fee > 20 * GWEI)
        await eventually(bench.chain.pool, lambda pool: pool != sent)
        await bench.chain.mine(5)
        assert await task.wait() == Decimal("1.5")
    assert await bench.chain.balance(bob) == 15 * ETHER // 10
    assert await bench.chain.nonce(bench.address) == 1


async def test_those_behind_a_stuck_one_keep_their_fees(bench: Bench) -> None:
    for name in ("bob", "carol"):
        await bench.add_peer(name)
    await bench.chain.automine(False)
    # Sent again after a quarter of that: blocks are made before.
    async with bench.engine(bump_after_s=1) as sender, settling(sender):
        await bench.wait_kept()
        async with settling(sender, "1", "s2", "carol"):
            await bench.wait_pool(2)
            await bench.chain.rpc("anvil_dropAllTransactions")
            await bench.chain.mine(3)
            await eventually(bench.kept, lambda kept: len(kept[0].hashes) > 1)
            await bench.wait_pool(2)
            assert len((await bench.kept())[1].hashes) == 1


# --- undone ---


@pytest.mark.parametrize("depth", [1, 4])
async def test_a_payment_that_a_reorganisation_undid_is_made_again_with_its_nonce(
    bench: Bench, depth: int
) -> None:
    bob = await bench.add_peer()
    async with bench.engine(bump_after_s=0.2) as sender, settling(sender) as task:
        await eventually(lambda: bench.chain.balance(bob), bool)
        await bench.chain.mine(depth - 1)
        await trio.sleep(0.1)
        await bench.chain.automine(False)
        await bench.chain.rpc("anvil_reorg", depth, [])
        assert await bench.chain.balance(bob) == 0
        await bench.wait_pool()
        assert task.outcome is None
        await bench.chain.mine(4)
        await trio.sleep(0.1)
        assert task.outcome is None
        await bench.chain.mine(1)
        assert await task.wait() == Decimal("1.5")
    assert await bench.chain.balance(bob) == 15 * ETHER // 10
    assert len(await bench.kept()) == 1


async def test_a_settled_payment_that_was_undone_holds_nobody_up(bench: Bench) -> None:
    bob, carol = await bench.add_peer(), await bench.add_peer("carol")
    async with bench.engine(confirmations=1, bump_after_s=0.1) as sender:
        assert await sender.settle("bob", Decimal(1), "s1") == 1
        await bench.chain.rpc("anvil_reorg", 1, [])
        assert await bench.chain.nonce(bench.address) == 0
        async with settling(sender, "2", "s2", "carol") as task:
            assert await task.wait() == 2
    assert [await bench.chain.balance(peer) for peer in (bob, carol)] == [ETHER, 2 * ETHER]
    assert "nonces_missing" not in bench.log.events()


async def test_a_payment_that_was_undone_is_not_forgotten_when_its_account_is_paid_again(
    bench: Bench,
) -> None:
    bob = await bench.add_peer()
    async with bench.engine(confirmations=1, bump_after_s=0.1) as sender:
        assert await sender.settle("bob", Decimal(1), "s1") == 1
        await bench.chain.rpc("anvil_reorg", 1, [])
        async with settling(sender, "2", "s2") as task:
            assert await task.wait() == 2
        assert await bench.chain.balance(bob) == 3 * ETHER
        assert await sender.settle("bob", Decimal(4), "s3") == 4
    assert [payment.settlement_id for payment in await bench.kept()] == ["s3"]
    assert bench.log.events().count("payment_undone") == 1
    assert "nonces_missing" not in bench.log.events()


async def test_a_payment_that_was_undone_is_sent_again_though_nothing_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.ethereum.watching._IDLE_S", 0.1)
    bob = await bench.add_peer()
    async with bench.engine(confirmations=1) as sender:
        assert await sender.settle("bob", Decimal(1), "s1") == 1
        await bench.chain.rpc("anvil_reorg", 1, [])
        assert await bench.chain.balance(bob) == 0
        await eventually(lambda: bench.chain.balance(bob), bool)
        await bench.wait_said("payment_undone")


async def test_what_was_undone_and_is_not_known_any_more_is_told(bench: Bench) -> None:
    await bench.add_peer()
    await bench.add_peer("carol")
    async with bench.engine(confirmations=1) as sender:
        assert await sender.settle("bob", Decimal(1), "s1") == 1
        assert await sender.settle("bob", Decimal(1), "s2") == 1
        await bench.chain.rpc("anvil_reorg", 2, [])  # of both, and s1 is forgotten
        async with settling(sender, "2", "s3", "carol"):
            await bench.wait_said("nonces_missing")
    assert "no transaction of ours is known for nonce 0, and" in str(bench.log.lines)


async def test_what_was_undone_gets_a_higher_fee_if_it_takes_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.ethereum.watching._IDLE_S", 0.05)
    bob, carol = await bench.add_peer(), await bench.add_peer("carol")
    async with bench.engine(confirmations=1, bump_after_s=0.1) as sender:
        assert await sender.settle("bob", Decimal(1), "s1") == 1
        await bench.chain.automine(False)
        await bench.chain.rpc("anvil_reorg", 1, [])
        await bench.chain.rpc("anvil_dropAllTransactions")
        await bench.wait_said("payment_undone")
        async with settling(sender, "2", "s2", "carol") as task:
            await stuck(bench)
            await eventually(bench.kept, lambda kept: kept[0].fees.max_fee > 20 * GWEI)
            await bench.chain.automine(True)
            await eventually(lambda: bench.chain.balance(bob), bool)
            assert await task.wait() == 2
    assert [await bench.chain.balance(peer) for peer in (bob, carol)] == [ETHER, 2 * ETHER]
    assert [payment.settled for payment in await bench.kept()] == [1, 2]


async def test_what_was_undone_and_fails_then_is_told(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.ethereum.watching._IDLE_S", 0.05)
    token = await chain.deploy_token(6)
    bench = Bench(chain, await chain.signer(), token=token, confirmations=1, bump_after_s=0.1)
    await bench.add_peer()
    await chain.mint(token, bench.address, 10**7)
    async with bench.engine() as sender:
        assert await sender.settle("bob", Decimal(1), "s1") == 1
    await chain.automine(False)
    await chain.rpc("anvil_reorg", 1, [])
    await chain.rpc("anvil_dropAllTransactions")
    await chain.automine(True)
    await chain.set_mode(token, REVERT)
    async with bench.engine():
        await bench.wait_said("payment_lost")
    assert bench.log.events().count("payment_undone") == 1
    assert [payment.state for payment in await bench.kept()] == ["not sent"]
    assert await chain.token_balance(token, bench.peers["bob"]) == 0


async def test_a_second_node_that_is_some_blocks_behind_has_undone_nothing(chain: Chain) -> None:
    async with front(chain) as first, front(chain) as second:
        urls = {"rpc_url": first.url, "rpc_url_2": second.url}
        bench = Bench(chain, await chain.signer(), confirmations=1, **urls)
        await bench.add_peer()
        async with bench.engine() as sender:
            second.head = await chain.head()
            for settlement_id in ("s1", "s2"):  # the first is forgotten when the second begins
                assert await sender.settle("bob", Decimal(1), settlement_id) == 1
            await chain.mine(1)
            await trio.sleep(0.1)
            first.down = True
            async with settling(sender, "2", "s3") as task:
                await bench.wait_kept(2)
                await trio.sleep(0.3)
                assert {"payment_undone", "nonces_missing"}.isdisjoint(bench.log.events())
                second.head = None
                assert await task.wait() == 2
        assert bench.log.events().count("ethereum_node_failed") == 1


async def test_a_payment_whose_outcome_the_node_does_not_tell_holds_no_other_up(
    chain: Chain,
) -> None:
    async with front(chain) as node:
        bench = Bench(chain, await chain.signer(), rpc_url=node.url, confirmations=1)
        await bench.add_peer()
        carol = await bench.add_peer("carol")
        node.answers["eth_getTransactionReceipt"] = "indexing is in progress"
        async with bench.engine() as sender, settling(sender) as first:
            await bench.wait_said("payments_not_looked_at")
            async with settling(sender, "2", "s2", "carol") as second:
                await eventually(lambda: chain.balance(carol), bool)
                node.answers.clear()
                assert (await first.wait(), await second.wait()) == (Decimal("1.5"), 2)


# --- replaced ---


async def test_a_nonce_that_another_transaction_used_is_proved_and_not_settled(
    bench: Bench,
) -> None:
    bob = await bench.add_peer()
    await bench.chain.automine(False)
    async with bench.engine() as sender, settling(sender) as task:
        await bench.wait_pool()
        other = await foreign(bench, 0, RICH)
        await bench.chain.mine(4)
        await trio.sleep(0.1)
        assert task.outcome is None
        await bench.chain.mine(1)
        assert f"nonce 0 was used by transaction {other}" in await task.not_sent()
        assert await sender.find_settlement("bob", "s1") == 0
        assert "nonce_used_by_another" in bench.log.events()
        await bench.chain.automine(True)
        async with settling(sender, "2", "s2") as second:
            await eventually(lambda: bench.chain.balance(bob), bool)
            await bench.chain.mine(5)
            assert await second.wait() == 2
    assert await bench.chain.balance(bob) == 2 * ETHER


async def test_the_same_payment_with_a_fee_that_was_forgotten_is_settled(bench: Bench) -> None:
    bob = await bench.add_peer()
    await bench.chain.automine(False)
    async with bench.engine() as sender, settling(sender) as task:
        await bench.wait_pool()
        other = await foreign(bench, 0, bob, 15 * ETHER // 10)
        await bench.chain.mine(5)
        assert await task.wait() == Decimal("1.5")
    assert (await bench.kept())[0].hashes[-1] == other
    assert await bench.chain.balance(bob) == 15 * ETHER // 10


async def test_a_replacement_of_long_ago_is_found(bench: Bench) -> None:
    await bench.add_peer()
    await bench.chain.automine(False)
    async with bench.engine() as sender, settling(sender) as task:
        await bench.wait_pool()
        task.scope.cancel()
    await bench.chain.rpc("anvil_dropAllTransactions")
    await bench.chain.mine(37)
    other = await foreign(bench, 0, RICH)
    await bench.chain.mine(300)
    async with bench.engine() as sender, settling(sender) as task:
        assert other in await task.not_sent()


async def test_what_used_the_nonce_and_cannot_be_seen_is_left_open(
    bench: Bench,
) -> None:
    bob = await bench.add_peer()
    async with bench.engine() as sender, settling(sender):
        await eventually(lambda: bench.chain.balance(bob), bool)
    await bench.chain.mine(100)
    (kept,) = await bench.kept()
    later = await bench.chain.head() + 1000  # what used it was mined long before
    await bench.keep(replace(kept, hashes=("0x" + "ee" * 32,), head=later))
    async with bench.engine() as sender:
        await trio.sleep(0.2)
        assert "nonce_used_by_unknown" not in bench.log.events()  # it may be a passing thing
        while "nonce_used_by_unknown" not in bench.log.events():
            await bench.chain.mine(1)
            await trio.sleep(0.03)
        assert await sender.find_settlement("bob", "s1") is None
        text = str(bench.log.lines)
        assert "settled settlements resolve s1" in text


async def test_what_the_operator_has_told_is_looked_for_no_more_and_puts_nothing_else_off(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.ethereum.doubts._LASTS_S", 0.5)
    await bench.add_peer()
    await bench.add_peer("carol")
    async with bench.engine(confirmations=1) as sender:
        assert await sender.settle("bob", Decimal(1), "s1") == 1
    await bench.chain.mine(100)
    (kept,) = await bench.kept()
    unseen = replace(kept, hashes=("0x" + "ee" * 32,), settled=None)
    await bench.keep(replace(unseen, head=await bench.chain.head() + 1000))
    async with bench.engine(confirmations=1) as sender:
        while "nonce_used_by_unknown" not in bench.log.events():
            await bench.chain.mine(1)
            await trio.sleep(0.03)
        assert await sender.find_settlement("carol", "s2") is None
        # That it is paid again says that s1 was resolved.
        assert await sender.settle("bob", Decimal(2), "s3") == 2
        assert [payment.settlement_id for payment in await bench.kept()] == ["s3"]
        ((_, line),) = await Services(bench.store, Any, Any).state.items("paid:")  # type: ignore[arg-type]
        assert (line["settlement"], line["state"]) == ("s1", "resolved")
        # What used its nonce may have been s2; nothing that is asked for much later.
        assert await sender.find_settlement("carol", "s2") is None
        await trio.sleep(0.7)
        assert await sender.find_settlement("carol", "s2") is None
        assert await sender.find_settlement("carol", "s4") == 0


# --- the database is older than the chain ---


async def test_a_restored_database_goes_on_after_what_it_has_forgotten(bench: Bench) -> None:
    bob = await bench.add_peer()
    async with bench.engine(confirmations=1) as sender:
        await sender.settle("bob", Decimal(1), "s1")
    backup = bench.copy()
    async with bench.engine(confirmations=1) as sender:
        await sender.settle("bob", Decimal(1), "s2")
        await sender.settle("bob", Decimal(1), "s3")
    bench.store = backup
    async with bench.engine(confirmations=1) as sender:
        assert "transactions_unknown" in bench.log.events()
        assert await sender.find_settlement("bob", "s2") is None
        assert await sender.find_settlement("bob", "s1") == 1
        # What this life began and did not send, it knows.
        bench.peers["carol"] = RICH
        with pytest.raises(NotSettled):
            await sender.settle("carol", Decimal(1000), "s4")
        assert await sender.settle("bob", Decimal(2), "s5") == 2
    assert await bench.chain.balance(bob) == 5 * ETHER
    bench.log.lines.clear()
    async with bench.engine(confirmations=1) as sender:
        assert "transactions_unknown" not in bench.log.events()
        assert await sender.find_settlement("bob", "s2") is None
        assert await sender.find_settlement("bob", "s3") is None  # asked for the first time


async def test_doubt_ends_when_all_that_was_open_has_been_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.ethereum.doubts._LASTS_S", 0.4)
    await bench.add_peer()
    async with bench.engine(confirmations=1):
        pass
    await bench.chain.fund(bench.address)
    await foreign(bench, 0, RICH)
    await eventually(lambda: bench.chain.nonce(bench.address), bool)
    async with bench.engine(confirmations=1) as sender:
        assert await sender.find_settlement("bob", "before") is None
        await trio.sleep(0.5)
        assert await sender.find_settlement("bob", "before") is None
        assert await sender.find_settlement("bob", "after") == 0


async def test_a_key_that_is_used_elsewhere_meanwhile_leaves_no_gap(bench: Bench) -> None:
    bob = await bench.add_peer()
    async with bench.engine(confirmations=1) as sender:
        await sender.settle("bob", Decimal(1), "s1")
        await foreign(bench, 1, RICH)
        await eventually(lambda: bench.chain.nonce(bench.address), lambda nonce: nonce == 2)
        assert await sender.settle("bob", Decimal(1), "s2") == 1
        assert "transactions_unknown" in bench.log.events()
    assert await bench.chain.balance(bob) == 2 * ETHER
    assert (await bench.kept())[0].nonce == 2


async def test_what_waits_in_the_pool_and_was_forgotten_is_doubt_too(bench: Bench) -> None:
    bob = await bench.add_peer()
    async with bench.engine(confirmations=1) as sender:
        await sender.settle("bob", Decimal(1), "s1")
    await bench.chain.automine(False)
    await foreign(bench, 1, bob, ETHER)
    async with bench.engine(confirmations=1) as sender, settling(sender, "2", "s3") as task:
        assert "transactions_unknown" in bench.log.events()
        assert await sender.find_settlement("bob", "s2") is None
        # Only one of the two can be mined.
        await eventually(bench.kept, lambda kept: kept[-1].nonce == 1)
        await bench.chain.mine(3)
        outcome = await task.wait()
    paid = await bench.chain.balance(bob)
    assert paid == (2 * ETHER if isinstance(outcome, NotSettled) else 3 * ETHER)
