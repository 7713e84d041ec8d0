"""One daemon a database: advisory locks on ``<database>.lock`` and on the database itself.

The first names its holder and is there before the database is. The second holds even if someone
deletes the first, or comes by a hard link. It is a lock of the ``flock`` kind, which does not touch
the POSIX locks that SQLite takes; but closing any descriptor of the file would drop those, so ours
is closed only after SQLite's. The kernel frees both when the process ends, however it ends.

The lock file also remembers, outside of the database, how far its journal had come. A database that
has fallen behind that has lost what was acknowledged: its file was deleted, replaced by an older
copy, or its log is gone or torn.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from settled.errors import ConfigError, StoreFull, StoreHeld

# A command that asks who holds the database holds it for a moment itself.
_PROBE_S: Final = 0.3
_RECORD_CHARS: Final = 64
_SUSPECT: Final = "suspect"
_NONE: Final = "-"
_open_here: Final[set[int]] = set()


@dataclass(frozen=True, slots=True)
class Record:
    """What a lock file says.

    Args:
        pid: who held the database last, or holds it now.
        seq: how far its journal had come at the least; ``None``: no database was ever made.
        suspect: whether the database was found damaged while it was in use.
    """

    pid: int | None = None
    seq: int | None = None
    suspect: bool = False

    def encoded(self) -> bytes:
        """Return the record as text of a fixed length, so that one write replaces it whole."""
        words = (
            self.pid or _NONE,
            _NONE if self.seq is None else self.seq,
            _SUSPECT if self.suspect else "",
        )
        return f"{' '.join(map(str, words)):<{_RECORD_CHARS - 1}}\n".encode()


class Hold:
    """A database that is held, and the record that outlives the process."""

    def __init__(self, descriptor: int, record: Record) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self.record = replace(record, pid=os.getpid())
        os.pwrite(descriptor, self.record.encoded(), 0)
        os.ftruncate(descriptor, _RECORD_CHARS)

    def remember(self, *, seq: int | None = None, suspect: bool | None = None) -> None:
        """Remember how far the journal has come. Call it only for what is committed and synced."""
        with self._lock:
            was = self.record
            seq = (was.seq or 0) if seq is None else seq
            suspect = was.suspect if suspect is None else suspect
            if seq != was.seq or suspect != was.suspect:
                self.record = record = Record(was.pid, seq, suspect)
                # On a full disk it is not worth a failure: it only serves to notice a later loss.
                with suppress(OSError):
                    os.pwrite(self._descriptor, record.encoded(), 0)

    def start_over(self, path: Path, seq: int) -> None:
        """Remember ``seq``, durably, of another database that was put in the place of the former.

        Raises:
            StoreFull: when it cannot be written.
        """
        record = replace(self.record, seq=seq)
        try:
            os.pwrite(self._descriptor, record.encoded(), 0)
            os.fsync(self._descriptor)
        except OSError as error:
            raise _unwritable(lock_path(path), error) from error
        self.record = record

    def renew(self, path: Path) -> None:
        """Write the record anew if its file has gone, so that no start takes the database for new.

        Call it when the database itself has gone, and nothing holds it any more.
        """
        with suppress(OSError):
            lock_path(path).touch(0o600, exist_ok=False)
            lock_path(path).write_bytes(self.record.encoded())

    def suspect(self) -> None:
        """Remember that the database was found damaged."""
        self.remember(suspect=True)


def lock_path(path: Path) -> Path:
    """Return where the lock file of the database at ``path`` is."""
    real = path.resolve()  # two names of one file are one database
    return real.with_name(real.name + ".lock")


@contextmanager
def held(path: Path) -> Iterator[Hold]:
    """Hold the database at ``path`` for this process; an empty file is made if there is none.

    Enter it before the process has any connection to the database, leave it after the last.

    Raises:
        StoreHeld: when another process holds it; the message names its pid.
        ConfigError: when the files cannot be opened.
        StoreFull: when there is no room for the lock's few bytes.
    """
    beside = lock_path(path)
    with _opened(beside) as lock_file:
        _lock(lock_file, path)
        database = _open(path)
        # Refused, it stays open: if this process has connections to it, they keep their locks.
        _lock(database, path)
        try:
            try:
                hold = Hold(lock_file, _record_in(lock_file))
            except OSError as error:
                raise _unwritable(beside, error) from error
            yield hold
        finally:
            _close(database)


def _unwritable(beside: Path, error: OSError) -> StoreFull:
    return StoreFull(
        f"cannot write {beside}: {error.strerror}; make some room on its disk, and start again"
    )


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = _open(path)
    try:
        yield descriptor
    finally:
        _close(descriptor)


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"cannot open {path}: {error.strerror}; the database and its directory must be writable"
        ) from error
    _open_here.add(descriptor)
    return descriptor


def _close(descriptor: int) -> None:
    if descriptor in _open_here:  # not so in a child, where another file may have the number
        _open_here.remove(descriptor)
        os.close(descriptor)


def _let_go() -> None:
    """Close in a forked child what its parent holds.

    A lock lasts until the last copy of its descriptor is closed, and a child, as of an engine's
    pool of processes, may outlive a parent that was killed.
    """
    for descriptor in tuple(_open_here):
        _close(descriptor)


os.register_at_fork(after_in_child=_let_go)


def _lock(descriptor: int, path: Path) -> None:
    deadline_s = time.monotonic() + _PROBE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                pid = _record_in(descriptor).pid
                raise StoreHeld(
                    f"{path} is held by another settled process, pid {pid or 'unknown'}: "
                    f"stop it first, or use another --db"
                ) from None
            time.sleep(0.01)
        except OSError as error:
            raise ConfigError(
                f"cannot lock {path}: {error.strerror}; the database needs a file system with locks"
            ) from error
        else:
            return


def _record_in(descriptor: int) -> Record:
    """Return the record in a lock file; whatever cannot be read counts as not said."""
    text = os.pread(descriptor, _RECORD_CHARS, 0).decode("ascii", "replace")
    pid, seq, state, *_ = [*text.split(), "", "", ""]
    return Record(
        pid=int(pid) if pid.isdigit() else None,
        seq=int(seq) if seq.isdigit() else None,
        suspect=state == _SUSPECT,
    )


def remembered(path: Path) -> Record:
    """Return what the lock file of the database at ``path`` says, if there is one.

    Raises:
        ConfigError: when its disk does not let it be read.
    """
    try:
        descriptor = os.open(lock_path(path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return Record()
    try:
        return _record_in(descriptor)
    except OSError as error:
        raise ConfigError(
            f"cannot read {lock_path(path)}: {error.strerror}; check its disk"
        ) from error
    finally:
        os.close(descriptor)


def holder_pid(path: Path) -> int | None:
    """Return the pid of the process that holds the database at ``path``, if one does.

    It is 0 if that cannot be told: the lock is the daemon's user's, so one may well run.
    """
    try:
        descriptor = os.open(lock_path(path), os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return 0
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _record_in(descriptor).pid or 0
    except OSError:
        return None  # where nothing can be locked, nothing is held
    else:
        return None
    finally:
        os.close(descriptor)
