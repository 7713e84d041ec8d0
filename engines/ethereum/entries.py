"""The payments of a range of blocks, entered once, whatever the chain does.

Beside each credit a note is kept for as long as the trail reaches back. When blocks are looked
through again, the notes tell what was entered before, though the accounts or ``max_credit`` have
changed since, and which payments the chain does not show any more.
"""

from collections.abc import Callable
from typing import Final

from engines.ethereum.dismissals import dismissed, require_open
from engines.ethereum.notes import GONE, Note, Notes, key_of, note_of
from engines.ethereum.peers import Peers
from engines.ethereum.telling import Counted
from engines.ethereum.trail import Trail
from engines.ethereum.transfers import Crediting, Transfer
from settled import Services, SettlementConflict, StateChanged, Transaction

_FORGET_MAX: Final = 1000  # notes at once, beside twice as many as there are new ones


class Entries:
    """Enters confirmed payments: as credits, or for the operator to see."""

    def __init__(self, services: Services, peers: Peers, crediting: Crediting) -> None:
        self._services = services
        self._peers = peers
        self._crediting = crediting
        self._notes = Notes()
        self._strangers = Counted(services.log, "ethereum_payment_unclaimed")

    async def load(self) -> None:
        """Read the notes of before."""
        await self._notes.load(self._services.state)

    async def enter(self, transfers: list[Transfer], *, before: Trail, after: Trail) -> None:
        """Commit all that was paid in the blocks between two ends of the trail, and the new end.

        What is too much for one transaction is committed in parts, the end of the trail with the
        last: the parts before would be passed over when the range is looked through again.
        """
        found = {transfer.id: transfer for transfer in transfers}
        async with self._peers.lock:
            new = [transfer for transfer in found.values() if self._is_new(transfer)]
            *parts, last = [*self._crediting.batches(new)] or [[]]
            for part in parts:
                await self._write(part)
            notes, kept = await self._changes(found, before, after)

            def end(changes: Transaction) -> None:
                changes.set_state("trail", after.stored())
                for known, note in notes.items():
                    if note is None:
                        changes.delete_state(key_of(known))
                    else:
                        changes.set_state(key_of(known), note)
                for key in kept:
                    changes.delete_state(key)

            await self._write(last, end)
            for known, note in notes.items():
                self._notes.put(known, note)
        self._strangers.tell()

    async def _changes(
        self, found: dict[str, Transfer], before: Trail, after: Trail
    ) -> tuple[dict[str, Note | None], list[str]]:
        """Return the notes to change or delete, and the keys of kept transfers to delete."""
        notes: dict[str, Note | None] = {}
        kept = []
        for known in self._notes.up_to(after.reach, _FORGET_MAX + 2 * len(found)):
            notes[known] = None
        for known, transfer in found.items():
            note = self._notes.get(known)
            if note is not None and note["block"] != transfer.block:
                notes[known] = note | {"block": transfer.block}
        for known in [*self._notes.within(before.number + 1, after.number)]:
            note = self._notes.get(known)
            if note is None or known in found:
                continue
            key = await self._peers.kept(note["sender"], known)
            notes[known] = note | {"block": GONE} if key is None else None
            if key is None:
                await self._tell_gone(known, note)
            else:
                kept.append(key)
        return notes, kept

    def _is_new(self, transfer: Transfer) -> bool:
        """Say whether a transfer was not seen before, wherever in the chain."""
        note = self._notes.get(transfer.id)
        if note is not None and note["amount"] != f"{transfer.amount:f}":
            self._services.log.error(
                "ethereum_payment_changed",
                transfer=transfer.id,
                sender=transfer.sender,
                amount=f"{transfer.amount:f}",
                before=note["amount"],
                reason="the chain has changed what this transaction paid after it was credited; "
                "the first amount stands: settle the difference with the peer",
            )
        return note is None

    async def _write(
        self, transfers: list[Transfer], end: Callable[[Transaction], None] | None = None
    ) -> None:
        """Commit transfers and what else belongs to them: at once, or else one by one."""
        senders = {transfer.sender for transfer in transfers}
        owner_of = {sender: await self._peers.owner(sender) for sender in senders}
        owners = [owner_of[transfer.sender] for transfer in transfers]
        try:
            async with self._services.transaction() as changes:
                for transfer, owner in zip(transfers, owners, strict=True):
                    require_open(changes, transfer.id)
                    if owner is None:
                        self._peers.keep(changes, transfer)
                    else:
                        self._crediting.credit(changes, owner, transfer)
                    changes.set_state(key_of(transfer.id), note_of(transfer))
                if end is not None:
                    end(changes)
        except (SettlementConflict, StateChanged) as error:
            if len(transfers) == 1:
                await self._pass_over(transfers[0], owners[0], error)
            else:
                for transfer in transfers:
                    await self._write([transfer])
            if end is not None:
                await self._write([], end)
        else:
            for transfer, owner in zip(transfers, owners, strict=True):
                self._tell(transfer, owner)
        for transfer in transfers:
            self._notes.put(transfer.id, note_of(transfer))

    async def _pass_over(self, transfer: Transfer, owner: str | None, error: Exception) -> None:
        """Note a transfer as seen that was credited before as another, or that was dismissed."""
        if isinstance(error, SettlementConflict):
            self._crediting.tell_conflict(self._services, str(owner), transfer, error)
        await self._services.state.set(key_of(transfer.id), note_of(transfer))

    def _tell(self, transfer: Transfer, owner: str | None) -> None:
        fields = {"amount": f"{transfer.amount:f}", "transfer": transfer.id}
        if owner is None:
            self._strangers.add(
                sender=transfer.sender,
                **fields,
                reason="payments from addresses that no account's peer has proved, this one the "
                "last: `settled ethereum unclaimed`",
            )
        else:
            self._services.log.info("ethereum_payment", account=owner, **fields)

    async def _tell_gone(self, transfer_id: str, note: Note) -> None:
        record = await dismissed(self._services.state, transfer_id)
        was = "it was credited" if record is None else f"it was dismissed ({record['reason']})"
        self._services.log.error(
            "ethereum_payment_gone",
            transfer=transfer_id,
            account=await self._peers.owner(note["sender"]),
            sender=note["sender"],
            amount=note["amount"],
            reason=f"{was}, and the chain does not show it any more: unless it comes "
            "again, which is not credited again, settle it with the peer",
        )
