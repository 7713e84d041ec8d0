"""Opening a database file: what it must be, its schema, and its connections."""

import os
import sqlite3
import stat
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from sqlite_utils import Database

from settled import limits
from settled.errors import ConfigError, SettledError, StoreFull
from settled.store import copies, faults, lock, looking
from settled.store.records import Space
from settled.store.sql.schema import APPLICATION_ID, MIGRATIONS
from settled.text import one_line

with closing(sqlite3.connect(":memory:")) as _empty:
    # Of an empty database, all that the program knows is pending.
    _KNOWN: Final = frozenset(migration.name for migration in MIGRATIONS.pending(Database(_empty)))


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Return a connection to the database at ``path``, with the pragmas that promises rest on.

    It never makes a file: one that has gone must not come back empty.

    Raises:
        ConfigError: when the file cannot be opened.
        StoreFull: when its disk is too full for that.
    """
    try:
        conn = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=limits.BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            conn.execute("PRAGMA journal_mode = WAL")
            conn.execute("PRAGMA synchronous = FULL")
            conn.execute("PRAGMA foreign_keys = ON")
            if read_only:
                conn.execute("PRAGMA query_only = ON")
            else:
                # What a statement of many rows may have to undo costs much more in a file.
                conn.execute("PRAGMA temp_store = MEMORY")
                conn.execute(f"PRAGMA cache_size = -{limits.PAGES_KEPT_BYTES // 1024}")
                conn.execute(f"PRAGMA wal_autocheckpoint = {limits.LOG_PAGES_MAX}")
        except BaseException:
            conn.close()
            raise
    except sqlite3.Error as error:
        raise faults.unusable(path, error) from error
    return conn


def log_of(path: Path) -> Path:
    """Return where SQLite keeps the write-ahead log of the database at ``path``."""
    real = path.resolve()
    return real.with_name(real.name + "-wal")


def empty_log(conn: sqlite3.Connection) -> None:
    """Move the log into the database, if that has room, so that the next write begins it anew.

    A log grows until it is as long as it may be: on a full disk it would never get there.
    """
    with suppress(sqlite3.Error):
        conn.execute("PRAGMA wal_checkpoint")


def _index_of(log: Path) -> Path:
    return log.with_name(f"{log.name.removesuffix('-wal')}-shm")


def free_bytes(path: Path) -> int | None:
    """Return how much room the disk of the database has; ``None`` if that cannot be told."""
    try:
        disk = os.statvfs(path.resolve().parent)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


def space(path: Path, reserve_bytes: int) -> Space | None:
    """Return how much room there is, with a reserve; ``None`` without one: nobody asks.

    Call it in a thread that may be left behind: on a network that hangs it can take for ever.
    """
    return Space(free_bytes(path), reserve_bytes) if reserve_bytes else None


def check(path: Path, *, create: bool) -> None:
    """Refuse a path that must not be opened, before anything touches it.

    Raises:
        ConfigError: when the file is missing and may not be created, or is no settled database.
    """
    status = _status(path)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise ConfigError(
            f"{path} is a directory: give the database file in it, like --db {path}/settled.db"
        )
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is not a file that can hold a database: give another --db")
    if status is None or status.st_size == 0:
        _check_never_made(path)
        if not create:
            raise ConfigError(f"no database at {path}: start `settled run`, or give another --db")
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"cannot create {path}: the directory does not exist")
        return
    _finish_roll_back(path)
    try:
        application, tables = looking.look(path, _kind)
    except faults.UNREADABLE as error:
        raise faults.unusable(path, error) from error
    if tables and application != APPLICATION_ID:
        raise ConfigError(f"{path} is not a settled database: give another --db")


def _finish_roll_back(path: Path) -> None:
    """Let SQLite undo what a start was at that was killed while it made the file.

    Only then is there a rollback journal, later there is a log; and who may not write cannot read
    a file with one.
    """
    real = path.resolve()
    if real.with_name(f"{real.name}-journal").exists():
        uri = f"{real.as_uri()}?mode=rw"
        with suppress(sqlite3.Error), closing(sqlite3.connect(uri, uri=True)) as conn:
            conn.execute("SELECT 1 FROM sqlite_schema").fetchone()


def _kind(conn: sqlite3.Connection) -> tuple[int, int]:
    """Return whose database it is, and how many objects are in it."""
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    # The first start may have been cut off right after it made the list of migrations.
    (objects,) = conn.execute(
        "SELECT count(*) FROM sqlite_schema WHERE tbl_name <> ?", (MIGRATIONS.migrations_table,)
    ).fetchone()
    return application, objects


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be reached: {error.strerror}; check the path and its permissions"
        ) from error


def _check_never_made(path: Path) -> None:
    """Refuse to make a fresh database where there is a trace of an old one."""
    log = log_of(path)
    log_status = _status(log)
    has_log = log_status is not None and log_status.st_size > 0
    if not has_log and lock.remembered(path).seq is None:
        return
    if (rescued := copies.newest(path, "rescued")) is not None and _has_all(path, rescued):
        raise ConfigError(
            f"{path} is missing or empty, but {rescued} has all that its daemon knew as it went: "
            f"remove {lock.lock_path(path)}, {log} and {_index_of(log)}, then rename it to "
            f'{path.resolve()} (docs/operators.md, "Damage")'
        )
    if has_log:
        raise ConfigError(
            f"{path} is missing or empty but {log} is not: restore the database from a backup, "
            f"without {log.name}, or move {log.name} away to start afresh"
        )
    raise ConfigError(
        f"{path} is missing or empty, but there was a database: put it back, or restore a "
        f"backup; to start afresh, with all keys forgotten, remove {lock.lock_path(path)}"
    )


def _has_all(path: Path, rescued: Path) -> bool:
    """Return whether the copy is of the database that is gone now, with all that was acknowledged.

    It may be of an earlier loss, after which the operator went on with another file.
    """
    acknowledged = lock.remembered(path).seq
    with (
        suppress(*faults.UNREADABLE, OSError),
        closing(looking.connect(rescued, without_log=True)) as conn,
    ):
        (seq,) = conn.execute("SELECT max(seq) FROM journal").fetchone()
        newer = rescued.stat().st_mtime_ns >= lock.lock_path(path).stat().st_mtime_ns
        return acknowledged is not None and newer and (seq or 0) >= acknowledged
    return False


def create_empty(path: Path) -> None:
    """Make an empty file at ``path`` if there is none.

    Raises:
        ConfigError: when it cannot be made.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigError(
            f"cannot create {path}: {error.strerror}; its directory must be writable"
        ) from error


