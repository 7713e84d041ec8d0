"""Paying: never twice, whatever happens between two awaits.

Until a payment is written down, nothing was sent, and `NotSettled` says why it was not. From then
on it belongs to one nonce, and what becomes of that is all that can become of the settlement.
"""

from decimal import Decimal
from typing import Protocol

from engines.ethereum.asset import Asset
from engines.ethereum.node import RpcFailure
from engines.ethereum.payments import Payments
from engines.ethereum.rpc import Rpc
from engines.ethereum.transactions import Payment
from engines.ethereum.units import to_units
from engines.ethereum.wallet import Wallet
from engines.ethereum.watching import Watcher
from settled import NotSettled, Services, SettlementPending

_DOUBT = "doubt:"


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
        asset: Asset,
        payments: Payments,
        watcher: Watcher,
        peers: Addresses,
    ) -> None:
        self._services = services
        self._rpc = rpc
        self._wallet = wallet
        self._asset = asset
        self._payments = payments
        self._watcher = watcher
        self._peers = peers
        self._begun: set[str] = set()

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

    async def find_settlement(self, account_id: str, settlement_id: str) -> Decimal | None:
        """Say what became of a settlement that ended in doubt; see ``settled.Engine``.

        One that was never written down was never sent, unless this database is older than what it
        did: then nobody here can tell.

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
        if await self._services.state.get(_DOUBT + settlement_id) is not None:
            return None
        if self._wallet.doubted and settlement_id not in self._begun:
            await self._services.state.set(_DOUBT + settlement_id, True)
            self._services.log.error(
                "settlement_unknown_since_restore",
                settlement=settlement_id,
                account=account_id,
                reason="our key has sent transactions that this database does not know: look on "
                f"the ledger whether one paid this, then `settled settlements resolve "
                f"{settlement_id}`",
            )
            return None
        return Decimal(0)
