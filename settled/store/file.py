"""Opening a database file: what it must be, its schema, and its connections."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from sqlite_utils import Database

from settled import limits
from settled.errors import ConfigError
from settled.store.sql.schema import APPLICATION_ID, MIGRATIONS

with closing(sqlite3.connect(":memory:")) as _empty:
    # Of an empty database, all that the program knows is pending.
    _KNOWN: Final = frozenset(migration.name for migration in MIGRATIONS.pending(Database(_empty)))


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Return a connection to the database at ``path``, with the pragmas that promises rest on.

    Raises:
        ConfigError: when the file cannot be opened.
    """
    try:
        conn = sqlite3.connect(
            path,
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
        except BaseException:
            conn.close()
            raise
    except sqlite3.Error as error:
        raise ConfigError(_unreadable(path, error)) from error
    return conn


def check(path: Path, *, create: bool) -> None:
    """Refuse a path that must not be opened, before anything touches it.

    Raises:
        ConfigError: when the file is missing and may not be created, or is no settled database.
    """
    if path.is_dir():
        raise ConfigError(
            f"{path} is a directory: give the database file in it, like --db {path}/settled.db"
        )
    if not path.exists() or path.stat().st_size == 0:
        wal = path.with_name(path.name + "-wal")
        if wal.exists() and wal.stat().st_size > 0:
            raise ConfigError(
                f"{path} is missing or empty but {wal.name} is not: restore the database from a "
                f"backup, or move {wal.name} away to start afresh"
            )
        if not create:
            raise ConfigError(f"no database at {path}: start `settled run`, or give another --db")
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"cannot create {path}: the directory does not exist")
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as conn:
            (application,) = conn.execute("PRAGMA application_id").fetchone()
            (tables,) = conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        raise ConfigError(_unreadable(path, error)) from error
    if tables and application != APPLICATION_ID:
        raise ConfigError(f"{path} is not a settled database: give another --db")


def pending(path: Path) -> list[str]:
    """Return the names of the migrations that the file still needs.

    Raises:
        ConfigError: when the file was written by a newer program.
    """
    with closing(connect(path)) as conn:
        db = Database(conn, execute_plugins=False)
        newer = sorted({row.name for row in MIGRATIONS.applied(db)} - _KNOWN)
        if newer:
            raise ConfigError(
                f"{path} was written by a newer settled (it has {', '.join(newer)}): "
                f"upgrade this one, or use the backup that the upgrade left beside the file"
            )
        return [migration.name for migration in MIGRATIONS.pending(db)]


def migrate(path: Path) -> Path | None:
    """Bring the file's schema up to date; return the backup made before, if it held anything.

    Call it only while holding the database (``settled.store.lock``).
    """
    with closing(connect(path)) as conn:
        db = Database(conn, execute_plugins=False)
        backup = _back_up(path, conn) if MIGRATIONS.applied(db) else None
        MIGRATIONS.apply(db)
    return backup


def _back_up(path: Path, conn: sqlite3.Connection) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    backup = path.with_name(f"{path.name}.{stamp}.backup")
    with closing(sqlite3.connect(backup)) as target:
        conn.backup(target)
    return backup


def _unreadable(path: Path, error: sqlite3.Error) -> str:
    return (
        f"{path} cannot be opened as a database ({error}): check its permissions and its disk; "
        f"if it is damaged, restore a backup"
    )
