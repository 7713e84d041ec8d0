"""The sides of a comparison: each serves a connector, and is asked what it has on record."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import Process

ACCOUNTS: Final = 100
WORK: Final = Path(__file__).parents[2] / ".bench"  # on a real disk, which /tmp may not be
NO_CONNECTOR: Final = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class Running:
    """A side that serves.

    Attributes:
        process: what answers.
        kept: counts the requests on record whose keys begin with the prefix it is given.
    """

    process: Process
    kept: Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Side:
    """One program with one set of settings.

    Attributes:
        name: what it is called in results.
        title: what readers are told it is.
        start: runs it afresh in an empty directory, with the accounts a0 to a99, beside a connector
            at the URL; when the block ends it is stopped, and its books are audited.
    """

    name: str
    title: str
    start: Callable[[Path, str], AbstractContextManager[Running]]
