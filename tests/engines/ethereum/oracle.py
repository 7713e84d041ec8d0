"""What the chain itself says of a campaign: read block by block, by none of the engine's code."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from tests.engines.ethereum.anvil import Chain

_TRANSFER: Final = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


@dataclass
class Ledger:
    """Sums over all blocks since one.

    Attributes:
        moved: units of the asset, by payer and payee.
        spent: wei that an address has spent on gas.
        sent: how many transactions an address has sent.
        failed: hashes of those that failed.
    """

    moved: Counter[tuple[str, str]] = field(default_factory=Counter)
    spent: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def enter(
        self, transaction: dict[str, Any], receipt: dict[str, Any], token: str | None
    ) -> None:
        sender = transaction["from"].lower()
        self.sent[sender] += 1
        self.spent[sender] += int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
        if int(receipt["status"], 16) != 1:
            self.failed.append(transaction["hash"])
        elif token is None:
            self.moved[sender, str(transaction["to"]).lower()] += int(transaction["value"], 16)
        for log in receipt["logs"] if token is not None else ():
            if log["address"].lower() == token and log["topics"][0] == _TRANSFER:
                payer, payee = ("0x" + topic[26:] for topic in log["topics"][1:])
                self.moved[payer, payee] += int(log["data"], 16)


async def read(chain: Chain, first_block: int, token: str | None) -> Ledger:
    """Read the chain from a block on."""
    ledger = Ledger()
    for number in range(first_block, await chain.head() + 1):
        block = await chain.rpc("eth_getBlockByNumber", hex(number), True)
        for transaction in block["transactions"]:
            ledger.enter(transaction, await chain.receipt(transaction["hash"]), token)
    return ledger
