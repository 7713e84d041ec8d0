"""One daemon a database: advisory locks on ``<database>.lock`` and on the database itself.

The first names its holder and is there before the database is. The second holds even if someone
deletes the first, or comes by a hard link. It is a lock of the ``flock`` kind, which does not touch
the POSIX locks that SQLite takes; but closing any descriptor of the file would drop those, so ours
is closed only after SQLite's. The kernel frees both when the process ends, however it ends.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from settled.errors import ConfigError, StoreHeld

# A command that asks who holds the database holds it for a moment itself.
_PROBE_S: Final = 0.3


def _lock_path(path: Path) -> Path:
    real = path.resolve()  # two names of one file are one database
    return real.with_name(real.name + ".lock")


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the database at ``path`` for this process; an empty file is made if there is none.

    Enter it before the process has any connection to the database, leave it after the last.

    Raises:
        StoreHeld: when another process holds it; the message names its pid.
        ConfigError: when the files cannot be written.
    """
    lock_path = _lock_path(path)
    with _opened(lock_path) as lock_file:
        _lock(lock_file, path)
        database = _open(path)
        # Refused, it stays open: if this process has connections to it, they keep their locks.
        _lock(database, path)
        try:
            os.ftruncate(lock_file, 0)
            os.pwrite(lock_file, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(database)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = _open(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(
            f"cannot open {path}: {error.strerror}; the database and its directory must be writable"
        ) from error


def _lock(descriptor: int, path: Path) -> None:
    deadline_s = time.monotonic() + _PROBE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise StoreHeld(
                    f"{path} is held by another settled process, pid {_pid_in(descriptor)}: "
                    f"stop it first, or use another --db"
                ) from None
            time.sleep(0.01)
        else:
            return


def _pid_in(descriptor: int) -> str:
    text = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
    return text if text.isdigit() else "unknown"


def holder_pid(path: Path) -> int | None:
    """Return the pid of the process that holds the database at ``path``, if one does."""
    try:
        descriptor = os.open(_lock_path(path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = _pid_in(descriptor)
        return int(text) if text.isdigit() else 0
    else:
        return None
    finally:
        os.close(descriptor)
