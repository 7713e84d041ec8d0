"""Payees and tokens that mean harm: what they do costs them, not the other accounts."""

from decimal import Decimal

import pytest

from settled import NotSettled
from tests.engines.ethereum.anvil import ETHER, Chain
from tests.engines.ethereum.bench import Bench

# Takes ether only with 27 million gas left: PUSH4 27000000, GAS, LT, PUSH1 9, JUMPI, STOP,
# JUMPDEST, and a revert.
GREEDY = "0x63019bfcc05a10600a57005b60006000fd"


@pytest.fixture
async def bench(chain: Chain) -> Bench:
    return Bench(chain, await chain.signer())


async def test_a_payee_that_burns_gas_neither_costs_us_nor_holds_up_others(bench: Bench) -> None:
    greedy = await bench.add_peer("greedy")
    bob = await bench.add_peer("bob")
    await bench.chain.rpc("anvil_setCode", greedy, GREEDY)
    async with bench.engine(confirmations=1) as sender:
        with pytest.raises(NotSettled, match="would take .* gas"):
            await sender.settle("greedy", Decimal(1), "s1")
        assert await sender.settle("bob", Decimal(1), "s2") == 1
    assert await bench.chain.balance(bob) == ETHER
    assert [payment.nonce for payment in await bench.kept()] == [0]


# Reverts with Error("rate limit"): copies what follows the code to memory and reverts with it.
WORDS = "rate limit"
SAYS_SO = (
    "0x6064600c60003960646000fd"
    + "08c379a0"
    + f"{32:064x}{len(WORDS):064x}{WORDS.encode().hex().ljust(64, '0')}"
)


async def test_what_a_payee_says_is_no_word_of_the_node(bench: Bench) -> None:
    bob = await bench.add_peer()
    await bench.chain.rpc("anvil_setCode", bob, SAYS_SO)
    async with bench.engine() as sender:
        with pytest.raises(NotSettled, match="would fail: .*revert.*rate limit"):
            await sender.settle("bob", Decimal(1), "s1")
    assert "ethereum_node_failed" not in bench.log.events()
