"""What a start makes of files that are damaged, torn, foreign or gone.

It either has the whole books, or refuses in one line that says what to do and leaves every byte as
it was. Never is there a fresh database in place of an old one.
"""

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from settled.errors import ConfigError
from settled.store import file
from settled.store.records import Account, Credit, Settlement
from settled.store.sql.schema import MIGRATIONS
from tests.damage.books import LOCK, LOG, NAME, Files, data, files, killed_files, put, start
from tests.damage.conftest import Good

PAGE_BYTES = 4096
FRAME_BYTES = PAGE_BYTES + 24
# `make damage` takes more of them.
SAMPLES = int(os.environ.get("SETTLED_DAMAGE_SAMPLES", "3"))


async def refused(path: Path, content: Files) -> str:
    """Start on these files, which must be refused and left as they are; return the reason."""
    put(path.parent, content)
    reason = await start(path)
    assert isinstance(reason, str), "it started"
    assert data(files(path.parent)) == data(content), "it was touched"
    return reason


async def whole_or_refused(path: Path, content: Files, good: Good) -> str:
    """Start on these files: the money must be right, or it must be said that it is not."""
    put(path.parent, content)
    found = await start(path)
    if isinstance(found, dict):
        assert money(found) == money(good.books), "wrong, and nothing was said"
        return ""
    if not found.startswith("books differ"):
        assert data(files(path.parent)) == data(content), "it was touched"
    return found


def money(found: dict[str, object]) -> list[object]:
    """Return whose money is where; without texts and times, of which SQLite keeps no checksum."""
    rows: list[object] = []
    for kind in ("accounts", "settlements", "credits"):
        records = found[kind]
        assert isinstance(records, list)
        for record in records:
            match record:
                case Account():
                    rows.append((record.id, record.requested, record.queued, record.in_flight))
                    rows.append((record.unknown, record.settled, record.received))
                    rows.append((record.undelivered, record.parked, record.credited))
                case Settlement():
                    rows.append((record.id, record.account, record.amount, record.state))
                    rows.append(record.settled)
                case Credit():
                    rows.append((record.id, record.account, record.settlement_id))
                    rows.append((record.amount, record.state))
    keys = found["keys"]
    assert isinstance(keys, list)
    return [*rows, *((account_id, key) for account_id, key, *_ in keys)]


# --- damaged pages ---


async def test_a_byte_flipped_in_any_page_is_noticed_or_harmless(path: Path, closed: Good) -> None:
    dice = random.Random(SAMPLES)
    image = closed.files[NAME]
    noticed = 0
    for page in range(0, len(image), PAGE_BYTES):
        # The header of each page, its pointers, and anywhere.
        places = [0, dice.randrange(1, 8), dice.randrange(8, 40)]
        places += [dice.randrange(PAGE_BYTES) for _ in range(SAMPLES)]
        for place in places:
            flipped = bytearray(image)
            flipped[page + place] ^= dice.choice((0x01, 0x80, 0xFF))
            if await whole_or_refused(path, {**closed.files, NAME: bytes(flipped)}, closed):
                noticed += 1
    assert noticed > len(image) // PAGE_BYTES, "hardly any flip did anything"


async def test_a_file_cut_at_any_page_is_refused(path: Path, closed: Good) -> None:
    image = closed.files[NAME]
    for end in range(PAGE_BYTES, len(image), PAGE_BYTES):
        reason = await refused(path, {**closed.files, NAME: image[:end]})
        assert "restore a backup" in reason, reason
    for end in (1, 100, PAGE_BYTES - 1, PAGE_BYTES + 1, len(image) - 1):
        assert "backup" in await refused(path, {**closed.files, NAME: image[:end]})


