"""Whose address is whose: kept on disk, both ways, and never changed but by a proof.

In the engine's state: ``owner:<address>`` is the account that is credited for what the address
pays, and ``unclaimed:<address>:<id>`` what an address paid that nobody owns. In the account's:
``peer``, the address to pay, and the older ones that are the account's still.
"""

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import trio

from engines.ethereum.dismissals import require_open
from engines.ethereum.telling import Seldom
from engines.ethereum.transfers import Crediting, Transfer
from settled import (
    AccountNotFound,
    MessageRefused,
    Services,
    SettlementConflict,
    StateChanged,
    Transaction,
)

_FORMER_MAX: Final = 100


class AddressTaken(MessageRefused):
    """A peer has proved an address that another account owns; nothing was changed."""


class Peers:
    """The addresses of all accounts.

    Attributes:
        lock: held while it is decided who is credited for a transfer, until that is committed, and
            while an address changes hands.
    """

    def __init__(self, services: Services, crediting: Crediting) -> None:
        self.lock = trio.Lock()
        self._services = services
        self._crediting = crediting
        self._seldom = Seldom(services.log)
        self._learned_now, self._learned = trio.open_memory_channel[str](math.inf)

    async def address(self, account_id: str) -> str | None:
        """Return the address that the account's peer is paid at, if it has told one."""
        peer = await self._services.state.get("peer", account_id)
        return None if peer is None else str(peer["address"])

    async def owner(self, address: str) -> str | None:
        """Return the account that is credited for what ``address`` pays, be it closed."""
        owner = await self._services.state.get(f"owner:{address}")
        return None if owner is None else str(owner["account"])

    async def check(self, account_id: str, address: str) -> None:
        """Raise ``AddressTaken``, and tell the operator, if another account owns ``address``."""
        owner = await self._services.state.get(f"owner:{address}")
        if owner is None or owner["account"] == account_id or owner["closed"]:
            return
        first = owner["account"]
        self._seldom.error(
            "ethereum_address_taken",
            f"{account_id} {address}",
            address=address,
            account=account_id,
            owner=first,
            reason=f"account {account_id} gives the address of account {first}: it was not given "
            f"it. If both are one peer, close one of the accounts; if not, one of them wants what "
            f"is the other's",
        )
        raise AddressTaken(f"account {account_id}: address {address} is another account's")

    async def learn(self, account_id: str, address: str, *, answered: str | None = None) -> None:
        """Make an address, which was proved, that of the account's peer.

        What it has paid before is credited, soon. Payments to its older addresses stop; payments
        from those stay the account's.

        Args:
            account_id: the account.
            address: in lower case.
            answered: a key of the account's state, used up by this.

        Raises:
            AddressTaken: when another open account owns it.
        """
        async with self.lock:
            await self.check(account_id, address)
            peer = await self._services.state.get("peer", account_id)
            former = [] if peer is None else [peer["address"], *peer["former"]]
            former = [old for old in former if old != address]
            if len(former) > _FORMER_MAX:
                raise AddressTaken(f"account {account_id}: its peer has changed address too often")
            async with self._services.transaction() as changes:
                changes.set_state("peer", {"address": address, "former": former}, account_id)
                changes.set_state(f"owner:{address}", {"account": account_id, "closed": False})
                if answered is not None:
                    changes.delete_state(answered, account_id)
            # From here on nothing may be cut off by whoever waits for us.
            self._learned_now.send_nowait(address)
            if peer is None or peer["address"] != address:
                self._services.nursery.start_soon(self._go_on, account_id)
        if peer is not None and peer["address"] != address:
            self._services.log.warning(
                "ethereum_address_changed",
                account=account_id,
                address=address,
                before=peer["address"],
            )

    async def _go_on(self, account_id: str) -> None:
        """Settle what waited for an address."""
        try:
            await self._services.try_settlement(account_id)
        except AccountNotFound:  # closed, while its peer's message was on its way
            await self.release(account_id)

    async def release(self, account_id: str) -> None:
        """Let go of a closed account's addresses: who proves one gets it.

        Until then, what they pay goes to the closed account's books.
        """
        async with self.lock:
            peer = await self._services.state.get("peer", account_id)
            async with self._services.transaction() as changes:
                changes.delete_state("peer", account_id)
                changes.delete_state("challenge", account_id)
                for address in [] if peer is None else [peer["address"], *peer["former"]]:
                    if await self.owner(address) == account_id:
                        owner = {"account": account_id, "closed": True}
                        changes.set_state(f"owner:{address}", owner)

    # --- what was paid by addresses that nobody owned ---

    def keep(self, changes: Transaction, transfer: Transfer) -> None:
        """Note a transfer whose sender nobody owns, until somebody proves to be him."""
        note = {
            "amount": f"{transfer.amount:f}",
            "block": transfer.block,
            "first_seen": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        changes.set_state(_unclaimed_key(transfer.sender, transfer.id), note)

    async def kept(self, sender: str, transfer_id: str) -> str | None:
        """Return the key of a transfer that is kept, ``None`` if it is not."""
        key = _unclaimed_key(sender, transfer_id)
        return None if await self._services.state.get(key) is None else key

    async def watch(self) -> None:
        """Credit the transfers that were kept, at start and whenever an address is learned."""
        for key, _ in await self._services.state.items("owner:"):
            await self._claim(key.partition(":")[2])
        async for address in self._learned:
            await self._claim(address)

    async def _claim(self, address: str) -> None:
        kept = await self._services.state.items(f"unclaimed:{address}:")
        found = sorted((_unclaimed(key, note) for key, note in kept), key=lambda paid: paid.block)
        for batch in self._crediting.batches(found):
            async with self.lock:
                owner = await self.owner(address)
                still = [paid for paid in batch if await self.kept(address, paid.id) is not None]
                if owner is not None:
                    await self._credit([(owner, transfer) for transfer in still])

    async def _credit(self, claims: list[tuple[str, Transfer]]) -> None:
        """Credit and forget: all of them at once, or else one by one."""
        if not claims:
            return
        try:
            async with self._services.transaction() as changes:
                for account_id, transfer in claims:
                    require_open(changes, transfer.id)
                    self._crediting.credit(changes, account_id, transfer)
                    changes.delete_state(_unclaimed_key(transfer.sender, transfer.id))
        except (SettlementConflict, StateChanged) as error:
            if len(claims) > 1:
                for claim in claims:
                    await self._credit([claim])
                return
            account_id, transfer = claims[0]
            await self._services.state.delete(_unclaimed_key(transfer.sender, transfer.id))
            if isinstance(error, SettlementConflict):
                self._crediting.tell_conflict(self._services, account_id, transfer, error)
        else:
            for account_id, transfer in claims:
                self._services.log.info(
                    "ethereum_payment_claimed",
                    account=account_id,
                    amount=f"{transfer.amount:f}",
                    transfer=transfer.id,
                )


def _unclaimed_key(address: str, transfer_id: str) -> str:
    return f"unclaimed:{address}:{transfer_id}"


def _unclaimed(key: str, note: dict[str, Any]) -> Transfer:
    _, address, transfer_id = key.split(":", 2)
    return Transfer(transfer_id, address, Decimal(note["amount"]), note["block"])
