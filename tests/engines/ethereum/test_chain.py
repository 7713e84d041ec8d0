"""That the chain of the tests is what they take it for."""

from tests.engines.ethereum.anvil import ETHER, FEE, HALVES, RICH, Chain


async def test_the_chain_is_left_as_it_was_found(chain: Chain) -> None:
    head = await chain.head()
    signer = await chain.signer(ETHER)
    assert await chain.balance(signer.address) == ETHER
    await chain.automine(False)
    await chain.send(RICH, signer.address, 5)
    assert len(await chain.pool()) == 1
    await chain.mine(3)
    assert await chain.balance(signer.address) == ETHER + 5
    assert await chain.head() == head + 3


async def test_the_next_test_sees_nothing_of_it(chain: Chain) -> None:
    assert await chain.pool() == []
    head = await chain.head()
    await chain.mined(await chain.send(RICH, RICH, 1))
    assert await chain.head() == head + 1


async def test_the_token_behaves_as_it_is_told(chain: Chain) -> None:
    token = await chain.deploy_token(6)
    alice, bob = (await chain.signer(), await chain.signer())
    await chain.mint(token, alice.address, 1000)
    receipt = await chain.mined(await chain.transfer(token, alice.address, bob.address, 200))
    assert (len(receipt["logs"]), await chain.token_balance(token, bob.address)) == (1, 200)
    await chain.set_mode(token, FEE)
    await chain.mined(await chain.transfer(token, alice.address, bob.address, 200))
    assert await chain.token_balance(token, bob.address) == 398
    await chain.set_mode(token, HALVES)
    receipt = await chain.mined(await chain.transfer(token, alice.address, bob.address, 2))
    assert (len(receipt["logs"]), await chain.token_balance(token, bob.address)) == (2, 400)
    receipt = await chain.mined(
        await chain.transfer_many(token, alice.address, [bob.address, RICH], 5)
    )
    assert (len(receipt["logs"]), await chain.token_balance(token, RICH)) == (2, 5)
