"""A database that is older than the chain: what it has forgotten is never taken for not sent.

A node that does not show the whole chain yet cannot tell either.
"""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
import trio

from engines.ethereum.node import NodeUnavailable
from settled import Services
from tests.engines.ethereum.anvil import ETHER, RICH, Chain
from tests.engines.ethereum.bench import Bench, eventually, found, settling
from tests.engines.ethereum.front import Front, front
from tests.engines.ethereum.test_trouble import foreign

GETH = "Geth/v1.17.3-stable/linux-amd64/go1.26"
SYNCING = {"startingBlock": "0x0", "currentBlock": "0x5", "highestBlock": "0x1234567"}


@pytest.fixture
async def node(chain: Chain) -> AsyncIterator[Front]:
    async with front(chain) as node:
        yield node


@pytest.fixture
async def bench(chain: Chain, node: Front) -> Bench:
    return Bench(chain, await chain.signer(), rpc_url=node.url, confirmations=1)


async def state(bench: Bench, key: str) -> Any:
    return await Services(bench.store, None, None).state.get(key)  # type: ignore[arg-type]


@pytest.mark.parametrize("says_so", [True, False])
async def test_a_node_that_is_behind_does_not_have_a_forgotten_payment_made_again(
    bench: Bench, node: Front, says_so: bool
) -> None:
    bob = await bench.add_peer()
    async with bench.engine() as sender:
        await sender.settle("bob", Decimal(1), "s1")
        backup, then = bench.copy(), await bench.chain.head()
        await sender.settle("bob", Decimal(1), "s2")
    bench.store, node.head = backup, then
    if says_so:
        node.answers["eth_syncing"] = SYNCING
    else:
        node.answers["web3_clientVersion"], node.age_s = GETH, 3600
    async with bench.engine() as sender:
        assert "transactions_unknown" not in bench.log.events()  # nothing shows it yet
        assert await sender.find_settlement("bob", "s1") == 1
        assert await sender.find_settlement("bob", "s2") is None
        assert "settlement_not_told_yet" in bench.log.events()
        assert await state(bench, "doubt:s2") is None
        node.head, node.age_s = None, 0
        node.answers.clear()
        assert await sender.find_settlement("bob", "s2") is None
        assert bench.log.events()[-2:] == [
            "transactions_unknown",
            "settlement_unknown_since_restore",
        ]
        assert await state(bench, "next_nonce") == 2
        assert await sender.settle("bob", Decimal(2), "s3") == 2
    assert await bench.chain.balance(bob) == 4 * ETHER
    async with bench.engine() as sender:
        assert await sender.find_settlement("bob", "s2") is None


@pytest.mark.parametrize("amount", [1, 2])  # as much as the forgotten one, or not
async def test_a_nonce_that_this_life_took_behind_time_does_not_hide_a_forgotten_payment(
    bench: Bench, node: Front, amount: int
) -> None:
    bob = await bench.add_peer()
    await bench.add_peer("carol")
    bench.peers["carol"] = bob  # so that the same may be paid
    async with bench.engine() as sender:
        await sender.settle("bob", Decimal(1), "s1")
        backup, then = bench.copy(), await bench.chain.head()
        await sender.settle("bob", Decimal(1), "s2")
    bench.store, node.head = backup, then
    node.answers["eth_syncing"] = SYNCING
    options: dict[str, Any] = {"confirmations": 3, "max_fee_gwei": Decimal("2.5")}
    async with (
        bench.engine(**options) as sender,
        settling(sender, str(amount), "s3", "carol") as task,
    ):
        await eventually(bench.kept, lambda kept: kept[-1].nonce == 1)  # as s2's was
        node.head = None
        node.answers.clear()
        assert await sender.find_settlement("bob", "s2") is None
        task.scope.cancel()
    # Nor does it in the next life.
    async with bench.engine(**options) as sender:
        assert await sender.find_settlement("bob", "s2") is None
        assert "transactions_unknown" not in bench.log.events()
        await bench.chain.mine(3)
        outcome = await eventually(
            lambda: found(sender, "s3", "carol"), lambda amount: amount is not None
        )
        assert outcome == (1 if amount == 1 else 0)
        assert await sender.find_settlement("bob", "s2") is None
        assert "settlement_unknown_since_restore" in bench.log.events()
        assert await state(bench, "doubt") is not None
    assert await bench.chain.balance(bob) == 2 * ETHER


async def test_what_is_on_its_way_is_waited_for_and_nothing_that_begins_later(
    bench: Bench,
) -> None:
    for name in ("bob", "carol"):
        await bench.add_peer(name)
    await bench.chain.automine(False)
    async with bench.engine(confirmations=5) as sender, settling(sender):
        await bench.wait_pool()
        assert await sender.find_settlement("dave", "s0") is None
        assert "s1" in str(bench.log.lines[-1])
        await bench.chain.mine(1)
        async with settling(sender, "1", "s2", "carol"):
            await bench.wait_pool()
            assert await sender.find_settlement("dave", "s0") == 0
            assert await sender.find_settlement("erin", "s9") is None