async def test_a_large_file_is_read_whole_if_pages_are_missing(
    path: Path, closed: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("settled.limits.START_CHECK_BYTES_MAX", 1000)
    image = closed.files[NAME]
    assert "is damaged (" in await refused(path, {**closed.files, NAME: image[:-PAGE_BYTES]})
    put(path.parent, closed.files)
    assert isinstance(await start(path), dict)


async def test_zeros_and_a_lost_header_are_refused(path: Path, closed: Good) -> None:
    image = closed.files[NAME]
    for damaged in (
        bytes(len(image)),
        bytes(PAGE_BYTES) + image[PAGE_BYTES:],
        b"\xff" * 100 + image[100:],
        image[:100] + os.urandom(PAGE_BYTES - 100) + image[PAGE_BYTES:],
    ):
        assert "backup" in await refused(path, {**closed.files, NAME: damaged})


async def test_pages_of_zeros_are_noticed(path: Path, closed: Good) -> None:
    image = closed.files[NAME]
    for page in range(0, len(image), PAGE_BYTES):
        zeroed = image[:page] + bytes(PAGE_BYTES) + image[page + PAGE_BYTES :]
        assert await whole_or_refused(path, {**closed.files, NAME: zeroed}, closed)


# --- the log ---


async def test_a_lost_log_is_noticed_if_it_was_needed(path: Path, killed: Good) -> None:
    without = {name: value for name, value in killed.files.items() if name != LOG}
    reason = await refused(path, without)
    assert "lost acknowledged changes" in reason
    assert LOG in reason
    put(path.parent, killed.files)
    assert await start(path) == killed.books


async def test_a_lost_log_that_was_not_needed_is_nothing(path: Path, closed: Good) -> None:
    assert LOG not in closed.files
    put(path.parent, {**closed.files, LOG: b""})
    assert await start(path) == closed.books


async def test_a_log_torn_in_what_was_acknowledged_is_refused(path: Path, killed: Good) -> None:
    log = killed.files[LOG]
    dice = random.Random(SAMPLES)
    for _ in range(4 * SAMPLES):
        place = dice.randrange(len(log))
        flipped = bytearray(log)
        flipped[place] ^= 0xFF
        for torn in (log[:place], bytes(flipped), log[:place] + os.urandom(len(log) - place)):
            found = await whole_or_refused(path, {**killed.files, LOG: torn}, killed)
            assert not found or "lost acknowledged changes" in found


async def test_a_log_torn_in_what_was_not_acknowledged_costs_nothing(
    path: Path, killed: Good
) -> None:
    """What a power cut leaves of a commit that nobody was told of is ignored."""
    frame = killed.files[LOG][-FRAME_BYTES:]
    for torn in (frame, frame[:1000], os.urandom(3 * FRAME_BYTES), bytes(5)):
        put(path.parent, {**killed.files, LOG: killed.files[LOG] + torn})
        assert await start(path) == killed.books


async def test_what_was_synced_before_the_tear_is_kept(path: Path, killed: Good) -> None:
    """Where no lock file tells how far it was, the log is read up to the tear, and no less."""
    log = killed.files[LOG]
    reached = []
    for end in range(0, len(log), len(log) // (2 * SAMPLES)):
        put(path.parent, {NAME: killed.files[NAME], LOG: log[:end] + b"torn" * 3000})
        found = await start(path)
        assert isinstance(found, dict), found
        journal, whole = found["journal"], killed.books["journal"]
        assert isinstance(journal, list)
        assert isinstance(whole, list)
        assert journal == whole[: len(journal)]
        reached.append(len(journal))
    assert reached == sorted(reached)
    assert reached[-1] > reached[0]


async def test_the_log_of_another_database_is_refused(
    path: Path, killed: Good, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = await killed_files(tmp_path_factory.mktemp("other"), requests=20)
    for content in (
        {**killed.files, LOG: other[LOG]},
        {NAME: killed.files[NAME], LOG: other[LOG]},
    ):
        assert f"{LOG} belongs to another database" in await refused(path, content)


async def test_pages_that_stand_in_the_log_may_be_half_written_in_the_file(
    path: Path, killed: Good
) -> None:
    """As when the machine stops while the log is moved into the file."""
    image, log = bytearray(killed.files[NAME]), killed.files[LOG]
    pages = {int.from_bytes(log[at : at + 4], "big") for at in range(32, len(log), FRAME_BYTES)}
    assert len(pages) > 3
    for page in pages - {1}:
        image[(page - 1) * PAGE_BYTES : page * PAGE_BYTES - 100] = bytes(PAGE_BYTES - 100)
    put(path.parent, {**killed.files, NAME: bytes(image)})
    assert await start(path) == killed.books


async def test_garbage_in_the_index_is_made_anew(path: Path, killed: Good) -> None:
    put(path.parent, killed.files)
    path.with_name(f"{NAME}-shm").write_bytes(os.urandom(32768))
    assert await start(path) == killed.books


# --- gone, or another ---


@pytest.mark.parametrize("left", [None, b""])
async def test_no_fresh_database_takes_the_place_of_one_that_is_gone(
    path: Path, closed: Good, left: bytes | None
) -> None:
    put(path.parent, {LOCK: closed.files[LOCK]})
    if left is not None:
        path.write_bytes(left)
    reason = await start(path)
    assert "there was a database" in str(reason)
    assert (path.read_bytes() if path.exists() else None) == left
    path.with_name(LOCK).unlink()
    assert isinstance(await start(path), dict), "afresh, since the operator says so"


async def test_a_connection_never_makes_a_file(path: Path) -> None:
    """Such as one that a reader opens later, when the database has gone."""
    with pytest.raises(ConfigError, match="cannot be opened"):
        file.connect(path)
    assert not path.exists()


async def test_a_first_start_that_was_cut_off_is_no_obstacle(path: Path) -> None:
    with closing(sqlite3.connect(path)) as conn:
        MIGRATIONS.ensure_migrations_table(Database(conn))
        conn.commit()
    assert isinstance(await start(path), dict)


async def test_a_file_without_tables_is_refused_where_there_was_a_database(
    path: Path, closed: Good
) -> None:
    with closing(sqlite3.connect(path)) as conn:
        MIGRATIONS.ensure_migrations_table(Database(conn))
        conn.commit()
    content = {NAME: path.read_bytes(), LOCK: closed.files[LOCK]}
    assert "has lost acknowledged changes" in await refused(path, content)


async def test_an_older_copy_is_refused_until_the_operator_says_so(
    path: Path, closed: Good, killed: Good
) -> None:
    older = killed.files[NAME]
    reason = await refused(path, {NAME: older, LOCK: killed.files[LOCK]})
    assert "Restoring a backup" in reason
    put(path.parent, {NAME: older})
    assert isinstance(await start(path), dict)


async def test_a_database_with_another_name_is_refused(path: Path, closed: Good) -> None:
    put(path.parent, closed.files)
    (path.parent / "backup.db").hardlink_to(path)
    assert "2 names (hard links)" in str(await start(path))
    (path.parent / "backup.db").unlink()
    assert await start(path) == closed.books


async def test_a_symlink_leads_to_the_database_and_its_log(path: Path, killed: Good) -> None:
    put(path.parent, killed.files)
    link = path.parent / "link" / "other.db"
    link.parent.mkdir()
    link.symlink_to(path)
    assert await start(link) == killed.books
    path.unlink()
    path.with_name(LOG).write_bytes(killed.files[LOG])
    assert f"{LOG} is not" in str(await start(link)), "the log is looked for where the file is"
    assert not path.exists()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.mkdir(), "is a directory"),
        (os.mkfifo, "not a file that can hold"),
        (lambda path: path.symlink_to("/dev/full"), "not a file that can hold"),
        (lambda path: path.symlink_to(path), "cannot be reached"),
        (lambda path: path.symlink_to(path.parent / "no" / "x.db"), "cannot "),
    ],
    ids=["directory", "fifo", "dev-full", "loop", "dangling"],
)
async def test_what_is_no_file_is_refused(
    path: Path, make: Callable[[Path], object], reason: str
) -> None:
    make(path)
    assert reason in str(await start(path))


