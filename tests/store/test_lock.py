"""What a lock file remembers of its database, and that nobody holds more than he says."""

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from settled.errors import ConfigError, StoreFull
from settled.store import lock
from settled.store.lock import Record, held, holder_pid, lock_path, remembered

PID = os.getpid()


def failing(number: int) -> Callable[..., Any]:
    def fail(*_arguments: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def descriptors() -> set[int]:
    """Return what is open, but for the one that the list itself was read by."""
    found = Path("/proc/self/fd")
    return {int(number) for number in os.listdir(found) if (found / number).is_symlink()}


def test_what_it_says_outlives_the_holder(path: Path) -> None:
    assert remembered(path) == Record()
    with held(path) as hold:
        assert remembered(path) == hold.record == Record(PID)
        hold.remember(seq=7)
        assert remembered(path) == Record(PID, 7)
        hold.suspect()
        assert remembered(path) == Record(PID, 7, suspect=True)
        hold.remember(seq=8)
        assert remembered(path) == Record(PID, 8, suspect=True)
    assert remembered(path) == Record(PID, 8, suspect=True)
    with held(path) as hold:
        assert hold.record == Record(PID, 8, suspect=True)
        hold.remember(seq=8, suspect=False)
        assert remembered(path) == Record(PID, 8)
    assert lock_path(path).stat().st_size == 64


def test_a_database_that_was_never_used_can_be_suspect(path: Path) -> None:
    with held(path) as hold:
        hold.suspect()
    assert remembered(path) == Record(PID, 0, suspect=True)


def test_what_does_not_change_is_not_written_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(path) as hold:
        hold.remember(seq=7)
        monkeypatch.setattr(os, "pwrite", None)
        hold.remember(seq=7)
        hold.remember(seq=7, suspect=False)


def test_a_full_disk_costs_the_memory_of_it_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(path) as hold:
        hold.remember(seq=7)
        with monkeypatch.context() as full:
            full.setattr(os, "pwrite", failing(errno.ENOSPC))
            hold.remember(seq=8)
        assert remembered(path) == Record(PID, 7)
        hold.remember(seq=9)
        assert remembered(path) == Record(PID, 9)


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_new_start_is_remembered_durably_or_not_at_all(
    path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []

    def fsync(_descriptor: int) -> None:
        synced.append(lock_path(path).read_bytes())

    with held(path) as hold:
        hold.remember(seq=7)
        with monkeypatch.context() as full:
            full.setattr(os, call, failing(errno.ENOSPC))
            with pytest.raises(StoreFull, match="cannot write .*No space left"):
                hold.start_over(path, 3)
        assert hold.record.seq == 7
        monkeypatch.setattr(os, "fsync", fsync)
        hold.start_over(path, 3)
        assert synced == [Record(PID, 3).encoded()]
        hold.suspect()
    assert remembered(path) == Record(PID, 3, suspect=True)


def test_it_is_renewed_only_when_it_has_gone(path: Path) -> None:
    former = os.umask(0)
    try:
        with held(path) as hold:
            hold.remember(seq=7)
            lock_path(path).write_text("somebody else's")
            hold.renew(path)
            assert lock_path(path).read_text() == "somebody else's"
            lock_path(path).unlink()
            hold.renew(path)
    finally:
        os.umask(former)
    assert remembered(path) == Record(PID, 7)
    assert lock_path(path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ("", Record()),
        ("12", Record(12)),
        ("12 34", Record(12, 34)),
        ("- - suspect", Record(suspect=True)),
        ("12 - suspect more", Record(12, suspect=True)),
        ("12 34 other", Record(12, 34)),
        ("x y z", Record()),
        ("-1 -2 suspect", Record(suspect=True)),
    ],
)
def test_whatever_cannot_be_read_counts_as_not_said(path: Path, text: str, record: Record) -> None:
    lock_path(path).write_text(text)
    assert remembered(path) == record
    lock_path(path).write_bytes(record.encoded())
    assert remembered(path) == record


def test_a_lock_file_that_its_disk_does_not_give_is_told_of(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_path(path).write_text("12 34")
    monkeypatch.setattr(os, "pread", failing(errno.EIO))
    with pytest.raises(ConfigError, match="cannot read .*: Input/output error; check its disk"):
        remembered(path)


def test_two_who_ask_do_not_take_each_other_for_the_holder(path: Path) -> None:
    lock_path(path).write_text("12 34")
    with lock_path(path).open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert holder_pid(path) is None


def test_without_room_for_the_lock_nothing_is_held(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", failing(errno.ENOSPC))
        with pytest.raises(StoreFull, match="make some room on its disk"), held(path):
            raise AssertionError("held")
    with held(path):
        assert holder_pid(path) == PID


def test_no_descriptor_is_left_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, of_others = descriptors(), set(lock._open_here)
    with held(path):
        ours = lock._open_here - of_others
        assert len(ours) == 2
        assert ours <= descriptors() - before
        within = descriptors()
        remembered(path)
        holder_pid(path)
        assert not descriptors() - within
    assert lock._open_here == of_others
    holder_pid(path)
    with monkeypatch.context() as broken:
        broken.setattr(os, "pread", failing(errno.EIO))
        with pytest.raises(ConfigError):
            remembered(path)
    assert not descriptors() - before


def in_a_child(check: Callable[[], bool]) -> bool:
    """Return whether ``check`` is true in a child of this process."""
    child = os.fork()
    if not child:
        true = False
        try:
            true = check()
        finally:
            os._exit(not true)
    _, status = os.waitpid(child, 0)
    return status == 0


def test_what_a_child_inherited_is_let_go(path: Path) -> None:
    with held(path):
        inherited = set(lock._open_here)
        assert in_a_child(lambda: not inherited & descriptors() and not lock._open_here)
        assert lock._open_here == inherited, "of the parent's nothing is let go"
        assert holder_pid(path) == PID


def test_a_child_that_leaves_the_block_closes_nothing_of_its_own(path: Path) -> None:
    def leave() -> bool:
        others = [os.open("/dev/null", os.O_RDONLY) for _ in range(2)]  # under the same numbers
        stack.close()
        return descriptors().issuperset(others)

    with ExitStack() as stack:
        stack.enter_context(held(path))
        assert in_a_child(leave)
