"""What a range of blocks paid to us, as one node shows it.

Everything here is read from one node, and is checked to be of one branch of the chain: blocks are
linked by their hashes, logs and receipts name the block that they are in. A node that is asked for
logs of blocks that it does not have says that there are none, so it must show the last one.
"""

from dataclasses import dataclass
from typing import Any, Final, Protocol

from engines.ethereum import abi
from engines.ethereum.rpc import RpcFailure, View
from engines.ethereum.transfers import Transfer
from engines.ethereum.units import ETHER_DECIMALS, to_amount

FULL_BLOCKS_MAX: Final = 20  # with all their transactions, to ask for at once


class Inconsistent(RpcFailure):
    """What a node shows does not fit together, such as while it changes branch: ask again."""


@dataclass(frozen=True, slots=True)
class Range:
    """Blocks to look through; ``parent`` is the hash of the one before, if it is known."""

    first: int
    last: int
    parent: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """The confirmed payments to us in a range, and the hash of its last block."""

    transfers: list[Transfer]
    last_hash: str


class Scanner(Protocol):
    """Finds the payments in one asset."""

    async def scan(self, view: View, blocks: Range) -> Found:
        """Return what the blocks of a range paid to us.

        Raises:
            RpcFailure: when the node cannot tell; a smaller range may help.
            ValueError: when it answers what is no answer.
        """
        ...


class EtherScanner:
    """Transactions that pay ether to us. What a contract sends on is not visible to it."""

    def __init__(self, chain_id: int, address: str) -> None:
        self._chain_id = chain_id
        self._address = address

    async def scan(self, view: View, blocks: Range) -> Found:
        """See ``Scanner``."""
        numbers = range(blocks.first, blocks.last + 1)
        found = await view.read([("eth_getBlockByNumber", [hex(n), True]) for n in numbers])
        parent = blocks.parent
        payments: dict[str, tuple[dict[str, Any], str]] = {}
        for number, block in zip(numbers, found, strict=True):
            block_hash = _hash_of(block, number)
            if parent is not None and abi.hash32(block.get("parentHash")) != parent:
                raise Inconsistent(f"block {number} of the node does not follow the one before")
            parent = block_hash
            for transaction in _items(block, "transactions"):
                if self._pays_us(transaction):
                    payments[abi.hash32(transaction.get("hash"))] = transaction, block_hash
        receipts = await _receipts(view, {known: at for known, (_, at) in payments.items()})
        transfers = [
            Transfer(
                f"{self._chain_id}:{known}:value",
                abi.address(transaction.get("from")),
                to_amount(abi.number(transaction.get("value")), ETHER_DECIMALS),
                abi.number(transaction.get("blockNumber")),
            )
            for known, (transaction, _) in payments.items()
            if _succeeded(receipts[known])
        ]
        return Found(transfers, str(parent))

    def _pays_us(self, transaction: dict[str, Any]) -> bool:
        to = transaction.get("to")  # null: it makes a contract
        return (
            to is not None
            and abi.address(to) == self._address
            and abi.address(transaction.get("from")) != self._address
            and abi.number(transaction.get("value")) > 0
        )


class TokenScanner:
    """Transfer logs of one token to us."""

    def __init__(self, chain_id: int, address: str, token: str, decimals: int) -> None:
        self._chain_id = chain_id
        self._address = address
        self._token = token
        self._decimals = decimals

    async def scan(self, view: View, blocks: Range) -> Found:
        """See ``Scanner``."""
        # Before and after the rest: were both the same block, nothing changed in between.
        first, last = (
            ("eth_getBlockByNumber", [hex(number), False]) for number in (blocks.first, blocks.last)
        )
        before, start, logs, after = await view.read([last, first, self._logs(blocks), last])
        _hash_of(start, blocks.first)
        if blocks.parent is not None and abi.hash32(start.get("parentHash")) != blocks.parent:
            raise Inconsistent(f"block {blocks.first} of the node does not follow the one before")
        last_hash = _hash_of(before, blocks.last)
        if _hash_of(after, blocks.last) != last_hash:
            raise Inconsistent("the node changed branch meanwhile")
        if not isinstance(logs, list):
            raise Inconsistent("the node gives no list of logs")
        places: dict[str, str] = {}
        for log in logs:
            if not isinstance(log, dict) or not (
                blocks.first <= abi.number(log.get("blockNumber")) <= blocks.last
            ):
                raise Inconsistent("the node gives logs of blocks that it was not asked for")
            known, place = abi.hash32(log.get("transactionHash")), abi.hash32(log.get("blockHash"))
            if places.setdefault(known, place) != place:
                raise Inconsistent(f"the node shows transaction {known} in two blocks")
        receipts = await _receipts(view, places)
        transfers = [
            transfer
            for known, receipt in receipts.items()
            if _succeeded(receipt)
            for transfer in self._read(known, receipt)
        ]
        return Found(transfers, last_hash)

    def _logs(self, blocks: Range) -> tuple[str, list[Any]]:
        wanted = {
            "address": self._token,
            "fromBlock": hex(blocks.first),
            "toBlock": hex(blocks.last),
            "topics": [abi.TRANSFER_TOPIC, None, abi.address_topic(self._address)],
        }
        return "eth_getLogs", [wanted]

    def _read(self, known: str, receipt: dict[str, Any]) -> list[Transfer]:
        """Return the payments in a transaction, known by their places among its logs.

        A log's own index is counted through its block, and changes when the transaction is mined in
        another one; its place in the receipt does not.
        """
        return [
            Transfer(
                f"{self._chain_id}:{known}:{place}",
                said.sender,
                to_amount(said.value, self._decimals),
                abi.number(receipt.get("blockNumber")),
            )
            for place, said in abi.transfers_of(self._token, _items(receipt, "logs"))
            if said.recipient == self._address and said.sender != self._address and said.value > 0
        ]


async def _receipts(view: View, places: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the receipts of transactions, each of which must be in the block given."""
    found = await view.read([("eth_getTransactionReceipt", [known]) for known in places])
    receipts = {}
    for (known, place), receipt in zip(places.items(), found, strict=True):
        if not isinstance(receipt, dict) or abi.hash32(receipt.get("blockHash")) != place:
            raise Inconsistent(f"the node has no receipt of transaction {known} in block {place}")
        if abi.hash32(receipt.get("transactionHash")) != known:
            raise Inconsistent(f"the node gives another receipt for transaction {known}")
        receipts[known] = receipt
    return receipts


def _succeeded(receipt: dict[str, Any]) -> bool:
    return abi.number(receipt.get("status")) == 1


def _hash_of(block: Any, number: int) -> str:
    """Return the hash of a block as a node gave it, which must be the one of this number."""
    if block is None:
        raise Inconsistent(f"the node has no block {number} yet")
    if not isinstance(block, dict) or abi.number(block.get("number")) != number:
        raise Inconsistent(f"the node gives another block for block {number}")
    return abi.hash32(block.get("hash"))


def _items(parent: dict[str, Any], name: str) -> list[dict[str, Any]]:
    items = parent.get(name)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Inconsistent(f"the node gives no {name}")
    return items
