"""Loopback: an engine that pays its peers over a ledger file on this machine.

It is the example to read before writing an engine of your own. It uses nothing but what `settled`
exports, and shows what every engine has to get right:

- who is paid: the peers tell each other their wallets in messages, which may come twice;
- never paid twice: the settlement's id is the transfer's id, and the ledger takes an id once;
- the three outcomes of `settle`: an amount, `NotSettled`, or any other exception for "unknown";
- what came in: credits and the cursor that covers them are committed together.

Run two of them on one ledger::

    settled run --engine loopback -o wallet=alice --db alice.db --listen 127.0.0.1:3000
    settled run --engine loopback -o wallet=bob --db bob.db --listen 127.0.0.1:3001
"""

import random
import secrets
import sqlite3
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import trio

from engines.loopback_ledger import InsufficientFunds, Ledger
from settled import (
    ConfigError,
    Connect,
    MessageFailed,
    MessageRefused,
    NotSettled,
    Services,
    SettledError,
    option,
)

_BATCH: Final = 100


@dataclass(frozen=True)
class LoopbackOptions:
    """What an operator may set."""

    wallet: str | None = option(
        default=None, help="name of our wallet on the ledger; if not given, one is made up and kept"
    )
    ledger: Path = option(
        default=Path("loopback-ledger.db"), help="ledger file, shared with our peers"
    )
    funds: Decimal = option(
        default=Decimal(1_000_000), minimum=0, help="opening balance of a new wallet"
    )
    asset_scale: int = option(
        default=9, minimum=0, maximum=255, help="decimals of the ledger's smallest unit"
    )
    poll_s: float = option(default=0.2, minimum=0.01, help="seconds between looks at the ledger")
    delay_s: float = option(default=0.0, minimum=0, help="seconds that a payment takes")
    failure_rate: float = option(
        default=0.0,
        minimum=0,
        maximum=1,
        help="share of payments that fail, half of them once paid",
    )


def create_engine(options: LoopbackOptions) -> Connect:
    """Pay peers on this machine over a ledger file that all of them share."""

    async def connect(services: Services) -> LoopbackEngine:
        ledger = Ledger(options.ledger)
        await _same_ledger(services, ledger)
        wallet = options.wallet or await _kept_wallet(services)
        try:
            await ledger.open_wallet(wallet, options.funds)
        except sqlite3.OperationalError as error:
            raise SettledError(f"the ledger {options.ledger} is not usable: {error}") from error
        engine = LoopbackEngine(services, options, ledger, wallet)
        services.nursery.start_soon(engine.watch)
        return engine

    return connect


async def _same_ledger(services: Services, ledger: Ledger) -> None:
    """Refuse another ledger than before: on that one, what was paid would seem never paid."""
    kept: str | None = await services.state.get("ledger")
    if kept is None:
        await services.state.set("ledger", ledger.name)
    elif kept != ledger.name or not ledger.exists:
        raise ConfigError(f"the ledger of this database is {kept}: bring it back, or give it")


async def _kept_wallet(services: Services) -> str:
    wallet: str | None = await services.state.get("wallet")
    if wallet is None:
        wallet = f"wallet-{secrets.token_hex(8)}"
        await services.state.set("wallet", wallet)
    return wallet