@pytest.mark.parametrize(
    "change",
    [
        "DROP INDEX settlements_one_open",
        "DROP TRIGGER journal_no_delete",
        "DROP TABLE nudges",
        "DROP TABLE journal",
    ],
)
async def test_a_schema_that_lost_a_part_is_refused(path: Path, closed: Good, change: str) -> None:
    put(path.parent, closed.files)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute(change)
    assert "its schema was changed" in await refused(path, files(path.parent))


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE notes (text)",  # the operator's own
        "ALTER TABLE _sqlite_migrations ADD COLUMN note",  # as another version of the library may
    ],
)
async def test_a_schema_with_something_more_does_no_harm(
    path: Path, closed: Good, change: str
) -> None:
    put(path.parent, closed.files)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute(change)
    assert await start(path) == closed.books


async def test_an_amount_that_was_changed_shows_in_the_log(path: Path, closed: Good) -> None:
    put(path.parent, closed.files)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("UPDATE credits SET amount = '2.26' WHERE amount = '2.25'")
        conn.commit()
    assert "books differ" in str(await start(path))


async def test_books_that_cannot_be_read_show_in_the_audit(path: Path, closed: Good) -> None:
    put(path.parent, closed.files)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("INSERT INTO journal SELECT 1000, 0, 1, 'nowhere', 'queued', 'x', 'ref'")
        conn.commit()
    assert "a row that cannot be read" in str(await start(path))