def pending(path: Path) -> list[str]:
    """Return the names of the migrations that the file still needs.

    Raises:
        ConfigError: when the file was written by a newer program, or cannot be read.
    """
    try:
        newer, needed = looking.look(path, _migrations)
    except faults.UNREADABLE as error:
        raise faults.unusable(path, error) from error
    if newer:
        raise ConfigError(
            f"{path} was written by a newer settled (it has {', '.join(newer)}): "
            f"upgrade this one, or use the backup that the upgrade left beside the file"
        )
    return needed


def _migrations(conn: sqlite3.Connection) -> tuple[list[str], list[str]]:
    """Return the names of those that only a newer program knows, and of those to be made."""
    db = Database(conn, execute_plugins=False)
    newer = sorted({row.name for row in MIGRATIONS.applied(db)} - _KNOWN)
    return newer, [migration.name for migration in MIGRATIONS.pending(db)]


def migrate(path: Path) -> None:
    """Bring the file's schema up to date, after a backup if it holds anything.

    Call it only while holding the database (``settled.store.lock``).

    Raises:
        ConfigError: when the backup or the change failed; the database is as it was.
        StoreFull: when there is no room for them; the database is as it was.
    """
    backup = None
    with closing(connect(path)) as conn:
        conn.execute("PRAGMA temp_store = FILE")  # an index of millions of rows is sorted there
        db = Database(conn, execute_plugins=False)
        try:
            if MIGRATIONS.applied(db):
                backup = copies.leave(path, conn, "backup")
            MIGRATIONS.apply(db)
        except (sqlite3.Error, OSError) as error:
            if backup is not None:
                backup.unlink()  # nothing was changed; and every next try leaves another
            raise _unchanged(path, error) from error


def _unchanged(path: Path, error: Exception) -> SettledError:
    what = (
        f"{path} could not be backed up and brought up to date ({one_line(error)}); it is as it was"
    )
    if faults.is_busy(error):
        return faults.unusable(path, error)
    if faults.is_full(error):
        return StoreFull(f"{what}: free as much room beside it as it takes, twice, and start again")
    return ConfigError(f"{what}: mend the cause and start again, or run the former version")
