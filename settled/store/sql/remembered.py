"""What is remembered of a database from one transaction to the next, so as not to read it again.

It is never the truth: another process may have changed the database, or a transaction been rolled
back. So whoever relies on it writes with a statement that fails unless it is true.
"""

import sqlite3
from typing import Any

from settled import limits


class Remembered:
    """What is remembered on one connection, until anybody else writes on it.

    Args:
        conn: the connection.

    Example::

        accounts = remembered.table()
        remembered.check()  # first of all in a transaction
        ...
        remembered.written()
    """

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self._tables: list[dict[Any, Any]] = []
        self._changes = 0  # that were made on the connection when it was like that

    def table(self) -> dict[Any, Any]:
        """Return a new table to remember something in."""
        self._tables.append({})
        return self._tables[-1]

    def check(self) -> None:
        """Forget everything if somebody else has written."""
        if self._conn.total_changes != self._changes:
            self.forget()

    def make_room(self) -> None:
        """Forget everything if it is too much; call it before more is remembered."""
        if any(len(table) >= limits.ACCOUNTS_KEPT_MAX for table in self._tables):
            self.forget()

    def forget(self) -> None:
        """Forget everything."""
        for table in self._tables:
            table.clear()

    def written(self) -> None:
        """Note that what was written since ``check`` is remembered."""
        self._changes = self._conn.total_changes
