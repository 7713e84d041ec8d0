"""What the tests of the Ethereum engine share: a chain."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.engines.ethereum.anvil import (
    HARDHAT,
    NODE,
    Chain,
    install,
    on_chain,
    running,
    running_hardhat,
)


@pytest.fixture(scope="session")
def anvil_url() -> Iterator[str]:
    """One chain for all tests of a process: each takes new keys, and leaves it as it was."""
    is_hardhat = os.environ.get("ETHEREUM_NODE") == "hardhat"
    fault = install(HARDHAT if is_hardhat else NODE)
    if fault is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no chain: {fault}")
        pytest.skip(f"no chain: {fault}")
    with running_hardhat() if is_hardhat else running() as url:
        yield url


@pytest.fixture
async def chain(anvil_url: str) -> AsyncIterator[Chain]:
    async with on_chain(anvil_url) as chain:
        yield chain
