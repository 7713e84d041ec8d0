"""The copies that a daemon leaves beside its database."""

import errno
import os
import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from settled.store import copies


@pytest.fixture
def conn(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE t (n)")
        conn.execute("INSERT INTO t VALUES (7)")
        conn.commit()
        yield conn


def names(path: Path) -> list[str]:
    return sorted(found.name for found in path.parent.iterdir() if found != path)


def test_it_is_whole_is_its_owners_and_says_when_it_was_made(
    path: Path, conn: sqlite3.Connection
) -> None:
    former = os.umask(0)
    try:
        copy = copies.leave(path, conn, "backup")
    finally:
        os.umask(former)
    assert re.fullmatch(r"x\.db\.20\d{6}T\d{6}Z\.backup", copy.name)
    assert names(path) == [copy.name]
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as found:
        assert found.execute("SELECT n FROM t").fetchall() == [(7,)]


def test_what_a_killed_start_left_of_one_is_removed(path: Path, conn: sqlite3.Connection) -> None:
    for left in ("", "-journal"):
        path.with_name(f"x.db.backup.part{left}").write_bytes(b"\0" * 9000)
    path.with_name("x.db.rescued.part").write_text("of another kind")
    copy = copies.leave(path, conn, "backup")
    assert names(path) == [copy.name, "x.db.rescued.part"]


def test_one_that_cannot_be_written_leaves_nothing(path: Path, conn: sqlite3.Connection) -> None:
    conn.close()  # nothing can be read by it
    with pytest.raises(sqlite3.Error):
        copies.leave(path, conn, "backup")
    assert names(path) == []


def test_its_name_is_on_the_disk_before_it_counts(
    path: Path, conn: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[list[str]] = []

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            synced.append(names(path))

    monkeypatch.setattr(os, "fsync", fsync)
    copy = copies.leave(path, conn, "backup")
    assert synced == [[copy.name]]


def test_a_directory_that_cannot_be_synced_is_an_error_and_left_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Input/output"):
        copies.sync_directory(path.parent)
    assert set(os.listdir("/proc/self/fd")) <= before


def test_the_newest_of_a_kind_is_found_by_its_name(path: Path) -> None:
    assert copies.newest(path, "rescued") is None
    assert copies.newest(path.parent / "no" / "x.db", "rescued") is None
    path.with_name("x.db..rescued").touch()  # no time at all
    path.with_name("x.db.rescued").touch()
    assert copies.newest(path, "rescued") is None
    for name in (
        *("x.db.20300101T000000Z.rescued", "x.db.20300102T000000Z.rescued"),
        *("x.db.2031.backup", "y.db.2031.rescued", "x.db.2031.rescued.part"),
        "old.x.db.2031.rescued",
    ):
        path.with_name(name).touch()
    assert copies.newest(path, "rescued") == path.with_name("x.db.20300102T000000Z.rescued")
