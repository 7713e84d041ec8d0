"""Where a backup is written to: what must not be replaced, and the file that it is made in."""

import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from settled.errors import SettledError, StoreFull, StoreHeld
from settled.store import file, lock, looking
from settled.store.sql import restored

_BESIDE: Final = ("-wal", "-shm", "-journal")
_MIB: Final = 2**20


def is_backup(path: Path) -> bool:
    """Return whether the file bears the mark of a backup, without regard to a log beside it."""
    with suppress(sqlite3.Error), closing(looking.connect(path, without_log=True)) as conn:
        return restored.is_marked(conn)
    return False


def check_target(path: Path, target: Path, *, force: bool) -> None:
    """Refuse a place that a backup of the database at ``path`` must not be written to.

    Raises:
        StoreHeld: when a daemon has the file in use.
        SettledError: when there is something that is no former backup, or is not to be replaced.
    """
    if target.is_dir():
        raise SettledError(f"{target} is a directory: give the name of a file in it")
    database, place = path.resolve(), target.resolve()
    if place.parent == database.parent and place.name in {
        f"{database.name}{suffix}" for suffix in (*_BESIDE, ".lock")
    }:
        raise SettledError(f"{target} is a part of the database {path}: give another file")
    if os.path.lexists(target):
        _check_replaced(path, target, force=force)
    for suffix in _BESIDE:
        beside = target.with_name(target.name + suffix)
        if os.path.lexists(beside):
            # SQLite would take it for a part of the backup.
            raise SettledError(
                f"{beside} exists, left by a database that was at {target} or is in use there: "
                f"give another file"
            )


def check_room(path: Path, target: Path, size_bytes: int, disk_reserve_bytes: int) -> None:
    """Refuse a copy of ``size_bytes`` that its disk has no room for.

    On the disk of the database it must leave the daemon's reserve alone, or requests are refused.

    Raises:
        StoreFull: when there is too little room.
    """
    same_disk = path.resolve().parent.stat().st_dev == target.absolute().parent.stat().st_dev
    reserve_bytes = disk_reserve_bytes if same_disk else 0
    free = file.free_bytes(target)
    if free is not None and free < size_bytes + reserve_bytes:
        kept = (
            f" and {reserve_bytes / _MIB:,.1f} MiB are kept for the daemon" if reserve_bytes else ""
        )
        raise StoreFull(
            f"no backup was made at {target}: it takes {size_bytes / _MIB:,.1f} MiB, only "
            f"{free / _MIB:,.1f} MiB are free there{kept}; free some room, or give a file on "
            f"another disk"
        )


def _check_replaced(path: Path, target: Path, *, force: bool) -> None:
    if target.exists() and path.samefile(target):
        raise SettledError(f"{target} is the database itself: give another file")
    if not force:
        raise SettledError(f"{target} exists: give another file, or --force to replace it")
    if (pid := lock.holder_pid(target)) is not None:
        raise StoreHeld(
            f"{target} is in use by a daemon, pid {pid or 'unknown'}: give another file"
        )
    if (beside := lock.lock_path(target)).exists():
        raise SettledError(f"{target} is a daemon's database, as {beside} says: give another file")
    if target.is_symlink() or not target.is_file() or not is_backup(target):
        raise SettledError(
            f"{target} is no backup, and --force replaces nothing else: give another file, or "
            f"remove it first"
        )


@contextmanager
def unfinished_file(target: Path) -> Iterator[tuple[Path, int]]:
    """Hold a file beside ``target``, emptied of what a killed backup left in it.

    If it is still there at the end, it is removed. Others may be able to write to the directory:
    what they put there is neither followed nor used.

    Raises:
        StoreHeld: when another backup to ``target`` is being made.
        SettledError: when it cannot be written.
    """
    path = target.with_name(f".{target.name}.unfinished")
    with ExitStack() as stack:
        try:
            if path.is_symlink():
                raise _foreign(path)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(path, flags, 0o600)
            stack.callback(os.close, descriptor)
            status = os.fstat(descriptor)
            if (
                not stat.S_ISREG(status.st_mode)
                or status.st_uid != os.geteuid()
                or status.st_nlink > 1
            ):
                raise _foreign(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ours = os.path.samestat(os.fstat(descriptor), path.stat())
            except (BlockingIOError, FileNotFoundError):
                ours = False
            if not ours:
                raise StoreHeld(f"another backup to {target} is being made: wait for its end")
            stack.callback(_remove, path, descriptor)
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, 0)
            _remove_beside(path)
        except OSError as error:
            raise SettledError(
                f"cannot write a backup to {target}: {error.strerror}; it needs an existing "
                f"directory that you may write to"
            ) from error
        yield path, descriptor


def _remove(path: Path, descriptor: int) -> None:
    """Remove what was not finished; what was, has another name now."""
    with suppress(OSError):
        _remove_beside(path)
    with suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            path.unlink()


def _remove_beside(path: Path) -> None:
    for suffix in _BESIDE:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _foreign(path: Path) -> SettledError:
    return SettledError(
        f"{path} is in the way, and is no file that a backup of yours has left: see who made it, "
        f"and remove it"
    )
