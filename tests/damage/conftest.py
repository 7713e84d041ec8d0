"""Damaged databases are made from a few good ones."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.damage.books import NAME, Files, closed_files, killed_files, put, start


@dataclass(frozen=True)
class Good:
    """The files of a sound database, and the books in it."""

    files: Files
    books: dict[str, object]


def _good(directory: Path, files: Files) -> Good:
    put(directory, files)
    books = trio.run(start, directory / NAME)
    assert isinstance(books, dict), books
    return Good(files, books)


@pytest.fixture(scope="session")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Good:
    """A database that was closed."""
    directory = tmp_path_factory.mktemp("closed")
    return _good(directory, trio.run(closed_files, directory))


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Good:
    """A database whose daemon was killed: half of it is in its log only."""
    directory = tmp_path_factory.mktemp("killed")
    return _good(directory, trio.run(lambda: killed_files(directory, requests=20)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's database is."""
    return tmp_path / NAME
