"""Whether a node shows the chain as it is now.

One that is still syncing, or that has lost touch with the others, shows the chain as it was: what
it does not show may have happened all the same.
"""

import time
from typing import Any, Final

from engines.ethereum import abi
from engines.ethereum.node import NodeUnavailable, RpcError
from engines.ethereum.rpc import BEHIND_BLOCKS_MAX, View

_OLD_S: Final = 900.0
# They make a block when there is something to put into it, so their newest may be of yesterday.
_ON_DEMAND: Final = ("anvil", "hardhat", "ganache")


async def what_is_missing(view: View) -> str | None:
    """Return why the node may not show all that is on the chain, ``None`` if it does.

    Raises:
        RpcFailure: when the node does not tell.
        ValueError: when what it tells is no answer.
    """
    syncing, block, version = await view.batch(
        [
            ("eth_syncing", []),
            ("eth_getBlockByNumber", [hex(view.head), False]),
            ("web3_clientVersion", []),
        ]
    )
    if _is_syncing(syncing):
        return f"node {view.shown_url} is still syncing"
    if str(version).lower().startswith(_ON_DEMAND):
        return None
    if isinstance(block, RpcError):
        raise block
    made_at_s = abi.number(block.get("timestamp") if isinstance(block, dict) else None)
    age_s = time.time() - made_at_s
    if age_s > _OLD_S:
        return (
            f"the newest block of node {view.shown_url} is {age_s / 60:.0f} minutes old by our "
            f"clock"
        )
    return None


async def refuse_syncing(view: View) -> None:
    """Raise ``NodeUnavailable`` when the node says that it does not have all blocks yet."""
    (answer,) = await view.batch([("eth_syncing", [])])
    if _is_syncing(answer):
        raise NodeUnavailable(f"node {view.shown_url} is still syncing")


def _is_syncing(answer: Any) -> bool:
    """Read ``eth_syncing``: what is not understood is syncing, but a node may not know the call.

    Some say that they do while they index what they have, with no block left to get.
    """
    if answer is False or isinstance(answer, RpcError):
        return False
    try:
        newest, have = (abi.number(answer[name]) for name in ("highestBlock", "currentBlock"))
    except (LookupError, TypeError, ValueError):
        return True
    return newest - have > BEHIND_BLOCKS_MAX
