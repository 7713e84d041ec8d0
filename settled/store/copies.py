"""Copies that a daemon leaves beside its database: before an upgrade, or of one that has gone."""

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path


def leave(path: Path, conn: sqlite3.Connection, kind: str) -> Path:
    """Write what ``conn`` sees to ``<path>.<time>.<kind>``, and return that; all or nothing of it.

    Only its owner can read it. It is beside the file that a symlink leads to: there the daemon may
    write, and a database is looked for.

    Raises:
        sqlite3.Error: when it cannot be written.
        OSError: when it cannot be given its name, durably.
    """
    path = path.resolve()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    backup = path.with_name(f"{path.name}.{stamp}.{kind}")
    # Under its own name only when it is whole: what is called a backup can be restored.
    part = path.with_name(f"{path.name}.{kind}.part")
    _remove(part)  # what a start left that was killed
    part.touch(0o600, exist_ok=False)
    try:
        with closing(sqlite3.connect(part)) as target:
            conn.backup(target)
    except sqlite3.Error:
        _remove(part)  # it takes the room that the next try needs
        raise
    part.rename(backup)
    sync_directory(path.parent)
    return backup


def sync_directory(directory: Path) -> None:
    """Have the names of a directory on the disk.

    Raises:
        OSError: when that fails.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(part: Path) -> None:
    for path in (part, part.with_name(f"{part.name}-journal")):
        path.unlink(missing_ok=True)


def newest(path: Path, kind: str) -> Path | None:
    """Return the newest such copy beside the database at ``path``, if any."""
    path = path.resolve()
    start, end = f"{path.name}.", f".{kind}"
    with suppress(OSError):
        names = [
            name
            for name in os.listdir(path.parent)
            if name.startswith(start) and name.endswith(end) and len(name) > len(start + end)
        ]
        return path.with_name(max(names)) if names else None
    return None
