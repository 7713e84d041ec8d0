"""The generated part of ``docs/performance.md``, and the chart beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.chart import chart
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Series
from benchmarks.report import Bar, bars_table, figures_table, machine_table

DOCS: Final = Path(__file__).parents[1] / "docs"
BEGIN: Final = "<!-- figures: written by make bench -->"
END: Final = "<!-- end of figures -->"
_CHART: Final = "performance.svg"
_PER_SECOND: Final = "/s"


def write(
    series: Sequence[Series],
    bars: Sequence[Bar],
    machine: Mapping[str, str],
    titles: Mapping[str, str],
    *,
    command: str,
    at: str,
    docs: Path = DOCS,
) -> None:
    """Put the figures of a run where readers find them.

    Raises:
        BenchmarkError: when the page has no place for them.
    """
    page = docs / "performance.md"
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchmarkError(f"{page} has no place for figures: put {BEGIN} and {END} there")
    parts = [
        f"`{command}`, {at}:",
        machine_table(machine, "github"),
        bars_table(bars, "github"),
        f"![Bars of the medians]({_CHART})",
        figures_table(series, titles, "github"),
    ]
    page.write_text("\n\n".join([before + BEGIN, *parts, END + after]))
    (docs / _CHART).write_text(chart([s for s in series if s.unit.endswith(_PER_SECOND)], titles))
