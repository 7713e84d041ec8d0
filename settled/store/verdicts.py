"""What whoever writes is told of a fault: that nothing was recorded, or that nobody knows."""

import sqlite3
from typing import Final

from settled.errors import StoreBroken, StoreBusy, StoreFull
from settled.store import faults
from settled.text import describe_error

# Faults that SQLite rolls back cleanly and that pass: the caller may try again.
_PASSING: Final = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM}
)


def is_passing(error: sqlite3.Error) -> bool:
    """Return whether nothing was written, and another try may succeed."""
    return faults.code(error) in _PASSING


def verdict(error: Exception) -> Exception:
    """Return what the caller is told of an error in his transaction, which is rolled back."""
    if not isinstance(error, sqlite3.DatabaseError) or isinstance(
        error, sqlite3.IntegrityError | sqlite3.ProgrammingError
    ):
        return error
    told: Exception
    if is_passing(error):
        kind = StoreFull if faults.code(error) == sqlite3.SQLITE_FULL else StoreBusy
        told = kind(f"the database cannot write now ({error}): nothing was recorded")
    else:
        told = StoreBroken(f"the database failed ({error}): check the disk and the file")
    told.__cause__ = error
    return told


def not_committed(error: sqlite3.Error) -> StoreBroken:
    """Return what everybody is told after a commit that may or may not be on the disk."""
    broken = StoreBroken(
        f"the database could not be committed ({error}): the outcome is unknown. "
        f"Check the disk, then start again; the start reads what was written"
    )
    broken.__cause__ = error
    return broken


def not_rolled_back(error: sqlite3.Error) -> StoreBroken:
    """Return what everybody is told when a transaction can be neither ended nor undone."""
    return StoreBroken(f"the database could not be rolled back ({error})")


def thread_failed(error: BaseException) -> StoreBroken:
    """Return what everybody is told when the thread that writes meets what it should not."""
    broken = StoreBroken(
        f"the thread that writes to the database failed ({describe_error(error)}): the "
        f"outcome is unknown. Start again; the start reads what was written"
    )
    broken.__cause__ = error
    return broken
