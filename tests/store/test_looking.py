"""Looking at a database that somebody changes meanwhile."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from settled.store.looking import look


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "x.db"
    with closing(sqlite3.connect(found)) as conn:
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("CREATE TABLE t (n INTEGER)")
    return found


@pytest.fixture
def other(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        yield conn


def count(conn: sqlite3.Connection) -> int:
    (found,) = conn.execute("SELECT count(*) FROM t").fetchone()
    return int(found)


def test_at_rest_nothing_is_made_beside_it(path: Path) -> None:
    assert look(path, count) == 0
    assert list(path.parent.iterdir()) == [path]


def test_what_is_in_the_log_only_is_seen(path: Path, other: sqlite3.Connection) -> None:
    other.execute("INSERT INTO t VALUES (1)")
    assert path.with_name("x.db-wal").stat().st_size > 0
    assert look(path, count) == 1


def test_by_a_symlink_it_is_seen_too(
    path: Path, other: sqlite3.Connection, tmp_path_factory: pytest.TempPathFactory
) -> None:
    link = tmp_path_factory.mktemp("elsewhere") / "link.db"
    link.symlink_to(path)
    other.execute("INSERT INTO t VALUES (1)")
    assert look(link, count) == 1


def test_what_changes_meanwhile_is_seen(path: Path, other: sqlite3.Connection) -> None:
    seen = []

    def read(conn: sqlite3.Connection) -> int:
        seen.append(count(conn))
        if len(seen) == 1:
            other.execute("INSERT INTO t VALUES (1)")
        return seen[-1]

    assert look(path, read) == 1
    assert seen == [0, 1]


@pytest.mark.parametrize("writes", [1, 9])
def test_an_error_counts_only_if_nothing_changed_meanwhile(
    path: Path, other: sqlite3.Connection, writes: int
) -> None:
    calls = []

    def read(conn: sqlite3.Connection) -> int:
        calls.append(1)
        if len(calls) <= writes:
            other.execute("INSERT INTO t VALUES (1)")
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            raise sqlite3.DatabaseError("half of it was new")
        return count(conn)

    if writes == 1:
        assert look(path, read) == 1
    else:
        with pytest.raises(sqlite3.DatabaseError, match="half of it"):
            look(path, read)
        assert len(calls) == 3


def test_an_error_of_a_file_at_rest_is_raised(path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        look(path, lambda conn: conn.execute("SELECT * FROM cats"))
