"""What an operator is told of a database that SQLite cannot open or read."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from settled.errors import ConfigError, SettledError, StoreBusy, StoreFull
from settled.store import faults

NOBODY = 65534


def error(code: int, text: str = "it failed") -> sqlite3.Error:
    found = sqlite3.OperationalError(text)
    found.sqlite_errorcode = code
    return found


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (sqlite3.SQLITE_BUSY, StoreBusy, "is locked by another program: try again"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreBusy, "is locked by another program"),
        (sqlite3.SQLITE_FULL, StoreFull, "its disk is full"),
        (sqlite3.SQLITE_IOERR_SHMSIZE, StoreFull, "its disk is full"),
        (sqlite3.SQLITE_CORRUPT, ConfigError, "is damaged (it failed): keep a copy"),
        (sqlite3.SQLITE_CORRUPT_INDEX, ConfigError, "is damaged (it failed): keep a copy"),
        (sqlite3.SQLITE_FORMAT, ConfigError, "is damaged (it failed): keep a copy"),
        (sqlite3.SQLITE_NOTADB, ConfigError, "is damaged (it failed; is it the right --db?)"),
        (sqlite3.SQLITE_IOERR_READ, ConfigError, "cannot be opened as a database (it failed)"),
        (sqlite3.SQLITE_CANTOPEN, ConfigError, "cannot be opened as a database (it failed)"),
    ],
)
def test_each_kind_has_its_own_remedy(
    path: Path, code: int, kind: type[SettledError], said: str
) -> None:
    path.touch()
    told = faults.unusable(path, error(code))
    assert type(told) is kind
    assert str(path) in str(told)
    assert said in str(told)
    damage = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_NOTADB}
    assert faults.is_damage(error(code)) is (code & 0xFF in damage)


def test_text_that_cannot_be_decoded_is_damage_and_any_other_error_is_not(path: Path) -> None:
    undecodable = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    assert faults.is_damage(undecodable)
    assert "is damaged (" in str(faults.unusable(path, undecodable))
    other = OSError("input/output\nerror")
    assert not faults.is_damage(other)
    assert not faults.is_full(other)
    assert not faults.is_busy(other)
    assert "(input/output error): check its disk" in str(faults.unusable(path, other))


@contextmanager
def without_rights() -> Iterator[None]:
    """Give up the rights by which root may use everything."""
    former = os.geteuid()
    if former == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(former)


@pytest.fixture
def place() -> Iterator[Path]:
    """A database and its log in a directory of their own, all of them those of a plain user."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        for file in ("x.db", "x.db-wal", "x.db-shm"):
            (place / file).touch(0o600)
        if os.geteuid() == 0:
            for path in (place, *place.iterdir()):
                os.chown(path, NOBODY, NOBODY)
        yield place
        place.chmod(0o700)


@pytest.mark.parametrize(
    ("name", "mode", "verb"),
    [
        ("", 0o500, "make files in"),
        ("", 0o600, "make files in"),
        ("x.db", 0o400, "read and write"),
        ("x.db", 0o200, "read and write"),
        ("x.db-wal", 0o400, "read and write"),
        ("x.db-shm", 0o000, "read and write"),
    ],
)
def test_the_right_that_is_missing_is_named_with_the_user(
    place: Path, name: str, mode: int, verb: str
) -> None:
    path = place / "x.db"
    (place / "link.db").symlink_to(path)
    with without_rights():
        assert faults.not_allowed(path) is None
        (place / name).chmod(mode)
        for code in (
            *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY_DIRECTORY),
            *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH),
        ):
            told = faults.unusable(path, error(code))
            assert type(told) is ConfigError
            assert f"may not {verb} {place / name};" in str(told)
        assert f"may not {verb} {place / name};" in str(faults.not_allowed(place / "link.db"))
        assert "damaged" in str(faults.unusable(path, error(sqlite3.SQLITE_CORRUPT)))
        assert "check its disk" in str(faults.unusable(path, error(sqlite3.SQLITE_IOERR)))


def test_what_is_not_there_hinders_nobody(place: Path) -> None:
    with without_rights():
        for beside in ("x.db-wal", "x.db-shm", "x.db"):
            (place / beside).unlink()
            assert faults.not_allowed(place / "x.db") is None


def test_a_user_is_called_by_his_name_if_he_has_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "x.db").chmod(0)
    with without_rights():
        number = os.geteuid()
        monkeypatch.setattr("pwd.getpwuid", {number: _Entry("ann")}.__getitem__)
        assert "user ann may not" in str(faults.not_allowed(place / "x.db"))
        monkeypatch.setattr("pwd.getpwuid", dict[int, object]().__getitem__)
        assert f"user {number} may not" in str(faults.not_allowed(place / "x.db"))


class _Entry:
    def __init__(self, name: str) -> None:
        self.pw_name = name
