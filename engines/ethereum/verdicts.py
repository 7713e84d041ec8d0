"""What has become of a payment: only the chain says, and only what no reorganisation undoes.

A payment is over when the block that used its nonce has enough confirmations. Either one of our
transactions used it, and its receipt says what moved; or another one did, and that is shown by
finding it. Whatever cannot be shown is left open.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from engines.ethereum import abi
from engines.ethereum.asset import Asset
from engines.ethereum.doubts import Doubts
from engines.ethereum.node import RpcError
from engines.ethereum.payments import fail, settle
from engines.ethereum.replaced import Replaced, pays_the_same
from engines.ethereum.rpc import View
from engines.ethereum.telling import Seldom
from engines.ethereum.transactions import Payment
from engines.ethereum.units import to_amount

_SUCCEEDED: Final = 1


class Verdicts:
    """Looks for the outcomes of payments whose nonces are used.

    Args:
        address: that pays.
        asset: what is paid.
        confirmations: how many blocks it takes, the payment's own included.
        doubts: told of transactions of ours that we do not know.
        seldom: told of what cannot be shown.
    """

    def __init__(
        self, address: str, asset: Asset, confirmations: int, doubts: Doubts, seldom: Seldom
    ) -> None:
        self._address = address
        self._asset = asset
        self._confirmations = confirmations
        self._doubts = doubts
        self._seldom = seldom
        self._replacements = Replaced(address)
        self._lost_at: dict[str, int] = {}  # head at which it was first not to be found
        self._look_at: dict[str, int] = {}  # settlement id -> head from which on it is worth it

    async def find(self, view: View, payments: Sequence[Payment]) -> list[Payment]:
        """Return those of ``payments`` that are over, with their outcomes.

        Args:
            view: where all is read.
            payments: those whose nonces are used at the view's head.
        """
        due = [payment for payment in payments if self._is_due(view, payment)]
        receipts = await self._receipts(view, due)
        over, replaced = [], []
        for payment in due:
            receipt = receipts.get(payment.settlement_id)
            if receipt is None:
                replaced.append(payment)
            elif self._is_final(view, payment, abi.number(receipt.get("blockNumber"))):
                over.append((payment, receipt))
        found = await self._canonical(view, over)
        for payment in replaced:
            outcome = await self._replaced(view, payment)
            if outcome is not None:
                found.append(outcome)
        for payment in found:
            self._look_at.pop(payment.settlement_id, None)
            self._replacements.forget(payment)
            self._lost_at.pop(payment.settlement_id, None)
        return found

    def is_lost(self, settlement_id: str) -> bool:
        """Say whether what used a payment's nonce was not to be found, when last looked for."""
        return settlement_id in self._lost_at

    async def unproved(self, view: View, payments: Sequence[Payment]) -> list[Payment]:
        """Return those of ``payments`` that are in no block, or of whose nonces others are."""
        receipts = await self._receipts(view, payments)
        return [payment for payment in payments if payment.settlement_id not in receipts]

    def _is_due(self, view: View, payment: Payment) -> bool:
        """Say whether it is worth a look; a head that a node made up must not put that off."""
        look_at = self._look_at.get(payment.settlement_id, 0)
        return not view.head < look_at <= view.head + self._confirmations

    def _is_final(self, view: View, payment: Payment, block: int) -> bool:
        """Say whether a block has its confirmations, and if not, note when it will."""
        enough = block + self._confirmations - 1
        if view.head < enough:
            self._look_at[payment.settlement_id] = min(enough, view.head + self._confirmations)
        return view.head >= enough

    async def _receipts(self, view: View, payments: Sequence[Payment]) -> dict[str, Any]:
        """Return the receipt of whichever version of each payment was mined, by settlement."""
        versions = [
            (payment.settlement_id, version) for payment in payments for version in payment.hashes
        ]
        answers = await view.read(
            [("eth_getTransactionReceipt", [version]) for _, version in versions]
        )
        found = {}
        for (settlement_id, version), receipt in zip(versions, answers, strict=True):
            if receipt is not None:
                if abi.hash32(_field(receipt, "transactionHash")) != version:
                    raise ValueError(f"the node gave another receipt for {version}")
                found[settlement_id] = receipt
        return found

    async def _canonical(
        self, view: View, over: Sequence[tuple[Payment, dict[str, Any]]]
    ) -> list[Payment]:
        """Return the outcomes of those whose receipts are of the blocks that the chain is of."""
        numbers = sorted({abi.number(receipt["blockNumber"]) for _, receipt in over})
        blocks = await view.read([("eth_getBlockByNumber", [hex(n), False]) for n in numbers])
        hashes = {
            n: abi.hash32(_field(block, "hash"))
            for n, block in zip(numbers, blocks, strict=True)
            if block is not None
        }
        outcomes = [
            await self._outcome(view, payment, receipt)
            for payment, receipt in over
            if hashes.get(abi.number(receipt["blockNumber"]))
            == abi.hash32(receipt.get("blockHash"))
        ]
        return [outcome for outcome in outcomes if outcome is not None]

    async def _outcome(
        self, view: View, payment: Payment, receipt: dict[str, Any]
    ) -> Payment | None:
        mined_as = abi.hash32(receipt["transactionHash"])
        payment = payment.mined(mined_as)
        if abi.number(receipt.get("status")) != _SUCCEEDED:
            return fail(payment, f"transaction {mined_as} was mined and failed: it moved nothing")
        units = await self._asset.moved(view, receipt, payment, self._address)
        if units is None:
            self._tell_unclear(view, payment)
            return None
        if not units:
            return fail(payment, f"transaction {mined_as} was mined, but moved nothing")
        return settle(payment, to_amount(units, self._asset.decimals))

    async def _replaced(self, view: View, payment: Payment) -> Payment | None:
        """Find out what used the nonce of a payment of which there is no receipt.

        Returns:
            The payment with its outcome, ``None`` while it cannot be told.
        """
        self._look_at[payment.settlement_id] = view.head + 1
        try:
            used = await self._replacements.find(view, payment)
            same = used is not None and pays_the_same(used[1], payment)
        except (RpcError, ValueError) as error:
            self._tell_lost(view, payment, str(error))
            return None
        if used is None:
            self._tell_lost(view, payment, "the node does not show it")
            return None
        self._lost_at.pop(payment.settlement_id, None)
        block, transaction = used
        mined_as = abi.hash32(transaction.get("hash"))
        if mined_as in payment.hashes or not self._is_final(view, payment, block):
            return None
        await self._doubts.note()
        if same:
            # Signed by us with another fee, and forgotten: a backup was restored since.
            known = replace(payment, hashes=(*payment.hashes, mined_as))
            receipts = await self._receipts(view, [known])
            over = [(known, receipt) for receipt in receipts.values()]
            return next(iter(await self._canonical(view, over)), None)
        reason = f"nonce {payment.nonce} was used by transaction {mined_as}, which is not ours"
        self._seldom.error(
            "nonce_used_by_another",
            payment.settlement_id,
            settlement=payment.settlement_id,
            account=payment.account_id,
            reason=f"{reason}: see on the ledger what it paid, and use the key nowhere else",
        )
        return fail(payment, reason)

    def _tell_unclear(self, view: View, payment: Payment) -> None:
        self._lost_at.setdefault(payment.settlement_id, view.head)
        self._look_at[payment.settlement_id] = view.head + 1
        self._seldom.error(
            "payment_unclear",
            payment.settlement_id,
            settlement=payment.settlement_id,
            account=payment.account_id,
            transaction=payment.hashes[-1],
            reason="the transaction succeeded, and no log of the token says that it has moved "
            "anything, nor do the balances say that it has not: see on the ledger what it has "
            f"paid, then `settled settlements resolve {payment.settlement_id}`",
        )

    def _tell_lost(self, view: View, payment: Payment, why: str) -> None:
        """Say that it cannot be told what used a nonce, if that is no passing thing."""
        since = self._lost_at.setdefault(payment.settlement_id, view.head)
        if view.head < since + self._confirmations:
            return
        self._seldom.error(
            "nonce_used_by_unknown",
            payment.settlement_id,
            settlement=payment.settlement_id,
            account=payment.account_id,
            nonce=payment.nonce,
            reason=f"what used nonce {payment.nonce} of {self._address} cannot be seen ({why}): "
            f"give an rpc_url of a node that keeps old states, or look on the ledger and "
            f"`settled settlements resolve {payment.settlement_id}`",
        )


def _field(found: Any, name: str) -> Any:
    if not isinstance(found, dict):
        raise ValueError(f"the node gave {str(found)[:80]!r} instead of an object")  # noqa: TRY004
    return found.get(name)
