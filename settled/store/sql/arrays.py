"""Many rows in one parameter of a statement, and many in its one result, both as JSON.

However many they are, that is one step of SQLite's, and one wait of its thread for Python's lock.
"""

from collections.abc import Sequence
from sqlite3 import Connection
from typing import Any

import msgspec


def select(conn: Connection, statement: str, *parameters: object) -> list[Any]:
    """Return the one value, an array in JSON, that ``statement`` selects."""
    (found,) = conn.execute(statement, parameters).fetchone()
    rows: list[Any] = msgspec.json.decode(found)
    return rows


def as_json(rows: Sequence[object]) -> str:
    """Return the parameter that ``json_each`` takes apart."""
    return msgspec.json.encode(rows).decode()
