"""Two daemons settle both ways on a real chain, killed and restarted: all books agree to the unit.

By default each daemon dies a few times; ``ETHEREUM=all`` kills 30 times for each asset on anvil and
10 times on hardhat, and ``SEED`` makes another course of events.
"""

import os
import random
from pathlib import Path

import pytest
import trio

from tests.engines.ethereum import campaign
from tests.engines.ethereum.anvil import HARDHAT, install, running, running_hardhat
from tests.engines.ethereum.unrest import Anvil, Hardhat, unrestful

ALL = os.environ.get("ETHEREUM") == "all"
SEED = int(os.environ.get("SEED", "1"))
OTHERS = 20 if ALL else 4


@pytest.mark.parametrize(
    ("token_decimals", "kills"),
    [(None, 30 if ALL else 2), (6, 30 if ALL else 2)],
    ids=[f"ether, SEED={SEED}", f"token, SEED={SEED}"],
)
@pytest.mark.usefixtures("anvil_url")
async def test_all_books_agree_whatever_happens(
    token_decimals: int | None, kills: int, tmp_path: Path
) -> None:
    with running() as url, trio.fail_after(120 + 10 * kills):
        async with unrestful(Anvil, url, random.Random(SEED)) as chain:
            await campaign.run(
                chain,
                tmp_path,
                token_decimals=token_decimals,
                seed=SEED,
                kills=kills,
                others=OTHERS,
            )


@pytest.mark.skipif(not ALL, reason="hardhat is large: make ethereum")
@pytest.mark.parametrize(
    "token_decimals", [None, 6], ids=[f"ether, SEED={SEED}", f"token, SEED={SEED}"]
)
async def test_another_make_of_node_shows_the_same(
    token_decimals: int | None, tmp_path: Path
) -> None:
    fault = install(HARDHAT)
    assert fault is None
    with running_hardhat() as url, trio.fail_after(300):
        async with unrestful(Hardhat, url, random.Random(SEED)) as chain:
            await campaign.run(
                chain, tmp_path, token_decimals=token_decimals, seed=SEED, kills=5, others=OTHERS
            )
