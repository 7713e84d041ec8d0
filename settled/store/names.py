"""Whether files still go by the names that they were opened under, told in a microsecond or two.

To ask for each file after each commit costs a lone request a sixth of its time: Linux writes the
times of a file that was asked for at the next sync, too. But to delete, rename or replace a file is
to change its directory, of which the kernel keeps the time of the last change (POSIX.1-2017,
``unlink`` and ``rename``). So while the directories are as they were, nothing else is asked.
"""

import os
import sys
import time
from collections.abc import Iterable
from typing import Final

_Identity = tuple[int, int]
_State = tuple[tuple[int, int, int], ...]

# What changes twice in a tick of the kernel's clock shows once; some file systems keep two seconds.
_TICK_NS: Final = 20_000_000
_COARSE_TICK_NS: Final = 2_000_000_000
# Python has no name for Linux's CLOCK_REALTIME_COARSE.
_FILE_CLOCK: Final = 5 if sys.platform == "linux" else time.CLOCK_REALTIME
# Not every file system keeps to POSIX, and what is mounted over a file changes no directory.
_ASK_EVERY_S: Final = 1.0

# A network or a disk may fail to tell of a file once, and that passes.
_LOOKS: Final = 5
_LOOKS_PAUSE_S: Final = 0.1


class Names:
    """The names of files that are open; any thread may ask.

    Args:
        names: their absolute paths; each is there.

    Raises:
        OSError: when a file cannot be looked at.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._files: Final = {name: _identity(name) for name in names}
        self._directories = sorted({os.path.dirname(name) for name in self._files})
        self._state: _State | None = None  # of the directories, when every name was right
        self._ask_at_s = 0.0

    def first_gone(self) -> str | None:
        """Return a name that its file has no longer; ``None``: all are as they were.

        Raises:
            OSError: when that cannot be told, however often it is tried.
        """
        # What changes from here on changes the directories too, unless both are in one tick.
        now_s, now_ns = time.monotonic(), _file_time_ns()
        state = self._look()
        if now_s < self._ask_at_s and state == self._state:
            return None
        for name, identity in self._files.items():
            if _identity(name) != identity:
                return name
        # Where a link leads to is decided elsewhere.
        if state and _is_past(state, now_ns) and not any(map(os.path.islink, self._files)):
            self._state, self._ask_at_s = state, now_s + _ASK_EVERY_S
        return None

    def is_right(self, name: str) -> bool:
        """Return whether the file still has this name.

        Raises:
            OSError: when that cannot be told.
        """
        return _identity(name) == self._files[name]

    def _look(self) -> _State:
        """Return how the directories are; nothing when that cannot be told."""
        try:
            found = [os.stat(directory) for directory in self._directories]
        except OSError:
            return ()
        return tuple((status.st_dev, status.st_ino, status.st_ctime_ns) for status in found)


def _is_past(state: _State, now_ns: int) -> bool:
    """Return whether the directories' last change is more than a tick of their clock ago."""
    last_ns = max(changed_ns for _, _, changed_ns in state)
    tick_ns = _TICK_NS if last_ns % 1_000_000_000 else _COARSE_TICK_NS
    return last_ns + tick_ns < now_ns


def _file_time_ns() -> int:
    """Return the time by which files are stamped now, which may lag behind all other clocks."""
    return time.clock_gettime_ns(_FILE_CLOCK)


def _identity(name: str) -> _Identity | None:
    """Return which file goes by the name; ``None``: none does."""
    for look in range(1, _LOOKS + 1):
        try:
            status = os.stat(name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if look == _LOOKS:
                error.filename = name
                raise
            time.sleep(_LOOKS_PAUSE_S)
        else:
            break
    return status.st_dev, status.st_ino
