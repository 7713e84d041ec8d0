"""The demo's directory: visible, fresh at each run, and never anybody else's."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from settled.errors import SettledError

_MARK: Final = "made-by-settled-demo"


@contextmanager
def fresh_directory(directory: Path) -> Iterator[Path]:
    """Make the directory, in place of that of a former demo, and hold it while the block runs.

    Raises:
        SettledError: when something else is there, or another demo is running in it.
    """
    path = Path.cwd() / directory
    mark = path / _MARK
    if path.is_symlink() or (path.exists() and not mark.is_file()):
        raise SettledError(
            f"{directory} is not the directory of a former demo: move it away, "
            f"or choose another with --directory"
        )
    if path.exists():
        with _held(mark, directory):
            shutil.rmtree(path)
    path.mkdir(parents=True)
    mark.touch()
    with _held(mark, directory):
        yield path


@contextmanager
def _held(mark: Path, directory: Path) -> Iterator[None]:
    with mark.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettledError(f"another demo is running in {directory}: wait for it") from None
        yield
