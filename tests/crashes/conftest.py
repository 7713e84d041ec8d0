"""The laboratory that the tests of crashes share."""

from collections.abc import Callable, Iterator
from functools import cache

import pytest

from tests.crashes.lab import Lab
from tests.crashes.subject import Subject


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Subject]]:
    """Return what gives the subject of a scenario; each is prepared once."""
    with Lab() as lab:
        yield cache(lambda name: Subject(lab, name, tmp_path_factory.mktemp("crashes")))
