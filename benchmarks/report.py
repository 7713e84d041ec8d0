"""What a run has found, as tables for a terminal or a page, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from tabulate import tabulate

from benchmarks.figures import Limit, Ratio, Series

Bar = Ratio | Limit
_SHARES: Final = ("x", "share")


def machine_table(machine: Mapping[str, str], form: str = "simple") -> str:
    """Return on what it was measured."""
    headers = ("", "of that run")
    return tabulate(list(machine.items()), headers, tablefmt=form, disable_numparse=True)


def figures_table(series: Sequence[Series], titles: Mapping[str, str], form: str = "simple") -> str:
    """Return the medians with their spread, in the order measured."""
    rows = [
        (
            s.measure,
            s.case,
            titles.get(s.side, s.side),
            f"{number(s.median)} {s.unit}",
            f"{number(s.low)} to {number(s.high)}" if len(s.values) > 1 else "",
        )
        for s in series
    ]
    headers = ("measure", "case", "side", "median", "of the rounds")
    return tabulate(rows, headers, tablefmt=form, disable_numparse=True)


def bars_table(bars: Sequence[Bar], form: str = "simple") -> str:
    """Return what was to be shown, and whether it was."""
    rows = [(bar.title, _found(bar), _wanted(bar), "yes" if bar.holds else "NO") for bar in bars]
    headers = ("what", "found", "bar", "holds")
    return tabulate(rows, headers, tablefmt=form, disable_numparse=True)


def _found(bar: Bar) -> str:
    if isinstance(bar, Limit):
        return f"{number(bar.value)} {bar.series.unit}"
    spread = f" ({bar.low:.2f} to {bar.high:.2f})" if len(bar.over.values) > 1 else ""
    return f"{bar.value:.2f} times{spread}"


def _wanted(bar: Bar) -> str:
    if isinstance(bar, Limit):
        return f"under {number(bar.bar)} {bar.series.unit}"
    return f"at {bar.at} {bar.bar:g} times"


def number(value: float) -> str:
    """Return a figure with three digits or all whole ones.

    Example::

        >>> number(24123.4), number(12.345), number(0.7312)
        ('24,123', '12.3', '0.73')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def as_json(
    series: Sequence[Series],
    bars: Sequence[Bar],
    machine: Mapping[str, str],
    *,
    command: str,
    at: str,
) -> dict[str, Any]:
    """Return everything that was found, for programs."""
    return {
        "command": command,
        "at": at,
        "machine": dict(machine),
        "figures": [asdict(s) | {"median": s.median} for s in series],
        "bars": [
            {
                "title": bar.title,
                "value": bar.value,
                "bar": bar.bar,
                "holds": bar.holds,
            }
            for bar in bars
        ],
    }
