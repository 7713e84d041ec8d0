"""The audit of a file: each balance of each account that is off is told, and nothing else."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from settled.amounts import to_text
from settled.store import file
from settled.store.records import Difference
from settled.store.sql import audit, reads
from settled.store.sqlite import open_sqlite
from tests.store.test_contract_audit import worked

OUTGOING = ("queued", "in_flight", "unknown", "settled")
INCOMING = ("undelivered", "parked", "credited")
BY_ROWS = {"in_flight", "unknown", "settled", *INCOMING}


@pytest.fixture
def conn(path: Path) -> Iterator[sqlite3.Connection]:
    """A database with something of everything, the first and the last account without a journal."""

    async def make() -> None:
        async with open_sqlite(path, exclusive=True, create=True) as store:
            await store.open_account("first", setup=False)
            await worked(store)
            await store.open_account("last", setup=False)

    trio.run(make)
    with closing(file.connect(path)) as conn:
        yield conn


def found(conn: sqlite3.Connection) -> list[Difference]:
    try:
        return audit.audit(conn, lambda _done, _total: None)
    finally:
        assert not conn.in_transaction


def test_each_balance_of_each_account_that_is_off_is_told(conn: sqlite3.Connection) -> None:
    assert found(conn) == []
    columns = ("requested", *OUTGOING, "received", *INCOMING)
    rows = conn.execute(f"SELECT number, id, {', '.join(columns)} FROM accounts").fetchall()
    assert len(rows) > 5
    for number, account_id, *texts in rows:
        balance = {column: Decimal(text) for column, text in zip(columns, texts, strict=True)}
        for column in columns:
            wrong = {**balance, column: balance[column] + 1}
            conn.execute(
                f"UPDATE accounts SET {column} = ? WHERE number = ?",
                (to_text(wrong[column]), number),
            )
            pair = to_text(balance[column]), to_text(wrong[column])
            origin = "requested" if column in ("requested", *OUTGOING) else "received"
            parts = OUTGOING if origin == "requested" else INCOMING
            total = sum((wrong[part] for part in parts), Decimal(0))
            expected = [
                Difference(account_id, column, *pair),
                Difference(
                    account_id,
                    f"{origin} = {' + '.join(parts)}",
                    to_text(wrong[origin]),
                    to_text(total),
                ),
            ]
            if column in BY_ROWS:
                expected.append(Difference(account_id, f"{column}, by its rows", *pair))
            assert found(conn) == expected
            conn.execute(
                f"UPDATE accounts SET {column} = ? WHERE number = ?",
                (to_text(balance[column]), number),
            )
    assert found(conn) == []


@pytest.mark.parametrize(
    ("source", "target", "told"),
    [
        ("requested", "queued", {"requested": 1, "queued": 1}),
        ("received", "undelivered", {"received": 1, "undelivered": 1}),
        ("queued", "in_flight", {"queued": -1, "in_flight": 1}),
        ("unknown", "queued", {"unknown": -1, "queued": 1}),
    ],
)
def test_an_entry_too_many_is_told_of_both_balances_that_it_moves(
    conn: sqlite3.Connection, source: str, target: str, told: dict[str, int]
) -> None:
    for account_id in ("first", "a1", "last"):
        number, *texts = conn.execute(
            f"SELECT number, {', '.join(told)} FROM accounts WHERE id = ?", (account_id,)
        ).fetchone()
        conn.execute(
            "INSERT INTO journal (at_ms, account, source, target, amount, ref) "
            "VALUES (0, ?, ?, ?, '1', 'x')",
            (number, source, target),
        )
        assert {
            (wrong.subject, wrong.what, wrong.expected, wrong.found) for wrong in found(conn)
        } == {
            (account_id, column, to_text(Decimal(text) + change), text)
            for (column, change), text in zip(told.items(), texts, strict=True)
        }
        conn.execute(
            "INSERT INTO journal (at_ms, account, source, target, amount, ref) "
            "VALUES (0, ?, ?, ?, '-1', 'x')",
            (number, source, target),
        )
        assert found(conn) == []


@pytest.mark.parametrize(
    "row",
    [
        "INSERT INTO journal VALUES (999, 0, 1, 'nowhere', 'queued', '1', 'x')",
        "INSERT INTO journal VALUES (999, 0, 1, 'requested', 'queued', 'much', 'x')",
        "UPDATE credits SET state = 'elsewhere'",
    ],
)
def test_one_row_that_cannot_be_read_hides_nothing_of_the_others(
    conn: sqlite3.Connection, row: str
) -> None:
    conn.execute("PRAGMA ignore_check_constraints = ON")
    conn.execute("UPDATE settlements SET settled = '5' WHERE id = 's-1'")
    conn.execute(row)
    told = [(wrong.subject, wrong.what) for wrong in found(conn)]
    assert ("database", "a row that cannot be read") in told
    if "journal" in row:
        assert ("a0", "settled, by its rows") in told
    conn.execute("UPDATE accounts SET queued = '6' WHERE id = 'a0'")
    if "journal" not in row:
        told = [(wrong.subject, wrong.what) for wrong in found(conn)]
        assert ("a0", "queued") in told


def test_all_is_read_of_one_moment(
    path: Path, conn: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_PROGRESS_ROWS", 1)
    with closing(file.connect(path)) as other:

        def write(done: int, _total: int) -> None:
            if done == 1:
                other.execute("UPDATE accounts SET queued = '99', settled = '99'")

        assert audit.audit(conn, write) == []
    assert len(found(conn)) > 2


@pytest.mark.parametrize(("larger", "stores"), [(0, 2), (1, 0)])
def test_what_is_too_large_for_memory_is_sorted_in_a_file(
    conn: sqlite3.Connection, larger: int, stores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = reads.size_bytes(conn)
    monkeypatch.setattr(audit, "_SORTED_IN_MEMORY_BYTES_MAX", size - larger)
    found(conn)
    assert conn.execute("PRAGMA temp_store").fetchone() == (stores,), "2 is memory"


def test_an_error_ends_the_read(conn: sqlite3.Connection) -> None:
    def fail(_done: int, _total: int) -> None:
        raise OSError("the terminal has gone")

    with pytest.raises(OSError, match="the terminal"):
        audit.audit(conn, fail)
    assert not conn.in_transaction


@pytest.mark.parametrize("table", ["idempotency_keys", "credits"])
def test_what_lies_with_an_account_of_another_id_is_told(
    table: str, conn: sqlite3.Connection
) -> None:
    conn.execute(f"UPDATE {table} SET account_id = 'somebody'")
    (count,) = conn.execute(f"SELECT count(*) FROM {table}").fetchone()
    differences = found(conn)
    assert {found.subject for found in differences} == {"somebody"}
    assert sum(int(found.found) for found in differences) == count
