"""What the tests of neighbours share."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

Events = list[MutableMapping[str, Any]]


@pytest.fixture
def events(quiet_log: None) -> Iterator[Events]:
    """What is logged, in its order."""
    structlog.reset_defaults()
    with capture_logs() as events:
        yield events
