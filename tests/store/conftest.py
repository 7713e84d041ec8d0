"""The stores that the contract tests run against."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from settled.store.memory import MemoryStore
from settled.store.protocol import Store
from settled.store.sqlite import open_sqlite
from tests.store.steps import Clock, Watched


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, path: Path, clock: Clock) -> AsyncIterator[Store]:
    """Each implementation, watched; whatever a test did, its audit must find nothing wrong."""
    if request.param == "memory":
        watched: Any = Watched(MemoryStore(now_ms=clock, uptime=clock.uptime))
        yield watched
        assert await watched.inner.audit() == []
    else:
        async with open_sqlite(
            path, exclusive=True, create=True, now_ms=clock, uptime=clock.uptime
        ) as sqlite:
            watched = Watched(sqlite)
            yield watched
            assert await watched.inner.audit() == []
