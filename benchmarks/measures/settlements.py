"""Durable settlement requests a second, and how long each waits for its answer."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks import books, load
from benchmarks.figures import Figures, Limit, Ratio
from benchmarks.requests import post
from benchmarks.sides import ACCOUNTS, NO_CONNECTOR, Running, Side

MEASURE: Final = "settlements"
CONNECTIONS: Final = (1, 32, 128)
RATE: Final = "requests/s"
P99: Final = "p99 ms"
_WARM_UP_S: Final = 1


def run(
    sides: Sequence[Side],
    figures: Figures,
    *,
    rounds: int,
    seconds: int,
    say: Callable[[str], None],
    connections: Sequence[int] = CONNECTIONS,
) -> None:
    """Measure every side once a round, each time afresh and another one first."""
    for number in range(rounds):
        first = number % len(sides)
        for side in (*sides[first:], *sides[:first]):
            with (
                tempfile.TemporaryDirectory(prefix="settled-bench-") as directory,
                side.start(Path(directory), NO_CONNECTOR) as running,
            ):
                _look(running)
                measure_one(running, side, "warm-up-", 32, _WARM_UP_S)
                for count in connections:
                    seen = measure_one(running, side, f"c{count}-", count, seconds)
                    case = f"{count} connection{'s' * (count > 1)}"
                    figures.add(MEASURE, case, side.name, RATE, seen.rate)
                    figures.add(MEASURE, case, side.name, P99, seen.p99_ms)
                    figures.add(MEASURE, case, side.name, "p50 ms", seen.p50_ms)
                    say(
                        f"round {number + 1}, {side.name}, {case}: {seen.rate:,.0f} {RATE}, "
                        f"p50 {seen.p50_ms:.2f} p99 {seen.p99_ms:.2f} max {seen.max_ms:.1f} ms"
                    )


def measure_one(
    running: Running, side: Side, prefix: str, connections: int, seconds: int
) -> load.Load:
    """Put one side under load, and compare what it acknowledged with what it keeps.

    Raises:
        BenchmarkError: when a request failed, was lost, or is on record without having been sent.
    """
    seen = load.run(
        running.process.url,
        kind="settlements",
        prefix=prefix,
        accounts=ACCOUNTS,
        connections=connections,
        seconds=seconds,
    )
    books.check(seen, running.kept(prefix), connections, side.name)
    return seen


def _look(running: Running) -> None:
    """Ask once, and see that the answer is the one that a connector needs."""
    post(running.process.url, "/accounts/a0/settlements", {"amount": "100", "scale": 2}, key="look")


def bars(figures: Figures) -> Iterator[Ratio | Limit]:
    """Yield what must hold between the sides that were measured."""
    names = {series.side for series in figures.all() if series.measure == MEASURE}
    for count, times in ((1, 1.5), (32, 3.5), (128, 3.5)):
        case = f"{count} connection{'s' * (count > 1)}"
        if {"settled", "original"} <= names:
            mine = figures.series(MEASURE, case, "settled", RATE)
            theirs = figures.series(MEASURE, case, "original", RATE)
            yield Ratio(f"durable settlements/s, {case}", mine, theirs, times, "least")
            if count > 1:
                mine = figures.series(MEASURE, case, "settled", P99)
                theirs = figures.series(MEASURE, case, "original", P99)
                yield Ratio(f"p99 latency, {case}", mine, theirs, 0.5, "most")
        if {"settled", "bare"} <= names:
            mine = figures.series(MEASURE, case, "settled", RATE)
            floor = figures.series(MEASURE, case, "bare", RATE)
            yield Ratio(f"share of the floor, {case}", mine, floor, 0.6, "least")
