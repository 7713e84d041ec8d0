"""How a run is laid out: how often and how long, in turns, and where its figures go."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figures
from benchmarks.sides import WORK, Side


@dataclass(frozen=True, slots=True)
class Plan:
    """What every measure is told.

    Attributes:
        rounds: how often each side has its turn.
        seconds: for how long each load lasts.
        figures: where what was measured is put.
        say: tells the reader how it goes.
    """

    rounds: int
    seconds: int
    figures: Figures
    say: Callable[[str], None]


@contextmanager
def directory() -> Iterator[Path]:
    """Give an empty directory, which is removed at the end of the block."""
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as name:
        yield Path(name)


def turns(sides: Sequence[Side], rounds: int) -> Iterator[tuple[Side, Path]]:
    """Yield each side once a round with an empty directory, each time another one first."""
    for number in range(rounds):
        first = number % len(sides)
        for side in (*sides[first:], *sides[:first]):
            with directory() as empty:
                yield side, empty
