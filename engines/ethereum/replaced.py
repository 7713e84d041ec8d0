"""Which transaction used a nonce of ours, when none of those that we know did.

The count of our transactions, which every node can tell for recent blocks, leads to the block; the
transaction in it is the proof.
"""

from typing import Any, Final

from engines.ethereum import abi
from engines.ethereum.node import RpcError
from engines.ethereum.rpc import View
from engines.ethereum.transactions import Payment

_MARGIN_BLOCKS: Final = 64  # below the block of a payment's birth, should that have been undone


class Replaced:
    """Looks for the transactions that took the nonces of payments."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._blocks: dict[str, int] = {}  # where it was, by settlement: old states go, blocks stay

    async def find(self, view: View, payment: Payment) -> tuple[int, dict[str, Any]] | None:
        """Return the transaction that has the payment's nonce, and the number of its block.

        Args:
            view: at whose head the nonce is used.
            payment: of whose versions none has a receipt there.

        Raises:
            RpcError: when the node does not have the states that lead there.
        """
        block = self._blocks.pop(payment.settlement_id, None)
        if block is not None and block <= view.head:
            found = await self._in_block(view, payment.nonce, block)
            if found is not None:
                self._blocks[payment.settlement_id] = block
                return block, found
        block = await self._search(view, payment)
        if block is None:
            return None
        found = await self._in_block(view, payment.nonce, block)
        if found is None:
            return None
        self._blocks[payment.settlement_id] = block
        return block, found

    def forget(self, payment: Payment) -> None:
        """Forget where it was."""
        self._blocks.pop(payment.settlement_id, None)

    async def _search(self, view: View, payment: Payment) -> int | None:
        """Return the first block in which the nonce is used: back in leaps, then by halves.

        A leap to where the node has no states any more is made half as far, and so are all others.
        """
        floor = max(0, min(payment.head, view.head) - _MARGIN_BLOCKS)
        used, leap, growth = view.head, 1, 2
        while True:
            unused = max(floor, used - leap)
            if unused >= used:
                return None  # it was used before we signed: this is not the chain that we saw
            try:
                if not await self._is_used(view, payment.nonce, unused):
                    break
            except RpcError:
                if used - unused == 1:
                    raise
                leap, growth = (used - unused) // 2, 1
                continue
            used, leap = unused, growth * leap
        while used - unused > 1:
            middle = (unused + used) // 2
            if await self._is_used(view, payment.nonce, middle):
                used = middle
            else:
                unused = middle
        return used

    async def _is_used(self, view: View, nonce: int, block: int) -> bool:
        count = await view.call("eth_getTransactionCount", self._address, hex(block))
        return abi.number(count) > nonce

    async def _in_block(self, view: View, nonce: int, block: int) -> dict[str, Any] | None:
        """Return our transaction of this nonce, if the block has it."""
        found = await view.block(block, full=True)
        transactions = None if found is None else found.get("transactions")
        for transaction in transactions if isinstance(transactions, list) else []:
            if (
                isinstance(transaction, dict)
                and abi.address(transaction.get("from")) == self._address
                and abi.number(transaction.get("nonce")) == nonce
            ):
                return transaction
        return None


def pays_the_same(transaction: dict[str, Any], payment: Payment) -> bool:
    """Say whether a transaction is the payment with another fee.

    Raises:
        ValueError: when the node does not show what it pays: that proves nothing.
    """
    data = transaction.get("input", transaction.get("data"))
    if not isinstance(data, str):
        raise ValueError("the node does not show what the transaction calls")  # noqa: TRY004
    return (
        transaction.get("to") is not None
        and abi.address(transaction["to"]) == payment.to
        and abi.number(transaction.get("value")) == payment.value
        and data.lower() == payment.data
    )
