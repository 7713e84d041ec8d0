"""Figures: what was measured in each round, medians with their spread, and ratios of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal


@dataclass(frozen=True, slots=True)
class Series:
    """One thing that was measured, once a round.

    Attributes:
        measure: what it is part of, such as ``settlements``.
        case: under which conditions, such as ``32 connections``.
        side: of whom; see ``Side.name``.
        unit: such as ``requests/s``.
        values: of each round, in their order.
    """

    measure: str
    case: str
    side: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How two series of one run compare: the ratio of the medians, and that of each round.

    Attributes:
        title: what it says, for readers.
        bar: what it must reach.
        at: whether it must be at least or at most that.
    """

    title: str
    over: Series
    under: Series
    bar: float
    at: Literal["least", "most"] = "least"

    @property
    def value(self) -> float:
        return self.over.median / self.under.median

    @property
    def low(self) -> float:
        return min(self._rounds())

    @property
    def high(self) -> float:
        return max(self._rounds())

    @property
    def holds(self) -> bool:
        return self.value >= self.bar if self.at == "least" else self.value <= self.bar

    def _rounds(self) -> list[float]:
        pairs = zip(self.over.values, self.under.values, strict=True)
        return [over / under for over, under in pairs]


@dataclass(frozen=True, slots=True)
class Limit:
    """A figure that must stay under a bound of its own."""

    title: str
    series: Series
    bar: float

    @property
    def value(self) -> float:
        return self.series.median

    @property
    def holds(self) -> bool:
        return self.series.high <= self.bar


class Figures:
    """What a run has measured so far.

    Example::

        figures = Figures()
        figures.add("settlements", "1 connection", "settled", "requests/s", 2900.0)
        figures.of("settlements", "1 connection", "requests/s")["settled"].median
    """

    def __init__(self) -> None:
        self._values: dict[tuple[str, str, str, str], list[float]] = {}

    def add(self, measure: str, case: str, side: str, unit: str, value: float) -> None:
        """Add what one round has shown."""
        self._values.setdefault((measure, case, side, unit), []).append(value)

    def all(self) -> Sequence[Series]:
        """Return every series, in the order in which they were begun."""
        return [Series(*key, tuple(values)) for key, values in self._values.items()]

    def of(self, measure: str, case: str, unit: str) -> dict[str, Series]:
        """Return the series of each side that was measured."""
        wanted = (measure, case, unit)
        return {s.side: s for s in self.all() if (s.measure, s.case, s.unit) == wanted}
