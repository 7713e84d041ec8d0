"""Files that may not be read or written."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.damage.books import NAME, data, files, put, run_daemon, start
from tests.damage.conftest import Good
from tests.damage.disks import small_disk


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory whose permissions are put right at the end."""
    (tmp_path / "place").mkdir()
    yield tmp_path / "place"
    (tmp_path / "place").chmod(0o755)


@pytest.mark.parametrize(
    ("name", "mode", "reason"),
    [
        (NAME, 0o444, "must be writable"),
        (NAME, 0o000, f"may not read and write {{place}}/{NAME}"),
        ("", 0o555, "may not make files in {place};"),
        ("", 0o000, "check the path and its permissions"),
    ],
    ids=["read-only file", "closed file", "read-only directory", "closed directory"],
)
def test_what_may_not_be_written_is_refused(
    place: Path, closed: Good, name: str, mode: int, reason: str
) -> None:
    put(place, closed.files)
    (place / name).chmod(mode)
    code, line = run_daemon(place.parent, "--db", str(place / NAME))
    assert code == 78
    assert reason.format(place=place) in line
    assert "damage" not in line
    place.chmod(0o755)
    assert data(files(place)) == data(closed.files)


async def test_a_disk_that_is_mounted_read_only_is_refused(tmp_path: Path, closed: Good) -> None:
    with small_disk(tmp_path / "disk", 16 * 1024 * 1024) as disk:
        put(disk.root, closed.files)
        disk.remount("ro")
        reason = str(await start(disk.root / NAME))
        assert "must be writable" in reason
        disk.remount("rw")
        assert await start(disk.root / NAME) == closed.books
