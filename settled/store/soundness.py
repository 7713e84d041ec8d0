"""Is a database sound? What is looked at before a start, and beside the work after it.

Nothing here changes the file or its log, so that a damaged one is left to be repaired as it is.
"""

import os
import sqlite3
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Final

from sqlite_utils import Database

from settled import limits
from settled.errors import ConfigError, SettledError, StoreBusy
from settled.store import faults, file, looking
from settled.store.lock import Hold, Record, held, holder_pid, lock_path, remembered
from settled.store.sql import reads, restored
from settled.store.sql.schema import MIGRATIONS
from settled.store.target import is_backup

_OF_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
_FINDINGS_MAX: Final = 3
_PREFIX: Final = "*** in database main ***"
_WITHOUT_LOG: Final = b"\x01\x01"  # bytes 18 and 19 of the header; with a write-ahead log: 2, 2


def prepare(path: Path, create: bool, hold: Hold | None) -> None:
    """Check the file at ``path`` and bring its schema up to date; all that comes before its use.

    Args:
        path: the database.
        create: whether to make the file if there is none.
        hold: the lock, of a daemon; a command works beside one, and looks at less.

    Raises:
        SettledError: when it cannot be used; the message says what to do.
    """
    file.check(path, create=create)
    if hold is not None:
        _refuse_log_of_former(path)
        inspect(path, hold.record)
    elif path.exists():
        refuse_loss(path)
    elif create:
        file.create_empty(path)
    if file.pending(path):
        with ExitStack() as stack:
            if hold is None:
                stack.enter_context(held(path))
            file.migrate(path)
    if hold is not None:
        _use_backup(path, hold)


class Damaged(ConfigError):
    """A database file that must not be worked on as it is."""


def refuse_loss(path: Path) -> None:
    """Refuse what no command may work on either, as what it writes could hide a loss.

    Its entries would stand in the place of those that are missing, and the next start would pay
    again what they had settled; and a log that is not the database's own would become part of it.

    Raises:
        ConfigError: when the database has lost something, or cannot be read.
    """
    # Before the file, as the daemon goes on; of what it holds, it has looked at the log.
    record, is_held = remembered(path), holder_pid(path) is not None
    status = path.stat()
    if not status.st_size:
        return
    _refuse_log_of_former(path)
    _check_names(path, status)

    def find(conn: sqlite3.Connection) -> Damaged | None:
        try:
            if MIGRATIONS.applied(Database(conn, execute_plugins=False)):
                if not is_held:
                    _check_log(path, conn)
                _check_progress(path, conn, record)
            elif record.seq is not None:
                raise _fell_behind(path, record.seq, "has no tables")
        except Damaged as error:
            return error  # it counts only if nothing has changed meanwhile
        return None

    try:
        found = looking.look(path, find)
    except faults.UNREADABLE as error:
        raise faults.unusable(path, error) from error
    if found is not None:
        raise found


def _refuse_log_of_former(path: Path) -> None:
    """Refuse a restored backup beside the log of the database whose place it has taken.

    SQLite would take the log for the backup's own and mix the two. A backup is a file without a
    log, until it is opened for the first time.
    """
    log = file.log_of(path)
    if not log.exists() or not log.stat().st_size or not is_backup(path):
        return
    # Closing it drops SQLite's locks of this process on the file, so no other file is looked at.
    with path.open("rb") as database:
        header = database.read(20)
    if header[18:] == _WITHOUT_LOG:
        raise ConfigError(
            f"{log} belongs to the database that was at {path} before: move it away, with "
            f"{log.name.removesuffix('-wal')}-shm, before you start from the backup"
        )


def _check_names(path: Path, status: os.stat_result) -> None:
    if status.st_nlink > 1:
        raise Damaged(
            f"{path} has {status.st_nlink} names (hard links), but its log goes by one of them "
            f"only, and by another changes are lost: remove the other names, or use a copy"
        )


def inspect(path: Path, record: Record) -> None:
    """Refuse to start on a file that is damaged, or has lost what was acknowledged.

    A file of up to ``limits.START_CHECK_BYTES_MAX`` is read whole; of a larger one only what is
    cheap is looked at, unless something is suspect. Call it while holding the database, with no
    connection open.

    Raises:
        Damaged: when it must not be used; it is left as it is.
    """
    status = path.stat()
    if not status.st_size:
        return  # just made
    _check_names(path, status)
    try:
        with closing(looking.connect(path)) as conn:
            schema = _applied_schema(conn)
            if schema is None:
                if record.seq is not None:
                    raise _fell_behind(path, record.seq, "has no tables")
                return
            _check_schema(path, conn, schema)
            if record.suspect or is_small(path) or _is_short(path, conn):
                check_whole(path, conn)
            _check_log(path, conn)
            _check_progress(path, conn, record)
    except faults.UNREADABLE as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in _OF_DAMAGE:
            raise damaged(path, str(error)) from error
        raise faults.unusable(path, error) from error


