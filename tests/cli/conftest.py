"""The database that the tests of the data commands work on."""

from pathlib import Path

import pytest


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # away from any settled.toml
    return tmp_path / "books.db"