async def test_what_was_not_sent_is_told_once_the_node_has_caught_up(
    bench: Bench, node: Front
) -> None:
    async with bench.engine() as sender:
        node.answers["eth_syncing"] = SYNCING
        assert await sender.find_settlement("bob", "s1") is None
        node.answers["eth_syncing"] = False
        assert await sender.find_settlement("bob", "s1") == 0


@pytest.mark.parametrize(
    "version", [None, "anvil/v1.7.1", "HardhatNetwork/2.29.1", "Ganache/v7.9.2/EthereumJS"]
)
async def test_a_chain_of_the_desk_that_makes_no_blocks_for_hours_is_no_cause_for_doubt(
    bench: Bench, node: Front, version: str | None
) -> None:
    node.age_s = 5 * 3600
    if version is not None:
        node.answers["web3_clientVersion"] = version
    async with bench.engine() as sender:
        assert await sender.find_settlement("bob", "s1") == 0
    assert "settlement_not_told_yet" not in bench.log.events()


@pytest.mark.parametrize(
    "syncing",
    [
        {"currentBlock": "0x100", "highestBlock": "0x100", "txIndexRemainingBlocks": "0x99"},
        {"currentBlock": "0x100", "highestBlock": "0x118"},
        False,
    ],
)
async def test_a_node_that_only_tidies_up_is_up_to_date(
    bench: Bench, node: Front, syncing: object
) -> None:
    node.answers["eth_syncing"] = syncing
    async with bench.engine() as sender:
        assert await sender.find_settlement("bob", "s1") == 0


@pytest.mark.parametrize(
    "syncing",
    [
        {"currentBlock": "0x100", "highestBlock": "0x119"},
        {"stage": "headers"},
        {"currentBlock": "0x100", "highestBlock": None},
        True,
        None,
    ],
)
async def test_what_a_node_says_of_its_syncing_that_is_not_understood_is_syncing(
    bench: Bench, node: Front, syncing: object
) -> None:
    async with bench.engine() as sender:
        node.answers["eth_syncing"] = syncing
        assert await sender.find_settlement("bob", "s1") is None
        assert "settlement_not_told_yet" in bench.log.events()


@pytest.mark.parametrize("block", [None, {}, "0x1", {"timestamp": None}])
async def test_a_node_that_does_not_show_its_newest_block_tells_nothing(
    bench: Bench, node: Front, block: object
) -> None:
    node.answers["web3_clientVersion"] = GETH
    async with bench.engine() as sender:
        assert await sender.find_settlement("bob", "s1") == 0
        node.answers["eth_getBlockByNumber"] = block
        assert await sender.find_settlement("bob", "s2") is None
        assert "settlement_not_told_yet" in bench.log.events()


async def test_without_a_node_it_is_asked_again(bench: Bench, node: Front) -> None:
    async with bench.engine() as sender:
        node.down = True
        assert await sender.find_settlement("bob", "s1") is None
        node.down = False
        found = await eventually(lambda: sender.find_settlement("bob", "s1"), lambda n: n == 0)
        assert found == 0


async def test_what_this_life_began_it_knows_whatever_the_node_says(
    bench: Bench, node: Front
) -> None:
    await bench.add_peer()
    async with bench.engine() as sender:
        node.silent = True
        async with settling(sender) as task:
            await node.asked.wait()
            task.scope.cancel()
        assert await sender.find_settlement("bob", "s1") == 0


@pytest.mark.parametrize("mined", [True, False])
async def test_what_something_else_sends_with_the_key_later_in_life_is_doubt(
    bench: Bench, mined: bool
) -> None:
    async with bench.engine() as sender:
        assert await sender.find_settlement("bob", "s1") == 0
        await bench.chain.automine(mined)
        await foreign(bench, 0, RICH)
        if mined:
            await eventually(lambda: bench.chain.nonce(bench.address), bool)
        assert await sender.find_settlement("bob", "s2") is None
        assert "transactions_unknown" in bench.log.events()
        assert await state(bench, "next_nonce") == int(mined)


async def test_doubt_that_begins_later_ends_too_and_is_counted_anew_each_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.ethereum.doubts._LASTS_S", 0.3)
    async with bench.engine() as sender:
        for nonce in range(2):
            await bench.chain.mined(await foreign(bench, nonce, RICH))
            assert await sender.find_settlement("bob", f"before-{nonce}") is None
            await trio.sleep(0.5)
            assert await sender.find_settlement("bob", f"after-{nonce}") == 0
        assert await state(bench, "doubt") is None
        assert await sender.find_settlement("bob", "before-0") is None


async def test_the_very_first_start_waits_for_a_node_that_has_the_chain(
    bench: Bench, node: Front
) -> None:
    node.answers["eth_syncing"] = SYNCING
    with pytest.RaisesGroup(pytest.RaisesExc(NodeUnavailable, match="is still syncing")):
        async with bench.engine():
            pass
    assert await state(bench, "next_nonce") is None
    node.answers.clear()
    async with bench.engine():
        pass
    node.answers["eth_syncing"] = SYNCING
    async with bench.engine() as sender:
        assert await sender.find_settlement("bob", "s1") is None
