"""Whether files still go by their names: told by their directories, and never wrong."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from settled.store import names
from settled.store.names import Names


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    place = tmp_path / "in" / "here"
    place.mkdir(parents=True)
    files = [place / "x.db", place / "x.db-wal"]
    for file in files:
        file.touch()
    return files


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked for; empty it to forget."""
    looks, stat = list[str](), os.stat

    def look(name: Any, *arguments: Any, **options: Any) -> os.stat_result:
        looks.append(str(name))
        return stat(name, *arguments, **options)

    monkeypatch.setattr(os, "stat", look)
    return looks


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let time pass."""
    file_ns, steady_s, passed_s = names._file_time_ns, time.monotonic, [0.0]

    def wait(delay_s: float) -> None:
        passed_s[0] += delay_s

    monkeypatch.setattr(names, "_file_time_ns", lambda: file_ns() + int(passed_s[0] * 1e9))
    monkeypatch.setattr(time, "monotonic", lambda: steady_s() + passed_s[0])
    return wait


def away(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))


def replaced(file: Path) -> None:
    other = file.with_name("other")
    other.touch()
    other.rename(file)


def moved(file: Path) -> None:
    file.parent.rename(file.parent.with_name("there"))


def moved_above(file: Path) -> None:
    file.parents[1].rename(file.parents[2] / "out")


def put_in_place(file: Path) -> None:
    moved(file)
    file.parent.mkdir()
    for name in ("x.db", "x.db-wal"):
        (file.parent / name).touch()


CHANGES = [Path.unlink, away, replaced, moved, moved_above, put_in_place]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("rested", [False, True])
def test_every_change_shows_at_the_next_look(
    files: list[Path],
    later: Callable[[float], None],
    which: int,
    change: Callable[[Path], None],
    rested: bool,
) -> None:
    watched = Names(map(str, files))
    if rested:
        later(10)
    for _ in range(3):
        assert watched.first_gone() is None
    change(files[which])
    found = watched.first_gone()
    assert found in {str(file) for file in files}
    if change in (Path.unlink, away, replaced):
        assert found == str(files[which])


def test_at_rest_only_the_directory_is_asked(
    files: list[Path], later: Callable[[float], None], looks: list[str]
) -> None:
    watched = Names(map(str, files))
    later(10)
    watched.first_gone()
    looks.clear()
    for _ in range(5):
        assert watched.first_gone() is None
    assert looks == [str(files[0].parent)] * 5
    looks.clear()
    files[0].with_name("another").touch()
    watched.first_gone()
    assert set(map(str, files)) <= set(looks), "something has changed"
    later(2.5)
    watched.first_gone()
    looks.clear()
    watched.first_gone()
    assert looks == [str(files[0].parent)]


@pytest.mark.parametrize(
    ("part_ns", "passed_ns", "seen"),
    [
        (1, 20_000_000, True),
        (1, 20_000_001, False),
        (0, 20_000_001, True),
        (0, 2_000_000_000, True),
        (0, 2_000_000_001, False),
    ],
)
def test_what_changed_just_now_may_change_again_unseen(
    files: list[Path], part_ns: int, passed_ns: int, seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a tick of the clock two changes look like one; whole seconds tell of long ticks."""
    watched = Names(map(str, files))
    device, inode, changed_ns = watched._look()[0]
    changed_ns = changed_ns // 1_000_000_000 * 1_000_000_000 + part_ns
    monkeypatch.setattr(names, "_file_time_ns", lambda: changed_ns + passed_ns)
    monkeypatch.setattr(Names, "_look", lambda _: ((device, inode, changed_ns),))
    assert watched.first_gone() is None
    files[1].unlink()
    assert watched.first_gone() == (str(files[1]) if seen else None)


def test_a_file_system_that_tells_of_no_change_is_asked_every_second(
    files: list[Path], later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Names(map(str, files))
    later(10)
    same = watched._look()
    monkeypatch.setattr(Names, "_look", lambda _: same)
    assert watched.first_gone() is None
    files[0].unlink()
    assert watched.first_gone() is None
    later(1)
    assert watched.first_gone() == str(files[0])


def test_links_are_followed_each_time(
    files: list[Path], later: Callable[[float], None], tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(files[0])
    watched = Names(map(str, (link, files[1])))
    later(10)
    for _ in range(3):
        assert watched.first_gone() is None
    other = tmp_path / "other"
    other.touch()
    away(files[0])
    files[0].symlink_to(other)
    assert watched.first_gone() == str(link)


def test_a_directory_that_cannot_be_asked_leaves_it_to_the_files(
    files: list[Path], later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Names(map(str, files))
    later(10)
    monkeypatch.setattr(Names, "_look", lambda _: ())
    for _ in range(3):
        assert watched.first_gone() is None
    files[0].unlink()
    assert watched.first_gone() == str(files[0])


def test_a_link_that_is_put_in_place_later_is_followed_each_time(
    files: list[Path], later: Callable[[float], None], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.hardlink_to(files[0])
    watched = Names(map(str, files))
    later(10)
    assert watched.first_gone() is None
    link = tmp_path / "link"
    link.symlink_to(elsewhere)
    link.rename(files[0])
    for _ in range(3):
        later(10)
        assert watched.first_gone() is None, "it is the same file"
    elsewhere.unlink()
    assert watched.first_gone() == str(files[0])


def test_a_look_that_takes_long_trusts_no_directory_that_changed_before_it(
    files: list[Path], later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may go in the tick of the look, and the thread be held up after it was asked for."""
    watched = Names(map(str, files))
    (before,) = watched._look()
    identity = names._identity

    def slowly(name: str) -> tuple[int, int] | None:
        found = identity(name)
        later(0.03)
        return found

    with monkeypatch.context() as slow:
        slow.setattr(names, "_identity", slowly)
        slow.setattr(Names, "_look", lambda _: ((*before[:2], names._file_time_ns()),))
        assert watched.first_gone() is None
        changed = watched._state
    assert changed is None


def test_the_clock_of_files_never_runs_ahead(tmp_path: Path) -> None:
    for n in range(200):
        before_ns = names._file_time_ns()
        file = tmp_path / str(n)
        file.touch()
        assert file.stat().st_ctime_ns >= before_ns
