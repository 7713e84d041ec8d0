"""What the file itself refuses, whatever the program does: the last wall around the promises."""

import dataclasses
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from settled.store import file
from settled.store.clock import Uptime
from settled.store.sql import reads, recovery
from settled.store.sql.ledger import Tx

AMOUNTS = {
    "accounts": (
        *("requested", "in_flight", "unknown", "settled"),
        *("received", "undelivered", "parked", "credited"),
    ),
    "settlements": ("amount", "settled"),
    "credits": ("amount",),
}
# A good row of each table, to which the tests make one thing wrong.
ROWS: dict[str, dict[str, Any]] = {
    "accounts": {
        "id": "bob",
        **dict.fromkeys((*AMOUNTS["accounts"], "queued"), "12.50"),
        "waiting": "no funds",
        "retry_ms": 5,
        "failures": 1,
        "hook": "setup_account",
        "hook_failures": 1,
        "hook_retry_ms": 5,
        "opened_ms": 5,
        "closed_ms": 6,
    },
    "journal": {
        "at_ms": 5,
        "account": 1,
        "source": "requested",
        "target": "queued",
        "amount": "5",
        "ref": "key",
    },
    "idempotency_keys": {
        "account_id": "alice",
        "key": "k",
        "account": 1,
        "amount": "5",
        "scale": 0,
        "tick": 0,
    },
    "settlements": {
        "id": "s1",
        "account": 1,
        "amount": "5",
        "state": "in_flight",
        "settled": "0",
        "reason": "time-out",
        "failures": 0,
        "retry_ms": 0,
        "created_ms": 5,
        "updated_ms": 5,
    },
    "credits": {
        "id": "c1",
        "account": 1,
        "account_id": "alice",
        "settlement_id": "tx",
        "amount": "5",
        "state": "parked",
        "reason": "time-out",
        "attempts": 1,
        "ambiguous_ms": 5,
        "ambiguous_steady_ms": 5,
        "retry_ms": 0,
        "created_ms": 5,
        "updated_ms": 5,
    },
    "engine_state": {"account_id": "alice", "key": "cursor", "value": b"7"},
    "nudges": {"account": 1},
    "counters": {"name": "other", "value": 0},
    "clock": {"one": 1, "steady_ms": 5, "wall_ms": 5, "boot": "b", "uptime_ms": 5},
}
MAY_BE_NULL = {
    "accounts": {"waiting", "retry_ms", "hook", "closed_ms"},
    "settlements": {"reason"},
    "credits": {"reason", "ambiguous_ms", "ambiguous_steady_ms"},
    "clock": {"one"},  # it becomes 1, the only row that there is
}


@pytest.fixture
def conn(path: Path) -> Iterator[sqlite3.Connection]:
    """A new file with an open account, as the store connects to it."""
    path.touch()
    file.migrate(path)
    with closing(file.connect(path)) as conn:
        insert(conn, "accounts", **(ROWS["accounts"] | {"id": "alice", "closed_ms": None}))
        yield conn


def insert(conn: sqlite3.Connection, table: str, **values: Any) -> None:
    columns, marks = ", ".join(values), ", ".join("?" * len(values))
    conn.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", (*values.values(),))


def refused(conn: sqlite3.Connection, table: str, **wrong: Any) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        insert(conn, table, **(ROWS[table] | wrong))


def test_good_rows_are_taken(conn: sqlite3.Connection) -> None:
    for table, row in ROWS.items():
        insert(conn, table, **row)
        for column in MAY_BE_NULL.get(table, ()):
            conn.execute(f"UPDATE {table} SET {column} = NULL" if column != "one" else "SELECT 1")
    conn.execute("UPDATE accounts SET queued = '-12.50', hook = 'close_account'")
    for state in ("unknown", "parked", "settled", "not_sent"):
        conn.execute("UPDATE settlements SET state = ?", (state,))
    for state in ("undelivered", "credited"):
        conn.execute("UPDATE credits SET state = ?", (state,))


@pytest.mark.parametrize("table", ROWS)
def test_nothing_may_be_missing_or_of_another_type(conn: sqlite3.Connection, table: str) -> None:
    for column, value in ROWS[table].items():
        if column not in MAY_BE_NULL.get(table, ()):
            refused(conn, table, **{column: None})
        other = {int: "soon", str: b"bytes", bytes: "text"}[type(value)]
        refused(conn, table, **{column: other})


