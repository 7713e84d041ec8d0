"""Paying: never twice, whatever happens between two awaits.

Until a payment is written down, nothing was sent, and `NotSettled` says why it was not. From then
on it belongs to one nonce, and what becomes of that is all that can become of the settlement.
"""

from decimal import Decimal
from typing import Protocol

from engines.ethereum.asset import Asset
from engines.ethereum.doubts import Doubts
from engines.ethereum.node import RpcFailure
from engines.ethereum.payments import Payments, fail
from engines.ethereum.rpc import Rpc
from engines.ethereum.telling import Seldom
from engines.ethereum.transactions import TOLD, Payment
from engines.ethereum.units import to_units
from engines.ethereum.uptodate import what_is_missing
from engines.ethereum.verdicts import Verdicts
from engines.ethereum.wallet import Wallet
from engines.ethereum.watching import Watcher
from settled import NotSettled, Services, SettlementPending


class Addresses(Protocol):
    """Who is paid at which address."""

    async def address(self, account_id: str) -> str | None:
        """Return the address that the account's peer is paid at, if it has told one."""
        ...


class Sender:
    """`settle` and `find_settlement` of the engine."""

    def __init__(
        self,
        services: Services,
        *,
        rpc: Rpc,
        wallet: Wallet,
        doubts: Doubts,
        verdicts: Verdicts,
        asset: Asset,
        payments: Payments,
        watcher: Watcher,
        peers: Addresses,
    ) -> None:
        self._rpc = rpc
        self._wallet = wallet
        self._doubts = doubts
        self._verdicts = verdicts
        self._asset = asset
        self._payments = payments
        self._watcher = watcher
        self._peers = peers
        self._begun: set[str] = set()
        self._bounds: dict[str, int] = {}  # by settlement: our nonces, when it was first asked for
        self._seldom = Seldom(services.log)

    async def settle(self, account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
        """Pay, wait until it is final, and return what moved; see ``settled.Engine``."""
        self._begun.add(settlement_id)
        try:
            if await self._payments.find(settlement_id) is None:
                await self._begin(account_id, amount, settlement_id)
        except NotSettled:
            self._begun.discard(settlement_id)
            raise
        payment = await self._payments.outcome(settlement_id)
        self._begun.discard(settlement_id)
        self._watcher.tell(settlement_id)
        if not payment.settled:
            raise NotSettled(payment.reason or "the transaction moved nothing")
        return payment.settled

    async def _begin(self, account_id: str, amount: Decimal, settlement_id: str) -> None:
        await self._give_up_resolved(account_id)
        payee = await self._peers.address(account_id)
        if payee is None:
            raise NotSettled(
                f"account {account_id} has not told its address yet: it is paid as soon as its "
                f"engine and ours have spoken"
            )
        try:
            units = to_units(amount, self._asset.decimals)
            async with self._rpc.view() as view:
                quote = await self._wallet.quote(view, payee, units)
        except (RpcFailure, ValueError) as error:
            raise NotSettled(f"nothing was sent: {error}") from error

        payment = Payment(
            settlement_id=settlement_id,
            account_id=account_id,
            payee=payee,
            units=units,
            to=quote.order.to,
            value=quote.order.value,
            data=quote.order.data,
            gas=quote.gas,
            fees=quote.fees,
            head=quote.head,
        )
        await self._wallet.take(quote, payment)

    async def _give_up_resolved(self, account_id: str) -> None:
        """Look no more for outcomes that are not to be seen, and that the operator has told.

        He has if the account is paid again. What used their nonces may be what is forgotten.
        """
        lost = [
            payment
            for payment in self._payments.pending()
            if payment.account_id == account_id and self._verdicts.is_lost(payment.settlement_id)
        ]
        if lost:
            await self._doubts.note()
            await self._payments.change(fail(payment, TOLD) for payment in lost)

    async def find_settlement(self, account_id: str, settlement_id: str) -> Decimal | None:
        """Say what became of a settlement that ended in doubt; see ``settled.Engine``.

        One that was never written down was never sent, unless this database is older than what our
        key did: only a node that shows all of that can tell.

        Raises:
            SettlementPending: while its transaction is watched.
        """
        payment = await self._payments.find(settlement_id)
        if payment is not None:
            if payment.settled is not None:
                self._watcher.tell(settlement_id)
            elif not self._watcher.is_lost(settlement_id):
                raise SettlementPending(
                    f"transaction {payment.hashes[-1]} of nonce {payment.nonce} is not final yet; "
                    f"nothing is to be done, unless the log says payment_stuck"
                )
            return payment.settled
        if settlement_id in self._begun:
            return Decimal(0)  # in this life, which knows that it did not come as far as a nonce
        why = None if self._doubts.present else await self._what_is_missing(settlement_id)
        if why is not None:
            self._seldom.warning(
                "settlement_not_told_yet",
                settlement_id,
                settlement=settlement_id,
                account=account_id,
                reason=f"whether it was sent cannot be told yet: {why}",
            )
            return None
        self._bounds.pop(settlement_id, None)
        return None if await self._doubts.concerns(account_id, settlement_id) else Decimal(0)

    async def _what_is_missing(self, settlement_id: str) -> str | None:
        """Look on the chain for more than is written down; return why it cannot be told now.

        Each nonce that we gave away before may have been used by what is forgotten, which then
        counts for ours: it must be seen that it was not. What is given away later is after that.
        """
        try:
            async with self._rpc.view() as view:
                why = await what_is_missing(view)
                if why is not None:
                    return why
                bound = self._bounds.setdefault(settlement_id, await self._wallet.compare(view))
                before = [p for p in self._payments.pending() if p.nonce < bound]
                unproved = await self._verdicts.unproved(view, before)
        except (RpcFailure, ValueError) as error:
            return str(error)
        if unproved and not self._doubts.present:
            first = unproved[0]
            return f"settlement {first.settlement_id} of nonce {first.nonce} is not seen mined"
        return None
