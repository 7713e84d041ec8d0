"""What all tests share."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """Keep the program's log out of the tests, which look at what it does, not at what it says."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def log() -> Iterator[list[Any]]:
    """Everything that is logged from now on, an entry for each."""
    structlog.reset_defaults()
    with capture_logs() as entries:
        yield entries
