"""Looking at a database without changing anything on the disk, whoever works on it meanwhile.

An ordinary connection makes files beside the database, and moves the log into it when it is the
last to close. Without a log, the file alone is the database and can be read as if nobody could ever
change it; whether somebody did is seen afterwards, and then it is read again.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar

from settled import limits

_T = TypeVar("_T")

_TRIES: Final = 3


def connect(path: Path, *, without_log: bool = False) -> sqlite3.Connection:
    """Return a connection that leaves the file and its log exactly as they are.

    Of a damaged file both must stay, for whoever repairs it.

    Args:
        path: the database.
        without_log: see the file as it is without the log beside it.
    """
    mode = "immutable=1" if without_log else "mode=ro"
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}",
        uri=True,
        timeout=limits.BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )


def look(path: Path, read: Callable[[sqlite3.Connection], _T]) -> _T:
    """Return what ``read`` returns, given a connection to the database at ``path``.

    ``read`` may be called more than once.

    Raises:
        sqlite3.Error: when the database cannot be read.
    """
    for _ in range(_TRIES - 1):
        before = _state(path)
        if before[1]:
            break
        result, error = None, None
        try:
            with closing(connect(path, without_log=True)) as conn:
                result = read(conn)
        except sqlite3.Error as raised:
            error = raised
        if _state(path) == before:
            if error is not None:
                raise error
            return result  # type: ignore[return-value]
    # A log has content: to read it, SQLite needs the index of it beside it.
    with closing(connect(path)) as conn:
        return read(conn)


def _state(path: Path) -> tuple[tuple[int, ...], int]:
    """Return what changes whenever the file does, and how long its log is."""
    status = path.stat()
    real = path.resolve()  # there SQLite looks for the log
    log = real.with_name(real.name + "-wal")
    log_bytes = log.stat().st_size if log.exists() else 0
    return (status.st_ino, status.st_size, status.st_mtime_ns), log_bytes
