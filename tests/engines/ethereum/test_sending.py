"""Paying on a real chain: what is settled moved, and what did not move is not settled."""

from contextlib import suppress
from decimal import Decimal

import pytest
import trio

from engines.ethereum import abi
from settled import NotSettled, SettlementPending
from tests.engines.ethereum.anvil import ETHER, FEE, HALVES, LIE, REFUSE, REVERT, SILENT, Chain
from tests.engines.ethereum.bench import Bench, eventually, settling

# A contract that takes no ether.
REVERTS = "0x60006000fd"


@pytest.fixture
async def bench(chain: Chain) -> Bench:
    return Bench(chain, await chain.signer())


async def test_it_is_settled_when_it_has_its_confirmations_and_not_before(bench: Bench) -> None:
    bob = await bench.add_peer()
    async with bench.engine() as sender, settling(sender) as task:
        (payment,) = await bench.wait_kept()
        assert payment.hashes[0] in str(bench.log.lines)
        await eventually(lambda: bench.chain.balance(bob), bool)
        await bench.chain.mine(1)
        await trio.sleep(0.1)
        assert task.outcome is None
        with pytest.raises(SettlementPending, match=f"{payment.hashes[0]} of nonce 0 is not final"):
            await sender.find_settlement("bob", "s1")
        await bench.chain.mine(1)
        assert await task.wait() == Decimal("1.5")
        assert await sender.find_settlement("bob", "s1") == Decimal("1.5")
    assert await bench.chain.balance(bob) == 15 * ETHER // 10
    receipt = await bench.chain.receipt(payment.hashes[0])
    gas = int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    assert await bench.chain.balance(bench.address) == 100 * ETHER - 15 * ETHER // 10 - gas


