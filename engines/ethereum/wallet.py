"""The key's nonces and its money: what the next transaction may be, and whether it can be paid.

A nonce is taken under a lock that is held while nothing is asked of a node, and is written down
together with what it is for: there are no gaps, and no nonce has two purposes.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import trio

from engines.ethereum import abi
from engines.ethereum.asset import Asset, Order
from engines.ethereum.doubts import Doubts
from engines.ethereum.fees import Fees, offer
from engines.ethereum.node import RpcError
from engines.ethereum.payments import Payments
from engines.ethereum.rpc import View
from engines.ethereum.signing import Signer
from engines.ethereum.transactions import Payment
from engines.ethereum.units import ETHER_DECIMALS, gwei, to_text
from engines.ethereum.uptodate import refuse_syncing
from settled import ConfigError, NotSettled, Services

_TRANSFER_GAS: Final = 21_000
# A payee may have code (EIP-7702), which we pay for: no block takes a transaction of too much gas,
# and one that no block takes would hold up all that have later nonces.
_GAS_MAX: Final = 1_000_000
_USUAL_TIP: Final = 10**9
_SIGN_MAX_S: Final = 30.0  # all other payments wait for whoever keeps the key
_BELONGS: Final = {  # what a database is of, as an operator would say it
    "address": "address",
    "chain_id": "chain",
    "asset": "the asset",
    "genesis": "a chain that begins with block",
}


@dataclass(frozen=True, slots=True)
class Quote:
    """What the chain said before a transaction was signed: all at one block.

    Attributes:
        order: what is to be paid.
        gas: the most gas that it may take.
        fees: what to offer for it.
        balance: our ether at the block.
        count: how many of our transactions there were.
        head: the number of the block.
        answers: what the asset asked for.
    """

    order: Order
    gas: int
    fees: Fees
    balance: int
    count: int
    head: int
    answers: list[Any]


class Wallet:
    """One key on one chain.

    Args:
        services: of the engine.
        signer: keeps the key.
        asset: what is paid.
        payments: where every transaction is written down.
        doubts: told of transactions of ours that are not.
        chain_id: of the chain.
        cap: the most to offer per unit of gas, wei.
    """

    def __init__(
        self,
        services: Services,
        signer: Signer,
        asset: Asset,
        payments: Payments,
        doubts: Doubts,
        *,
        chain_id: int,
        cap: int,
    ) -> None:
        self.address = signer.address
        self.cap = cap
        self._services = services
        self._signer = signer
        self._asset = asset
        self._payments = payments
        self._doubts = doubts
        self._chain_id = chain_id
        self._lock = trio.Lock()

    async def start(self, view: View, genesis: str | None) -> None:
        """Compare what is kept with the chain.

        Raises:
            ConfigError: when the database is another key's, chain's or asset's.
            RpcFailure: when the node does not tell, or cannot yet at a very first start.
        """
        await self._same_wallet(genesis)
        await self._doubts.load()
        if await self._payments.next_nonce() is None:
            await refuse_syncing(view)
        await self.compare(view)

    async def compare(self, view: View) -> int:
        """Compare how many transactions of ours the chain knows with how many we do.

        Returns:
            The nonce of our next transaction, when the chain was asked.
        """
        found, waiting = await view.batch(
            [
                ("eth_getTransactionCount", [self.address, hex(view.head)]),
                ("eth_getTransactionCount", [self.address, "pending"]),
            ]
        )
        if isinstance(found, RpcError):
            raise found
        count = abi.number(found)
        seen = count if isinstance(waiting, RpcError) else max(count, abi.number(waiting))
        async with self._lock:
            ours = await self._payments.next_nonce()  # now: we may have sent some meanwhile
            if ours is None:
                await self._payments.set_next_nonce(count)
            elif seen > ours:
                await self._doubts.begin(ours=ours, chain=seen, next_nonce=max(ours, count))
        return count if ours is None else ours

    async def _same_wallet(self, genesis: str | None) -> None:
        """Refuse a database of another key, chain or asset, whose payments are not here."""
        ours = {
            "address": self.address,
            "chain_id": self._chain_id,
            "asset": self._asset.token or "ether",
            "genesis": genesis,
        }
        kept = await self._services.state.get("wallet")
        if kept is None:
            await self._services.state.set("wallet", ours)
            return
        for name, value in ours.items():
            if kept[name] != value and None not in (kept[name], value):
                raise ConfigError(
                    f"the database belongs to {_BELONGS[name]} {kept[name]}, and this is {value}: "
                    f"go back to that, or give another database (--db)"
                )

    async def quote(self, view: View, payee: str, units: int) -> Quote:
        """Ask what a payment would take, and whether it would work.

        Raises:
            NotSettled: when it would not.
            RpcFailure: when the node does not say.
        """
        order = self._asset.order(payee, units)
        head = hex(view.head)
        block, tip, balance, count, gas, *answers = await view.batch(
            [
                ("eth_getBlockByNumber", [head, False]),
                ("eth_maxPriorityFeePerGas", []),
                ("eth_getBalance", [self.address, head]),
                ("eth_getTransactionCount", [self.address, head]),
                ("eth_estimateGas", [order.call(self.address)]),
                *self._asset.questions(self.address, order, view.head),
            ]
        )
        for answer in (block, balance, count):
            if isinstance(answer, RpcError):
                raise answer
        estimated = _TRANSFER_GAS if isinstance(gas, RpcError) else abi.number(gas)
        if estimated > _GAS_MAX:
            raise NotSettled(
                f"the payment to {payee} would take {estimated} gas, more than {_GAS_MAX}: have "
                f"the peer use an address that takes payments with less"
            )
        quote = Quote(
            order=order,
            gas=_with_margin(estimated),
            fees=self._offer(base_fee_of(block), tip_of(tip)),
            balance=abi.number(balance),
            count=abi.number(count),
            head=view.head,
            answers=answers,
        )
        self._check_money(quote, units)
        if isinstance(gas, RpcError):
            raise NotSettled(f"the payment to {payee} would fail: {gas}")
        return quote

    def _offer(self, base_fee: int, tip: int) -> Fees:
        fees = offer(base_fee, tip, self.cap)
        if fees is None:
            raise NotSettled(
                f"the chain takes {gwei(base_fee + tip)} per unit of gas, and more soon; "
                f"max_fee_gwei is {gwei(self.cap)}: wait, or raise it"
            )
        return fees

    async def take(self, quote: Quote, payment: Payment) -> None:
        """Take the next nonce for a payment, sign it and write it down; it may be sent then.

        Args:
            quote: what the chain said of it.
            payment: what is paid, without a nonce and not signed yet.

        Raises:
            NotSettled: when the money does not suffice, beside what is on its way already, or it
                is not signed.
        """
        async with self._lock:
            if await self._payments.find(payment.settlement_id) is not None:
                return  # whatever called us twice: it is paid once
            self._check_money(quote, payment.units)
            nonce = await self._payments.next_nonce() or 0
            if quote.count > nonce:
                await self._doubts.begin(ours=nonce, chain=quote.count, next_nonce=quote.count)
                nonce = quote.count
            signed = await self.sign(replace(payment, nonce=nonce), quote.fees)
            await self._payments.add(signed, quote.count)
        self._services.log.info(
            "payment_signed",
            account=payment.account_id,
            settlement=payment.settlement_id,
            payee=payment.payee,
            nonce=nonce,
            transaction=signed.hashes[0],
        )

    def _check_money(self, quote: Quote, units: int) -> None:
        pending = self._payments.from_nonce(quote.count)
        need = quote.order.value + quote.gas * quote.fees.max_fee
        on_its_way = sum(payment.cost for payment in pending)
        if quote.balance < need + on_its_way:
            have, need_text = (to_text(n, ETHER_DECIMALS) for n in (quote.balance, need))
            way = f", beside {to_text(on_its_way, ETHER_DECIMALS)} on its way" if on_its_way else ""
            raise NotSettled(
                f"{self.address} has {have} ether and needs {need_text} with gas{way}: top it up"
            )
        self._asset.check(quote.answers, units, sum(payment.units for payment in pending))

    async def sign(self, payment: Payment, fees: Fees) -> Payment:
        """Return the payment with one more version of its transaction, at these fees.

        Raises:
            NotSettled: when whoever keeps the key does not sign, for whatever reason.
        """
        try:
            with trio.fail_after(_SIGN_MAX_S):
                signed = await self._signer.sign_transaction(payment.unsigned(self._chain_id, fees))
        except Exception as error:
            why = f"{type(error).__name__} {error}".strip()
            raise NotSettled(f"nothing was signed: {why}: see to what keeps the key") from error
        return payment.signed("0x" + signed.raw.hex(), signed.hash, fees)


def base_fee_of(block: Any) -> int:
    """Return a block's base fee.

    Raises:
        ValueError: when the node shows no such block, or one without: of a chain before London.
    """
    fee = block.get("baseFeePerGas") if isinstance(block, dict) else None
    if fee is None:
        raise ValueError("the node shows no base fee: the chain must have EIP-1559")
    return abi.number(fee)


def tip_of(answer: Any) -> int:
    """Return the tip that a node suggests, or a usual one if it suggests none."""
    return _USUAL_TIP if isinstance(answer, RpcError) else abi.number(answer)


def _with_margin(gas: int) -> int:
    """Return a gas limit that still suffices when the contract is in another state by then."""
    return gas if gas == _TRANSFER_GAS else gas + gas // 4
