"""One daemon a database: an advisory lock on ``<database>.lock``, which also names its holder.

The lock is on a file of its own, since closing any descriptor of the database file would drop the
locks that SQLite itself holds on it. The kernel frees it when the process ends, however it ends.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from settled.errors import ConfigError, StoreHeld


def _lock_path(path: Path) -> Path:
    real = path.resolve()  # two names of one file are one database
    return real.with_name(real.name + ".lock")


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the database at ``path`` for this process.

    Raises:
        StoreHeld: when another process holds it; the message names its pid.
        ConfigError: when the lock file cannot be written.
    """
    lock_path = _lock_path(path)
    try:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(
            f"cannot open {lock_path}: {error.strerror}; the directory of the database must be "
            f"writable"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise StoreHeld(
                f"{path} is held by another settled process, pid {pid}: "
                f"stop it first, or use another --db"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder_pid(path: Path) -> int | None:
    """Return the pid of the process that holds the database at ``path``, if one does."""
    try:
        descriptor = os.open(_lock_path(path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else 0
    else:
        return None
    finally:
        os.close(descriptor)
