"""A database of the first schema, and a program that is newer than any."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from sqlite_utils import Database, Migrations

from settled.store import file
from settled.store.sql import schema

LATER: Final = "9999_later"
_FIRST: Final = Path(__file__).with_name("first_schema.sql")


def make(path: Path) -> None:
    """Make a database as the first release did."""
    with closing(sqlite3.connect(path)) as conn:
        conn.executescript(_FIRST.read_text())
        conn.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        conn.execute("PRAGMA journal_mode = WAL")


def add_migrations() -> None:
    """Let this program have one more migration than its schema: a table, and a change of rows."""
    newer = Migrations("settled")
    with closing(sqlite3.connect(":memory:")) as empty:
        for migration in schema.MIGRATIONS.pending(Database(empty)):
            newer(name=migration.name)(migration.fn)

    @newer(name=LATER)
    def _later(db: Database) -> None:
        db.execute("CREATE TABLE later (account INTEGER NOT NULL) STRICT")
        db.execute("INSERT INTO later SELECT number FROM accounts")
        db.execute("UPDATE accounts SET waiting = 'migrated'")

    module: Any = file
    module.MIGRATIONS, module._KNOWN = newer, file._KNOWN | {LATER}


def check_migrated(conn: sqlite3.Connection) -> bool:
    """Return whether the later migration is there; it is whole or not there at all."""
    tables = {name for (name,) in conn.execute("SELECT name FROM sqlite_schema")}
    applied = {name for (name,) in conn.execute("SELECT name FROM _sqlite_migrations")}
    assert ("later" in tables) == (LATER in applied)
    if LATER not in applied:
        return False
    (accounts,) = conn.execute(
        "SELECT count(*) FROM accounts WHERE opened_ms < 1.8e12 + 1"
    ).fetchone()
    assert conn.execute("SELECT count(*) FROM later").fetchone() == (accounts,)
    return True
