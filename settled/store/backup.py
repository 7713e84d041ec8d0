"""Copying a database that may be in use: made beside its final name, checked, and only then named.

The pages are copied within one read transaction. So the copy is of one moment, the daemon's commits
go on meanwhile, and none of them makes the copy begin anew. Until it is whole, checked and synced,
it has another name; whatever ends the copying, nothing that looks like a backup is left.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from settled.errors import ConfigError, SettledError
from settled.store import clock, copies, file, looking, soundness
from settled.store.sql import reads, restored
from settled.store.sql.audit import audit
from settled.store.sql.ledger import Tx
from settled.store.target import check_room, check_target, unfinished_file

_STEP_PAGES: Final = 1024

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was made.

    Attributes:
        path: the file.
        size_bytes: how large it is.
        taken_ms: all that was committed before this moment is in it.
    """

    path: Path
    size_bytes: int
    taken_ms: int


def back_up(
    path: Path,
    target: Path,
    *,
    force: bool = False,
    disk_reserve_bytes: int = 0,
    now_ms: Callable[[], int] = clock.wall_ms,
    uptime: Callable[[], clock.Uptime] = clock.uptime,
    on_copy: Progress = lambda _done, _total: None,
    on_check: Progress = lambda _done, _total: None,
) -> Backup:
    """Copy the database at ``path`` to ``target``, with a daemon on it or without.

    The copy is an ordinary database that only its owner can read, and bears the mark of a backup
    (``settled.store.sql.restored``). Its integrity and its books are checked.

    Args:
        path: the database.
        target: the backup.
        force: replace ``target`` if it is a backup that nobody has started a daemon on.
        disk_reserve_bytes: how much is to stay free on the disk of the database.
        now_ms: the wall clock.
        uptime: how long the machine is up.
        on_copy: called with the pages copied and all pages, now and then.
        on_check: called with the journal entries checked and all entries, now and then.

    Raises:
        ConfigError: when there is no database at ``path`` that this program can read.
        StoreHeld: when ``target`` is in use, or being written by another backup.
        StoreFull: when there is no room for it.
        SettledError: when the copy cannot be made or is not sound; nothing is left behind.
    """
    file.check(path, create=False)
    soundness.refuse_loss(path)
    if file.pending(path):
        raise ConfigError(
            f"{path} was written by an older settled: upgrade it first, as `settled accounts list` "
            f"does; that leaves a backup beside it"
        )
    check_target(path, target, force=force)
    with unfinished_file(target) as (unfinished, descriptor):
        try:
            with closing(file.connect(path, read_only=True)) as source:
                check_room(path, target, reads.size_bytes(source), disk_reserve_bytes)
                # Read before the copy's moment: what the copy does not know came later.
                taken_ms, up = now_ms(), uptime()
                _copy(source, unfinished, on_copy)
            _mark(unfinished, taken_ms, up)
            _check(path, unfinished, on_check)
            os.fsync(descriptor)
            check_target(path, target, force=force)
            unfinished.replace(target)
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise SettledError(
                f"no backup was made at {target}: {reason}; nothing was left behind"
            ) from error
        _sync_directory(target)
    return Backup(target, target.stat().st_size, taken_ms)


def _copy(source: sqlite3.Connection, target: Path, progress: Progress) -> None:
    with _open_unsafely(target) as copy:
        source.execute("BEGIN")
        # The first read fixes the moment. Outside of such a transaction each step would see the
        # newest state, and every commit of another process would make it all begin anew.
        source.execute("SELECT 1 FROM sqlite_schema").fetchone()
        source.backup(
            copy,
            pages=_STEP_PAGES,
            progress=lambda _status, remaining, total: progress(total - remaining, total),
        )
        source.execute("ROLLBACK")


def _mark(copy: Path, taken_ms: int, uptime: clock.Uptime) -> None:
    with _open_unsafely(copy) as conn:
        conn.execute("BEGIN")
        restored.mark(Tx(conn, taken_ms, uptime))
        conn.execute("COMMIT")


@contextmanager
def _open_unsafely(path: Path) -> Iterator[sqlite3.Connection]:
    """Open it without journal and syncs: what breaks off is thrown away, and one sync ends it.

    It also makes the file one that needs no log beside it, until a daemon opens it.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA synchronous = OFF")
        (mode,) = conn.execute("PRAGMA journal_mode = OFF").fetchone()
        if mode != "off":  # which is how it says that it could not write
            raise sqlite3.OperationalError(f"the copy keeps its journal mode, {mode}")
        yield conn


def _check(path: Path, copy: Path, progress: Progress) -> None:
    # The file alone is looked at: nothing beside it will be there when it has its name.
    with closing(looking.connect(copy, without_log=True)) as conn:
        if not restored.is_marked(conn):
            raise sqlite3.DatabaseError("the copy lacks its mark")
        found = audit(conn, progress)
    if found:
        first = found[0]
        raise SettledError(
            f"no backup was made: the copy of {path} is not sound ({len(found)} differences, the "
            f"first: {first.subject}, {first.what}); run `settled audit`"
        )


def _sync_directory(path: Path) -> None:
    directory = path.absolute().parent
    try:
        copies.sync_directory(directory)
    except OSError as error:
        raise SettledError(
            f"{path} was made, but {directory} could not be synced ({error.strerror}): it may be "
            f"gone after a power loss; check the disk and make it again"
        ) from error
