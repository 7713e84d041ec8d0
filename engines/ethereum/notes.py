"""Which payments to us were entered, for as long as the trail reaches back.

In the engine's state each is ``seen:<transfer id>``; in memory they are found by their blocks, too:
who sends us dust by the thousand must not have all of it looked through at every block.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from engines.ethereum.transfers import Transfer
from settled import State

Note = dict[str, Any]
"""The block that a payment was in, who sent it, and how much."""

GONE: Final = -1  # the block of a payment that the chain does not show any more


class Notes:
    """The notes in memory, as they were committed."""

    def __init__(self) -> None:
        self._all: dict[str, Note] = {}
        self._of_block: dict[int, dict[str, None]] = {}

    async def load(self, state: State) -> None:
        """Read the notes of before."""
        for key, note in await state.items("seen:"):
            self.put(key.partition(":")[2], note)

    def get(self, transfer_id: str) -> Note | None:
        """Return the note of a payment, if there is one."""
        return self._all.get(transfer_id)

    def put(self, transfer_id: str, note: Note | None) -> None:
        """Set the note of a payment, or delete it."""
        before = self._all.pop(transfer_id, None)
        if before is not None:
            of_block = self._of_block[before["block"]]
            del of_block[transfer_id]
            if not of_block:
                del self._of_block[before["block"]]
        if note is not None:
            self._all[transfer_id] = note
            self._of_block.setdefault(note["block"], {})[transfer_id] = None

    def within(self, first: int, last: int) -> Iterator[str]:
        """Yield the payments whose blocks are between these, both included."""
        for block, of_block in self._of_block.items():
            if first <= block <= last:
                yield from of_block

    def up_to(self, last: int, most: int) -> Iterator[str]:
        """Yield ``most`` of the payments at most whose blocks are not after this one."""
        return islice(self.within(GONE + 1, last), most)


def key_of(transfer_id: str) -> str:
    """Return where the note of a payment is in the engine's state."""
    return f"seen:{transfer_id}"


def note_of(transfer: Transfer) -> Note:
    """Return the note of a payment."""
    return {
        "block": transfer.block,
        "sender": transfer.sender,
        "amount": f"{transfer.amount:f}",
    }
