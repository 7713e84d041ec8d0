"""How far the chain was looked through, and by which blocks it can be told whether it changed."""

from dataclasses import dataclass
from typing import Any, Final

Mark = tuple[int, str | None]
"""The number of a block, and its hash (``None``: of the block before the very first look)."""

_MARKS_MAX: Final = 20
_SPACING_MIN: Final = 10


@dataclass(frozen=True, slots=True)
class Trail:
    """The last block that was done, and some before it, oldest first."""

    marks: tuple[Mark, ...]

    @classmethod
    def begin(cls, number: int) -> "Trail":
        """Return the trail of a first look, which begins after the block of this number."""
        return cls(((number, None),))

    @classmethod
    def read(cls, stored: Any) -> "Trail":
        """Return what ``stored`` was made from."""
        return cls(tuple((number, known) for number, known in stored))

    @property
    def number(self) -> int:
        """The last block that was done."""
        return self.marks[-1][0]

    @property
    def hash(self) -> str | None:
        """Its hash."""
        return self.marks[-1][1]

    @property
    def reach(self) -> int:
        """The block after which a look may begin again."""
        return self.marks[0][0]

    def stored(self) -> list[list[Any]]:
        """Return it as JSON holds it."""
        return [list(mark) for mark in self.marks]

    def advance(self, number: int, block_hash: str, confirmations: int) -> "Trail":
        """Return the trail once the blocks up to this one are done."""
        marks = self.marks
        if len(marks) > 1 and number - marks[-2][0] < max(confirmations, _SPACING_MIN):
            marks = marks[:-1]
        return Trail((*marks, (number, block_hash))[-_MARKS_MAX:])

    def back(self) -> "Trail":
        """Return the trail as it was a while ago; of its first mark only the number stays."""
        return Trail(self.marks[:-1]) if len(self.marks) > 1 else Trail.begin(self.number)