async def test_accounts_are_paid_side_by_side_without_a_gap(bench: Bench) -> None:
    names = [f"peer-{n}" for n in range(20)]
    for name in names:
        await bench.add_peer(name)
    async with bench.engine(confirmations=1) as sender, trio.open_nursery() as nursery:
        for n, name in enumerate(names):
            nursery.start_soon(sender.settle, name, Decimal(n + 1) / 10, f"s-{name}")
    assert [payment.nonce for payment in await bench.kept()] == list(range(20))
    paid = [await bench.chain.balance(bench.peers[name]) for name in names]
    assert paid == [(n + 1) * ETHER // 10 for n in range(20)]


async def test_a_settlement_is_paid_once_however_often_it_is_settled(bench: Bench) -> None:
    bob = await bench.add_peer()
    for _start in range(2):
        async with bench.engine(confirmations=1) as sender, trio.open_nursery() as nursery:
            for _time in range(3):
                nursery.start_soon(sender.settle, "bob", Decimal(1), "s1")
    assert await bench.chain.balance(bob) == ETHER
    assert await bench.chain.nonce(bench.address) == 1


async def test_the_records_of_an_account_are_forgotten_when_it_is_paid_again(bench: Bench) -> None:
    await bench.add_peer()
    await bench.add_peer("carol")
    async with bench.engine(confirmations=1) as sender:
        for settlement_id in ("s1", "s2"):
            await sender.settle("bob", Decimal(1), settlement_id)
        await sender.settle("carol", Decimal(1), "s3")
    async with bench.engine(confirmations=1) as sender:
        await sender.settle("bob", Decimal(1), "s4")
    assert [payment.settlement_id for payment in await bench.kept()] == ["s3", "s4"]


# --- nothing was sent ---


async def refused(bench: Bench, reason: str, amount: str = "1.5", **options: object) -> None:
    """See that a settlement is not sent, for this reason, and takes no nonce."""
    async with bench.engine(**options) as sender:
        with pytest.raises(NotSettled, match=reason):
            await sender.settle("bob", Decimal(amount), "s1")
        assert await sender.find_settlement("bob", "s1") == 0
    assert await bench.kept() == []
    assert await bench.chain.nonce(bench.address) == 0


async def test_nobody_is_paid_before_he_has_told_his_address(bench: Bench) -> None:
    await refused(bench, "account bob has not told its address yet")


async def test_too_little_ether_is_told_in_numbers(bench: Bench) -> None:
    await bench.add_peer()
    await refused(
        bench, rf"{bench.address} has 100 ether and needs 100\.0\d* with gas: top it up", "100"
    )


async def test_what_is_on_its_way_is_not_paid_with_twice(bench: Bench) -> None:
    await bench.add_peer()
    await bench.add_peer("carol")
    await bench.chain.automine(False)
    async with bench.engine() as sender, settling(sender, "60"):
        await bench.wait_kept()
        with pytest.raises(NotSettled, match="beside 60.* on its way: top it up"):
            await sender.settle("carol", Decimal(60), "s2")
    assert len(await bench.kept()) == 1


async def test_a_fee_above_the_cap_is_not_paid(bench: Bench) -> None:
    await bench.add_peer()
    await refused(bench, "max_fee_gwei is 0.5 gwei: wait, or raise it", max_fee_gwei=Decimal("0.5"))


async def test_a_payee_that_takes_no_ether_is_not_paid(bench: Bench) -> None:
    bob = await bench.add_peer()
    await bench.chain.rpc("anvil_setCode", bob, REVERTS)
    await refused(bench, f"the payment to {bob} would fail: .*revert")


async def test_an_amount_that_no_chain_can_hold_is_not_paid(bench: Bench) -> None:
    await bench.add_peer()
    await refused(bench, "is no amount", "1E+70")


# --- it was mined, and failed ---


async def test_what_was_mined_and_failed_is_not_settled_and_frees_the_next(bench: Bench) -> None:
    bob = await bench.add_peer()
    await bench.chain.automine(False)
    async with bench.engine() as sender:
        async with settling(sender) as task:
            await bench.wait_pool()
            await bench.chain.rpc("anvil_setCode", bob, REVERTS)
            await bench.chain.mine(3)
            assert "was mined and failed: it moved nothing" in await task.not_sent()
        assert await sender.find_settlement("bob", "s1") == 0
        await bench.chain.rpc("anvil_setCode", bob, "0x")
        async with settling(sender, "2", "s2") as task:
            await bench.wait_pool()
            await bench.chain.mine(3)
            assert await task.wait() == 2
    assert await bench.chain.balance(bob) == 2 * ETHER


# --- tokens ---


@pytest.fixture
async def tokens(bench: Bench) -> Bench:
    """A bench that pays in a token with 6 decimals, of which it has 10."""
    token = await bench.chain.deploy_token(6)
    await bench.chain.mint(token, bench.address, 10_000_000)
    return Bench(bench.chain, bench.signer, token=token)


async def held(bench: Bench, account_id: str = "bob") -> int:
    assert bench.options.token is not None
    return await bench.chain.token_balance(bench.options.token, bench.peers[account_id])


async def set_mode(bench: Bench, mode: int) -> None:
    assert bench.options.token is not None
    await bench.chain.set_mode(bench.options.token, mode)


@pytest.mark.parametrize(("mode", "settled"), [(0, "1.5"), (SILENT, "1.5"), (HALVES, "1.5")])
async def test_tokens_are_paid(tokens: Bench, mode: int, settled: str) -> None:
    await tokens.add_peer()
    await set_mode(tokens, mode)
    async with tokens.engine(confirmations=1) as sender:
        assert await sender.settle("bob", Decimal("1.5"), "s1") == Decimal(settled)
    assert await held(tokens) == 1_500_000


async def test_a_token_gets_a_quarter_more_gas_than_it_took_when_it_was_tried(
    tokens: Bench,
) -> None:
    bob = await tokens.add_peer()
    call = {"from": tokens.address, "to": tokens.options.token}
    call["data"] = abi.transfer_call(bob, 1_500_000)
    estimated = int(await tokens.chain.rpc("eth_estimateGas", call), 16)
    async with tokens.engine(confirmations=1) as sender:
        await sender.settle("bob", Decimal("1.5"), "s1")
    (payment,) = await tokens.kept()
    assert payment.gas == estimated + estimated // 4


async def test_what_a_token_keeps_for_itself_is_not_settled(tokens: Bench) -> None:
    await tokens.add_peer()
    await set_mode(tokens, FEE)
    async with tokens.engine(confirmations=1) as sender:
        assert await sender.settle("bob", Decimal("1.5"), "s1") == Decimal("1.485")
    assert await held(tokens) == 1_485_000


@pytest.mark.parametrize(
    ("mode", "reason"),
    [(REVERT, "would not move: .*transfers are paused"), (REFUSE, "transfer returns false")],
)
async def test_a_token_that_would_not_move_is_not_sent(
    tokens: Bench, mode: int, reason: str
) -> None:
    await tokens.add_peer()
    await set_mode(tokens, mode)
    await refused(tokens, reason)


async def test_too_few_tokens_are_told_in_numbers(tokens: Bench) -> None:
    await tokens.add_peer()
    await refused(tokens, "we have 10 of token 0x.* and need 10.000001: top it up", "10.000001")


async def test_too_little_ether_for_the_gas_of_a_token_is_told(tokens: Bench) -> None:
    await tokens.add_peer()
    await tokens.chain.fund(tokens.address, 1000)
    await refused(tokens, "has 0.000000000000001 ether and needs .* with gas")


async def test_tokens_on_their_way_are_not_paid_with_twice(tokens: Bench) -> None:
    await tokens.add_peer()
    await tokens.add_peer("carol")
    await tokens.chain.automine(False)
    async with tokens.engine() as sender, settling(sender, "6"):
        await tokens.wait_kept()
        with pytest.raises(NotSettled, match="we have 10 of token .* and need 12: top it up"):
            await sender.settle("carol", Decimal(6), "s2")


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (REVERT, "was mined and failed"),
        (REFUSE, "was mined, but moved nothing"),
        (LIE, "was mined, but moved nothing"),
    ],
)
async def test_a_token_that_did_not_move_after_all_is_not_settled(
    tokens: Bench, mode: int, reason: str
) -> None:
    await tokens.add_peer()
    await tokens.chain.automine(False)
    async with tokens.engine() as sender, settling(sender) as task:
        (ours,) = await tokens.wait_pool()
        await tokens.chain.rpc("anvil_dropTransaction", ours)
        await tokens.chain.automine(True)
        await set_mode(tokens, mode)
        with suppress(RuntimeError):  # hardhat mines it, and then says that it failed
            await tokens.chain.rpc("eth_sendRawTransaction", (await tokens.kept())[0].raw)
        await tokens.chain.mine(3)
        assert reason in await task.not_sent()
    assert await held(tokens) == 0
