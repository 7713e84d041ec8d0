"""The one loop that brings payments to an end: it sends them, sends them again, raises their fees,
and looks for their outcomes. It owns all that are open, of this life of the daemon and of earlier
ones; nothing else touches them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import trio

from engines.ethereum import abi
from engines.ethereum.fees import Fees, bump, offer
from engines.ethereum.node import RpcError, RpcFailure
from engines.ethereum.options import EthereumOptions
from engines.ethereum.payments import Payments
from engines.ethereum.rpc import Rpc, View
from engines.ethereum.telling import Seldom
from engines.ethereum.transactions import UNDONE, Payment
from engines.ethereum.units import gwei
from engines.ethereum.verdicts import Verdicts
from engines.ethereum.wallet import Wallet, base_fee_of, tip_of
from settled import AccountNotFound, NotSettled, Services

_NUDGES_S: Final = (0.0, 1.0, 10.0, 60.0, 600.0)
_WRITE_MAX: Final = 200
_BUMP_BLOCKS: Final = 2
_NONCES_TOLD: Final = 5
_IDLE_S: Final = 60.0  # between looks whether the chain has undone anything, when nothing is open


@dataclass(slots=True)
class _Watch:
    """When a payment was signed last, at which head, and when it was sent last."""

    signed_at: float
    signed_head: int
    sent_at: float = -math.inf


class Watcher:
    """Watches the payments of one wallet."""

    def __init__(
        self,
        services: Services,
        *,
        rpc: Rpc,
        wallet: Wallet,
        payments: Payments,
        verdicts: Verdicts,
        options: EthereumOptions,
    ) -> None:
        self._services = services
        self._rpc = rpc
        self._wallet = wallet
        self._payments = payments
        self._verdicts = verdicts
        self._poll_s = options.poll_s
        self._bump_after_s = options.bump_after_s
        self._seldom = Seldom(services.log)
        self._watches: dict[str, _Watch] = {}
        self._told: set[str] = set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            if not self._payments.pending():
                with trio.move_on_after(_IDLE_S):
                    await self._payments.added.wait()
            self._payments.added = trio.Event()
            try:
                await self._look()
            except (RpcFailure, ValueError) as error:
                self._seldom.warning("payments_not_looked_at", "", reason=str(error))
            with trio.move_on_after(self._poll_s):
                await self._payments.added.wait()

    def tell(self, settlement_id: str) -> None:
        """Note that settled was told the outcome of a settlement."""
        self._told.add(settlement_id)

    def is_lost(self, settlement_id: str) -> bool:
        """Say whether a payment's nonce is used, but the nodes do not show by what."""
        return self._verdicts.is_lost(settlement_id)

    async def _look(self) -> None:
        """Look at all payments that are open, as one node shows them, and do what is due."""
        async with self._rpc.view() as view:
            pending = self._payments.pending()
            count = abi.number(
                await view.call("eth_getTransactionCount", self._wallet.address, hex(view.head))
            )
            unjudged = None
            try:
                await self._judge(view, [payment for payment in pending if payment.nonce < count])
            except (RpcError, ValueError) as error:
                unjudged = error  # that holds up none of those that are to be sent
            if view.is_newest:  # of one that is behind, nothing is missing that it does not show
                await self._open_again([p for p in self._payments.from_nonce(count) if p.settled])
            waiting = [payment for payment in self._payments.pending() if payment.nonce >= count]
            if waiting and view.is_newest:
                self._find_gap(count, waiting[0])
            await self._push(view, count, waiting)
            if unjudged is not None:
                raise unjudged

    async def _judge(self, view: View, mined: Sequence[Payment]) -> None:
        """Bring those to an end whose outcomes are known."""
        over = await self._verdicts.find(view, mined)
        for start in range(0, len(over), _WRITE_MAX):
            await self._finish(over[start : start + _WRITE_MAX])

    async def _finish(self, over: Sequence[Payment]) -> None:
        undone = {p.settlement_id for p in map(self._payments.latest, over) if p.reason == UNDONE}
        await self._payments.change(over)
        for payment in over:
            if payment.settlement_id in undone and not payment.settled:
                self._tell_gone(payment)
            self._watches.pop(payment.settlement_id, None)
            self._services.nursery.start_soon(self._nudge, payment)

    async def _nudge(self, payment: Payment) -> None:
        """Have settled ask for an outcome, unless somebody waits for it.

        Again, for it may be about to write down that it knows nothing, and to ask in an hour.
        """
        for delay_s in _NUDGES_S:
            await trio.sleep(delay_s)
            await trio.lowlevel.checkpoint()
            if payment.settlement_id in self._told:
                break
            try:
                await self._services.try_settlement(payment.account_id)
            except AccountNotFound:
                break  # it is closed, and asked for in its own time
        self._told.discard(payment.settlement_id)

    async def _push(self, view: View, count: int, waiting: Sequence[Payment]) -> None:
        """See to the payments that are in no block yet, in the order of their nonces."""
        if not waiting:
            return
        now_s = trio.current_time()
        for payment in waiting:
            self._watches.setdefault(payment.settlement_id, _Watch(now_s, view.head))
        stuck = [payment for payment in waiting if self._is_stuck(view, payment)]
        if stuck and waiting[0].nonce == count:
            await self._bump(view, count, stuck, first=waiting[0])
        again_s = max(self._poll_s, self._bump_after_s / 4)
        due = [
            self._payments.latest(payment)
            for payment in waiting
            if now_s >= self._watch(payment).sent_at + again_s
        ]
        await self._send(view, due)

    def _is_stuck(self, view: View, payment: Payment) -> bool:
        """Say whether blocks were made without it, for long enough."""
        watch = self._watch(payment)
        return (
            trio.current_time() >= watch.signed_at + self._bump_after_s
            and view.head >= watch.signed_head + _BUMP_BLOCKS
        )

    def _watch(self, payment: Payment) -> _Watch:
        return self._watches[payment.settlement_id]

    async def _send(self, view: View, payments: Sequence[Payment]) -> None:
        """Send transactions. What the node says decides nothing: only the chain does."""
        answers = await view.batch(
            [("eth_sendRawTransaction", [payment.raw]) for payment in payments]
        )
        now_s = trio.current_time()
        for payment, answer in zip(payments, answers, strict=True):
            refused = isinstance(answer, RpcError) and not (
                answer.already_known or answer.nonce_used
            )
            if not refused:
                self._watch(payment).sent_at = now_s
                continue
            self._seldom.warning(
                "transaction_refused",
                payment.settlement_id,
                settlement=payment.settlement_id,
                account=payment.account_id,
                nonce=payment.nonce,
                reason=f"{answer}: it is sent again until it is taken; if the ether does not "
                f"suffice, top {self._wallet.address} up",
            )

    async def _bump(
        self, view: View, count: int, stuck: Sequence[Payment], *, first: Payment
    ) -> None:
        """Raise the fees of those that hold up the others, or that no block takes as they are."""
        head = hex(view.head)
        block, balance, suggested = await view.batch(
            [
                ("eth_getBlockByNumber", [head, False]),
                ("eth_getBalance", [self._wallet.address, head]),
                ("eth_maxPriorityFeePerGas", []),
            ]
        )
        base_fee, tip = base_fee_of(block), tip_of(suggested)
        now = offer(base_fee, tip, self._wallet.cap)
        spare = abi.number(balance) - sum(p.cost for p in self._payments.from_nonce(count))
        for payment in stuck:
            if payment is not first and payment.fees.max_fee >= base_fee + tip:
                continue
            fees = bump(payment.fees, now, self._wallet.cap)
            more = 0 if fees is None else payment.gas * (fees.max_fee - payment.fees.max_fee)
            if fees is None or more > spare:
                limit = "max_fee_gwei" if fees is None else "our ether"
                why = f"{limit} does not allow a higher fee, raise it to have it paid sooner"
                self._tell_stuck(payment, why)
                continue
            spare -= more
            await self._replace(view, payment, fees)

    async def _replace(self, view: View, payment: Payment, fees: Fees) -> None:
        """Sign the payment again with higher fees; it is written down before it is sent."""
        try:
            replacement = await self._wallet.sign(payment, fees)
        except NotSettled as error:
            self._tell_stuck(payment, str(error))
            return
        await self._payments.change([replacement])
        self._watches[payment.settlement_id] = _Watch(trio.current_time(), view.head)
        self._services.log.info(
            "fee_raised",
            settlement=payment.settlement_id,
            nonce=payment.nonce,
            max_fee=gwei(fees.max_fee),
            transaction=replacement.hashes[-1],
        )

    def _tell_stuck(self, payment: Payment, why: str) -> None:
        self._seldom.warning(
            "payment_stuck",
            payment.settlement_id,
            settlement=payment.settlement_id,
            account=payment.account_id,
            nonce=payment.nonce,
            max_fee=gwei(payment.fees.max_fee),
            reason=f"it is in no block, and is sent again as it is: {why}",
        )

    async def _open_again(self, undone: Sequence[Payment]) -> None:
        """Bring to an end again what was settled and is undone: it is owed, and holds up others.

        That is when the chain was changed deeper than the confirmations. What was found not to have
        paid is never sent again, for settled may have paid it anew.
        """
        for payment in undone:
            self._seldom.error(
                "payment_undone",
                payment.settlement_id,
                settlement=payment.settlement_id,
                account=payment.account_id,
                nonce=payment.nonce,
                transaction=payment.hashes[-1],
                reason="it had its confirmations and is not in the chain any more: it is sent "
                "again. Consider more confirmations",
            )
        if undone:
            await self._payments.change(replace(p, settled=None, reason=UNDONE) for p in undone)

    def _tell_gone(self, payment: Payment) -> None:
        self._services.log.error(
            "payment_lost",
            settlement=payment.settlement_id,
            account=payment.account_id,
            nonce=payment.nonce,
            reason=f"it was settled and undone, and now it has failed: {payment.reason}. It is "
            f"owed still, and not paid by itself: settle it with the peer",
        )

    def _find_gap(self, count: int, first: Payment) -> None:
        """Tell of nonces before the first that waits which nothing will use."""
        missing = range(count, first.nonce)
        if missing:
            told = ", ".join(str(nonce) for nonce in missing[:_NONCES_TOLD])
            more = f" and {len(missing) - _NONCES_TOLD} more" if missing[_NONCES_TOLD:] else ""
            self._seldom.error(
                "nonces_missing",
                str(count),
                address=self._wallet.address,
                reason=f"no transaction of ours is known for nonce {told}{more}, and nothing "
                f"is paid before there is: send one of 0 ether to yourself with each, by other "
                f"means",
            )
