"""What is told of a database that cannot be opened or read, the same wherever it is met.

A full disk, a right that is missing and damage look much alike to SQLite; each has another remedy.
"""

import os
import pwd
import sqlite3
from pathlib import Path
from typing import Final

from settled.errors import ConfigError, SettledError, StoreBusy, StoreFull
from settled.text import one_line

# What reading a damaged file may raise: the names in SQLite's own messages come from it.
UNREADABLE: Final = (sqlite3.Error, UnicodeDecodeError)
# The second is what SQLite says when there is no room for its index of the log.
_FULL: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)
_NOT_ALLOWED: Final = (
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
)
_BESIDE: Final = ("", "-wal", "-shm")


def unusable(path: Path, error: Exception) -> SettledError:
    """Return what an operator is told of a file that SQLite cannot open or read."""
    if is_busy(error):
        return StoreBusy(f"{path} is locked by another program: try again")
    if is_full(error):
        return StoreFull(f"{path}: its disk is full: free some room and start again")
    if is_damage(error):
        what = str(error)
        if code(error) == sqlite3.SQLITE_NOTADB:
            what += "; is it the right --db?"
        return ConfigError(damage(path, what))
    if code(error) in _NOT_ALLOWED and (why := not_allowed(path)) is not None:
        return ConfigError(why)
    return ConfigError(
        f"{path} cannot be opened as a database ({one_line(error)}): check its disk; if that is "
        f"well, restore a backup"
    )


def damage(path: Path, what: str) -> str:
    """Return what an operator is told of a damaged file."""
    return (
        f"{path} is damaged ({one_line(what)}): keep a copy of it and of the files beside it, "
        f'check the disk, and restore a backup (docs/operators.md, "Damage")'
    )


def not_allowed(path: Path) -> str | None:
    """Say which of the database's files this process may not use; ``None``: it may use all.

    To read it takes the right to write as well: SQLite keeps an index of the log beside it.
    """
    real = path.resolve()
    wanted = [(real.parent, os.W_OK | os.X_OK, "make files in")]
    for suffix in _BESIDE:
        wanted.append((real.with_name(real.name + suffix), os.R_OK | os.W_OK, "read and write"))
    for name, mode, verb in wanted:
        if not _may(name, mode) and (name == real.parent or name.exists()):
            return (
                f"{path} cannot be used: user {_user()} may not {verb} {name}; run this as the "
                f"user that the daemon runs as, or give him that right"
            )
    return None


def is_busy(error: Exception) -> bool:
    """Return whether another program holds the lock."""
    return code(error) == sqlite3.SQLITE_BUSY


def is_full(error: Exception) -> bool:
    """Return whether there was no room."""
    return getattr(error, "sqlite_errorcode", 0) in _FULL


def is_damage(error: Exception) -> bool:
    """Return whether the file is not what was written to it."""
    return isinstance(error, UnicodeDecodeError) or code(error) in _DAMAGE


def code(error: Exception) -> int:
    """Return SQLite's primary result code, without the extension in its upper bits; 0: none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=True)


def _user() -> str:
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