def is_small(path: Path) -> bool:
    """Return whether the file and its log can be read whole while somebody waits."""
    log = file.log_of(path)
    log_bytes = log.stat().st_size if log.exists() else 0
    return path.stat().st_size + log_bytes <= limits.START_CHECK_BYTES_MAX


def check_whole(path: Path, conn: sqlite3.Connection) -> None:
    """Read all of the database as ``conn`` sees it.

    Raises:
        Damaged: when anything in it is not as it must be.
    """
    rows = conn.execute(f"PRAGMA integrity_check({_FINDINGS_MAX})")
    findings = [finding.removeprefix(_PREFIX) for (finding,) in rows if finding != "ok"]
    if findings:
        raise damaged(path, "; ".join(findings))


def damaged(path: Path, what: str) -> Damaged:
    """Return what an operator is told of a damaged file."""
    return Damaged(faults.damage(path, what))


def _applied_schema(conn: sqlite3.Connection) -> set[tuple[Any, ...]] | None:
    """Return the objects that the migrations applied to the database make; of none, ``None``."""
    db = Database(conn, execute_plugins=False)
    if not MIGRATIONS.applied(db):
        return None
    with closing(sqlite3.connect(":memory:")) as fresh:
        missing = [migration.name for migration in MIGRATIONS.pending(db)]
        MIGRATIONS.apply(Database(fresh, execute_plugins=False), stop_before=missing)
        return _objects(fresh)


def _objects(conn: sqlite3.Connection) -> set[tuple[Any, ...]]:
    rows = conn.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE tbl_name NOT GLOB '_sqlite_*'"
    )
    return set(rows)


def _check_schema(path: Path, conn: sqlite3.Connection, expected: set[tuple[Any, ...]]) -> None:
    """Refuse a file that lacks a table, an index or a trigger: promises rest on each."""
    lacking = sorted(name for _, name, _, _ in expected - _objects(conn))
    if lacking:
        raise damaged(path, f"its schema was changed: {', '.join(lacking[:_FINDINGS_MAX])}")


def _is_short(path: Path, conn: sqlite3.Connection) -> bool:
    """Return whether pages are missing at the end; the log may hold them, so this is no proof."""
    return path.stat().st_size < reads.size_bytes(conn)


def _check_log(path: Path, conn: sqlite3.Connection) -> None:
    """Refuse the log of another database, which SQLite would take for this one's.

    The journal only grows: an entry that stands in the file must be the same with the log.
    """
    log = file.log_of(path)
    if not log.exists() or not log.stat().st_size:
        return
    entry = None
    # Without its log the file may be half-way between two states, and unreadable.
    with suppress(*faults.UNREADABLE), closing(looking.connect(path, without_log=True)) as alone:
        entry = alone.execute("SELECT * FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    if entry is None:
        return
    same = conn.execute("SELECT * FROM journal WHERE seq = ?", entry[:1]).fetchone()
    if same != entry:
        raise Damaged(
            f"{log} belongs to another database than {path}: put the right one there, or restore "
            f'a backup without one (docs/operators.md, "Damage")'
        )


def _check_progress(path: Path, conn: sqlite3.Connection, record: Record) -> None:
    """Refuse what is older than what was acknowledged, unless it is a backup, as it was restored.

    That one was put there by the operator, and pays nothing before he has released it. Once a
    daemon has run on it, it must lose nothing either.
    """
    reached = reads.last_seq(conn)
    if record.seq is not None and reached < record.seq and not restored.is_unused(conn):
        raise _fell_behind(path, record.seq, f"has {reached}")


def _use_backup(path: Path, hold: Hold) -> None:
    """If it is a backup that no daemon has run on, begin to remember how far it has come.

    Both sides are on the disk before anything is done with it, and in the file itself: with a log
    that is lost later it must not count as an unused backup again, whose loss is taken for granted.

    Raises:
        SettledError: when that cannot be written; the next start tries again.
    """
    try:
        with closing(looking.connect(path)) as conn:
            if not restored.is_unused(conn):
                return
            seq = reads.last_seq(conn)
        # First, as a number beyond what the file has would be taken for a loss.
        hold.start_over(path, seq)
        with closing(file.connect(path)) as conn:
            restored.use(conn)
            (busy, *_) = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                restored.use(conn, undo=True)
    except sqlite3.Error as error:
        raise faults.unusable(path, error) from error
    if busy:
        raise StoreBusy(f"{path} is a restored backup in use by a command: start when that is done")


def _fell_behind(path: Path, seq: int, found: str) -> SettledError:
    log = file.log_of(path)
    return Damaged(
        f"{path} has lost acknowledged changes: its journal had reached entry {seq} and {found}. "
        f"Put the newer file back, with its {log.name}, or restore a backup. To go on without, see "
        f'docs/operators.md, "Restoring a backup", and then remove {lock_path(path)}'
    )