@pytest.mark.parametrize("table", AMOUNTS)
def test_what_is_no_amount_is_refused(conn: sqlite3.Connection, table: str) -> None:
    for text in ("", "-1", "x", "1e3", "1 ", ".5", "1x2", "NaN", "--1"):
        for column in AMOUNTS[table]:
            refused(conn, table, **{column: text})
        if table == "accounts" and not text.startswith("-"):
            refused(conn, table, queued=text)


@pytest.mark.parametrize(
    ("table", "wrong"),
    [
        ("accounts", {"hook": "handle_message"}),
        ("settlements", {"state": "undelivered"}),
        ("credits", {"state": "in_flight"}),
        ("journal", {"account": 99}),
        ("settlements", {"account": 99}),
        ("credits", {"account": 99}),
        ("clock", {"one": 2}),
    ],
)
def test_an_unknown_state_or_account_is_refused(
    conn: sqlite3.Connection, table: str, wrong: dict[str, Any]
) -> None:
    refused(conn, table, **wrong)


@pytest.mark.parametrize(
    ("table", "other"),
    [
        ("idempotency_keys", {"amount": "6"}),
        ("settlements", {"state": "settled"}),  # the same id
        ("settlements", {"id": "s2", "state": "parked"}),  # a second that is open
        ("credits", {"settlement_id": "tx2"}),  # the same id
        ("credits", {"id": "c2"}),  # the same payment
        ("engine_state", {"value": b"8"}),
    ],
)
def test_what_is_there_once_is_not_there_twice(
    conn: sqlite3.Connection, table: str, other: dict[str, Any]
) -> None:
    insert(conn, table, **ROWS[table])
    refused(conn, table, **other)


def test_an_id_has_one_open_account_and_any_number_of_closed_ones(
    conn: sqlite3.Connection,
) -> None:
    insert(conn, "accounts", **ROWS["accounts"])
    insert(conn, "accounts", **ROWS["accounts"])
    refused(conn, "accounts", id="alice", closed_ms=None)


@pytest.mark.parametrize("change", ["UPDATE journal SET amount = '6'", "DELETE FROM journal"])
def test_the_journal_is_append_only(conn: sqlite3.Connection, change: str) -> None:
    insert(conn, "journal", **ROWS["journal"])
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        conn.execute(change)
    assert conn.execute("SELECT amount FROM journal").fetchall() == [("5",)]


@pytest.mark.parametrize("work", ["settle", "deliver", "hook"])
def test_what_is_unfinished_is_found_by_an_index(work: Any, tmp_path: Path) -> None:
    """The ended are millions, and a start waits for this."""
    assert "SCAN settlements" not in plan(tmp_path, lambda conn: reads.unfinished(conn, work, 0, 9))
    assert "SCAN credits" not in plan(tmp_path, lambda conn: reads.unfinished(conn, work, 0, 9))


def test_what_was_in_flight_is_found_by_an_index_at_start(tmp_path: Path) -> None:
    tx = Tx(cast(sqlite3.Connection, None), 0, Uptime("boot", 0))
    plans = plan(
        tmp_path, lambda conn: recovery.interrupt_settlements(dataclasses.replace(tx, conn=conn))
    )
    assert plans.count("USING INDEX settlements_one_open") == 2


PAGES = pytest.mark.parametrize(
    ("account_id", "before"), [(None, None), (None, 5), ("x", None), ("x", 5)]
)


@PAGES
@pytest.mark.parametrize("state", ["in_flight", "unknown", "parked", "not_sent"])
def test_settlements_that_are_few_are_listed_by_an_index(
    state: str, account_id: str | None, before: int | None, tmp_path: Path
) -> None:
    plans = plan(tmp_path, lambda conn: reads.settlements(conn, account_id, state, before, 9))
    assert "USING INDEX settlements_" in plans


@PAGES
@pytest.mark.parametrize("state", ["undelivered", "parked"])
def test_credits_that_are_few_are_listed_by_an_index(
    state: str, account_id: str | None, before: int | None, tmp_path: Path
) -> None:
    plans = plan(tmp_path, lambda conn: reads.credits(conn, account_id, state, before, 9))
    assert "USING INDEX credits_" in plans
    assert "credits_account" not in plans


def plan(directory: Path, read: Callable[[sqlite3.Connection], object]) -> str:
    """Return how SQLite goes about the statements of ``read``."""
    path = directory / "s.db"
    file.create_empty(path)
    file.migrate(path)
    said: list[str] = []
    with closing(file.connect(path)) as conn:
        conn.set_trace_callback(said.append)
        read(conn)
        conn.set_trace_callback(None)
        return "\n".join(
            row[3] for sql in said for row in conn.execute(f"EXPLAIN QUERY PLAN {sql}")
        )
