"""Many accounts are settled at the same time, to the wei and without a gap."""

import os
from pathlib import Path

from tests.engines.ethereum.anvil import ETHER, Chain
from tests.engines.ethereum.many import AMOUNT, Crowd, measure

REQUESTS, ACCOUNTS = (1000, 100) if os.environ.get("ETHEREUM") == "all" else (60, 20)


async def test_what_many_are_owed_is_paid_to_the_wei(chain: Chain, tmp_path: Path) -> None:
    found = await measure(chain, tmp_path, Crowd.netted, REQUESTS, ACCOUNTS)
    assert found.paid == int(AMOUNT * ETHER) * REQUESTS
    assert ACCOUNTS <= found.transactions <= REQUESTS