class LoopbackEngine:
    """One wallet on the ledger, serving any number of accounts."""

    def __init__(
        self, services: Services, options: LoopbackOptions, ledger: Ledger, wallet: str
    ) -> None:
        self.asset_scale = options.asset_scale  # settle is never asked for a finer amount
        self._services = services
        self._options = options
        self._ledger = ledger
        self._wallet = wallet
        self._tag_lock = trio.Lock()

    # --- outgoing settlements ---

    async def setup_account(self, account_id: str) -> None:
        """Learn early whom to pay. If the peer is not there yet, settled tries again later."""
        await self._payee(account_id)

    async def settle(self, account_id: str, amount: Decimal, settlement_id: str) -> Decimal:
        """Pay the peer. ``NotSettled``: nothing was sent. Any other exception: who knows."""
        try:
            payee = await self._payee(account_id)
        except (MessageFailed, ValueError) as error:
            raise NotSettled(f"the peer has not told us his wallet: {error}") from error
        await trio.sleep(self._options.delay_s)
        rate, luck = self._options.failure_rate, random.random()
        if luck < rate / 2:
            raise NotSettled("told to fail before paying")
        try:
            paid = await self._ledger.pay(
                settlement_id, self._wallet, payee["address"], payee["tag"], amount
            )
        except InsufficientFunds as error:
            raise NotSettled(f"{error}: top it up") from error
        if rate / 2 <= luck < rate:
            raise ConnectionError("told to fail after paying")
        return paid

    async def find_settlement(self, account_id: str, settlement_id: str) -> Decimal:
        """Say what became of a settlement that ended in doubt.

        0 is certain here: only `settle` pays, and what it began in a thread has ended, one way or
        the other, before it returns, before it is cancelled, and with the process.
        """
        return await self._ledger.amount(settlement_id)

    async def _payee(self, account_id: str) -> dict[str, Any]:
        """Return the peer's wallet and the tag that he wants to see; ask him the first time."""
        payee: dict[str, Any] | None = await self._services.state.get("payee", account_id)
        if payee is None:
            payee = _check_payee(
                await self._services.send_message(account_id, {"type": "paymentDetails"})
            )
            await self._services.state.set("payee", payee, account_id)
        return payee

    # --- incoming settlements ---

    async def handle_message(self, account_id: str, message: Any) -> dict[str, Any]:
        """Tell the peer how to pay us: the same answer however often he asks."""
        if not isinstance(message, dict) or message.get("type") != "paymentDetails":
            raise MessageRefused("only messages of the type paymentDetails are known here")
        return {"address": self._wallet, "tag": await self._tag(account_id)}

    async def _tag(self, account_id: str) -> int:
        """Return the account's tag, which is on disk, both ways, before any peer knows it."""
        state = self._services.state
        async with self._tag_lock:
            tag: int | None = await state.get("tag", account_id)
            if tag is None:
                tag = secrets.randbelow(2**32)
                while await state.get(f"tag:{tag}") is not None:
                    tag = secrets.randbelow(2**32)
                async with self._services.transaction() as changes:
                    changes.set_state("tag", tag, account_id)
                    changes.set_state(f"tag:{tag}", account_id)
            return tag

    async def watch(self) -> None:
        """Credit what arrives in our wallet, for ever."""
        while True:
            try:
                while await self._credit_batch():
                    pass
            except sqlite3.OperationalError as error:
                self._services.log.warning("ledger_unreadable", reason=str(error))
            await trio.sleep(self._options.poll_s)

    async def _credit_batch(self) -> bool:
        """Credit the next transfers, if any, and move the cursor past them: both or neither."""
        state = self._services.state
        transfers = await self._ledger.transfers_to(
            self._wallet, after=await state.get("cursor") or 0, limit=_BATCH
        )
        if not transfers:
            return False
        async with self._services.transaction() as changes:
            for transfer in transfers:
                account_id = await state.get(f"tag:{transfer.tag}")
                if account_id is not None:
                    changes.credit_settlement(account_id, transfer.amount, transfer.id)
                else:
                    # Nobody's: kept for the operator, and never in the way of the next transfer.
                    note = {"id": transfer.id, "amount": f"{transfer.amount:f}"}
                    changes.set_state(f"unclaimed:{transfer.n}", note)
            changes.set_state("cursor", transfers[-1].n)
        return True


def _check_payee(reply: Any) -> dict[str, Any]:
    """Return the peer's answer, of which nothing is taken on trust."""
    match reply:
        case {"address": str(address), "tag": int(tag)} if 0 <= tag < 2**32:
            return {"address": address, "tag": tag}
    raise ValueError(f"not payment details: {str(reply)[:100]!r}")
